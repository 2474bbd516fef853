"""An error that a transport raises without a cause is a broken promise, also in a case of many."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import pytest
from hypothesis import Phase

from relevo import Ack, DeadLetter, Delivery, Envelope, Nack, Settlement
from relevo.errors import SendError, TransportUnavailableError
from relevo_conformance import BrokenPromiseError, examine, history
from relevo_conformance._wrong_error import promise_of
from relevo_conformance.card import Examination, card
from relevo_conformance.examination import Finding
from relevo_conformance.harness import Harness
from relevo_conformance.profile import PROFILES
from relevo_memory import MemoryTransport

from .memory import MemoryHarness

QUICK = PROFILES["quick"]
PAIRS = "test_each_pair_of_features_keeps_every_promise"
LIVES = "test_each_operation_after_each_other_keeps_every_promise"
CHANCE = "test_random_histories_keep_every_promise"


class FailsAtTheSecondNack(MemoryTransport):
    """Raises an error of relevo where nothing has failed."""

    def _settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        if any(isinstance(outcome, Nack) and one.attempt > 1 for one, outcome in settlements):
            raise TransportUnavailableError(self.name, "the second nack is too much")
        return super()._settle(settlements)


class FailingHarness(MemoryHarness):
    transport = FailsAtTheSecondNack


def found_by(test: str, harness: type[Harness] = FailingHarness, **options: object) -> Finding:
    profile = attrs.evolve(QUICK, shrinking=1.0)
    (finding,) = examine(harness, profile=profile, matching=lambda name, _: name == test, **options)  # type: ignore[arg-type]
    return finding


@pytest.mark.parametrize("test", [PAIRS, LIVES, CHANCE])
def test_an_error_without_a_cause_breaks_the_promise_of_its_call(test: str) -> None:
    finding = found_by(test, phases=(Phase.generate,))

    assert (finding.status, *finding.promises) == ("broken", "nack-returns-later")
    assert "settle raised TransportUnavailableError" in finding.what
    assert "the second nack is too much" in finding.what
    assert finding.history


def test_the_card_shows_the_promise_as_broken_and_nothing_as_an_error_of_the_suite() -> None:
    finding = found_by(LIVES, phases=(Phase.generate,))

    result = card(
        [finding], examination=Examination(transport="t", harness="h", capabilities=MemoryTransport.capabilities)
    )

    assert result.verdict == "not conformant"
    assert result.errors == ()
    assert [line.promise.id for line in result.lines if line.status == "FAIL"] == ["nack-returns-later"]


def test_the_case_is_named_with_the_fewest_features() -> None:
    case, _, _ = found_by(PAIRS).what.partition(":\n")

    assert case.startswith("BrokenPromiseError: in the case ")
    assert case.count(";") <= 2, case


@pytest.mark.parametrize(
    ("call", "promise"),
    [
        (history.Send(envelopes=(), delay=0.0), "sent-is-received"),
        (history.Settle(items=(history.Item(1, Ack()), history.Item(2, Nack()))), "ack-is-final"),
        (history.Settle(items=(history.Item(1, DeadLetter(reason="")),)), "dead-is-kept-with-reason"),
        (history.Settle(items=()), "answers-are-well-formed"),
        (history.Purge(queue="q"), "purged-is-gone"),
    ],
)
def test_each_call_has_a_promise_that_its_error_breaks(call: history.Call, promise: str) -> None:
    assert promise_of(call).id == promise


class RefusesDelayedUrgentEvents(MemoryTransport):
    """Raises a SendError for events that it claims to take."""

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        if delay and any(one.urgency == "high" for one in envelopes):
            raise SendError(self.name, refused=range(len(envelopes)), why="urgent and delayed")
        super().send(envelopes, delay=delay)


class RefusingHarness(MemoryHarness):
    transport = RefusesDelayedUrgentEvents


def test_an_event_that_is_refused_without_a_cause_breaks_a_promise() -> None:
    finding = found_by(PAIRS, RefusingHarness, phases=(Phase.generate,))

    assert (finding.status, *finding.promises) == ("broken", "sent-is-received")
    assert " was refused without a reason: SendError" in finding.what


def test_what_raises_it_can_be_caught_as_a_broken_promise() -> None:
    with pytest.raises(BrokenPromiseError, match="nack-returns-later"):
        raise_in_a_life()


def raise_in_a_life() -> None:
    from relevo_conformance._contract_life import LifeContract  # noqa: PLC0415 - pytest would collect it

    class Tests(LifeContract):
        harness_type = FailingHarness
        profile = QUICK

    Tests.setup_class()
    Tests().test_each_operation_after_each_other_keeps_every_promise()
