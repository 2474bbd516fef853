"""The whole suite for one harness, as a class that pytest collects."""

from __future__ import annotations

from hypothesis import settings as Settings  # noqa: N812 - settings is a class
from hypothesis.errors import Flaky, FlakyFailure
from hypothesis.stateful import run_state_machine_as_test

from relevo.errors import RelevoError
from relevo_conformance._contract_argument import ArgumentContract
from relevo_conformance._contract_close import CloseContract, NameContract, SetUpContract, UnclaimedContract
from relevo_conformance._contract_coordinator import CoordinatorContract
from relevo_conformance._contract_fault import FaultContract
from relevo_conformance._contract_foreign import ForeignContract
from relevo_conformance._contract_free_race import FreeRaceContract
from relevo_conformance._contract_handling import HandlingContract
from relevo_conformance._contract_inbox import InboxContract
from relevo_conformance._contract_life import LifeContract
from relevo_conformance._contract_name import AlikeContract
from relevo_conformance._contract_pair import PairContract
from relevo_conformance._contract_presence import BegunContract, PresenceContract
from relevo_conformance._contract_quantity import QuantityContract
from relevo_conformance._contract_query import StuckKeyContract, WaitingContract
from relevo_conformance._contract_race import RaceContract
from relevo_conformance._contract_receive import OrderContract, ReceiveContract, UnreadableContract
from relevo_conformance._contract_send import (
    DedupeContract,
    DelayContract,
    PayloadContract,
    SendContract,
    SendErrorContract,
)
from relevo_conformance._contract_settle import LeaseContract, SettleContract, StaleContract, StateContract
from relevo_conformance._contract_store import (
    DeadLetterContract,
    FindContract,
    StatsContract,
    TakeContract,
    TakeOutContract,
)
from relevo_conformance._contract_time import ClockContract, FairnessContract, WaitContract
from relevo_conformance._contract_transaction import TransactionContract
from relevo_conformance._contract_unique import UniqueContract
from relevo_conformance._contract_unique_life import UniqueLifeContract
from relevo_conformance._contract_urgency import UrgencyContract
from relevo_conformance._contract_wait import WaitOnSeveralContract
from relevo_conformance._wrong_error import broken_by
from relevo_conformance.contract import Contract
from relevo_conformance.harness import Harness
from relevo_conformance.machine import machine_for
from relevo_conformance.profile import Profile, chosen
from relevo_conformance.verdict import flaky_verdict


class RandomContract(Contract):
    """Random histories."""

    def test_random_histories_keep_every_promise(self) -> None:
        harness = self.harness
        settings = self.profile.of_histories(fake=harness.fake, durable=harness.is_durable, phases=self.phases)
        seeded, left = self.profile.seed, settings.max_examples
        while left > 0:
            machine = machine_for(self.harness_type, seeded=seeded)
            machine.harness = harness
            try:
                run_state_machine_as_test(machine, settings=Settings(settings, max_examples=left))
            except Flaky as error:
                # Hypothesis repeated a history, which went another way after another answer. That proves nothing about
                # the transport, which may decide by chance, unless it was repeated because something had failed.
                if machine.proof is not None or isinstance(error, FlakyFailure):
                    raise flaky_verdict(error, machine.proof) from None
                left -= max(1, machine.played)
                seeded = None if seeded is None else seeded + 1
            except RelevoError as error:
                raise broken_by(error) or error from error
            else:
                return


class TransportContract(
    RandomContract,
    LifeContract,
    PairContract,
    QuantityContract,
    RaceContract,
    FreeRaceContract,
    FaultContract,
    ClockContract,
    FairnessContract,
    WaitOnSeveralContract,
    WaitContract,
    # pytest runs them from the last to the first, which is the order of the promises.
    ForeignContract,
    ArgumentContract,
    UnclaimedContract,
    NameContract,
    CloseContract,
    SetUpContract,
    AlikeContract,
    CoordinatorContract,
    TakeOutContract,
    FindContract,
    TakeContract,
    StuckKeyContract,
    WaitingContract,
    StatsContract,
    DeadLetterContract,
    PresenceContract,
    BegunContract,
    LeaseContract,
    StaleContract,
    StateContract,
    SettleContract,
    UrgencyContract,
    OrderContract,
    UnreadableContract,
    ReceiveContract,
    InboxContract,
    HandlingContract,
    TransactionContract,
    UniqueContract,
    UniqueLifeContract,
    DedupeContract,
    DelayContract,
    SendErrorContract,
    PayloadContract,
    SendContract,
):
    """All scenarios and the random histories."""


def suite(harness: type[Harness], *, profile: str | Profile | None = None) -> type[TransportContract]:
    """
    Return a class with the tests for *harness*; assign it to a name that starts with ``Test``.

    Args:
        harness: The harness of the transport.

        profile: ``quick``, ``standard`` or ``nightly``, or one of your own; by default the one that the environment
            variable ``RELEVO_CONFORMANCE_PROFILE`` names, or else ``quick``.

    Raises:
        ValueError: There is no such profile.
    """
    name = f"Test{harness.__name__.removesuffix('Harness')}"
    text = f"All that {harness.__name__} must keep."
    members = {"harness_type": harness, "profile": chosen(profile), "__doc__": text}
    return type(name, (TransportContract,), members)
