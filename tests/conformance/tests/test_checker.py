"""
The checker finds what was doctored into a history, and nothing in its honest twin.

Each scene is played twice: as a transport that keeps the promise would have it, and with the one
difference that breaks it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import attrs
import pytest

from relevo import Ack, DeadLetter, Lost, Nack, Release, Stats, Unreadable
from relevo_conformance import PROMISES, check, history, promise
from relevo_conformance.promise import Promise

from .script import BROKER, EVERYTHING, LEASE, NOTHING, Script, event


class Scene(Protocol):
    def __call__(self, *, honest: bool) -> Script: ...


SCENES: list[tuple[Promise, Scene]] = []

SHOWN_BY_A_SCENARIO = {
    promise.URGENT_OVERTAKES,  # by how far, each store may decide: a scenario looks at the whole
    promise.SETUP_IS_IDEMPOTENT,  # a scenario compares what is there before and after
    promise.SURVIVES_REOPENING,  # in a history it shows as sent-is-received
    promise.STATE_IS_BOUNDED,  # a scenario knows which state is too long
    promise.NOBODY_STARVES,  # a history says nothing of how long is too long
    promise.WAIT_IS_KEPT,  # a scenario looks at the clock
    promise.WOKEN_BY_A_SEND,  # the same
    promise.FAILURE_LOSES_NOTHING,  # in a history it shows as what was lost
}


def scene(broken: Promise) -> Callable[[Scene], Scene]:
    def add(play: Scene) -> Scene:
        SCENES.append((broken, play))
        return play

    return add


def named(value: object) -> str:
    return value.id if isinstance(value, Promise) else getattr(value, "__name__", "")


# --- sending ---------------------------------------------------------------------------------------


@scene(promise.SENT_IS_RECEIVED)
def an_event_never_comes(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1), event(2))
    script.ack(*script.receive(event(1)))
    if honest:
        script.ack(*script.receive(event(2)))
    script.drain()
    return script


@scene(promise.SENT_IS_RECEIVED)
def a_send_is_refused_for_no_reason(*, honest: bool) -> Script:
    script = Script()
    script.setup()
    if honest:
        script.call(history.Break("before"))
    script.send(event(), fates=["refused"])
    return script


@scene(promise.SENT_IS_RECEIVED)
def an_unknown_queue_is_refused(*, honest: bool) -> Script:
    script = Script()
    if not honest:
        script.setup()
    script.send(event(), fates=["refused"])
    return script


@scene(promise.SENT_IS_RECEIVED)
def a_queue_that_a_set_up_would_have_made_is_refused(*, honest: bool) -> Script:
    script = Script()
    script.call(history.SetUp(queues=("q",), dry_run=honest), history.Words(("q",)))
    script.send(event(), fates=["refused"])
    return script


@scene(promise.SENT_IS_RECEIVED)
def a_send_is_refused_while_the_store_of_another_worker_is_broken(*, honest: bool) -> Script:
    script = Script()
    script.setup()
    script.call(history.Break("before"), worker="a" if honest else "b")
    script.send(event(), fates=["refused"])
    return script


@scene(promise.SENT_IS_RECEIVED)
def a_body_of_just_the_largest_size_is_refused(*, honest: bool) -> Script:
    script = Script(attrs.evolve(EVERYTHING, max_body=3))
    script.setup()
    script.send(event(body=b"four" if honest else b"two"), fates=["refused"])
    return script


@scene(promise.NO_INVENTION)
def an_event_comes_that_nobody_sent(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1), event(2))
    script.receive(event(2 if honest else 3))
    return script


@scene(promise.SEND_TELLS_APART)
def a_refused_event_comes(*, honest: bool) -> Script:
    script = Script(attrs.evolve(EVERYTHING, atomic_batch=False))
    script.call(history.Break("before"))
    script.send(event(1), event(2), fates=["sent", "unknown" if honest else "refused"])
    script.receive(event(1), event(2))
    return script


@scene(promise.SEND_TELLS_APART)
def an_error_leaves_a_position_out(*, honest: bool) -> Script:
    script = Script()
    script.call(history.Break("after"))
    call = history.Send(envelopes=(event(1), event(2)))
    script.call(call, history.Fates(("unknown", "unknown"), told_apart=honest), end="unknown", error="SendError")
    return script


@scene(promise.BATCH_IS_ATOMIC)
def a_batch_is_torn_by_its_own_word(*, honest: bool) -> Script:
    script = Script()
    script.call(history.Break("before"))
    script.send(event(1), event(2), fates=["refused", "refused" if honest else "sent"])
    return script


@scene(promise.BATCH_IS_ATOMIC)
def a_batch_of_unknown_fate_comes_in_half(*, honest: bool) -> Script:
    script = Script()
    script.call(history.Break("after"))
    script.send(event(1), event(2), fates=["unknown", "unknown"])
    for number in (1, 2) if honest else (1,):
        script.ack(*script.receive(event(number)))
    script.drain()
    return script


@scene(promise.BATCH_IS_ATOMIC)
def a_batch_of_unknown_fate_comes_in_half_although_nobody_sent_it_again(*, honest: bool) -> Script:
    script = Script()
    script.call(history.Break("before"))
    script.send(event(1), event(2), fates=["unknown", "unknown"])
    script.call(history.Mend())
    script.send(event(1) if honest else event(3))
    for number in (1,) if honest else (1, 3):
        script.ack(*script.receive(event(number)))
    script.drain()
    return script


@scene(promise.DELAY_IS_RESPECTED)
def a_delayed_event_comes_early(*, honest: bool) -> Script:
    script = Script()
    script.send(event(), delay=10.0)
    script.wait(10.0 if honest else 9.9)
    script.receive(event())
    return script


@scene(promise.RESENT_IS_ONE)
def an_event_that_stands_twice_in_a_batch_comes_twice(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1), event(1))
    (first,) = script.receive(event(1))
    if honest:
        script.ack(first)
        script.send(event(1), event(2))
    script.receive(event(1))
    return script


@scene(promise.RESENT_IS_ONE)
def a_kept_event_comes_twice(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    if honest:
        script.ack(first)
    script.send(event())
    script.receive(event())
    return script


@scene(promise.JOINS_THE_TRANSACTION)
def an_event_comes_before_the_commit(*, honest: bool) -> Script:
    script = Script()
    script.call(history.SendBound(transaction=1, envelopes=(event(),)))
    if honest:
        script.call(history.EndTransaction(transaction=1, way="commit"))
    script.receive(event())
    return script


@scene(promise.JOINS_THE_TRANSACTION)
def an_event_comes_after_a_rollback(*, honest: bool) -> Script:
    script = Script()
    script.call(history.SendBound(transaction=1, envelopes=(event(),)))
    script.call(history.EndTransaction(transaction=1, way="commit" if honest else "rollback"))
    script.receive(event())
    return script


@scene(promise.JOINS_THE_TRANSACTION)
def an_event_of_a_savepoint_that_was_taken_back_comes(*, honest: bool) -> Script:
    script = Script()
    script.call(history.SetSavepoint(transaction=1, savepoint=1))
    script.call(history.SendBound(transaction=1, envelopes=(event(1),)))
    script.call(history.EndSavepoint(transaction=1, savepoint=1, way="rollback"))
    script.call(history.SendBound(transaction=1, envelopes=(event(2),)))
    script.call(history.EndTransaction(transaction=1, way="commit"))
    script.receive(event(2 if honest else 1))
    return script


@scene(promise.JOINS_THE_TRANSACTION)
def an_event_between_two_savepoints_of_one_number_never_comes(*, honest: bool) -> Script:
    script = Script()
    begin = history.SetSavepoint(transaction=1, savepoint=1)
    take_back = history.EndSavepoint(transaction=1, savepoint=1, way="rollback")
    send = history.SendBound(transaction=1, envelopes=(event(3),))
    for call in (begin, take_back, send, begin, take_back):
        script.call(call)
    script.call(history.EndTransaction(transaction=1, way="commit"))
    if honest:
        script.ack(*script.receive(event(3)))
    script.drain()
    return script


@scene(promise.JOINS_THE_TRANSACTION)
def an_event_of_a_transaction_never_comes(*, honest: bool) -> Script:
    script = Script()
    script.call(history.SendBound(transaction=1, envelopes=(event(),)))
    op = script.begin(history.EndTransaction(transaction=1, way="commit"))
    script.end(op, end="unknown" if honest else "done")
    script.drain()
    return script


# --- the payload -----------------------------------------------------------------------------------


@scene(promise.PAYLOAD_IS_UNTOUCHED)
def a_body_is_changed(*, honest: bool) -> Script:
    script = Script()
    script.send(event(body=b"\xff"))
    script.receive(event(body=b"\xff" if honest else b"\xef\xbf\xbd"))
    return script


@scene(promise.PAYLOAD_IS_UNTOUCHED)
def a_header_is_dropped_at_the_second_hand_over(*, honest: bool) -> Script:
    script = Script()
    script.send(event(headers={"a": "", "b": "1"}))
    script.nack(*script.receive(event(headers={"b": "1", "a": ""})))
    script.receive(event(headers={"a": "", "b": "1"} if honest else {"b": "1"}), attempt=2)
    return script


@scene(promise.PAYLOAD_IS_UNTOUCHED)
def an_event_says_it_was_sent_at_another_time(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.wait(30.0)
    script.receive(event(), enqueued_at=1000.0 if honest else 1030.0)
    return script


@scene(promise.PAYLOAD_IS_UNTOUCHED)
def a_redelivery_says_it_was_sent_at_another_time(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.nack(*script.receive(event(), enqueued_at=1000.5))
    script.receive(event(), attempt=2, enqueued_at=1000.5 if honest else 1000.6)
    return script


@scene(promise.PAYLOAD_IS_UNTOUCHED)
def one_of_two_sendings_comes_with_a_time_of_neither(*, honest: bool) -> Script:
    script = Script(BROKER)
    script.send(event())
    script.wait(0.2)
    script.send(event())
    # The ack of the second sending is lost with its worker, and it comes again; which of the two that is, is a guess.
    script.ack(*script.receive(event(), enqueued_at=1000.2))
    script.kill()
    script.receive(event(), worker="b", attempt=2, losses=1, enqueued_at=1000.2)
    script.receive(event(), worker="b", attempt=2, losses=1, enqueued_at=1000.0 if honest else 1030.0)
    return script


@scene(promise.PAYLOAD_IS_UNTOUCHED)
def an_envelope_comes_as_unreadable(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.receive(event() if honest else Unreadable(raw=b"{}", why="no id"))
    return script


@scene(promise.PAYLOAD_IS_UNTOUCHED)
def an_event_comes_with_another_source(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.receive(event(source="shop" if honest else "Shop"))
    return script


@scene(promise.QUEUES_ARE_ISOLATED)
def an_event_comes_out_of_another_queue(*, honest: bool) -> Script:
    script = Script()
    script.send(event(queue="r"))
    script.receive(event(queue="r" if honest else "q"), queues=["q", "r"])
    return script


@scene(promise.QUEUES_ARE_ISOLATED)
def a_queue_is_received_from_that_was_not_asked_for(*, honest: bool) -> Script:
    script = Script()
    script.send(event(queue="r"))
    script.receive(event(queue="r"), queues=["q", "r"] if honest else ["q"])
    return script


# --- receiving -------------------------------------------------------------------------------------


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
    script.receive(event(), attempt=2, losses=1, worker="b")
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
    script.receive(event(), attempt=2, losses=1, worker="b")
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
    script.receive(event(), attempt=2, losses=1, worker="c")
    return script


@scene(promise.LOST_LEASE_RETURNS)
def what_a_lost_worker_held_never_comes(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.receive(event())
    script.kill()
    script.wait(LEASE)
    if honest:
        script.ack(*script.receive(event(), attempt=2, losses=1, worker="b"), worker="b")
    script.drain()
    return script


@scene(promise.LOST_LEASE_RETURNS)
def what_was_reported_lost_never_comes(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    script.settle(first, Lost())
    if honest:
        script.ack(*script.receive(event(), attempt=2, losses=1))
    script.drain()
    return script


@scene(promise.LOSSES_ARE_COUNTED)
def one_break_of_a_connection_is_counted_twice(*, honest: bool) -> Script:
    script = Script(BROKER)
    script.send(event())
    script.receive(event())
    if honest:
        script.receive(worker="b")
        script.kill("b")
    script.kill()
    script.receive(event(), attempt=3, losses=2, worker="c")
    return script


@scene(promise.LOSSES_ARE_COUNTED)
def a_crash_is_not_counted(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.receive(event())
    script.kill()
    script.receive(event(), attempt=2 if honest else 1, losses=1 if honest else 0, worker="b")
    return script


@scene(promise.LOSSES_ARE_COUNTED)
def a_loss_is_counted_that_nobody_saw(*, honest: bool) -> Script:
    """Where a store fetches ahead, it may count what a killed worker never saw; while all live, nothing is lost."""
    script = Script(BROKER)
    script.receive()
    script.send(event())
    if honest:
        script.kill()
    script.receive(event(), attempt=2, losses=1, worker="b")
    return script


@scene(promise.LOSSES_ARE_COUNTED)
def a_loss_is_counted_of_a_worker_that_never_received_here(*, honest: bool) -> Script:
    script = Script(BROKER)
    script.receive(queues=("q" if honest else "r",), worker="b")
    script.send(event())
    script.kill("b")
    script.receive(event(), attempt=2, losses=1)
    return script


@scene(promise.LOSSES_ARE_COUNTED)
def a_reported_loss_is_not_counted(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    script.settle(first, Lost(state=b"half"))
    script.receive(event(), attempt=2, losses=1 if honest else 0, state=b"half")
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


# --- settling --------------------------------------------------------------------------------------


@scene(promise.ORDER_IS_KEPT)
def an_event_overtakes_one_that_was_not_sent_at_the_same_time(*, honest: bool) -> Script:
    script = Script()
    first = script.begin(history.Send(envelopes=(event(1, ordering_key="k"),)))
    if not honest:
        script.end(first)
    script.send(event(2, ordering_key="k"), worker="b")
    if honest:
        script.end(first)
    script.receive(event(2, ordering_key="k"))
    return script


@scene(promise.ORDER_IS_KEPT)
def an_event_overtakes_one_that_is_not_delayed(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1, ordering_key="k"), delay=10.0 if honest else 0.0)
    script.send(event(2, ordering_key="k"))
    script.receive(event(2, ordering_key="k"))
    return script


@scene(promise.ACK_IS_FINAL)
def what_is_done_comes_again(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    script.wait(LEASE)
    # With its lease past, it may be told that it lost it, and then it may come again.
    script.ack(first, lost=honest)
    script.receive(event(), attempt=2, losses=1, worker="b")
    return script


@scene(promise.ACK_IS_FINAL)
def an_ack_that_was_long_sent_is_lost_with_its_worker(*, honest: bool) -> Script:
    script = Script(BROKER)
    script.send(event())
    script.ack(*script.receive(event()))
    script.wait(0.5 if honest else 5.0)
    script.kill()
    script.receive(event(), attempt=2, losses=1, worker="b")
    return script


@scene(promise.ACK_IS_FINAL)
def a_confirmed_ack_is_lost_with_its_worker(*, honest: bool) -> Script:
    script = Script(attrs.evolve(EVERYTHING, settlement="sent" if honest else "confirmed"))
    script.send(event())
    script.ack(*script.receive(event()))
    script.kill()
    script.receive(event(), attempt=2, losses=1, worker="b")
    return script


@scene(promise.ACK_IS_FINAL)
def the_holder_itself_is_told_that_it_lost_what_it_holds(*, honest: bool) -> Script:
    """Another one may be told so: a receipt need not be good for others."""
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    script.ack(first, lost=True, worker="b" if honest else "a")
    return script


@scene(promise.ACK_IS_FINAL)
def an_ack_is_refused_long_after_a_cancel_that_found_another_holder(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.receive(event())
    script.call(history.Cancel(event_id="e1"), history.Number(0))
    script.wait(LEASE + 1.0)
    (held,) = script.receive(event(), attempt=2, losses=1)
    script.ack(held, lost=not honest)
    return script


@scene(promise.LEASED_IS_HIDDEN)
def what_a_refused_settlement_gave_back_comes(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (held,) = script.receive(event())
    call = history.Settle(items=(history.Item(held, Nack()),))
    script.call(call, end="unknown" if honest else "refused", error="TransportUnavailableError")
    script.receive(event(), attempt=2)
    return script


@scene(promise.ACK_IS_FINAL)
def an_ack_of_what_is_held_is_refused(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    script.wait(LEASE if honest else LEASE - 1)
    script.ack(first, lost=True)
    return script


@scene(promise.NACK_RETURNS_LATER)
def what_is_given_back_comes_early(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.nack(*script.receive(event()), delay=10.0)
    script.wait(10.0 if honest else 9.0)
    script.receive(event(), attempt=2)
    return script


@scene(promise.NACK_RETURNS_LATER)
def what_is_given_back_has_the_same_attempt(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.nack(*script.receive(event()))
    script.receive(event(), attempt=2 if honest else 1)
    return script


@scene(promise.NACK_RETURNS_LATER)
def what_is_given_back_forgets_its_state(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.nack(*script.receive(event()), state=b"once")
    script.nack(*script.receive(event(), attempt=2, state=b"once"))
    script.receive(event(), attempt=3, state=b"once" if honest else b"")
    return script


@scene(promise.NACK_RETURNS_LATER)
def what_is_given_back_never_comes(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.nack(*script.receive(event()))
    if honest:
        script.ack(*script.receive(event(), attempt=2))
    script.drain()
    return script


@scene(promise.RELEASE_COUNTS_NOTHING)
def a_release_counts(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    script.settle(first, Release())
    script.receive(event(), attempt=1 if honest else 2)
    return script


@scene(promise.RELEASE_COUNTS_NOTHING)
def what_is_released_never_comes(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    script.settle(first, Release())
    if honest:
        script.ack(*script.receive(event()))
    script.drain()
    return script


@scene(promise.STALE_SETTLE_IS_REFUSED)
def a_lease_that_a_refused_extension_left_as_it_was_lasts_longer(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (held,) = script.receive(event())
    script.wait(LEASE - 1.0)
    call = history.Extend(deliveries=(held,), lease=LEASE)
    script.call(call, end="unknown" if honest else "refused", error="TransportUnavailableError")
    script.wait(2.0)
    script.ack(held)
    return script


@scene(promise.STALE_SETTLE_IS_REFUSED)
def a_second_settlement_is_taken(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    script.ack(first)
    script.nack(first, lost=honest)
    return script


@scene(promise.STALE_SETTLE_IS_REFUSED)
def a_delivery_that_stands_twice_in_a_batch_is_settled_twice(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    call = history.Settle(items=(history.Item(first, Nack(state=b"first")), history.Item(first, Ack())))
    script.call(call, history.Settled(lost=(first,) if honest else ()))
    script.receive(event(), attempt=2, state=b"first")
    return script


@scene(promise.STALE_SETTLE_IS_REFUSED)
def an_old_receipt_is_taken_while_a_new_holder_lives(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (old,) = script.receive(event())
    script.wait(LEASE)
    script.receive(event(), attempt=2, losses=1, worker="b")
    script.ack(old, lost=honest)
    return script


@scene(promise.STALE_SETTLE_IS_REFUSED)
def an_old_receipt_is_extended(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    script.ack(first)
    script.extend(first, lost=honest)
    return script


@scene(promise.STALE_SETTLE_IS_REFUSED)
def an_old_receipt_keeps_a_checkpoint(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    script.ack(first)
    script.checkpoint(first, b"late", **({"end": "refused", "error": "LeaseLostError"} if honest else {}))
    return script


@scene(promise.STALE_SETTLE_IS_REFUSED)
def a_lease_that_nobody_swept_is_over_and_its_receipt_still_counts(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    script.wait(LEASE + 1)
    script.ack(first, lost=honest)
    return script


@scene(promise.STALE_SETTLE_IS_REFUSED)
def a_lease_that_nobody_swept_is_over_and_extended(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    script.extend(first, lease=2 * LEASE)
    script.wait(2 * LEASE + 1)
    script.extend(first, lost=honest)
    return script


@scene(promise.STALE_SETTLE_IS_REFUSED)
def a_lease_that_nobody_swept_is_over_and_a_checkpoint_kept(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    script.wait(LEASE + 1)
    script.checkpoint(first, b"late", **({"end": "refused", "error": "LeaseLostError"} if honest else {}))
    return script


@scene(promise.PURGED_IS_GONE)
def a_purge_leaves_what_has_a_lease_that_ended(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.receive(event())
    script.wait(LEASE + 1)
    script.call(history.Purge(queue="q"), history.Number(1 if honest else 0))
    return script


@scene(promise.STALE_SETTLE_IS_REFUSED)
def a_receipt_from_before_the_death_is_taken(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (old,) = script.receive(event())
    script.bury(old)
    script.dead(script.entry(event()))
    script.revive({"1": b""})
    (new,) = script.receive(event())
    script.ack(new if honest else old)
    return script


@scene(promise.EXTEND_KEEPS_THE_LEASE)
def an_extension_of_what_is_held_is_refused(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    script.wait(LEASE - 1)
    script.extend(first, lost=not honest)
    return script


@scene(promise.LEASED_IS_HIDDEN)
def two_receives_at_once_take_the_same_event_and_one_acks_it_before_the_other_is_back(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    slow = script.begin(history.Receive(queues=("q",), limit=1, lease=LEASE, wait=0.0), worker="b")
    script.ack(*script.receive(event()))
    script.end(slow, history.HandedOut(() if honest else (script.handed(event()),)))
    return script


@scene(promise.EXTEND_KEEPS_THE_LEASE)
def an_extended_lease_ends_with_the_first_one(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    script.wait(LEASE - 1)
    script.extend(first, lease=3.0 if honest else LEASE)
    script.wait(3.0)
    script.receive(event(), attempt=2, losses=1, worker="b")
    return script


@scene(promise.CHECKPOINT_SURVIVES_A_LOSS)
def a_checkpoint_is_lost_with_its_worker(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    script.checkpoint(first, b"half")
    script.kill()
    script.receive(event(), attempt=2, losses=1, state=b"half" if honest else b"", worker="b")
    return script


# --- dead letters ----------------------------------------------------------------------------------


@scene(promise.LOSSES_ARE_COUNTED)
def a_refused_checkpoint_is_handed_out_again(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (held,) = script.receive(event())
    script.checkpoint(held, b"half", end="unknown" if honest else "refused", error="TransportUnavailableError")
    script.kill()
    script.receive(event(), attempt=2, losses=1, state=b"half", worker="b")
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def a_dead_letter_is_handed_out(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    script.settle(first, Nack() if honest else DeadLetter(reason="failed"))
    script.receive(event(), attempt=2 if honest else 1)
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def what_is_held_is_listed_as_dead(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    if honest:
        script.bury(first)
    script.dead(script.entry(event()))
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def a_dead_letter_is_not_listed(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.bury(*script.receive(event()))
    script.dead(*([script.entry(event())] if honest else []))
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def a_page_that_is_not_full_leaves_one_out(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1), event(2))
    for number in (1, 2):
        script.bury(*script.receive(event(number)))
    script.dead(script.entry(event(1), ref="1"), limit=1 if honest else 2)
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def a_list_of_one_queue_leaves_out_one_of_it(*, honest: bool) -> Script:
    script = Script()
    script.send(event(queue="r"))
    script.bury(*script.receive(event(queue="r")))
    script.call(history.ListDead(queues=("q" if honest else "r",), limit=100), history.Entries(()))
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def the_first_page_leaves_one_out(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.bury(*script.receive(event()))
    after = "1" if honest else None
    script.call(history.ListDead(queues=("q", "r"), after=after, limit=100), history.Entries(()))
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def a_list_leaves_out_what_died_before_it_began(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (held,) = script.receive(event())
    if not honest:
        script.bury(held)
    op = script.begin(history.ListDead(queues=("q", "r")), worker="b")
    if honest:
        script.bury(held)
    script.end(op, history.Entries(()))
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def a_list_holds_a_dead_letter_of_a_queue_that_was_not_asked_for(*, honest: bool) -> Script:
    script = Script()
    script.send(event(queue="r"))
    script.bury(*script.receive(event(queue="r")))
    queues = ("q", "r") if honest else ("q",)
    script.call(history.ListDead(queues=queues), history.Entries((script.entry(event(queue="r")),)))
    return script


@scene(promise.REVIVED_IS_RECEIVED)
def a_new_dead_letter_has_the_ref_of_the_revived_one(*, honest: bool) -> Script:
    script = one_dead_letter()
    script.revive({"1": b""})
    script.bury(*script.receive(event()))
    script.dead(script.entry(event(), ref="2" if honest else "1"), limit=1)
    return script


@scene(promise.PAYLOAD_IS_UNTOUCHED)
def an_event_that_was_not_revived_says_it_was_sent_later(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (held,) = script.receive(event())
    if honest:
        script.bury(held)
        script.dead(script.entry(event()))
        script.revive({"1": b""})
    else:
        script.settle(held, Release())
    script.receive(event(), enqueued_at=1000.5)
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def a_dead_letter_forgets_its_error(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.bury(*script.receive(event()), error="Traceback")
    script.dead(script.entry(event(), error="Traceback" if honest else ""))
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def a_dead_letter_forgets_its_attempts(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.nack(*script.receive(event()))
    script.bury(*script.receive(event(), attempt=2))
    script.dead(script.entry(event(), attempt=2 if honest else 1))
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def a_dead_letter_has_another_body(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.bury(*script.receive(event()))
    script.dead(script.entry(event(body=b"{}" if honest else b"{ }")))
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def a_dead_letter_of_foreign_bytes_has_others_at_the_second_look(*, honest: bool) -> Script:
    script = Script()
    script.put_raw(b"\xff")
    script.bury(*script.receive(Unreadable(raw=b"\xff", why="no id")))
    script.dead(script.entry(Unreadable(raw=b"\xff", why="no id")))
    script.dead(script.entry(Unreadable(raw=b"\xff" if honest else b"\xef", why="no id")))
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def a_dead_letter_has_another_reason(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.bury(*script.receive(event()), reason="crash-loop")
    script.dead(script.entry(event(), reason="crash-loop" if honest else "failed"))
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def a_dead_letter_forgets_its_state(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.bury(*script.receive(event()), state=b"half")
    script.dead(script.entry(event(), state=b"half" if honest else b""))
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def a_dead_letter_forgets_its_losses(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.receive(event(), worker="b")
    script.kill("b")
    script.wait(LEASE)
    script.bury(*script.receive(event(), attempt=2, losses=1))
    script.dead(script.entry(event(), attempt=2, losses=1 if honest else 0))
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def a_dead_letter_says_it_was_sent_when_it_died(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    script.wait(30.0)
    script.bury(first)
    script.dead(script.entry(event(), enqueued_at=1000.0 if honest else 1030.0))
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def a_dead_letter_says_it_died_when_it_was_sent(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    script.wait(30.0)
    script.bury(first)
    script.dead(script.entry(event(), died_at=1030.0 if honest else 1000.0))
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def a_dead_letter_says_it_died_in_the_future(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.bury(*script.receive(event()))
    script.dead(script.entry(event(), died_at=1000.0 if honest else 1030.0))
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def dead_letters_are_listed_out_of_order(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1), event(2))
    entries = []
    for number in (1, 2):
        script.bury(*script.receive(event(number)))
        entries.append(script.entry(event(number), ref=str(number)))
        script.wait(1.0)
    script.dead(*(entries if honest else entries[::-1]))
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def an_event_that_died_twice_is_listed_as_it_died_first(*, honest: bool) -> Script:
    script = Script()
    entries = []
    for ref, reason in (("1", "first"), ("2", "second")):
        script.send(event())
        script.bury(*script.receive(event(), enqueued_at=script.now), reason=reason)
        entries.append(script.entry(event(), ref=ref, reason=reason, enqueued_at=script.now))
        script.wait(100.0)
    script.dead(entries[1 if honest else 0])
    return script


@scene(promise.SENT_IS_RECEIVED)
def what_was_sent_again_beside_its_dead_letter_never_comes(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.bury(*script.receive(event()))
    script.send(event())
    if honest:
        script.ack(*script.receive(event()))
    script.drain()
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def what_may_have_died_is_neither_listed_nor_comes(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1), event(2))
    for delivery in script.receive(event(1), event(2)):
        items = (history.Item(delivery, DeadLetter(reason="failed", error="why")),)
        script.call(history.Settle(items=items), end="unknown", error="TransportUnavailableError")
    script.wait(LEASE)
    if honest:
        script.ack(*script.receive(event(1), attempt=2, losses=1))
    script.dead(script.entry(event(2), died_at=1000.0))
    script.drain()
    return script


@scene(promise.LIMIT_IS_RESPECTED)
def more_dead_letters_are_listed_than_were_asked_for(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1), event(2))
    for number in (1, 2):
        script.bury(*script.receive(event(number)))
    script.dead(script.entry(event(1), ref="1"), script.entry(event(2), ref="2"), limit=2 if honest else 1)
    return script


@scene(promise.NO_INVENTION)
def a_dead_letter_is_listed_that_nobody_sent(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1))
    script.bury(*script.receive(event(1)))
    script.dead(script.entry(event(1)), *([] if honest else [script.entry(event(2), ref="2")]))
    return script


def one_dead_letter() -> Script:
    script = Script()
    script.send(event())
    script.bury(*script.receive(event()))
    script.dead(script.entry(event()))
    return script


@scene(promise.REVIVED_IS_RECEIVED)
def what_is_revived_keeps_its_attempts(*, honest: bool) -> Script:
    script = one_dead_letter()
    script.revive({"1": b"new"})
    script.receive(event(), attempt=1 if honest else 2, state=b"new")
    return script


@scene(promise.REVIVED_IS_RECEIVED)
def what_is_revived_never_comes(*, honest: bool) -> Script:
    script = one_dead_letter()
    script.revive({"1": b""})
    if honest:
        script.ack(*script.receive(event()))
    script.drain()
    return script


@scene(promise.REVIVED_IS_RECEIVED)
def what_is_revived_stays_dead_too(*, honest: bool) -> Script:
    script = one_dead_letter()
    script.revive({"1": b""})
    script.dead(*([] if honest else [script.entry(event())]))
    return script


@scene(promise.REVIVED_IS_RECEIVED)
def what_came_after_a_revival_of_unknown_fate_stays_dead_too(*, honest: bool) -> Script:
    script = one_dead_letter()
    script.call(history.Revive(refs={"1": b""}), end="unknown", error="TransportUnavailableError")
    script.receive(event())
    script.dead(*([] if honest else [script.entry(event())]))
    return script


@scene(promise.REVIVED_IS_RECEIVED)
def what_is_dead_is_said_to_be_missing(*, honest: bool) -> Script:
    script = one_dead_letter()
    script.revive({"1": b"", "2": b""}, *(["2"] if honest else ["1", "2"]))
    return script


@scene(promise.REVIVED_IS_RECEIVED)
def what_is_missing_is_said_to_be_revived(*, honest: bool) -> Script:
    script = one_dead_letter()
    script.revive({"1": b""})
    script.revive({"1": b""}, *(["1"] if honest else []))
    return script


@scene(promise.DISCARDED_IS_GONE)
def what_is_discarded_is_listed(*, honest: bool) -> Script:
    script = one_dead_letter()
    script.discard("1")
    script.dead(*([] if honest else [script.entry(event())]))
    return script


@scene(promise.DISCARDED_IS_GONE)
def what_is_discarded_comes(*, honest: bool) -> Script:
    script = one_dead_letter()
    if honest:
        script.revive({"1": b""})
    else:
        script.discard("1")
    script.receive(event())
    return script


# --- operating -------------------------------------------------------------------------------------


@scene(promise.PURGED_IS_GONE)
def a_purge_takes_out_what_somebody_holds_and_says_nothing(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (held,) = script.receive(event())
    script.call(history.Purge(queue="q"), history.Number(0))
    script.ack(held, lost=not honest)
    return script


@scene(promise.CANCELLED_IS_GONE)
def a_cancel_takes_out_what_somebody_holds_who_is_lost_then(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.receive(event())
    script.call(history.Cancel(event_id="e1"), history.Number(0))
    script.kill()
    script.wait(LEASE + 1.0)
    if honest:
        script.ack(*script.receive(event(), attempt=2, losses=1, worker="b"), worker="b")
    script.drain()
    return script


@scene(promise.FOUND_AS_IT_IS)
def an_event_that_lives_is_not_found(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.find(*([script.living(event())] if honest else []))
    return script


@scene(promise.FOUND_AS_IT_IS)
def an_event_is_found_twice(*, honest: bool) -> Script:
    script = Script()
    script.send(event(), event(1, queue="r"))
    script.find(script.living(event()), script.living(event(1, queue="r" if honest else "q")))
    return script


@scene(promise.FOUND_AS_IT_IS)
def an_event_is_found_that_is_done(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (held,) = script.receive(event())
    if not honest:
        script.ack(held)
    script.find(script.living(event(), status="leased", until=script.now + LEASE))
    return script


@scene(promise.FOUND_AS_IT_IS)
def another_event_is_found_too(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1), event(2))
    script.find(script.living(event(1)), *([] if honest else [script.living(event(2))]))
    return script


@scene(promise.FOUND_AS_IT_IS)
def an_event_is_found_that_was_changed(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.find(script.living(event() if honest else event(body=b"[]")))
    return script


@scene(promise.FOUND_AS_IT_IS)
def a_lease_that_is_over_is_found_as_held(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.receive(event())
    end = script.now + LEASE
    script.wait(LEASE + 1.0)
    held = script.living(event(), status="leased", until=end)
    script.find(script.living(event(), attempt=2, losses=1) if honest else held)
    return script


@scene(promise.FOUND_AS_IT_IS)
def an_event_that_waits_is_found_with_another_time(*, honest: bool) -> Script:
    script = Script()
    script.send(event(), delay=10.0)
    script.find(script.living(event(), status="scheduled", until=script.now + (10.0 if honest else 9.0)))
    return script


def a_held_event_is_found_with_another(**wrong: Any) -> None:
    def play(*, honest: bool) -> Script:
        script = Script()
        script.send(event())
        (first,) = script.receive(event())
        script.nack(first, state=b"once")
        script.receive(event(), attempt=2, state=b"once")
        right = {"status": "leased", "attempt": 2, "state": b"once", "until": script.now + LEASE}
        script.find(script.living(event(), **(right if honest else right | wrong)))
        return script

    name, value = next(iter(wrong.items()))
    play.__name__ = f"a_held_event_is_found_with_another_{name}_{value}"
    SCENES.append((promise.FOUND_AS_IT_IS, play))


a_held_event_is_found_with_another(status="ready")
a_held_event_is_found_with_another(attempt=1)
a_held_event_is_found_with_another(attempt=3)
a_held_event_is_found_with_another(losses=1, attempt=3)
a_held_event_is_found_with_another(state=b"")
a_held_event_is_found_with_another(until=1030.0)
a_held_event_is_found_with_another(until=1070.0)
a_held_event_is_found_with_another(enqueued_at=1000.5)


@scene(promise.CANCELLED_IS_GONE)
def a_cancelled_event_comes(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1), event(2))
    script.call(history.Cancel(event_id="e1"), history.Number(1))
    script.receive(event(2 if honest else 1))
    return script


@scene(promise.CANCELLED_IS_GONE)
def what_was_held_until_now_is_not_cancelled(*, honest: bool) -> Script:
    """Once its lease is past, nobody holds it; before that, nobody may cancel it."""
    script = Script()
    script.send(event())
    script.receive(event())
    script.wait(LEASE if honest else LEASE - 1)
    script.call(history.Cancel(event_id="e1"), history.Number(1))
    return script


@scene(promise.SENT_IS_RECEIVED)
def what_a_refused_cancel_took_out_never_comes(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    call = history.Cancel(event_id="e1")
    script.call(call, end="unknown" if honest else "refused", error="TransportUnavailableError")
    script.drain()
    return script


@scene(promise.CANCELLED_IS_GONE)
def a_held_event_is_cancelled(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.receive(event())
    script.call(history.Cancel(event_id="e1"), history.Number(0 if honest else 1))
    return script


@scene(promise.PURGED_IS_GONE)
def a_purge_counts_what_is_not_there(*, honest: bool) -> Script:
    """Leave open whether what is sent meanwhile is counted."""
    script = Script()
    op = script.begin(history.Purge(queue="q"))
    if honest:
        script.send(event(), worker="b")
    script.end(op, history.Number(1))
    return script


@scene(promise.PURGED_IS_GONE)
def a_purged_event_comes(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1), event(2, queue="r"))
    script.call(history.Purge(queue="q"), history.Number(1))
    script.receive(event(2, queue="r") if honest else event(1))
    return script


@scene(promise.STATS_ARE_TRUE_AT_REST)
def the_figures_are_wrong(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1), event(2), event(3, queue="r"))
    script.send(event(4), delay=10.0)
    script.receive(event(1))
    script.count(ready=1 if honest else 2, leased=1, scheduled=1, dead=0, oldest_age=0.0)
    return script


@scene(promise.STATS_ARE_TRUE_AT_REST)
def the_figures_are_late_when_nothing_moves(*, honest: bool) -> Script:
    script = Script()
    op = script.begin(history.Send(envelopes=(event(),)), worker="b")
    if honest:
        script.count(ready=0)
    script.end(op)
    if not honest:
        script.count(ready=0)
    return script


@scene(promise.STATS_ARE_TRUE_AT_REST)
def what_has_come_due_is_counted_as_scheduled(*, honest: bool) -> Script:
    script = Script()
    script.send(event(), delay=5.0)
    script.wait(4.0 if honest else 6.0)
    script.count(ready=0, scheduled=1)
    return script


@scene(promise.STATS_ARE_TRUE_AT_REST)
def a_lease_that_holds_is_counted_as_ready(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.receive(event())
    script.wait(LEASE if honest else LEASE - 1)
    script.count(ready=1, leased=0)
    return script


@scene(promise.STATS_ARE_TRUE_AT_REST)
def the_age_of_the_oldest_is_wrong(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1))
    script.wait(30.0)
    script.send(event(2))
    script.count(ready=2, oldest_age=30.0 if honest else 0.0)
    return script


@scene(promise.STATS_ARE_TRUE_AT_REST)
def there_is_an_age_of_nothing(*, honest: bool) -> Script:
    script = Script()
    script.send(event(), delay=10.0)
    script.count(ready=0, scheduled=1, oldest_age=None if honest else 0.0)
    return script


@scene(promise.STATS_ARE_TRUE_AT_REST)
def there_are_fewer_than_none(*, honest: bool) -> Script:
    """Figures that are approximate may be wrong, but not like this."""
    script = Script(attrs.evolve(EVERYTHING, stats="approximate"))
    script.send(event())
    script.count(ready=3 if honest else -1)
    return script


@scene(promise.CLOSE_IS_IDEMPOTENT)
def a_closed_transport_sends(*, honest: bool) -> Script:
    script = Script()
    script.close()
    if honest:
        script.send(event(), end="refused", error="TransportClosedError")
    else:
        script.send(event())
    return script


@scene(promise.CLOSE_IS_IDEMPOTENT)
def a_closed_transport_does_what_it_does_not_claim(*, honest: bool) -> Script:
    script = Script(NOTHING)
    script.close()
    call = history.Find(event_id="e1")
    if honest:
        script.call(call, end="refused", error="UnsupportedError")
    else:
        script.call(call, history.Living(()))
    return script


@scene(promise.CLOSE_IS_IDEMPOTENT)
def a_transport_says_closed_before_its_close_began(*, honest: bool) -> Script:
    """Let a call that a close comes to meet end as one of a closed transport."""
    script = Script()
    op = script.begin(history.Receive(queues=("q",), limit=1, lease=LEASE, wait=5.0))
    if honest:
        script.close()
    script.end(op, end="refused", error="TransportClosedError")
    return script


@scene(promise.CLOSE_IS_IDEMPOTENT)
def a_transport_says_closed_that_nobody_closed(*, honest: bool) -> Script:
    script = Script()
    if honest:
        script.close()
    script.send(event(), end="refused", error="TransportClosedError")
    return script


@scene(promise.UNCLAIMED_IS_REFUSED)
def what_is_not_claimed_is_done(*, honest: bool) -> Script:
    script = Script(NOTHING)
    if honest:
        script.send(event(), delay=1.0, end="refused", error="UnsupportedError")
    else:
        script.send(event(), delay=1.0)
    return script


@scene(promise.UNCLAIMED_IS_REFUSED)
def an_urgency_that_is_not_claimed_is_taken(*, honest: bool) -> Script:
    script = Script(attrs.evolve(EVERYTHING, urgency=False))
    script.send(event(urgency="normal" if honest else "high"))
    return script


@scene(promise.UNCLAIMED_IS_REFUSED)
def an_order_that_is_not_claimed_is_taken(*, honest: bool) -> Script:
    script = Script(attrs.evolve(EVERYTHING, order="none"))
    script.send(event(ordering_key=None if honest else "k"))
    return script


@scene(promise.UNCLAIMED_IS_REFUSED)
def a_dead_letter_that_is_not_claimed_is_taken(*, honest: bool) -> Script:
    script = Script(attrs.evolve(EVERYTHING, dead_letters=False))
    script.send(event())
    (first,) = script.receive(event())
    script.settle(first, Nack() if honest else DeadLetter(reason="failed"))
    return script


def what_is_not_claimed_comes_back(call: history.Call, value: history.Value | None) -> None:
    def play(*, honest: bool) -> Script:
        script = Script(NOTHING)
        if honest:
            script.call(call, end="refused", error="UnsupportedError")
        else:
            script.call(call, value)
        return script

    play.__name__ = f"{type(call).__name__.lower()}_is_not_claimed_and_done"
    SCENES.append((promise.UNCLAIMED_IS_REFUSED, play))


what_is_not_claimed_comes_back(history.Extend(deliveries=(), lease=LEASE), history.Settled())
what_is_not_claimed_comes_back(history.Checkpoint(delivery=1, state=b""), None)
what_is_not_claimed_comes_back(history.ListDead(queues=("q",)), history.Entries(()))
what_is_not_claimed_comes_back(history.Revive(refs={}), history.Missing(()))
what_is_not_claimed_comes_back(history.Discard(refs=()), history.Missing(()))
what_is_not_claimed_comes_back(history.Cancel(event_id="e1"), history.Number(0))
what_is_not_claimed_comes_back(history.Find(event_id="e1"), history.Living(()))
what_is_not_claimed_comes_back(history.Purge(queue="q"), history.Number(0))
what_is_not_claimed_comes_back(history.Count(queue="q"), history.Figures(Stats()))
what_is_not_claimed_comes_back(history.SendBound(transaction=1, envelopes=()), None)


@scene(promise.UNCLAIMED_IS_REFUSED)
def what_is_claimed_is_refused(*, honest: bool) -> Script:
    script = Script(NOTHING if not honest else EVERYTHING)
    script.extend(1) if honest else script.call(history.SetUp(queues=()), end="refused", error="UnsupportedError")
    return script


@scene(promise.ERRORS_ARE_TRANSLATED)
def a_driver_error_comes_through(*, honest: bool) -> Script:
    script = Script()
    call = history.Receive(queues=("q",), limit=1, lease=LEASE, wait=0.0)
    if honest:
        script.call(call, end="unknown", error="TransportUnavailableError")
    else:
        script.call(call, end="crashed", error="OperationalError: database is locked")
    return script


@scene(promise.ANSWERS_ARE_WELL_FORMED)
def an_answer_is_none(*, honest: bool) -> Script:
    script = Script()
    call = history.Purge(queue="q")
    if honest:
        script.call(call, history.Number(0))
    else:
        script.call(call, end="malformed", error="purge returned None")
    return script


@scene(promise.CALLS_COME_BACK)
def a_call_does_not_come_back(*, honest: bool) -> Script:
    script = Script()
    call = history.Purge(queue="q")
    if honest:
        script.call(call, history.Number(0))
    else:
        script.call(call, end="hung", error="did not come back within 30 s")
    return script


# --- the tests -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("broken", "play"), SCENES, ids=named)
def test_a_doctored_history_breaks_its_promise_and_no_other(broken: Promise, play: Scene) -> None:
    assert play(honest=False).broken() == {broken.id}


@pytest.mark.parametrize(("broken", "play"), SCENES, ids=named)
def test_its_honest_twin_breaks_none(broken: Promise, play: Scene) -> None:
    assert [str(violation) for violation in play(honest=True).violations()] == []


def test_there_is_a_doctored_history_for_every_promise_that_a_history_can_break() -> None:
    judged = {broken.id for broken, _ in SCENES}

    assert judged == set(PROMISES) - {promise.id for promise in SHOWN_BY_A_SCENARIO}


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
    for attempt, losses in ((2, 0), (2, 1)):
        script = Script()
        script.send(event())
        (first,) = script.receive(event())
        script.call(
            history.Settle(items=(history.Item(first, Nack()),)), end="unknown", error="TransportUnavailableError"
        )
        script.wait(LEASE)

        script.receive(event(), attempt=attempt, losses=losses, worker="b")

        assert script.broken() == set()


def test_a_call_that_never_ended_may_have_happened_or_not() -> None:
    for comes_again in (True, False):
        script = Script()
        script.send(event())
        (first,) = script.receive(event())
        script.begin(history.Settle(items=(history.Item(first, Ack()),)))
        script.wait(LEASE)
        if comes_again:
            script.ack(*script.receive(event(), attempt=2, losses=1, worker="b"), worker="b")

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
    script.ack(*script.receive(event(), attempt=2, losses=1, worker="b"), worker="b")
    script.wait(5.0)

    script.receive(event(), attempt=2, losses=1, worker="c")

    assert script.broken() == {"ack-is-final"}


def test_an_extra_copy_that_never_comes_tears_no_batch() -> None:
    script = Script(BROKER)
    script.send(event(1), event(2))
    for delivery in script.receive(event(1), event(2)):
        script.ack(delivery)
    script.kill()

    script.drain()

    assert script.broken() == set()


def test_a_loss_that_was_fetched_ahead_counts_beside_one_of_a_lease_that_ran_out() -> None:
    script = Script(attrs.evolve(EVERYTHING, losses="at least"))
    script.send(event())
    script.receive(event())
    script.wait(LEASE)
    script.receive(worker="b")
    script.kill("b")

    script.receive(event(), attempt=3, losses=2, worker="c")

    assert script.broken() == set()


def test_an_extension_that_was_refused_leaves_the_lease_as_it_was() -> None:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    script.call(history.Extend(deliveries=(first,), lease=10 * LEASE), end="refused", error="TransportUnavailableError")
    script.wait(LEASE)

    script.receive(event(), attempt=2, losses=1, worker="b")

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
