"""Scenes of settling."""

from __future__ import annotations

import attrs

from relevo import Ack, Nack, Note, Release
from relevo_conformance import history, promise

from .scene import scene
from .script import BROKER, EVERYTHING, LEASE, Script, event


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
    script.receive(event(), attempt=2, lost_leases=1, worker="b")
    return script


@scene(promise.ACK_IS_FINAL)
def an_ack_that_was_long_sent_is_lost_with_its_worker(*, honest: bool) -> Script:
    script = Script(BROKER)
    script.send(event())
    script.ack(*script.receive(event()))
    script.wait(0.5 if honest else 5.0)
    script.kill()
    script.receive(event(), attempt=2, lost_leases=1, worker="b")
    return script


@scene(promise.ACK_IS_FINAL)
def a_confirmed_ack_is_lost_with_its_worker(*, honest: bool) -> Script:
    script = Script(attrs.evolve(EVERYTHING, settlement="sent" if honest else "confirmed"))
    script.send(event())
    script.ack(*script.receive(event()))
    script.kill()
    script.receive(event(), attempt=2, lost_leases=1, worker="b")
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
    (held,) = script.receive(event(), attempt=2, lost_leases=1)
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
    script.receive(event(), attempt=2, lost_leases=1, worker="b")
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
    script.receive(event(), attempt=2, lost_leases=1, worker="b")
    return script


@scene(promise.CHECKPOINT_SURVIVES_A_LOST_LEASE)
def a_checkpoint_is_lost_with_its_worker(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    script.checkpoint(first, b"half")
    script.kill()
    script.receive(event(), attempt=2, lost_leases=1, state=b"half" if honest else b"", worker="b")
    return script


NOTE = Note(by="a1::0:0:0", deaths=("a2::0:0:0",))
REFUSED = {"end": "refused", "error": "LeaseLostError"}


@scene(promise.BEGUN_IS_KEPT)
def a_note_is_lost_with_its_worker(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    script.note(first, NOTE)
    script.kill()
    script.receive(event(), attempt=2, lost_leases=1, begun=NOTE if honest else None, deaths=NOTE.deaths, worker="b")
    return script


@scene(promise.BEGUN_IS_KEPT)
def the_deaths_are_forgotten_by_a_retry(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    script.note(first, NOTE)
    script.nack(first)
    script.receive(event(), attempt=2, deaths=NOTE.deaths if honest else ())
    return script


@scene(promise.BEGUN_IS_KEPT)
def a_note_that_was_excused_accuses_all_the_same(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    script.note(first, NOTE)
    script.excuse(first, NOTE)
    script.kill()
    begun = attrs.evolve(NOTE, excused=True) if honest else NOTE
    script.receive(event(), attempt=2, lost_leases=1, begun=begun, deaths=NOTE.deaths, worker="b")
    return script


@scene(promise.BEGUN_IS_KEPT)
def what_is_held_cannot_be_begun(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    script.note(first, NOTE, **({} if honest else REFUSED))
    return script


@scene(promise.STALE_SETTLE_IS_REFUSED)
def an_old_receipt_keeps_a_note(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    script.ack(first)
    script.note(first, NOTE, **(REFUSED if honest else {}))
    return script


@scene(promise.RELEASE_COUNTS_NOTHING)
def what_is_released_for_later_comes_early(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (first,) = script.receive(event())
    script.settle(first, Release(delay=10.0))
    script.wait(11.0 if honest else 5.0)
    script.receive(event())
    return script
