"""The steps of a play: the send of an event, its past, the operations on it, and the time between."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from relevo import Ack, DeadLetter, Envelope, Lost, Nack, Note, Outcome, Release
from relevo.errors import LeaseLostError
from relevo_conformance._play import DAY, Play
from relevo_conformance.worker import RecordedWorker

# --- where the event comes from --------------------------------------------------------------------


def sent(play: Play) -> None:
    """Send each by itself."""
    with play.arranging() as (before, event, after):
        play.send(before)
        play.send([event], delay=play.delay)
        play.send(after)


def sent_in_a_batch(play: Play) -> None:
    """Send all in one batch."""
    with play.arranging() as (before, event, after):
        play.send([*before, event, *after], delay=play.delay)


def sent_twice(play: Play) -> None:
    """Send the event, and again while it is there."""
    with play.arranging() as (before, event, after):
        play.send(before)
        play.send([event], delay=play.delay)
        play.send(after)
        play.send([event], delay=play.delay)


def sent_twice_in_a_batch(play: Play) -> None:
    """Send the event twice in one batch."""
    with play.arranging() as (before, event, after):
        play.send([*before, event, event, *after], delay=play.delay)


def sent_in_a_session(play: Play) -> None:
    """Send the event in a transaction that commits."""
    with play.arranging() as (before, event, after):
        play.send(before)
        with play.transaction() as transaction:
            transaction.send([event], delay=play.delay)
            play.glimpse(1)
            play.look_around(play.other)
            transaction.send(after)
            transaction.commit()


def sent_in_a_savepoint(play: Play) -> None:
    """Send the event in a savepoint."""
    with play.arranging() as (before, event, after), play.transaction() as transaction:
        transaction.send(before)
        with transaction.savepoint("commit"):
            transaction.send([event], delay=play.delay)
        transaction.send(after)
        transaction.commit()


def sent_in_nested_savepoints(play: Play) -> None:
    """Send the event in the outer one of two savepoints, whose inner one is rolled back."""
    with play.arranging() as (before, event, after), play.transaction() as transaction:
        with transaction.savepoint("commit"):
            transaction.send(before)
            with transaction.savepoint("rollback"):
                transaction.send([play.neighbour()])
            with transaction.savepoint("commit"):
                transaction.send([event], delay=play.delay)
            transaction.send(after)
        transaction.commit()


def sent_beside_a_savepoint(play: Play) -> None:
    """Send the event, and others in savepoints before and after it that are rolled back."""
    with play.arranging() as (before, event, after), play.transaction() as transaction:
        with transaction.savepoint("rollback"):
            transaction.send([play.neighbour()], delay=play.delay)
            with transaction.savepoint("commit"):
                transaction.send([play.neighbour()])
        transaction.send([*before, event, *after], delay=play.delay)
        with transaction.savepoint("rollback"):
            transaction.send([play.neighbour()])
        transaction.commit()


def sent_in_savepoints_in_sequence(play: Play) -> None:
    """Send all in savepoints one after another."""
    with play.arranging() as (before, event, after), play.transaction() as transaction:
        for batch in (before, [event], after):
            with transaction.savepoint("commit"):
                transaction.send(batch, delay=play.delay)
        transaction.commit()


def sent_after_a_rollback(play: Play) -> None:
    """Send the event in a session whose first transaction was rolled back, and the rest in a third one."""
    with play.arranging() as (before, event, after), play.transaction() as transaction:
        transaction.send([play.neighbour()], delay=play.delay)
        transaction.rollback()
        again = transaction.again()
        done = play.neighbour(queue=play.bench.queues[1], plain=True)
        again.send([*before, event], delay=play.delay)
        again.send([done])
        again.commit()
        for delivery in play.bench.receive(play.worker, 1, queues=[done.queue], limit=1, lease=play.lease):
            play.worker.ack(delivery)  # so that it would come again if a later commit sent it once more
        third = again.again()
        third.send(after)
        third.commit()


def rolled_back_and_sent(play: Play) -> None:
    """Send the event in a transaction that is rolled back, and then without one."""
    with play.arranging() as (before, event, after):
        with play.transaction() as transaction:
            transaction.send([event], delay=play.delay)
            transaction.rollback()
        play.send(before)
        play.send([event], delay=play.delay)
        play.send(after)


def sent_to_an_outbox(play: Play) -> None:
    """Send the event in a transaction, to the outbox of another transport."""
    name = f"broker-{play.bench.token}"
    outbox = play.bench.outbox(name)
    play.worker.setup([outbox])
    with play.arranging() as (before, event, after), play.transaction() as transaction:
        transaction.send([*before, event], delay=play.delay, relay_to=name)
        transaction.send(after, relay_to=name)
        transaction.commit()
    play.place = outbox


def put_by_a_stranger(
    *, size: int = 40, times: int = 1, headers: Mapping[str, str] | None = None
) -> Callable[[Play], None]:
    """Return a step in which a foreign program puts *size* bytes between the neighbours, some *times*."""

    def act(play: Play) -> None:
        with play.arranging(put_delay=False) as (before, _, after):
            play.send(before)
            play.event = play.bench.raw(b"\x80".ljust(size, b"-"), queue=play.place, headers=headers)
            for _ in range(times - 1):
                play.bench.recorder.put_raw(play.place, play.event, headers)
            play.bench.raw(queue=play.place)
            play.send(after)

    return act


# --- what happened to it before --------------------------------------------------------------------


def nothing(play: Play) -> None:
    """Do nothing."""


def in_turn(*steps: Callable[[Play], None]) -> Callable[[Play], None]:
    """Return a step that carries out *steps*."""

    def act(play: Play) -> None:
        for step in steps:
            step(play)

    return act


def settled(make: Callable[[Play], Outcome]) -> Callable[[Play], None]:
    """Return a step that receives the event and settles it."""
    return lambda play: play.give_back(make(play))


def lost(play: Play) -> None:
    """Receive the event, and let its lease end."""
    if play.take() is not None:
        play.let_lease_end()


def checkpointed(play: Play) -> None:
    """Receive the event, and store a checkpoint."""
    if play.take() is not None:
        checkpoint(play)


def begun(play: Play) -> None:
    """Receive the event, and begin it."""
    if play.take() is not None:
        begin(play)


def extended(play: Play) -> None:
    """Receive the event, and extend its lease, which outlives the first one."""
    if (held := play.take()) is not None:
        held.worker.extend([held.delivery], lease=3 * play.lease)
        if play.bench.harness.fake:
            play.bench.advance(2 * play.lease)
            play.glimpse(1)
            play.bench.advance(play.lease + 3 * play.bench.harness.slack)
            play.is_held = False


def buried(play: Play) -> None:
    """Receive the event and dead-letter it."""
    play.give_back(play.died())


def revived(play: Play) -> None:
    """Revive all dead letters, each with another state."""
    play.actor.revive(play.refs())
    play.due, play.is_gone = 0.0, False


def sent_again(play: Play) -> None:
    """Send the event again, whatever its state is."""
    if isinstance(play.event, Envelope) and not play.is_in_an_outbox:
        play.actor.send([play.event])
        play.is_gone = False


# --- what is done with it --------------------------------------------------------------------------


def receive(play: Play) -> None:
    """Let another worker receive what is there."""
    play.glimpse()


def take_by_id(play: Play) -> None:
    """Take the event by its id."""
    play.take_by_id(play.actor)


def taken_by_id(play: Play) -> None:
    """Take the event by its id, if it waits after a nack, and receive it if it does not come."""
    scheduled(play)
    play.take_by_id(play.worker)
    play.take()


def scheduled(play: Play) -> None:
    """Leave the event to wait: for its first delay if it still does, or after a nack."""
    if play.due <= play.bench.harness.clock.now():
        play.give_back(Nack(delay=play.later, state=play.state))


def dead_and_held_again(play: Play) -> None:
    """Let the event die, and receive it after it was sent again."""
    buried(play)
    sent_again(play)
    play.take()


def dead_and_delayed_again(play: Play) -> None:
    """Let the event die, and send it again with a delay."""
    buried(play)
    if isinstance(play.event, Envelope) and not play.is_in_an_outbox:
        play.actor.send([play.event], delay=play.later)
        play.due, play.is_gone = play.bench.harness.clock.now() + play.later, False


def late(play: Play) -> None:
    """Let the next operation be for the last delivery, which has ended."""
    play.is_late = True


def held_by_another(play: Play) -> None:
    """Let the lease of the event end, and another worker receive it."""
    lost(play)
    play.take(play.other)


def settle(make: Callable[[Play], Outcome]) -> Callable[[Play], None]:
    """Return an operation that settles the last delivery of the event."""
    return lambda play: play.settle(make(play))


def extend(play: Play) -> None:
    """Extend the lease of the last delivery, and of the others that came with it."""
    if (held := play.delivery()) is not None:
        worker = play.hand_of(held)
        others = [taken.delivery for taken in play.others if taken.worker is held.worker]
        began = play.bench.harness.clock.now()
        worker.extend([*others[:1], held.delivery, *others[1:]], lease=2 * play.lease)
        play.ends = began + 2 * play.lease


def checkpoint(play: Play) -> None:
    """Store a checkpoint."""
    if (held := play.delivery()) is not None:
        with suppress(LeaseLostError):
            play.hand_of(held).checkpoint(held.delivery, b"checkpoint" if play.state is None else play.state)


_NOTE = Note(by="a1:0b-9c:1:7:9", deaths=("a2:0b-9c:1:7:8+",), listener="shop.listeners:crash")


def begin(play: Play) -> None:
    """Store the note of the process that begins it."""
    if (held := play.delivery()) is not None:
        with suppress(LeaseLostError):
            play.hand_of(held).begin(held.delivery, _NOTE)


def excuse(play: Play) -> None:
    """Begin it, and excuse that."""
    if (held := play.delivery()) is not None:
        begin(play)
        play.hand_of(held).excuse(held.delivery, _NOTE)


def settle_a_batch(arrange: Callable[[Sequence[Any]], Sequence[Any]]) -> Callable[[Play], None]:
    """Return an operation that settles three deliveries in one call: a lost one, the last one and another held one."""

    def act(play: Play) -> None:
        held = play.delivery()
        lost, kept = play.extra(), play.extra()
        if held is None or lost is None or kept is None:
            return
        lost.worker.release(lost.delivery)
        batch = [
            (lost.delivery, Nack(state=b"of the lost")),
            (held.delivery, Nack(delay=play.later, state=play.state)),
            (kept.delivery, Nack(state=b"of another")),
        ]
        play.hand_of(held).settle(arrange(batch))
        play.is_held = False

    return act


def dead_letter_a_batch(play: Play) -> None:
    """Dead-letter the last delivery of the event and another one in one call, each with a reason of its own."""
    held = play.delivery()
    extra = play.extra()
    if held is not None and extra is not None:
        other = DeadLetter(reason="unknown-event", error="of another", state=b"of another")
        play.hand_of(held).settle([(extra.delivery, other), (held.delivery, play.died())])
        play.is_gone, play.is_held = play.is_gone or play.is_held, False


def settle_twice(play: Play) -> None:
    """Settle the last delivery twice in one call."""
    if (held := play.delivery()) is not None:
        play.hand_of(held).settle([(held.delivery, Nack(state=play.state)), (held.delivery, Ack())])
        play.is_held = False


def settle_stale(play: Play) -> None:
    """Settle a delivery that is no longer held, beside one that may be."""
    if (held := play.delivery()) is None:
        return
    worker = play.hand_of(held)
    if play.is_held:
        worker.release(held.delivery)
        play.is_held = False
        play.take()
    now = play.held
    stale = play.stale[-1] if play.stale else held
    play.hand_of(stale).settle([(stale.delivery, Ack())])
    if now is not None and now is not stale:
        play.hand_of(now).settle([(stale.delivery, Ack()), (now.delivery, Release())])
        play.is_held = False


def let_lease_end(play: Play) -> None:
    """Let the lease end."""
    play.delivery()
    play.let_lease_end()


def kill(play: Play) -> None:
    """Kill the worker that has the event."""
    play.delivery()
    play.vanish(play.bench.recorder.kill)


def close(play: Play) -> None:
    """Close the transport of the worker that has the event."""
    play.delivery()
    play.vanish(RecordedWorker.close)


def revive(play: Play) -> None:
    """Revive several dead letters in one call, each with another state, beside one that was revived before."""
    play.bury_extras(3)
    refs = play.refs()
    actor = play.actor
    actor.revive(dict.fromkeys([*refs][-1:], b"first"))
    actor.revive({ref: refs[ref] for ref in [*refs][::-1]})
    actor.revive(dict.fromkeys(refs, b"twice"))
    play.due, play.is_gone = 0.0, False


def discard(play: Play) -> None:
    """Discard all dead letters but one, beside one that was discarded before."""
    play.bury_extras(3)
    refs = [*play.refs()]
    actor = play.actor
    actor.discard(refs[-1:])
    actor.discard(refs[:0:-1])


def replace_a_dead_letter(play: Play) -> None:
    """Let the event die, be sent again and die again, and use the ref of its first dead letter."""
    play.bury_extras(1)
    buried(play)
    refs = play.refs()
    sent_again(play)
    buried(play)
    play.look_around(play.actor)
    play.actor.discard([*refs][:1])
    play.look_around(play.actor)
    play.actor.revive(refs)
    play.is_gone = False


def turn_pages(play: Play) -> None:
    """Read the dead letters page by page, while the one that was read is discarded and another event dies."""
    play.bury_extras(2)
    actor = play.actor
    play.turn_pages(actor)
    seen: list[str] = []

    def change(ref: str) -> None:
        if not seen:
            actor.discard([ref])
            step(play)
            play.bury_extras(1)
        elif len(seen) == 1:
            actor.revive({ref: b"between pages"})
        seen.append(ref)

    play.turn_pages(actor, change)
    play.turn_pages(actor)


def cancel(play: Play) -> None:
    """Cancel the event by its id, and a new one like it."""
    actor = play.actor
    actor.cancel(play.send_one_like_it().id)
    for event_id in play.ids[:1]:
        actor.cancel(event_id)
    actor.cancel("")
    if isinstance(play.event, Envelope):
        actor.cancel(play.event.id)
    play.is_gone = not play.is_held


def purge(play: Play) -> None:
    """Purge the queue of the event, and of new ones like it."""
    play.send_one_like_it()
    play.actor.purge(play.place)
    play.is_gone = not play.is_held


def look(play: Play) -> None:
    """Look at everything that is stored."""
    play.look_around(play.actor)


def set_up(play: Play) -> None:
    """Set the queues up again."""
    play.actor.setup(play.bench.queues)
    play.actor.setup(play.bench.queues, dry_run=True)


# --- the time between ------------------------------------------------------------------------------


def step(play: Play) -> None:
    """Let a moment pass."""
    play.bench.advance(play.bench.times.step)


def before_the_lease_ends(play: Play) -> None:
    """Let time pass until shortly before the end of the lease."""
    if play.is_held and play.bench.harness.fake:
        play.bench.approach(play.ends)


def after_the_lease(play: Play) -> None:
    """Let time pass until the lease has just ended."""
    if play.is_held:
        left = play.ends - play.bench.harness.clock.now()
        play.bench.advance(max(0.0, left) + 3 * play.bench.harness.slack)
        play.is_held, play.is_late = False, True


def days(number: int) -> Callable[[Play], None]:
    """Return a pause of *number* days."""

    def act(play: Play) -> None:
        play.bench.advance(number * DAY)
        if play.is_held and not play.bench.is_connected:
            play.is_held, play.is_late = False, True

    return act


def death(play: Play) -> Outcome:
    """Return the outcome of a death that was seen."""
    return Lost(death="a3::0:0:0", state=play.state)
