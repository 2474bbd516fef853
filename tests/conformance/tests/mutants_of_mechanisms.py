"""Bugs of what a store is built on: delay queues, timers, file names, lines of text, windows and frames."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count

import attrs

from relevo import (
    Ack,
    Action,
    DeadLetter,
    Delivery,
    Envelope,
    Nack,
    Note,
    Outcome,
    Release,
    Settlement,
    State,
    Unreadable,
)
from relevo_conformance import promise
from relevo_memory._dead_letter import DeadLetters
from relevo_memory._queue import EventQueue, KeptEvent
from relevo_memory._store import Posting

from .memory import BreakableStore
from .planting import Altered, AlteredStore, at_each_step, living, planted_pair


@planted_pair(promise.QUEUES_ARE_ISOLATED)
class NamesFilesAfterQueues(BreakableStore):
    """A queue is a file, in whose name a slash becomes an underscore."""

    def _queue(self, name: str) -> EventQueue:
        return super()._queue(name.replace("/", "_"))

    def _at(self, name: str, now: float) -> EventQueue:
        return super()._at(name.replace("/", "_"), now)

    def claim(self, queues: Sequence[str], *, limit: int, lease: float, now: float) -> list[Delivery]:
        return super().claim([name.replace("/", "_") for name in queues], limit=limit, lease=lease, now=now)


@planted_pair(promise.CHECKPOINT_SURVIVES_A_LOST_LEASE)
class WritesACheckpointAsALine(BreakableStore):
    """A checkpoint is a line of a file, and loses the white space at its end."""

    def checkpoint(self, delivery: Delivery, state: bytes, now: float) -> bool:
        return super().checkpoint(delivery, state.rstrip(), now)


class _ByContent(DeadLetters):
    def keep(self, event: KeptEvent, outcome: DeadLetter, now: float) -> None:
        super().keep(event, outcome, now)
        raw = event.envelope.raw if isinstance(event.envelope, Unreadable) else None
        for kept in list(self._queues[event.queue].values()):
            other = kept.event.envelope
            if kept.event is not event and isinstance(other, Unreadable) and other.raw == raw:
                self.take(kept.entry.ref)


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON)
class HashesForeignDeadLetters(BreakableStore):
    """Dead letters of foreign bytes are identified by a hash, so that equal ones replace each other."""

    def __init__(self) -> None:
        super().__init__()
        self._dead = _ByContent()


_admitted = count(-(10**9))


def _to_the_front(queue: EventQueue, event: KeptEvent, action: Action) -> None:
    if action is Action.COME_DUE and event.is_urgent and event.counters.attempt > 1:
        event.place = next(_admitted)
        queue._rank(event)


@planted_pair(promise.NOBODY_STARVES, patches=at_each_step(_to_the_front))
class PutsNackedUrgentEventsInFront(BreakableStore):
    """An urgent event that is nacked goes in front of the other urgent ones."""


def _before_others(queue: EventQueue, event: KeptEvent, action: Action) -> None:
    if action is Action.COME_DUE and event.counters.lost_leases:
        event.place = next(_admitted)
        queue._rank(event)


@planted_pair(promise.NOBODY_STARVES, patches=at_each_step(_before_others))
class KeepsNackedSuspectsApart(BreakableStore):
    """An event that has lost a lease waits in a queue of its own after a nack, and that queue has precedence."""


@planted_pair(promise.BEGUN_IS_KEPT)
class MovesWhatIsReleased(AlteredStore):
    """A released event is another message, and an excuse of an earlier holder belongs to the message before."""

    def __init__(self) -> None:
        super().__init__()
        self.moved: set[int] = set()

    def begin(self, delivery: Delivery, note: Note, now: float) -> bool:
        is_held = super().begin(delivery, note, now)
        if is_held:
            self.moved.discard(delivery.receipt.number)  # type: ignore[attr-defined]
        return is_held

    def ended(self, event: KeptEvent, outcome: Outcome, now: float) -> None:
        if isinstance(outcome, Release):
            self.moved.add(event.number)

    def excuse(self, delivery: Delivery, note: Note, now: float) -> None:
        if getattr(delivery.receipt, "number", None) not in self.moved:
            super().excuse(delivery, note, now)


@planted_pair(promise.BEGUN_IS_KEPT)
class WritesAnExcuseOverTheLastNote(BreakableStore):
    """A late excuse replaces the note of the process that began the event since."""

    def excuse(self, delivery: Delivery, note: Note, now: float) -> None:
        number = getattr(delivery.receipt, "number", None)
        for _, event in living(self):
            if event.number == number and event.begun is not None:
                event.begun = attrs.evolve(note, excused=True)


@planted_pair(promise.STATS_ARE_TRUE_AT_REST)
class MovesAHundredDueEvents(BreakableStore):
    """Each call moves at most a hundred events that are due from the scheduled to the ready ones."""

    def _at(self, name: str, now: float) -> EventQueue:
        queue = self._queue(name)
        due = [one for one in queue.events.values() if one.status is State.SCHEDULED and one.due <= now]
        for event in due[100:]:
            event.due = now + 0.001
            queue._rank(event)
        queue.pass_time(now)
        return queue


@planted_pair(promise.NACK_RETURNS_LATER)
class GuessesTheTypesOfHeaders(BreakableStore):
    """A delayed retry passes through a queue that takes a header of digits for a number."""

    def _end(self, event: KeptEvent, outcome: Outcome, now: float) -> None:
        if isinstance(outcome, Nack) and outcome.delay and isinstance(event.envelope, Envelope):
            headers = {name: str(int(one)) if one.isdigit() else one for name, one in event.envelope.headers.items()}
            event.envelope = attrs.evolve(event.envelope, headers=headers)
        super()._end(event, outcome, now)


@planted_pair(promise.DELAY_IS_RESPECTED)
class StartsOneTimerForEachDelay(AlteredStore):
    """An event that is sent while another one with the same delay waits becomes due together with it."""

    def posted(self, posting: Posting, now: float) -> Posting:
        waiting = [
            event.due
            for queue, event in living(self)
            if queue.name == posting.queue
            and event.status is State.SCHEDULED
            and abs(event.due - event.enqueued_at - (posting.due - now)) < 0.001
        ]
        return posting._replace(due=min(waiting)) if posting.due > now and waiting else posting


@planted_pair(promise.ACK_IS_FINAL)
class AcksAllUpToTheLast(Altered):
    """Three acks or more in one call are one frame, which also acks what was received before the last of them."""

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        acked = [delivery.receipt for delivery, outcome in settlements if isinstance(outcome, Ack)]
        settled = [delivery.receipt for delivery, _ in settlements]
        held = [(queue, event) for queue, event in living(self.store) if event.status is State.LEASED]
        last = max((event.number for _, event in held if event.receipt in acked), default=0)
        for queue, event in held if len(acked) >= 3 else ():
            if event.number < last and event.receipt not in settled:
                queue.step(event, Action.ACK)
        return super().settle(settlements)


@planted_pair(promise.SENT_IS_RECEIVED)
class RoutesDelayedEventsWhenDue(AlteredStore):
    """A delayed event of a queue that was never set up is dropped when it is due, as there is no route to it."""

    def __init__(self) -> None:
        super().__init__()
        self._declared: set[str] = set()

    def declare(self, queues: Iterable[str], *, dry_run: bool) -> list[str]:
        names = [*queues]
        self._declared |= set() if dry_run else {*names}
        return super().declare(names, dry_run=dry_run)

    def _at(self, name: str, now: float) -> EventQueue:
        queue = self._queue(name)
        if name not in self._declared:
            for event in [one for one in queue.events.values() if one.status is State.SCHEDULED and one.due <= now]:
                queue.step(event, Action.CANCEL)
        return super()._at(name, now)


@planted_pair(promise.EXTEND_KEEPS_THE_LEASE)
class ExtendsTheWholeClaim(BreakableStore):
    """An extension also extends what the same receive handed out."""

    def __init__(self) -> None:
        super().__init__()
        self._claims: dict[int, Sequence[Delivery]] = {}

    def claim(self, queues: Sequence[str], *, limit: int, lease: float, now: float) -> list[Delivery]:
        claimed = super().claim(queues, limit=limit, lease=lease, now=now)
        self._claims |= {id(delivery.receipt): claimed for delivery in claimed}
        return claimed

    def extend(self, deliveries: Sequence[Delivery], *, lease: float, now: float) -> list[Delivery]:
        lost = super().extend(deliveries, lease=lease, now=now)
        others = [one for delivery in deliveries for one in self._claims.get(id(delivery.receipt), ())]
        super().extend([one for one in others if one not in deliveries], lease=lease, now=now)
        return lost


@planted_pair(promise.EXTEND_KEEPS_THE_LEASE)
class ShortensNoLease(BreakableStore):
    """An extension that would end a lease sooner than it ends anyway changes nothing."""

    def extend(self, deliveries: Sequence[Delivery], *, lease: float, now: float) -> list[Delivery]:
        held = {id(one): event for one in deliveries if (event := self._held(one, now)) is not None}
        before = {key: event.until for key, event in held.items()}
        lost = super().extend(deliveries, lease=lease, now=now)
        for key, event in held.items():
            if event.until < before[key]:
                event.until = before[key]
                self._queue(event.queue).step(event, Action.EXTEND)
        return lost


@planted_pair(promise.LOST_LEASE_RETURNS)
class EndsAHundredLeases(BreakableStore):
    """A hundred leases that are over are ended, and the others at the end of the next lease."""

    def _at(self, name: str, now: float) -> EventQueue:
        queue = self._queue(name)
        over = [one for one in queue.events.values() if one.status is State.LEASED and one.until <= now]
        for event in over[100:]:
            event.until = now + 30.0
            queue._rank(event)
        queue.pass_time(now)
        return queue


@planted_pair(promise.LOST_LEASE_RETURNS)
class StartsOneTimerForEachLease(BreakableStore):
    """A receive with the same lease as an earlier one takes over the end of its leases."""

    def __init__(self) -> None:
        super().__init__()
        self._ends: dict[float, float] = {}

    def claim(self, queues: Sequence[str], *, limit: int, lease: float, now: float) -> list[Delivery]:
        if self._ends.get(lease, now) <= now:
            self._ends[lease] = now + lease
        return super().claim(queues, limit=limit, lease=self._ends[lease] - now, now=now)


@planted_pair(promise.DISCARDED_IS_GONE)
class DiscardsUpToTheLast(BreakableStore):
    """Three refs or more in one call discard all dead letters up to the last of them."""

    def discard(self, refs: Iterable[str]) -> list[str]:
        wanted = [*refs]
        missing = super().discard(wanted)
        if len(wanted) >= 3:
            last = max(int(ref.partition("@")[0]) for ref in wanted if ref not in missing)
            queues = {ref.partition("@")[2] for ref in wanted}
            for name in queues:
                for number, kept in list(self._dead._queues.get(name, {}).items()):
                    if number < last:
                        self._dead.take(kept.entry.ref)
        return missing
