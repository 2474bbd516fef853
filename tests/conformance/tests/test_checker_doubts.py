"""What the checker allows where nobody can know, and what it does not allow even there."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import pytest

from relevo import Ack, Capabilities, Envelope, Nack, Note, Stats, SystemClock, Unreadable
from relevo_conformance import check, history, promise, unaccounted
from relevo_conformance._judge_rest import not_judged
from relevo_conformance.checker import Judge
from relevo_conformance.harness import judge_of

from .memory import MemoryHarness
from .script import BROKER, EVERYTHING, LEASE, NOTHING, Script, event


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


# --- a receive that returned nothing, and an urgent event that waits ---------------------------------


def overlooked(script: Script, **sent: Any) -> set[str]:
    """Return what is broken if an event comes that a receive of 20 s did not return."""
    one = event(**sent)
    script.send(one)
    script.idle(20.0)
    script.receive(one)
    return script.broken()


def test_a_receive_that_returned_nothing_is_accused_only_once_the_event_comes() -> None:
    script = Script()
    script.send(event())
    script.idle(20.0)
    script.idle(20.0)

    assert script.broken() == set()

    script.receive(event())
    script.receive()

    (violation,) = script.violations()
    assert (violation.promise, violation.op) == (promise.WAIT_IS_KEPT.id, 3)


def test_what_a_receive_overlooked_and_never_comes_is_a_loss_and_nothing_else() -> None:
    script = Script()
    script.send(event())
    script.idle(20.0)

    script.drain()

    assert script.broken() == {promise.SENT_IS_RECEIVED.id}


def test_a_receive_may_return_nothing_while_the_store_needs_its_time() -> None:
    script = Script()
    script.send(event())
    script.idle(9.0)
    script.receive(event())

    assert script.broken() == set()
    assert {one.promise for one in check(script.records, EVERYTHING, patience=9.0)} == {promise.WAIT_IS_KEPT.id}


def test_the_patience_and_the_timeout_of_a_harness_are_those_of_its_checker() -> None:
    class SlowHarness(MemoryHarness):
        patience: ClassVar[float] = 7.0
        call_timeout: ClassVar[float] = 90.0

    class HastyHarness(MemoryHarness):
        call_timeout: ClassVar[float] = 0.5

    worlds = [judge_of(one, EVERYTHING, one.new_clock()).world for one in (SlowHarness, HastyHarness)]
    worlds.append(judge_of(MemoryHarness, EVERYTHING, SystemClock()).world)

    assert [(world.patience, world.overtime) for world in worlds] == [(7.0, 90.0), (0.0, 30.0), (10.0, 30.0)]


def test_a_receive_of_another_queue_overlooks_nothing() -> None:
    script = Script()
    script.send(event())
    script.idle(20.0, queues=["r"])
    script.receive(event())

    assert script.broken() == set()


def test_an_event_with_a_key_may_have_to_wait() -> None:
    assert overlooked(Script(), ordering_key="k") == set()
    assert overlooked(Script()) == {promise.WAIT_IS_KEPT.id}


def test_what_another_instance_may_have_fetched_is_not_overlooked() -> None:
    assert overlooked(Script(BROKER)) == set()


def test_a_lease_that_ran_out_need_not_be_noticed_at_once() -> None:
    script = Script()
    script.send(event())
    script.receive(event())
    script.wait(2 * LEASE)
    script.idle(20.0)
    script.receive(event(), attempt=2, lost_leases=1)

    assert script.broken() == set()


def test_what_another_call_may_hold_meanwhile_is_not_overlooked() -> None:
    script = Script()
    script.send(event())
    other = script.begin(history.Receive(queues=("q",), limit=1, lease=LEASE, wait=30.0), worker="b")
    script.idle(20.0)
    script.end(other, history.HandedOut((script.handed(event()),)))

    assert script.broken() == set()


def test_after_the_clock_was_set_back_no_wait_is_judged() -> None:
    script = Script()
    script.send(event())
    script.wait(-10.0)
    script.idle(20.0, took=100.0)
    script.receive(event())

    assert script.broken() == set()


def passed_over(script: Script, **urgent: Any) -> set[str]:
    """Return what is broken if six normal events come before an urgent one."""
    one = event(9, urgency="high", **urgent)
    script.send(*map(event, range(6)), one)
    for number in range(6):
        script.receive(event(number), limit=1)
    script.receive(one, limit=1)
    return script.broken()


def test_an_urgent_event_may_be_passed_over_by_what_was_fetched_before() -> None:
    assert passed_over(Script(BROKER)) == set()
    assert passed_over(Script()) == {promise.URGENT_OVERTAKES.id}


def test_an_urgent_event_with_a_key_may_have_to_wait_too() -> None:
    assert passed_over(Script(), ordering_key="k") == set()


def test_an_urgent_event_that_came_back_may_be_behind_the_others() -> None:
    script = Script()
    one = event(9, urgency="high")
    script.send(*map(event, range(6)), one)
    (first,) = script.receive(one, limit=1)
    script.nack(first)
    for number in range(6):
        script.receive(event(number), limit=1)

    assert script.broken() == set()


def test_receives_at_the_same_time_say_nothing_of_urgency() -> None:
    script = Script()
    script.send(*map(event, range(6)), event(9, urgency="high"))
    other = script.begin(history.Receive(queues=("q",), limit=1, lease=LEASE, wait=0.0), worker="b")
    for number in range(6):
        script.receive(event(number), limit=1)
    script.end(other, history.HandedOut((script.handed(event(9, urgency="high")),)))

    assert script.broken() == set()


# --- what a history leaves open ----------------------------------------------------------------------


def left(script: Script) -> list[str]:
    return [f"{one.queue}: {one}" for one in unaccounted(script.records, script.capabilities)]


def test_each_event_without_an_end_is_unaccounted_for_with_its_last_known_situation() -> None:
    script = Script()
    script.send(*(event(number, queue="r") for number in range(5)), event(5, queue="r"))
    script.send(event(6), delay=30.0)
    numbers = script.receive(*(event(number, queue="r") for number in range(1, 6)))
    script.ack(numbers[1])
    script.nack(numbers[2])
    script.bury(numbers[3])
    script.release(numbers[4])
    script.put_raw(b"foreign")

    assert left(script) == [
        """r: the event 'e0' in "r": ready, and never handed out""",
        """r: the event 'e1' in "r": is held by "a" as delivery 1""",
        """r: the event 'e3' in "r": ready after a nack""",
        """r: the event 'e5' in "r": ready after a release""",
        """q: the event 'e6' in "q": scheduled for 1030.000""",
        """q: the bytes b'foreign' in "q": ready, and never handed out""",
    ]


def test_what_a_killed_worker_held_is_unaccounted_for() -> None:
    script = Script()
    script.send(event())
    script.receive(event())
    script.kill()

    assert left(script) == ["""q: the event 'e1' in "q": was held by "a" as delivery 1"""]


def test_an_event_whose_settlement_is_unknown_may_be_unfinished() -> None:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    script.call(history.Settle(items=(history.Item(first, Ack()),)), end="unknown", error="TransportUnavailableError")

    assert left(script) == ["""q: the event 'e1' in "q": is held by "a" as delivery 1, or done"""]


def test_an_event_that_a_lost_receive_may_hold_is_unaccounted_for() -> None:
    script = Script()
    sent(script)
    unknown_receive(script)

    assert left(script) == [
        """q: the event 'e1' in "q": ready, and never handed out, or handed out by a receive whose result is unknown"""
    ]


def test_what_may_never_have_been_sent_is_not_missed() -> None:
    script = Script()
    script.call(history.Break("after"))
    script.send(event(), fates=["unknown"])

    assert left(script) == []


def test_a_drain_accounts_for_all_unless_more_is_sent() -> None:
    script = Script()
    script.send(event())
    script.ack(*script.receive(event()))
    script.call(history.Settle(items=()), history.Settled())
    script.drain()
    script.close()

    assert left(script) == []

    script.send(event(2), worker="b")

    assert left(script) == ["""q: the event 'e2' in "q": ready, and never handed out"""]


def test_a_drain_that_did_not_finish_accounts_for_nothing() -> None:
    script = Script()
    script.send(event())
    script.drain(end="unknown")

    assert len(left(script)) == 1


def test_a_promise_that_no_history_breaks_is_named_where_it_is_made() -> None:
    plain = {one.id for one in not_judged(NOTHING)}

    assert "setup-is-idempotent" in plain
    assert not plain & {"woken-by-a-send", "urgent-overtakes", "wait-is-kept"}
    assert "urgent-overtakes" in {one.id for one in not_judged(BROKER)}
    assert "urgent-overtakes" not in {one.id for one in not_judged(EVERYTHING)}


@pytest.mark.parametrize(("claims", "broken"), [(BROKER, set()), (EVERYTHING, {promise.BEGUN_IS_KEPT.id})])
def test_equal_foreign_bytes_may_share_a_note_where_events_are_fetched_ahead(
    claims: Capabilities, broken: set[str]
) -> None:
    script = Script(claims)
    foreign = Unreadable(raw=b"equal", headers={}, why="not an envelope")
    note = Note(by="a1")
    for _ in range(2):
        script.put_raw(foreign.raw)
    first, _ = script.receive(foreign, foreign)
    script.note(first, note)
    script.ack(first)
    script.kill()
    script.wait(LEASE + 1)

    script.ack(*script.receive(foreign, worker="b", attempt=2, lost_leases=1, begun=note), worker="b")
    script.drain()

    assert script.broken() == broken


def test_what_an_application_does_with_its_session_after_the_transport_was_closed_is_its_own_business() -> None:
    script = Script()
    script.call(history.SendBound(transaction=1, envelopes=(event(),)))
    script.close()
    script.call(history.EndTransaction(transaction=1, way="commit"))
    script.ack(*script.receive(event(), worker="b"), worker="b")
    script.drain()

    assert script.violations() == []


def test_a_lease_that_begins_after_the_clock_was_set_back_is_as_long_as_any() -> None:
    script = Script()
    one = sent(script)
    script.wait(-600.0)
    script.receive(one)
    script.wait(2 * LEASE)

    script.ack(*script.receive(one, attempt=2, lost_leases=1))
    script.drain()

    assert script.violations() == []


def test_where_delays_are_rounded_up_an_earlier_queue_may_be_passed_over_for_as_long() -> None:
    coarse = Script(attrs.evolve(EVERYTHING, delay=10.0))
    late, other = event(1, queue="q"), event(2, queue="r")
    coarse.call(history.Send(envelopes=(late,), delay=2.0))
    coarse.send(other)
    coarse.wait(5.0)

    coarse.receive(other, queues=("q", "r"))

    assert coarse.violations() == []


def test_a_refusal_needs_no_reason_where_faults_are_not_recorded() -> None:
    script = Script()
    script.setup("q")
    op = script.begin(history.Send(envelopes=(event(),)))
    script.end(op, end="refused", error="TransportUnavailableError")

    assert check(script.records, EVERYTHING) == []
    assert script.broken() == {promise.SENT_IS_RECEIVED.id}


def test_what_commits_late_is_not_earlier_than_what_was_sent_meanwhile() -> None:
    script = Script()
    first, second = event(1, ordering_key="k"), event(2, ordering_key="k")
    script.call(history.SendBound(transaction=1, envelopes=(first,)))
    script.send(second)
    script.call(history.EndTransaction(transaction=1, way="commit"))

    for one in (second, first):
        script.ack(*script.receive(one))
    script.drain()

    assert script.violations() == []


MERGES_NOTHING = attrs.evolve(EVERYTHING, dedupe=False)


@pytest.mark.parametrize("again", [(2,), (1,), (1, 2), (2, 2)])
def test_a_delivery_that_another_send_explains_tears_no_batch(again: tuple[int, ...]) -> None:
    script = Script(MERGES_NOTHING)
    script.call(history.Break("before"))
    script.send(event(1), event(2), fates=["unknown", "unknown"])
    script.call(history.Mend())
    for number in again:
        script.send(event(number))
    for number in again:
        script.ack(*script.receive(event(number)))
    script.receive()
    script.drain()

    assert script.broken() == set()


def test_more_deliveries_than_other_sends_explain_tear_a_batch() -> None:
    script = Script(MERGES_NOTHING)
    script.call(history.Break("after"))
    script.send(event(1), event(2), fates=["unknown", "unknown"])
    script.call(history.Mend())
    script.send(event(2))
    for _ in range(2):
        script.ack(*script.receive(event(2)))
    script.drain()

    assert script.broken() == {promise.BATCH_IS_ATOMIC.id}


def test_a_refused_send_explains_no_delivery() -> None:
    script = Script(MERGES_NOTHING)
    script.call(history.Break("after"))
    script.send(event(1), event(2), fates=["unknown", "unknown"])
    script.send(event(2), fates=["refused"])
    script.ack(*script.receive(event(2)))
    script.drain()

    assert script.broken() == {promise.BATCH_IS_ATOMIC.id}


def test_an_event_that_was_sent_again_with_other_content_is_the_one_with_this_content() -> None:
    changed = event(1, body=b"[]")
    script = Script(MERGES_NOTHING)
    script.call(history.Break("before"))
    script.send(event(1), event(2), fates=["unknown", "unknown"])
    script.call(history.Mend())
    script.send(changed)
    script.ack(*script.receive(changed))
    script.drain()

    assert script.broken() == set()


def doubted(script: Script, *, delay: float = 0.0) -> None:
    """Send the event twice: it is unknown whether the first send stored it, and the second one succeeds."""
    script.call(history.Break("before"))
    script.send(event(), fates=["unknown"])
    script.call(history.Mend())
    script.send(event(), delay=delay)


@pytest.mark.parametrize("capabilities", [EVERYTHING, MERGES_NOTHING])
@pytest.mark.parametrize("delay", [0.0, 5.0])
def test_one_of_two_sends_that_succeeded_must_come(capabilities: Capabilities, delay: float) -> None:
    script = Script(capabilities)
    doubted(script, delay=delay)

    assert Judge(script.capabilities).feed_all(script.records).pending()
    assert left(script) == [
        f"""q: the event 'e1' in "q": {"scheduled for 1005.000" if delay else "ready, and never handed out"}"""
    ]

    script.wait(delay)
    script.drain()

    assert script.broken() == {promise.SENT_IS_RECEIVED.id}


@pytest.mark.parametrize("capabilities", [EVERYTHING, MERGES_NOTHING])
def test_one_delivery_is_enough_for_two_sends_that_may_be_one(capabilities: Capabilities) -> None:
    script = Script(capabilities)
    doubted(script)
    script.ack(*script.receive(event()))

    assert not Judge(script.capabilities).feed_all(script.records).pending()
    assert left(script) == []

    script.drain()

    assert script.broken() == set()


def test_a_delivery_before_both_sends_does_not_stand_for_them() -> None:
    script = Script()
    script.send(event())
    script.ack(*script.receive(event()))
    doubted(script)
    script.drain()

    assert script.broken() == {promise.SENT_IS_RECEIVED.id}


def test_the_dead_letter_of_an_earlier_send_that_is_revived_may_be_what_came() -> None:
    script = Script()
    one = sent(script)
    script.bury(*script.receive(one))
    script.dead(script.entry(one))
    doubted(script)
    script.revive({"1": b""})
    script.ack(*script.receive(event()))
    script.drain()

    assert script.broken() == set()


def test_one_of_two_overlapping_sends_must_come() -> None:
    script = Script()
    first = script.begin(history.Send(envelopes=(event(),)), worker="a")
    second = script.begin(history.Send(envelopes=(event(),)), worker="b")
    script.end(first)
    script.end(second)
    script.drain()

    assert script.broken() == {promise.SENT_IS_RECEIVED.id}
