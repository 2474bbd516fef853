"""The whole suite for one harness, as a class that pytest collects."""

from __future__ import annotations

from relevo_conformance._contract_send import (
    DedupeContract,
    DelayContract,
    PayloadContract,
    SendContract,
    SendErrorContract,
    TransactionContract,
)
from relevo_conformance.harness import Harness
from relevo_conformance.profile import chosen


class TransportContract(
    SendContract, PayloadContract, SendErrorContract, DelayContract, DedupeContract, TransactionContract
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
    members = {"harness_type": harness, "profile": chosen(profile), "__doc__": f"All that {harness.__name__} must keep."}
    return type(name, (TransportContract,), members)
