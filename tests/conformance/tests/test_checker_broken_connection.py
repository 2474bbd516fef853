"""Where settling is only sent, a fault may leave an event in two places: once for each fault, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import pytest

from relevo import Ack, Capabilities, DeadLetter, DeadLetterEntry, Lost, Nack, Outcome, Release
from relevo_conformance import history

from .script import BROKER, Script, event

CONFIRMED = attrs.evolve(BROKER, settlement="confirmed")


@contextmanager
def broken(script: Script, worker: str = "a") -> Iterator[None]:
    """Break the store beneath *worker*, and mend it long after whatever is too late to be its doing."""
    script.call(history.Break("after", None), worker=worker)
    yield
    script.call(history.Mend(), worker=worker)
    script.wait(5.0)


def failing(script: Script, delivery: int, outcome: Outcome) -> None:
    """Settle *delivery* without learning what became of it."""
    call = history.Settle(items=(history.Item(delivery, outcome),))
    script.call(call, end="unknown", error="TransportUnavailableError")


def held(script: Script) -> int:
    script.setup()
    script.send(event())
    (delivery,) = script.receive(event())
    script.wait(5.0)
    return delivery


def test_what_a_worker_held_comes_back_when_its_connection_was_lost() -> None:
    script = Script(BROKER)
    held(script)
    with broken(script):
        pass

    script.ack(*script.receive(event(), attempt=2, lost_leases=1, worker="b"), worker="b")
    script.drain()

    assert script.broken() == set()


def test_what_a_worker_held_may_still_be_held_when_its_connection_was_not_the_one() -> None:
    script = Script(BROKER)
    delivery = held(script)
    with broken(script):
        pass

    script.ack(delivery)
    script.drain()

    assert script.broken() == set()


def test_what_another_worker_held_is_held_still() -> None:
    script = Script(BROKER)
    held(script)
    script.receive(worker="b")
    with broken(script, "b"):
        pass

    script.receive(event(), attempt=2, lost_leases=1, worker="b")

    assert script.broken() == {"leased-is-hidden"}


def test_a_timed_lease_outlives_a_fault() -> None:
    script = Script(attrs.evolve(BROKER, lease="timed", settlement="confirmed"))
    held(script)
    with broken(script):
        pass

    script.receive(event(), attempt=2, lost_leases=1, worker="b")

    assert script.broken() == {"leased-is-hidden"}


def test_what_was_acked_just_before_the_fault_may_come_once_more() -> None:
    script = Script(BROKER)
    delivery = held(script)
    script.ack(delivery)
    with broken(script):
        pass

    for _ in range(2):
        assert script.broken() == set()
        script.ack(*script.receive(event(), attempt=2, lost_leases=1, worker="b"), worker="b")
        script.wait(5.0)

    assert script.broken() == {"ack-is-final"}


def test_what_was_acked_long_before_the_fault_is_done() -> None:
    script = Script(BROKER)
    delivery = held(script)
    script.ack(delivery)
    script.wait(5.0)
    with broken(script):
        pass

    script.receive(event(), attempt=2, lost_leases=1, worker="b")

    assert script.broken() == {"ack-is-final"}


@pytest.mark.parametrize("late", [Ack(), Release(), Nack(state=b"again")], ids=lambda one: type(one).__name__)
def test_what_was_moved_with_unknown_fate_may_be_settled_where_it_is_held_still(late: Outcome) -> None:
    script = Script(BROKER)
    delivery = held(script)
    with broken(script):
        failing(script, delivery, Nack(state=b"new"))
    (moved,) = script.receive(event(), attempt=2, state=b"new", worker="b")
    script.settle(moved, DeadLetter(reason="bad"), worker="b")

    script.settle(delivery, late)
    assert script.broken() == set()

    script.settle(delivery, Ack())
    assert script.broken() == {"stale-settle-is-refused"}


OUTCOMES: tuple[tuple[Outcome, dict[str, Any]], ...] = (
    (Nack(state=b"new"), {"attempt": 2, "state": b"new"}),
    (Release(), {}),
    (Lost(), {"attempt": 2, "lost_leases": 1}),
)
"""Each, and as what it comes again."""


@pytest.mark.parametrize("outcome, moved", OUTCOMES, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)], ids=["moved first", "moved last"])
def test_what_was_given_back_by_two_steps_may_be_there_by_both(
    outcome: Outcome, moved: dict[str, Any], order: slice
) -> None:
    script = Script(BROKER)
    delivery = held(script)
    with broken(script):
        failing(script, delivery, outcome)

    ways: tuple[dict[str, Any], ...] = (moved, {"attempt": 2, "lost_leases": 1})
    for fields in ways[order]:
        script.ack(*script.receive(event(), worker="b", **fields), worker="b")
    script.drain()
    assert script.broken() == set()

    script.receive(event(), worker="c", **moved)
    assert script.broken()


@pytest.mark.parametrize("capabilities", [CONFIRMED, attrs.evolve(CONFIRMED, lease="timed")], ids=["line", "timed"])
def test_what_is_given_back_by_one_step_is_there_once(capabilities: Capabilities) -> None:
    script = Script(capabilities)
    delivery = held(script)
    with broken(script):
        failing(script, delivery, Nack(state=b"new"))
    script.ack(*script.receive(event(), worker="b", attempt=2, state=b"new"), worker="b")
    script.wait(5.0)

    script.receive(event(), worker="b", attempt=2, lost_leases=1)

    assert script.broken()


def test_a_settlement_that_was_said_again_after_the_fault_may_have_counted_twice() -> None:
    script = Script(BROKER)
    delivery = held(script)
    with broken(script):
        failing(script, delivery, Nack(state=b"new"))
    script.nack(delivery, state=b"new")

    for _ in range(2):
        assert script.broken() == set()
        script.ack(*script.receive(event(), worker="b", attempt=2, state=b"new"), worker="b")
        script.wait(5.0)
    script.drain()

    assert script.broken() == set()


def test_what_died_by_two_steps_may_be_dead_and_come_back() -> None:
    script = Script(BROKER)
    delivery = held(script)
    with broken(script):
        failing(script, delivery, DeadLetter(reason="failed", error="why"))

    script.dead(script.entry(event(), died_at=1005.0))
    script.ack(*script.receive(event(), attempt=2, lost_leases=1, worker="b"), worker="b")
    script.drain()

    assert script.broken() == set()


def test_what_died_or_not_is_lost_nowhere() -> None:
    script = Script(BROKER)
    delivery = held(script)
    with broken(script):
        failing(script, delivery, DeadLetter(reason="failed", error="why"))

    script.dead()
    script.drain()

    assert script.broken() == {"dead-is-kept-with-reason"}


@pytest.mark.parametrize("looks", [0, 1])
def test_what_was_revived_by_two_steps_may_be_dead_and_alive(looks: int) -> None:
    script = Script(BROKER)
    entry = buried(script)
    with broken(script):
        script.call(history.Revive(refs={"1": b"new"}), end="unknown", error="TransportUnavailableError")

    for _ in range(looks):
        script.dead(entry)
    script.ack(*script.receive(event(), state=b"new", worker="b"), worker="b")
    script.dead(entry)
    script.drain()
    assert script.broken() == set()

    script.receive(event(), state=b"new", worker="c")
    assert script.broken()


def test_what_was_revived_or_not_is_lost_nowhere() -> None:
    script = Script(BROKER)
    buried(script)
    with broken(script):
        script.call(history.Revive(refs={"1": b"new"}), end="unknown", error="TransportUnavailableError")

    script.dead()
    script.drain()

    assert script.broken() == {"dead-is-kept-with-reason"}


def buried(script: Script) -> DeadLetterEntry:
    script.setup()
    script.receive()
    script.send(event())
    script.bury(*script.receive(event()))
    entry = script.entry(event())
    script.dead(entry)
    script.wait(5.0)
    return entry


@pytest.mark.parametrize("times, wrong", [(0, True), (1, False), (2, False), (3, True)])
def test_what_was_fetched_ahead_comes_once_or_twice(times: int, *, wrong: bool) -> None:
    script = Script(BROKER)
    script.setup()
    script.receive()
    script.send(event())
    script.wait(5.0)
    with broken(script):
        script.receive()

    for _ in range(times):
        script.ack(*script.receive(event(), worker="b"), worker="b")
        script.wait(5.0)
    script.drain()

    assert bool(script.broken()) is wrong


def test_what_was_fetched_ahead_is_not_lost_with_the_connection() -> None:
    script = Script(BROKER)
    script.setup()
    script.receive()
    script.send(event())
    with broken(script):
        script.receive()

    script.drain()

    assert script.broken() == {"sent-is-received"}


def test_what_no_worker_fetched_has_no_double() -> None:
    script = Script(BROKER)
    script.setup()
    script.receive(queues=["r"])
    script.send(event())
    script.wait(5.0)
    with broken(script):
        pass
    script.ack(*script.receive(event(), worker="b"), worker="b")
    script.wait(5.0)

    script.receive(event(), worker="b")

    assert script.broken() == {"ack-is-final"}


def test_a_fault_makes_one_more_of_what_another_fault_made_one_more_of() -> None:
    script = Script(BROKER)
    delivery = held(script)
    script.ack(delivery)
    for _ in range(2):
        with broken(script):
            pass

    for _ in range(2):
        script.ack(*script.receive(event(), attempt=2, lost_leases=1, worker="b"), worker="b")
        script.wait(5.0)
        assert script.broken() == set()

    script.receive(event(), attempt=2, lost_leases=1, worker="b")

    assert script.broken() == {"ack-is-final"}


def test_what_was_sent_just_after_a_connection_was_lost_may_have_gone_to_it() -> None:
    for seconds, broken_ids in ((0.5, set()), (5.0, {"lost-leases-are-counted"})):
        script = Script(BROKER)
        script.setup()
        script.receive()
        script.call(history.Break("after", None))
        script.call(history.Mend())
        script.wait(seconds)
        script.send(event())

        script.receive(event(), attempt=2, lost_leases=1, enqueued_at=script.now)

        assert script.broken() == broken_ids


def test_an_ack_may_be_lost_that_a_worker_sent_while_its_store_was_broken() -> None:
    script = Script(BROKER)
    delivery = held(script)
    with broken(script):
        script.settle(delivery, Ack())

    script.ack(*script.receive(event(), attempt=2, lost_leases=1, worker="b"), worker="b")
    script.drain()

    assert script.broken() == set()


@pytest.mark.parametrize("missing", [None, 1, 2], ids=["both came", "the moved one never came", "the other never came"])
def test_which_of_two_that_are_alike_comes_first_is_a_guess(missing: int | None) -> None:
    script = Script(BROKER)
    delivery = held(script)
    with broken(script):
        failing(script, delivery, Release())
    (moved,) = script.receive(event(), worker="b")
    script.settle(moved, Release(), worker="b")
    script.receive(event(), worker="c")
    script.close("a")
    script.receive(event(), attempt=2, lost_leases=1, worker="b")
    script.close("b")
    script.close("c")

    for lost_leases in (2, 1):
        if lost_leases != missing:
            script.ack(
                *script.receive(event(), attempt=1 + lost_leases, lost_leases=lost_leases, worker="d"), worker="d"
            )
    script.drain()

    assert script.broken() == (set() if missing is None else {"lost-lease-returns"})


def test_what_a_worker_held_that_is_gone_may_be_moved_twice() -> None:
    script = Script(BROKER)
    held(script)
    script.receive(worker="b")
    script.close("a")
    with broken(script, "b"):
        failing_receive(script, "b")

    for _ in range(2):
        script.ack(*script.receive(event(), attempt=2, lost_leases=1, worker="c"), worker="c")
        script.wait(5.0)
        assert script.broken() == set()
    script.drain()
    assert script.broken() == set()

    script.receive(event(), attempt=2, lost_leases=1, worker="c")
    assert script.broken() == {"ack-is-final"}


@pytest.mark.parametrize("worker, wrong", [("b", False), ("c", True)], ids=["whose store failed", "another"])
def test_what_is_fetched_for_the_first_time_by_the_call_that_fails_may_be_moved_twice(
    worker: str, *, wrong: bool
) -> None:
    script = Script(BROKER)
    held(script)
    script.receive(queues=["r"], worker="b")
    script.close("a")
    with broken(script, "b"):
        script.receive(event(), attempt=2, lost_leases=1, worker=worker)

    script.receive(event(), attempt=2, lost_leases=1, worker="d")

    assert bool(script.broken()) is wrong


def failing_receive(script: Script, worker: str) -> None:
    """Receive without learning what was handed out."""
    call = history.Receive(queues=("q", "r"), limit=10, lease=60.0, wait=0.0)
    script.call(call, worker=worker, end="unknown", error="TransportUnavailableError")


def test_what_was_moved_and_is_held_still_may_die_with_unknown_fate() -> None:
    script = Script(BROKER)
    delivery = held(script)
    with broken(script):
        failing(script, delivery, Nack(state=b"new"))
    (moved,) = script.receive(event(), attempt=2, state=b"new", worker="b")

    with broken(script):
        failing(script, delivery, DeadLetter(reason="failed", error="why"))
    script.dead(script.entry(event(), died_at=script.now))
    script.ack(moved, worker="b")
    script.drain()

    assert script.broken() == set()


def test_what_was_moved_and_is_held_still_may_be_moved_again_with_unknown_fate() -> None:
    script = Script(BROKER)
    delivery = held(script)
    with broken(script):
        failing(script, delivery, Nack(state=b"new"))
    (moved,) = script.receive(event(), attempt=2, state=b"new", worker="b")

    with broken(script):
        failing(script, delivery, Nack(state=b"newer"))
    script.ack(moved, worker="b")
    script.ack(*script.receive(event(), attempt=2, state=b"newer", worker="b"), worker="b")
    script.drain()

    assert script.broken() == set()


@pytest.mark.parametrize("lost_leases, wrong", [(1, False), (2, False), (3, True)])
def test_what_was_reported_lost_may_be_lost_once_more_by_the_receive_that_fails(
    lost_leases: int, *, wrong: bool
) -> None:
    script = Script(BROKER)
    delivery = held(script)
    script.settle(delivery, Lost())
    script.wait(5.0)
    script.call(history.Break("after", 1))

    script.receive(event(), attempt=1 + lost_leases, lost_leases=lost_leases)

    assert bool(script.broken()) is wrong


@pytest.mark.parametrize("settlement", ["sent", "confirmed"])
def test_what_came_while_the_store_was_broken_may_die_and_come_again_where_that_takes_two_steps(
    settlement: Any,
) -> None:
    script = Script(attrs.evolve(BROKER, settlement=settlement))
    script.setup()
    script.receive()  # the queue is not new to the worker when its store breaks
    script.call(history.Break("after", None))
    script.send(event(), worker="b")
    (delivery,) = script.receive(event())
    failing(script, delivery, DeadLetter(reason="failed", error="why"))
    script.call(history.ListDead(queues=("q", "r")), history.Entries((script.entry(event()),)), worker="b")
    script.kill()

    script.receive(event(), attempt=2, lost_leases=1, worker="b")

    assert script.broken() == (set() if settlement == "sent" else {"dead-is-kept-with-reason"})


@pytest.mark.parametrize("settlement", ["sent", "confirmed"])
def test_what_may_have_died_may_be_acked_and_dead_where_that_takes_two_steps(settlement: Any) -> None:
    script = Script(attrs.evolve(BROKER, settlement=settlement))
    script.setup()
    script.receive()
    script.call(history.Break("after", None))
    script.send(event(), worker="b")
    (delivery,) = script.receive(event())
    failing(script, delivery, DeadLetter(reason="failed", error="why"))
    script.ack(delivery)

    script.call(history.ListDead(queues=("q", "r")), history.Entries((script.entry(event()),)), worker="b")

    assert script.broken() == (set() if settlement == "sent" else {"dead-is-kept-with-reason"})
