"""What the checker allows where nobody can know, and what it does not allow even there."""

from __future__ import annotations

from relevo import Ack, Envelope, Nack, Stats, Unreadable
from relevo_conformance import history, promise

from .script import LEASE, Script, event


def unknown_receive(script: Script, *, worker: str = "a") -> None:
    call = history.Receive(queues=("q", "r"), limit=10, lease=LEASE, wait=0.0)
    script.call(call, worker=worker, end="unknown", error="TransportUnavailableError")


def sent(script: Script) -> Envelope:
    one = event()
    script.send(one)
    return one


def test_what_a_receive_of_unknown_fate_took_may_come_back_as_lost() -> None:
    script = Script()
    one = sent(script)
    unknown_receive(script)
    script.wait(LEASE + 1)

    script.ack(*script.receive(one, attempt=2, lost_leases=1))
    script.drain()

    assert script.violations() == []


def test_what_a_receive_of_unknown_fate_did_not_take_comes_as_if_nothing_had_been() -> None:
    script = Script()
    one = sent(script)
    unknown_receive(script)

    script.ack(*script.receive(one, worker="b"))
    script.drain()

    assert script.violations() == []


def test_what_a_receive_of_unknown_fate_took_is_hidden_for_its_lease() -> None:
    script = Script()
    one = sent(script)
    unknown_receive(script)

    script.receive(one, attempt=2, lost_leases=1)

    assert script.broken() == {promise.LOST_LEASES_ARE_COUNTED.id}


def test_a_receive_of_unknown_fate_loses_nothing() -> None:
    script = Script()
    sent(script)
    unknown_receive(script)
    script.wait(LEASE + 1)

    script.drain()

    assert len(script.broken()) == 1


def test_a_dead_letter_of_unknown_revival_may_die_again_under_another_ref() -> None:
    script = Script()
    one = sent(script)
    script.bury(*script.receive(one))
    script.dead(script.entry(one))
    script.call(history.Revive(refs={"1": b""}), end="unknown", error="TransportUnavailableError")
    script.bury(*script.receive(one))

    script.dead(script.entry(one, ref="2"))

    assert script.violations() == []


def test_a_dead_letter_of_unknown_revival_is_not_both_dead_and_alive() -> None:
    script = Script()
    one = sent(script)
    script.bury(*script.receive(one))
    script.dead(script.entry(one))
    script.call(history.Revive(refs={"1": b""}), end="unknown", error="TransportUnavailableError")
    script.receive(one)

    script.dead(script.entry(one))

    assert script.broken() != set()


def test_calls_that_overlap_have_their_effects_in_either_order() -> None:
    script = Script()
    (held,) = script.receive(sent(script))
    settling = script.begin(history.Settle(items=(history.Item(held, Ack()),)))
    keeping = script.begin(history.Checkpoint(delivery=held, state=b"first"), worker="b")
    extending = script.begin(history.Extend(deliveries=(held,), lease=LEASE), worker="c")

    script.end(settling, history.Settled())
    script.end(keeping)
    script.end(extending, history.Settled())
    script.drain()

    assert script.violations() == []


def test_what_a_stranger_puts_there_may_be_received_before_the_stranger_is_told() -> None:
    script = Script()
    putting = script.begin(history.PutRaw(queue="q", raw=b"raw", headers={}), worker="stranger")

    script.ack(*script.receive(Unreadable(raw=b"raw", headers={}, why="no envelope")))
    script.end(putting)
    script.drain()

    assert script.violations() == []


def test_of_two_settlements_that_overlap_one_counts() -> None:
    script = Script()
    (held,) = script.receive(sent(script))
    one = script.begin(history.Settle(items=(history.Item(held, Ack()),)))
    other = script.begin(history.Settle(items=(history.Item(held, Nack()),)), worker="b")

    script.end(one, history.Settled())
    script.end(other, history.Settled())

    assert script.broken() == {promise.STALE_SETTLE_IS_REFUSED.id}


def test_a_lease_is_not_extended_that_somebody_else_received_meanwhile() -> None:
    script = Script()
    one = sent(script)
    (held,) = script.receive(one)
    script.wait(LEASE + 1)
    extending = script.begin(history.Extend(deliveries=(held,), lease=LEASE))
    script.receive(one, attempt=2, lost_leases=1, worker="b")

    script.end(extending, history.Settled())

    assert script.broken() == {promise.STALE_SETTLE_IS_REFUSED.id}


def test_a_purge_of_unknown_fate_tears_no_batch() -> None:
    script = Script()
    one, other = event(1), event(2, queue="r")
    script.send(one, other, fates=("unknown", "unknown"))
    script.call(history.Purge(queue="q"), end="unknown", error="TransportUnavailableError")

    script.drain()

    assert script.violations() == []


def test_a_clock_that_was_set_back_makes_no_dead_letter_wrong_and_no_event_younger_than_new() -> None:
    script = Script()
    first, second, third = (event(number) for number in (1, 2, 3))
    script.send(first, second, third)
    one, other = script.receive(first, second, queues=("q",))
    script.bury(one)
    earlier = script.entry(first)
    script.wait(-100.0)
    script.bury(other)

    script.dead(earlier, script.entry(second, ref="2"))
    script.call(
        history.Count(queue="q"), history.Figures(Stats(ready=1, leased=0, scheduled=0, dead=2, oldest_age=0.0))
    )

    assert script.violations() == []


def test_a_lease_that_was_past_before_the_clock_was_set_back_may_have_been_ended_or_not() -> None:
    for attempt in (2, 1):
        script = Script()
        one = sent(script)
        (held,) = script.receive(one)
        script.wait(LEASE + 1)
        script.send(event(2))
        script.wait(-600.0)

        if attempt == 2:
            script.receive(one, attempt=2, lost_leases=1, worker="b")
        else:
            script.ack(held)

        assert script.violations() == []


def test_a_lease_that_begins_after_the_clock_was_set_back_holds() -> None:
    script = Script()
    script.send(event(2))
    script.wait(-600.0)
    one = sent(script)
    script.receive(one, enqueued_at=400.0)
    script.wait(LEASE - 1)

    script.receive(one, attempt=2, lost_leases=1, worker="b", enqueued_at=400.0)

    assert script.broken() == {promise.LEASED_IS_HIDDEN.id}
