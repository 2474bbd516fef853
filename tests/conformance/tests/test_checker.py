"""
The checker finds what was doctored into a history, and nothing in its honest twin.

Each scene is played twice: as a transport that keeps the promise would have it, and with the one
difference that breaks it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import attrs
import pytest

from relevo import Ack, DeadLetter, Lost, Nack, Release, Unreadable
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


@scene(promise.DELAY_IS_RESPECTED)
def a_delayed_event_comes_early(*, honest: bool) -> Script:
    script = Script()
    script.send(event(), delay=10.0)
    script.wait(10.0 if honest else 9.9)
    script.receive(event())
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
def an_envelope_comes_as_unreadable(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.receive(event() if honest else Unreadable(raw=b"{}", why="no id"))
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


@scene(promise.STALE_SETTLE_IS_REFUSED)
def a_second_settlement_is_taken(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    script.ack(first)
    script.nack(first, lost=honest)
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


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def a_dead_letter_is_handed_out(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    script.settle(first, Nack() if honest else DeadLetter(reason="failed"))
    script.receive(event(), attempt=2 if honest else 1)
    return script


@scene(promise.DEAD_IS_KEPT_WITH_REASON)
def a_dead_letter_is_not_listed(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.bury(*script.receive(event()))
    script.dead(*([script.entry(event())] if honest else []))
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


@scene(promise.CANCELLED_IS_GONE)
def a_cancelled_event_comes(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1), event(2))
    script.call(history.Cancel(event_id="e1"), history.Number(1))
    script.receive(event(2 if honest else 1))
    return script


@scene(promise.CANCELLED_IS_GONE)
def a_held_event_is_cancelled(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.receive(event())
    script.call(history.Cancel(event_id="e1"), history.Number(0 if honest else 1))
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
def the_age_of_the_oldest_is_wrong(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1))
    script.wait(30.0)
    script.send(event(2))
    script.count(ready=2, oldest_age=30.0 if honest else 0.0)
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


def test_a_violation_names_the_call_that_gave_it_away() -> None:
    script = Script()
    script.send(event(1))

    script.receive(event(2))

    (violation,) = check(script.records, EVERYTHING)
    assert violation.op == 2
    assert "e2" in violation.what
    assert str(violation).startswith("no-invention: ")
