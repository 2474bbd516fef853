"""Bugs of ordering keys, together with lost leases, releases, urgency, sessions, other queues and other keys."""

from __future__ import annotations

import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from relevo import Action, BoundSender, DeadLetter, Delivery, Envelope, Outcome, State
from relevo_conformance import promise
from relevo_memory import MemoryTransport
from relevo_memory._queue import EventQueue, KeptEvent
from relevo_memory._store import Posting

from .memory import BreakableStore
from .planting import Altered, AlteredStore, Patches, at_each_step, in_line_by, leave_the_line, living, planted_pair


def _leaves_the_line_after(action: Action, *, times: int = 1) -> Patches:
    def spoil(queue: EventQueue, event: KeptEvent, did: Action) -> None:
        if did is action and event.counters.attempt > times - 1:
            leave_the_line(queue, event)

    return at_each_step(spoil)


def _goes_behind_its_line_after(action: Action) -> Patches:
    def spoil(queue: EventQueue, event: KeptEvent, did: Action) -> None:
        if did is action and event.line is not None:
            waiting = queue._lines[event.line]
            waiting.move_to_end(event.number)
            queue._ready.remove(event.number)
            for one in (event, next(iter(waiting.values()))):
                queue._rank(one)

    return at_each_step(spoil)


@planted_pair(promise.ORDER_IS_KEPT, patches=_leaves_the_line_after(Action.LOSE))
class ForgetsTheKeyOfWhatWasLost(MemoryTransport):
    """An event loses its ordering key at a lost lease, so the next event of the key does not wait for it."""


@planted_pair(promise.ORDER_IS_KEPT, patches=_leaves_the_line_after(Action.LOSE, times=3))
class ForgetsTheKeyOfWhatWasLostTwice(MemoryTransport):
    """An event loses its ordering key at its second lost lease."""


@planted_pair(promise.ORDER_IS_KEPT, patches=_leaves_the_line_after(Action.RELEASE))
class ForgetsTheKeyOfWhatIsReleased(MemoryTransport):
    """An event loses its ordering key at a release."""


@planted_pair(promise.ORDER_IS_KEPT, patches=_leaves_the_line_after(Action.POSTPONE))
class ForgetsTheKeyOfWhatIsReleasedForLater(MemoryTransport):
    """The next event of a key does not wait for one that was released with a delay."""


@planted_pair(promise.ORDER_IS_KEPT, patches=_leaves_the_line_after(Action.NACK, times=3))
class ForgetsTheKeyAfterTwoRetries(MemoryTransport):
    """An event loses its ordering key at its second nack."""


@planted_pair(promise.ORDER_IS_KEPT, patches=_leaves_the_line_after(Action.EXTEND))
class GivesTheTurnAwayAtAnExtension(MemoryTransport):
    """An extension makes the next event of the ordering key ready."""


@planted_pair(promise.ORDER_IS_KEPT, patches=_leaves_the_line_after(Action.CHECKPOINT))
class GivesTheTurnAwayAtACheckpoint(MemoryTransport):
    """A checkpoint makes the next event of the ordering key ready."""


@planted_pair(promise.ORDER_IS_KEPT, patches=_goes_behind_its_line_after(Action.RELEASE))
class ReleasesBehindItsKey(MemoryTransport):
    """A released event is placed behind the other events of its ordering key."""


@planted_pair(promise.ORDER_IS_KEPT, patches=_goes_behind_its_line_after(Action.LOSE))
class ComesBackBehindItsKey(MemoryTransport):
    """An event whose lease was lost is placed behind the other events of its ordering key."""


@planted_pair(promise.ORDER_IS_KEPT, patches=_goes_behind_its_line_after(Action.POSTPONE))
class PostponesBehindItsKey(MemoryTransport):
    """An event that is released with a delay is placed behind the other events of its ordering key."""


@planted_pair(promise.ORDER_IS_KEPT)
class LetsUrgentEventsOvertakeTheirKey(AlteredStore):
    """An urgent event overtakes earlier events of its own ordering key."""

    def added(self, event: KeptEvent, queue: EventQueue) -> None:
        if event.is_urgent:
            leave_the_line(queue, event)


@planted_pair(promise.ORDER_IS_KEPT)
class SharesKeysBetweenQueues(BreakableStore):
    """An event waits for one with the same ordering key that is held in another queue."""

    def claim(self, queues: Sequence[str], *, limit: int, lease: float, now: float) -> list[Delivery]:
        taken = super().claim(queues, limit=limit, lease=lease, now=now)
        kept = []
        for one in taken:
            event = self._held(one, now)
            if event is None or event.line is None or not self._is_held_elsewhere(event):
                kept.append(one)
            else:
                self._queue(event.queue).step(event, Action.RELEASE)
        return kept

    def _is_held_elsewhere(self, event: KeptEvent) -> bool:
        return any(
            other.status is State.LEASED and _key_of(other) == _key_of(event) and queue.name != event.queue
            for queue, other in living(self)
        )


def _key_of(event: KeptEvent) -> str | None:
    return event.line and event.line[1]


@planted_pair(promise.ORDER_IS_KEPT, patches=in_line_by(str.rstrip))
class CutsSpacesOffKeys(MemoryTransport):
    """Ordering keys that differ only in a trailing space are treated as equal."""


@planted_pair(promise.ORDER_IS_KEPT, patches=in_line_by(lambda key: unicodedata.normalize("NFC", key)))
class ComparesKeysInTheirNormalForm(MemoryTransport):
    """Ordering keys that differ only in Unicode normal form are treated as equal."""


