"""The whole suite for one harness, as a class that pytest collects."""

from __future__ import annotations

from relevo_conformance._contract_close import CloseContract, SetUpContract, UnclaimedContract
from relevo_conformance._contract_receive import OrderContract, ReceiveContract, UnreadableContract
from relevo_conformance._contract_send import (
    DedupeContract,
    DelayContract,
    PayloadContract,
    SendContract,
    SendErrorContract,
)
from relevo_conformance._contract_settle import LeaseContract, SettleContract, StaleContract
from relevo_conformance._contract_store import DeadLetterContract, StatsContract, TakeOutContract
from relevo_conformance._contract_transaction import TransactionContract
from relevo_conformance.harness import Harness
from relevo_conformance.profile import chosen


class TransportContract(
    # pytest runs them from the last to the first: in the order of the story.
    UnclaimedContract,
    CloseContract,
    SetUpContract,
    TakeOutContract,
    StatsContract,
    DeadLetterContract,
    LeaseContract,
    StaleContract,
    SettleContract,
    OrderContract,
    UnreadableContract,
    ReceiveContract,
    TransactionContract,
    DedupeContract,
    DelayContract,
    SendErrorContract,
    PayloadContract,
    SendContract,
):
    """All scenarios and the random histories."""


def suite(harness: type[Harness], *, profile: str | None = None) -> type[TransportContract]:
    """
    Return the tests of the transport that *harness* drives; give the class a name that starts with ``Test``.

    Args:
        harness: What drives it.

        profile: ``quick``, ``standard`` or ``nightly``; if unsaid what the environment variable
            ``RELEVO_CONFORMANCE_PROFILE`` names, else ``quick``.

    Raises:
        ValueError: There is no such profile.
    """
    name = f"Test{harness.__name__.removesuffix('Harness')}"
    text = f"All that {harness.__name__} must keep."
    members = {"harness_type": harness, "profile": chosen(profile), "__doc__": text}
    return type(name, (TransportContract,), members)
