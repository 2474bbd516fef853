"""Scenes of receiving."""

from __future__ import annotations

import attrs

from relevo import Ack, Lost, Nack, Unreadable
from relevo_conformance import history, promise

from .scene import scene
from .script import BROKER, LEASE, Script, event


@scene(promise.LIMIT_IS_RESPECTED)
def one_more_is_handed_out(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1), event(2))
    script.receive(event(1), event(2), limit=2 if honest else 1)
    return script


@scene(promise.LEASED_IS_HIDDEN)
def an_event_has_two_holders(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.receive(event())
    script.wait(LEASE if honest else LEASE - 1)
    script.receive(event(), attempt=2, lost_leases=1, worker="b")
    return script


@scene(promise.LEASED_IS_HIDDEN)
def an_event_is_handed_out_twice_in_one_batch(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1), event(2))
    script.receive(event(1), event(2 if honest else 1))
    return script


@scene(promise.LEASED_IS_HIDDEN)
def a_connection_lease_ends_while_the_connection_lives(*, honest: bool) -> Script:
    script = Script(BROKER)
    script.send(event())
    script.receive(event())
    script.wait(100 * LEASE)
    if honest:
        script.kill()
    script.receive(event(), attempt=2, lost_leases=1, worker="b")
    return script


@scene(promise.LEASED_IS_HIDDEN)
def an_event_moves_while_its_holder_settles_it(*, honest: bool) -> Script:
    """Of two calls at the same time, the one that ends first may have seen what the other does."""
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    outcome = Nack() if honest else Ack()
    settle = script.begin(history.Settle(items=(history.Item(first, outcome),)))
    receive = script.begin(history.Receive(queues=("q",), limit=1, lease=LEASE, wait=0.0), worker="b")
    script.end(receive, history.HandedOut((script.handed(event(), attempt=2),)))
    script.end(settle, history.Settled(lost=() if honest else (first,)))
    return script


@scene(promise.LEASED_IS_HIDDEN)
def an_event_comes_again_because_another_worker_was_killed(*, honest: bool) -> Script:
    script = Script(BROKER)
    script.send(event())
    script.receive(event())
    script.kill("a" if honest else "b")
    script.receive(event(), attempt=2, lost_leases=1, worker="c")
    return script