@planted_pair(promise.ORDER_IS_KEPT, patches=in_line_by(lambda key: key[:64]))
class ComparesKeysBy64Characters(MemoryTransport):
    """Ordering keys with the same first 64 characters are treated as equal."""


@planted_pair(promise.ORDER_IS_KEPT, patches=in_line_by(lambda key: key or None))
class TakesAnEmptyKeyForNone(MemoryTransport):
    """Events with an empty ordering key do not wait for one another."""


@planted_pair(promise.ORDER_IS_KEPT)
class OrdersAHundredOfAKey(AlteredStore):
    """If a hundred events of a key wait, the later ones are handed out in any order."""

    def added(self, event: KeptEvent, queue: EventQueue) -> None:
        if event.line is not None and len(queue._lines[event.line]) > 100:
            leave_the_line(queue, event)


@planted_pair(promise.ORDER_IS_KEPT)
class GivesTheTurnAwayWhenOneThatWaitsIsCancelled(BreakableStore):
    """Cancelling a waiting event makes the next one of its key ready, although the first one is held."""

    def cancel(self, event_id: str, now: float) -> int:
        lines = {
            (queue.name, event.line)
            for queue, event in living(self)
            if isinstance(event.envelope, Envelope) and event.envelope.id == event_id and event.line is not None
        }
        number = super().cancel(event_id, now)
        for name, line in lines if number else ():
            queue = self._queue(name)
            for event in queue._lines.get(line, OrderedDict()).values():
                if event.status is State.READY:
                    leave_the_line(queue, event)
                    break
        return number


@planted_pair(promise.SENT_IS_RECEIVED)
class BlocksAKeyThatWasPurged(AlteredStore):
    """After a purge, new events with the ordering key of a purged event wait forever."""

    def purge(self, name: str, now: float) -> int:
        lines = {event.line for queue, event in living(self) if queue.name == name and event.status is State.READY}
        number = super().purge(name, now)
        vars(self).setdefault("blocked", set()).update((name, line) for line in lines if line is not None)
        return number

    def added(self, event: KeptEvent, queue: EventQueue) -> None:
        if (queue.name, event.line) in vars(self).get("blocked", ()):
            queue._ready.remove(event.number)


@planted_pair(promise.ORDER_IS_KEPT)
class GivesTheTurnAwayWhenItsFirstIsSentAgain(AlteredStore):
    """Sending a held event again makes the next one of its ordering key ready."""

    def repeated(self, event: KeptEvent, queue: EventQueue, posting: Posting) -> None:
        if event.status is State.LEASED:
            leave_the_line(queue, event)


@planted_pair(promise.SENT_IS_RECEIVED)
class BlocksTheKeyOfADeadUrgentEvent(AlteredStore):
    """If an urgent event is dead-lettered, the later events of its ordering key wait forever."""

    def ending(self, event: KeptEvent, outcome: Outcome) -> Outcome:
        if isinstance(outcome, DeadLetter) and event.is_urgent and event.line is not None:
            queue = self._queue(event.queue)
            for other in queue._lines[event.line].values():
                vars(self).setdefault("blocked", set()).add(other.number)
        return outcome

    def ended(self, event: KeptEvent, outcome: Outcome, now: float) -> None:
        queue = self._queue(event.queue)
        for number in vars(self).get("blocked", ()):
            queue._ready.remove(number)


@planted_pair(promise.PAYLOAD_IS_UNTOUCHED)
class ReadsAnEmptyKeyAsNone(Altered):
    """An empty ordering key is delivered as None."""

    def received(self, delivery: Delivery) -> Delivery:
        event = delivery.envelope
        if isinstance(event, Envelope) and event.ordering_key == "":
            return attrs.evolve(delivery, envelope=attrs.evolve(event, ordering_key=None))
        return delivery


class _Noting:
    """Records the ids of the events that are sent in a session."""

    def __init__(self, sender: BoundSender, note: Callable[[Envelope], None]) -> None:
        self.sender = sender
        self.note = note

    def send(self, make: Callable[[], Sequence[Envelope]], *, delay: float = 0.0) -> None:
        def made() -> Sequence[Envelope]:
            envelopes = make()
            for one in envelopes:
                self.note(one)
            return envelopes

        self.sender.send(made, delay=delay)


@planted_pair(promise.ORDER_IS_KEPT)
class IgnoresKeysInASession(MemoryTransport):
    """An event that is sent in a transaction does not wait for earlier events of its ordering key."""

    def bound_to(self, session: Any, *, relay_to: str | None = None) -> BoundSender:
        ids: set[str] = set()
        add = MemoryTransport.bound_to(self, session, relay_to=relay_to)
        store: Any = self.store
        stored = store.add

        def spoil(postings: Sequence[Posting], now: float) -> None:
            stored(postings, now)
            for queue, event in living(store):
                if isinstance(event.envelope, Envelope) and event.envelope.id in ids:
                    leave_the_line(queue, event)

        store.add = spoil
        return _Noting(add, lambda envelope: ids.add(envelope.id))


@planted_pair(promise.ORDER_IS_KEPT)
class WritesASessionBackwards(MemoryTransport):
    """The events of a transaction are stored in reverse order."""

    def bound_to(self, session: Any, *, relay_to: str | None = None) -> BoundSender:
        store: Any = self.store
        if "add" not in vars(store):
            stored = store.add
            plain = vars(self).setdefault("plain", [])

            def backwards(postings: Sequence[Posting], now: float) -> None:
                stored(postings if plain else postings[::-1], now)

            store.add = backwards
        return super().bound_to(session, relay_to=relay_to)

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        plain = vars(self).setdefault("plain", [])
        plain.append(True)
        try:
            super().send(envelopes, delay=delay)
        finally:
            plain.pop()
