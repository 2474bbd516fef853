from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest

from relevo import Ack, DeadLetter, Delivery, Failure, Lost, Nack, Outcome, Release, Unreadable
from relevo._worker.kept import FOR, MOST, MOST_BYTES, KeptOutcomes

Make = Callable[..., Delivery]


def _again(delivery: Delivery, *, lost_leases: int = 1, nacks: int = 0) -> Delivery:
    return attrs.evolve(
        delivery,
        receipt=object(),
        lost_leases=delivery.lost_leases + lost_leases,
        attempt=delivery.attempt + lost_leases + nacks,
    )


@pytest.fixture(name="kept")
def _kept() -> KeptOutcomes:
    return KeptOutcomes()


@pytest.mark.parametrize("outcome", [Ack(), Nack(state=b"s"), DeadLetter(reason="no")])
def test_an_outcome_is_there_once_for_the_same_event(kept: KeptOutcomes, delivery: Make, outcome: Outcome) -> None:
    one = delivery()
    kept.keep(one, outcome, 0.0)

    assert kept.take(_again(one, lost_leases=2), 1.0, is_untouched=True) == outcome
    assert kept.take(_again(one, lost_leases=2), 1.0, is_untouched=True) is None


@pytest.mark.parametrize("outcome", [Release(), Lost()])
def test_what_was_not_handled_has_no_outcome(kept: KeptOutcomes, delivery: Make, outcome: Outcome) -> None:
    kept.keep(delivery(), outcome, 0.0)

    assert len(kept) == 0


def test_a_settlement_in_between_makes_it_worthless(kept: KeptOutcomes, delivery: Make) -> None:
    one = delivery()
    kept.keep(one, Ack(), 0.0)

    assert kept.take(_again(one, nacks=1), 1.0, is_untouched=True) is None
    assert len(kept) == 0


def test_a_delivery_that_was_never_lost_asks_for_none(kept: KeptOutcomes, delivery: Make) -> None:
    one = delivery()
    kept.keep(one, Ack(), 0.0)

    assert kept.take(attrs.evolve(one, receipt=object()), 1.0, is_untouched=True) is None


@pytest.mark.parametrize("other", [{"queue": "other"}, {"enqueued_at": 7.0}, {"event_id": "2"}])
def test_another_event_has_nothing_of_it(kept: KeptOutcomes, delivery: Make, other: dict[str, object]) -> None:
    kept.keep(delivery(), Ack(), 0.0)

    assert kept.take(_again(delivery(**other)), 1.0, is_untouched=True) is None


def test_where_another_worker_may_have_begun_it_only_an_end_counts(kept: KeptOutcomes, delivery: Make) -> None:
    one, two = delivery(), delivery(event_id="2")
    kept.keep(one, Nack(), 0.0)
    kept.keep(two, Ack(), 0.0)

    assert kept.take(_again(one), 1.0, is_untouched=False) is None
    assert kept.take(_again(two), 1.0, is_untouched=False) == Ack()


def test_an_old_outcome_is_forgotten(kept: KeptOutcomes, delivery: Make) -> None:
    one = delivery()
    kept.keep(one, Ack(), 0.0)

    assert kept.take(_again(one), FOR, is_untouched=True) is None


def test_the_oldest_go_when_there_are_too_many(kept: KeptOutcomes, delivery: Make) -> None:
    deliveries = [delivery(event_id=str(number)) for number in range(MOST + 1)]
    for each in deliveries:
        kept.keep(each, Ack(), 0.0)

    assert len(kept) == MOST
    assert kept.take(_again(deliveries[0]), 1.0, is_untouched=True) is None
    assert kept.take(_again(deliveries[-1]), 1.0, is_untouched=True) == Ack()


def test_the_oldest_go_when_they_are_too_large(kept: KeptOutcomes, delivery: Make) -> None:
    state = bytes(16_000)
    for number in range(MOST_BYTES // len(state) + 10):
        kept.keep(delivery(event_id=str(number)), Nack(state=state), 0.0)
        kept.keep(delivery(event_id=str(number)), Nack(state=state), 0.0)

    assert len(kept) == MOST_BYTES // len(state)


def test_the_tracebacks_of_failures_count(kept: KeptOutcomes, delivery: Make) -> None:
    dead = DeadLetter(reason="no", failures=(Failure(error="e" * 1000, traceback="t" * 14_000, output="o" * 1000),))
    for number in range(MOST_BYTES // 16_000 + 10):
        kept.keep(delivery(event_id=str(number)), dead, 0.0)

    assert len(kept) == MOST_BYTES // 16_000


def test_bytes_that_are_no_event_have_no_outcome_to_keep(kept: KeptOutcomes, delivery: Make) -> None:
    kept.keep(attrs.evolve(delivery(), envelope=Unreadable(raw=b"", why="no")), Ack(), 0.0)

    assert len(kept) == 0
