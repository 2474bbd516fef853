"""
The checker finds what was doctored into a history, and nothing in its honest twin.

What the scenes are is said in ``scenes``.
"""

from __future__ import annotations

import attrs
import pytest

from relevo import Ack, Nack
from relevo_conformance import PROMISES, check, history
from relevo_conformance._judge_rest import NEVER_JUDGED
from relevo_conformance.promise import Promise

from .scenes import SCENES, Scene
from .script import BROKER, EVERYTHING, LEASE, Script, event


def named(value: object) -> str:
    return value.id if isinstance(value, Promise) else getattr(value, "__name__", "")


@pytest.mark.parametrize(("broken", "play"), SCENES, ids=named)
def test_a_doctored_history_breaks_its_promise_and_no_other(broken: Promise, play: Scene) -> None:
    assert play(honest=False).broken() == {broken.id}


@pytest.mark.parametrize(("broken", "play"), SCENES, ids=named)
def test_its_honest_twin_breaks_none(broken: Promise, play: Scene) -> None:
    assert [str(violation) for violation in play(honest=True).violations()] == []


def test_there_is_a_doctored_history_for_every_promise_that_a_history_can_break() -> None:
    judged = {broken.id for broken, _ in SCENES}

    assert judged == set(PROMISES) - {promise.id for promise in NEVER_JUDGED}


def test_a_drain_that_did_not_come_to_its_end_proves_no_loss() -> None:
    script = Script()
    script.send(event())

    script.drain(end="unknown")

    assert script.broken() == set()


def test_what_an_unknown_send_left_may_come_or_not_but_once() -> None:
    for came in (0, 1, 2):
        script = Script()
        script.call(history.Break("after"))
        script.send(event(), fates=["unknown"])
        for _ in range(came):
            script.ack(*script.receive(event()))
        script.drain()

        assert script.broken() == (set() if came < 2 else {"ack-is-final"})


def test_a_settlement_of_unknown_fate_may_have_happened_or_not() -> None:
    for attempt, lost_leases in ((2, 0), (2, 1)):
        script = Script()
        script.send(event())
        (first,) = script.receive(event())
        script.call(
            history.Settle(items=(history.Item(first, Nack()),)), end="unknown", error="TransportUnavailableError"
        )
        script.wait(LEASE)

        script.receive(event(), attempt=attempt, lost_leases=lost_leases, worker="b")

        assert script.broken() == set()


def test_a_call_that_never_ended_may_have_happened_or_not() -> None:
    for comes_again in (True, False):
        script = Script()
        script.send(event())
        (first,) = script.receive(event())
        script.begin(history.Settle(items=(history.Item(first, Ack()),)))
        script.wait(LEASE)
        if comes_again:
            script.ack(*script.receive(event(), attempt=2, lost_leases=1, worker="b"), worker="b")

        script.drain()

        assert script.broken() == set()


def test_an_unsettled_delivery_stays_as_it_was() -> None:
    script = Script()
    script.send(event(1), event(2))
    one, two = script.receive(event(1), event(2))
    items = (history.Item(one, Ack()), history.Item(two, Ack()))
    script.call(history.Settle(items=items), history.Settled(unsettled=(two,)), end="unknown", error="SettleError")

    script.ack(two)
    script.drain()

    assert script.broken() == set()


def test_the_extra_copy_of_a_settlement_that_was_only_sent_comes_once() -> None:
    script = Script(BROKER)
    script.send(event())
    script.ack(*script.receive(event()))
    script.kill()
    script.ack(*script.receive(event(), attempt=2, lost_leases=1, worker="b"), worker="b")
    script.wait(5.0)

    script.receive(event(), attempt=2, lost_leases=1, worker="c")

    assert script.broken() == {"ack-is-final"}


def test_an_extra_copy_that_never_comes_tears_no_batch() -> None:
    script = Script(BROKER)
    script.send(event(1), event(2))
    for delivery in script.receive(event(1), event(2)):
        script.ack(delivery)
    script.kill()

    script.drain()

    assert script.broken() == set()


def test_a_delivery_that_was_fetched_ahead_counts_beside_one_whose_lease_ran_out() -> None:
    script = Script(attrs.evolve(EVERYTHING, lost_leases="at least"))
    script.send(event())
    script.receive(event())
    script.wait(LEASE)
    script.receive(worker="b")
    script.kill("b")

    script.receive(event(), attempt=3, lost_leases=2, worker="c")

    assert script.broken() == set()


def test_an_extension_that_was_refused_leaves_the_lease_as_it_was() -> None:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    script.call(history.Extend(deliveries=(first,), lease=10 * LEASE), end="refused", error="TransportUnavailableError")
    script.wait(LEASE)

    script.receive(event(), attempt=2, lost_leases=1, worker="b")

    assert script.broken() == set()


def test_whoever_was_told_that_a_lease_is_lost_may_be_told_again() -> None:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    script.ack(first, lost=True, worker="b")

    script.ack(first, lost=True)

    assert script.broken() == set()


def test_a_violation_names_the_call_that_gave_it_away() -> None:
    script = Script()
    script.send(event(1))

    script.receive(event(2))

    (violation,) = check(script.records, EVERYTHING)
    assert violation.op == 2
    assert "e2" in violation.what
    assert str(violation).startswith("no-invention: ")


def test_a_call_that_ends_without_having_begun_is_no_history() -> None:
    with pytest.raises(ValueError, match="call 9 ended, which had not begun"):
        check([history.Returned(op=9, at=1000.0, end="done")], EVERYTHING)