@scene(promise.LOST_LEASE_RETURNS)
def what_a_lost_worker_held_never_comes(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.receive(event())
    script.kill()
    script.wait(LEASE)
    if honest:
        script.ack(*script.receive(event(), attempt=2, lost_leases=1, worker="b"), worker="b")
    script.drain()
    return script


@scene(promise.LOST_LEASE_RETURNS)
def what_was_reported_lost_never_comes(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    script.settle(first, Lost())
    if honest:
        script.ack(*script.receive(event(), attempt=2, lost_leases=1))
    script.drain()
    return script


@scene(promise.LOST_LEASES_ARE_COUNTED)
def one_break_of_a_connection_is_counted_twice(*, honest: bool) -> Script:
    script = Script(BROKER)
    script.send(event())
    script.receive(event())
    if honest:
        script.receive(worker="b")
        script.kill("b")
    script.kill()
    script.receive(event(), attempt=3, lost_leases=2, worker="c")
    return script


@scene(promise.LOST_LEASES_ARE_COUNTED)
def a_crash_is_not_counted(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.receive(event())
    script.kill()
    script.receive(event(), attempt=2 if honest else 1, lost_leases=1 if honest else 0, worker="b")
    return script


@scene(promise.LOST_LEASES_ARE_COUNTED)
def a_lost_lease_is_counted_that_was_not_seen(*, honest: bool) -> Script:
    """Where a store fetches ahead, it may count what a killed worker never saw; while all live, nothing is lost."""
    script = Script(BROKER)
    script.receive()
    script.send(event())
    if honest:
        script.kill()
    script.receive(event(), attempt=2, lost_leases=1, worker="b")
    return script


@scene(promise.LOST_LEASES_ARE_COUNTED)
def a_lost_lease_is_counted_of_a_worker_that_never_received_here(*, honest: bool) -> Script:
    script = Script(BROKER)
    script.receive(queues=("q" if honest else "r",), worker="b")
    script.send(event())
    script.kill("b")
    script.receive(event(), attempt=2, lost_leases=1)
    return script


@scene(promise.LOST_LEASES_ARE_COUNTED)
def a_reported_lost_lease_is_not_counted(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    script.settle(first, Lost(state=b"half"))
    script.receive(event(), attempt=2, lost_leases=1 if honest else 0, state=b"half")
    return script


@scene(promise.MALFORMED_IS_QUARANTINED)
def foreign_bytes_never_come(*, honest: bool) -> Script:
    script = Script()
    script.put_raw(b"\x80")
    if honest:
        script.ack(*script.receive(Unreadable(raw=b"\x80", why="no JSON")))
    script.drain()
    return script


@scene(promise.MALFORMED_IS_QUARANTINED)
def foreign_bytes_are_changed(*, honest: bool) -> Script:
    script = Script()
    script.put_raw(b"\x80")
    script.receive(Unreadable(raw=b"\x80" if honest else b"?", why="no JSON"))
    return script


@scene(promise.MALFORMED_IS_QUARANTINED)
def foreign_bytes_come_without_their_headers(*, honest: bool) -> Script:
    script = Script()
    script.put_raw(b"\x80", {"a": "1", "b": ""})
    headers = {"a": "1", "b": "", "of the store": "2"} if honest else {"a": "1", "of the store": "2"}
    script.receive(Unreadable(raw=b"\x80", headers=headers, why="no JSON"))
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def a_dead_letter_of_foreign_bytes_lacks_their_headers(*, honest: bool) -> Script:
    script = Script()
    script.put_raw(b"\x80", {"a": "1"})
    foreign = Unreadable(raw=b"\x80", headers={"a": "1"}, why="no JSON")
    script.bury(*script.receive(foreign))
    script.dead(script.entry(foreign if honest else attrs.evolve(foreign, headers={"a": "2"})))
    return script


@scene(promise.PREFERENCE_IS_KEPT)
def the_queue_named_second_comes_first(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1, queue="q"), event(2, queue="r"))
    script.receive(event(2, queue="r"), queues=["r", "q"] if honest else ["q", "r"], limit=1)
    return script


@scene(promise.ORDER_IS_KEPT)
def an_event_overtakes_one_of_its_key(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1, ordering_key="k"), event(2, ordering_key="k"))
    (first,) = script.receive(event(1, ordering_key="k"))
    if honest:
        script.ack(first)
    else:
        script.nack(first, delay=10.0)
    script.receive(event(2, ordering_key="k"))
    return script


@scene(promise.ORDER_IS_KEPT)
def an_event_overtakes_one_that_was_sent_before(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1, ordering_key="k"))
    script.send(event(2, ordering_key="k"))
    script.receive(event(1 if honest else 2, ordering_key="k"))
    return script


@scene(promise.ORDER_IS_KEPT)
def an_event_overtakes_one_of_a_transaction_that_committed_before(*, honest: bool) -> Script:
    script = Script()
    script.call(history.SendBound(transaction=1, envelopes=(event(1, ordering_key="k"),)))
    script.call(history.EndTransaction(transaction=1, way="commit"))
    script.send(event(2, ordering_key="k"))
    script.receive(event(1 if honest else 2, ordering_key="k"))
    return script


@scene(promise.ORDER_IS_KEPT)
def an_event_comes_while_another_of_its_key_is_held(*, honest: bool) -> Script:
    """Send them in a transaction, where the place of an event in its line is not known."""
    script = Script()
    script.call(history.SendBound(transaction=1, envelopes=(event(1, ordering_key="k"), event(2, ordering_key="k"))))
    script.call(history.EndTransaction(transaction=1, way="commit"))
    (first,) = script.receive(event(1, ordering_key="k"))
    if honest:
        script.ack(first)
    script.receive(event(2, ordering_key="k"))
    return script


@scene(promise.WAIT_IS_KEPT)
def a_receive_takes_much_longer_than_its_wait(*, honest: bool) -> Script:
    script = Script()
    script.idle(20.0, took=49.0 if honest else 51.0)
    return script


@scene(promise.WAIT_IS_KEPT)
def a_receive_that_waited_overlooks_what_was_ready(*, honest: bool) -> Script:
    """Show by a later receive that the event was there."""
    script = Script()
    if honest:
        script.idle(20.0)
    script.send(event())
    if not honest:
        script.idle(20.0)
    script.receive(event(), enqueued_at=script.now if honest else script.now - 20.0)
    return script


@scene(promise.WAIT_IS_KEPT)
def a_receive_overlooks_what_came_due_long_ago(*, honest: bool) -> Script:
    script = Script()
    script.send(event(), delay=60.0)
    script.wait(60.0 if honest else 62.0)
    script.idle(20.0)
    script.receive(event())
    return script


@scene(promise.URGENT_OVERTAKES)
def an_urgent_event_is_passed_over_again_and_again(*, honest: bool) -> Script:
    """Let a few normal events come first, so that they do not starve."""
    script = Script()
    script.send(*map(event, range(6)), event(6, urgency="high"))
    for number in range(5 if honest else 6):
        script.receive(event(number), limit=1)
    script.receive(event(6, urgency="high"), limit=1)
    return script


@scene(promise.URGENT_OVERTAKES)
def urgent_events_come_in_between_and_then_no_more(*, honest: bool) -> Script:
    script = Script()
    script.send(*map(event, range(10)), event(10, urgency="high"), event(11, urgency="high"))
    for number in (0, 1, 2, 10, 3, 4, 5, 6, 7, *(() if honest else (8,))):
        script.receive(event(number, urgency="high" if number == 10 else "normal"), limit=1)
    script.receive(event(11, urgency="high"), limit=1)
    return script
