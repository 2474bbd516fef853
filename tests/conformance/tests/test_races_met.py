"""The tally says which calls raced, and counts no others."""

from __future__ import annotations

from relevo import Ack
from relevo_conformance import history
from relevo_conformance.history import tally

from .script import Script, event

RECEIVE = history.Receive(queues=("q",), limit=1, lease=60.0, wait=0.0)


def settle(delivery: int) -> history.Settle:
    return history.Settle(items=(history.Item(delivery, Ack()),))


def met(*calls: tuple[str, history.Call, history.Value | None], at_once: bool = True) -> dict[str, int]:
    """Return the races of calls, each with its worker and its result, that all begin before one ends, or one by one."""
    script = Script()
    script.send(event(1))
    flying = []
    for worker, call, value in calls:
        op = script.begin(call, worker=worker)
        if at_once:
            flying.append((op, value))
        else:
            script.end(op, value)
    for op, value in flying:
        script.end(op, value)
    return {name: number for name, number in tally(script.records).items() if " raced " in name}


def something() -> history.HandedOut:
    return history.HandedOut((Script().handed(event(1)),))


NOTHING = history.HandedOut(())
SETTLED = history.Settled()


def test_calls_of_two_workers_about_one_thing_race_if_both_are_in_flight() -> None:
    calls = ("a", settle(1), SETTLED), ("b", settle(1), SETTLED)

    assert met(*calls) == {"settle raced settle": 1}
    assert met(*calls, at_once=False) == {}


def test_each_pair_of_three_calls_is_a_race() -> None:
    assert met(*((worker, settle(1), SETTLED) for worker in "abc")) == {"settle raced settle": 3}


def test_the_calls_of_one_worker_do_not_race() -> None:
    assert met(("a", settle(1), SETTLED), ("a", settle(1), SETTLED)) == {}


def test_settlements_of_two_deliveries_do_not_race() -> None:
    assert met(("a", settle(1), SETTLED), ("b", settle(2), SETTLED)) == {}


def test_receives_race_for_an_event_and_not_for_an_empty_queue() -> None:
    assert met(("a", RECEIVE, something()), ("b", RECEIVE, NOTHING)) == {"receive raced receive": 1}
    assert met(("a", RECEIVE, NOTHING), ("b", RECEIVE, NOTHING)) == {}


def test_an_event_that_is_cancelled_is_in_the_queue_that_it_was_sent_to() -> None:
    here, elsewhere = (history.Cancel(event_id=event_id) for event_id in ("e1", "e2"))

    assert met(("a", here, history.Number(0)), ("b", RECEIVE, something())) == {"cancel raced receive": 1}
    assert met(("a", elsewhere, history.Number(0)), ("b", RECEIVE, something())) == {}


def test_sends_race_if_they_send_one_event_and_not_if_they_share_a_queue() -> None:
    once, again, other = (history.Send(envelopes=(event(number),)) for number in (1, 1, 2))

    assert met(("a", once, None), ("b", again, None)) == {"send raced send": 1}
    assert met(("a", once, None), ("b", other, None)) == {}
    assert met(("a", once, None), ("b", RECEIVE, something())) == {"receive raced send": 1}


def test_a_call_whose_worker_was_killed_races_with_no_later_one() -> None:
    script = Script()
    script.begin(settle(1), worker="a")
    script.kill("a")
    script.end(script.begin(settle(1), worker="b"), SETTLED)

    assert "settle raced settle" not in tally(script.records)
