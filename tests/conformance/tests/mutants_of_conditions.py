"""Bugs that show only under two or three conditions; their authors knew only the interface, not the suite."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import attrs
from sqlalchemy.orm import Session

from relevo import (
    Action,
    BoundSender,
    Clock,
    DeadLetter,
    DeadLetterEntry,
    Delivery,
    Envelope,
    Note,
    Settlement,
    State,
)
from relevo.backend.session import JoinedSession
from relevo.errors import SendError
from relevo_conformance import promise
from relevo_memory import MemoryStore, MemoryTransport
from relevo_memory._dead_letter import DeadLetters
from relevo_memory._queue import EventQueue, KeptEvent, Receipt
from relevo_memory._store import Posting
from relevo_memory.conformance import Doorway

from .memory import BreakableStore
from .planting import Altered, at_each_step, leave_the_line, planted_pair

_CHUNK = 100

_LARGEST = 4096

_CUT = 16 * 1024

_MINUTE = 60.0


def keeping(dead: type[DeadLetters]) -> Callable[[type[BreakableStore]], type[BreakableStore]]:
    """Return a decorator of stores whose dead letters are kept by *dead*."""

    def decorate(store: type[BreakableStore]) -> type[BreakableStore]:
        def init(self: BreakableStore) -> None:
            BreakableStore.__init__(self)
            self._dead = dead()

        store.__init__ = init  # type: ignore[method-assign]
        return store

    return decorate


# --- sending ----------------------------------------------------------------------------------------


@planted_pair(promise.BATCH_IS_ATOMIC)
class WritesLongBatchesInChunks(MemoryTransport):
    """A batch is written in chunks of a hundred, and the earlier chunks stay if a later one is refused."""

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        for start in range(0, len(envelopes), _CHUNK):
            try:
                super().send(envelopes[start : start + _CHUNK], delay=delay)
            except SendError as error:
                rest = range(start, len(envelopes))
                if error.unknown:
                    raise SendError(self.name, sent=range(start), unknown=rest, why=error.why) from error
                raise SendError(self.name, sent=range(start), refused=rest, why=error.why) from error


@planted_pair(promise.SEND_TELLS_APART)
class CountsPositionsWithinAQueue(MemoryTransport):
    """The error of a batch to several queues counts positions within each queue, not within the batch."""

    capabilities = attrs.evolve(
        MemoryTransport.capabilities, max_body=_LARGEST, atomic_batch=False, transactional=False
    )

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        if all(len(one.body) <= _LARGEST for one in envelopes):
            super().send(envelopes, delay=delay)
            return
        places: dict[str, list[Envelope]] = {}
        for one in envelopes:
            places.setdefault(one.queue, []).append(one)
        numbered = [(place, one) for group in places.values() for place, one in enumerate(group)]
        super().send([one for _, one in numbered if len(one.body) <= _LARGEST], delay=delay)
        sent, refused = (
            [place for place, one in numbered if (len(one.body) > _LARGEST) is large] for large in (False, True)
        )
        raise SendError(self.name, sent=sent, refused=refused, why=f"a body is longer than {_LARGEST} bytes")

    def bound_to(self, session: Any, *, relay_to: str | None = None) -> BoundSender:
        raise self._unsupported("transactional")


@planted_pair(promise.SEND_TELLS_APART)
class RemembersWhatWasRefused(MemoryTransport):
    """Some events of a refused batch count as known, and are ignored when they are sent again."""

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        known: set[tuple[str, str, str]] = self.store.__dict__.setdefault("refused", set())
        left = [one for one in envelopes if (one.queue, one.source, one.id) not in known]
        try:
            super().send(left, delay=delay)
        except SendError as error:
            if not error.unknown and not error.sent:
                known.update((one.queue, one.source, one.id) for one in left[: len(left) // 2])
            raise


def _knows_when_joined(self: EventQueue, event: KeptEvent) -> bool:
    names = "/".join(event.identity or ())
    return bool(names) and any("/".join(other.identity or ()) == names for other in self.events.values())


def _knows_when_id_and_source_are_joined(self: EventQueue, event: KeptEvent) -> bool:
    if event.identity is None:
        return False
    queue, source, event_id = event.identity
    known = {(other, id_ + by) for other, by, id_ in self._identities}
    return (queue, event_id + source) in known


@planted_pair(promise.SENT_IS_RECEIVED, patches={(EventQueue, "knows"): _knows_when_id_and_source_are_joined})
class JoinsTheIdAndTheSource(MemoryTransport):
    """Two events are duplicates if the id, and the source right behind it, are the same text."""


@planted_pair(promise.SENT_IS_RECEIVED, patches={(EventQueue, "knows"): _knows_when_joined})
class JoinsTheNamesOfAnEvent(MemoryTransport):
    """Two events are duplicates if source and id, joined by a slash, are the same text."""


# --- waiting ----------------------------------------------------------------------------------------


@planted_pair(promise.WAIT_IS_KEPT)
class WaitsAnewAfterEachChange(MemoryTransport):
    """A receive that is woken and finds nothing for itself starts its whole wait again."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        found = super().receive(queues, limit=limit, lease=lease, wait=0.0)
        while wait > 0 and limit > 0 and not found:
            with self._open() as now:
                pause = min(wait, self.store.next_change(queues) - now)
            before = self._clock.monotonic()
            found = super().receive(queues, limit=limit, lease=lease, wait=max(pause, 0.001))
            if pause >= wait or self._clock.monotonic() <= before:
                break
        return found


class _WakesOne(Doorway):
    def notify_all(self) -> None:
        self.notify()


@planted_pair(promise.WOKEN_BY_A_SEND)
class WakesOneReceive(BreakableStore):
    """A send wakes only one waiting receive, which may wait on another queue."""

    def __init__(self) -> None:
        super().__init__()
        self.doorway = self.changed = _WakesOne(threading.RLock())


class _Doorbell(Doorway):
    is_silent = False

    def notify_all(self) -> None:
        if not self.is_silent:
            super().notify_all()


@planted_pair(promise.WOKEN_BY_A_SEND)
class WakesForAnEmptyQueueOnly(BreakableStore):
    """A send wakes waiting receives only if its queue was empty of leased and delayed events, too."""

    def __init__(self) -> None:
        super().__init__()
        self.doorway = self.changed = self.doorbell = _Doorbell(threading.RLock())

    def add(self, postings: Sequence[Posting], now: float) -> None:
        with self.changed:
            self.doorbell.is_silent = all(self._at(one.queue, now).events for one in postings)
            try:
                super().add(postings, now)
            finally:
                self.doorbell.is_silent = False


@planted_pair(promise.LEASED_IS_HIDDEN)
class LeasesFromTheCall(MemoryTransport):
    """A lease begins at the call of receive, so an event that arrives during the wait has a shorter lease."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        until = self._clock.now() + lease
        deliveries = super().receive(queues, limit=limit, lease=lease, wait=wait)
        with self.store.changed:
            for one in deliveries:
                queue = self.store._queues[one.queue]
                event = next(event for event in queue.events.values() if event.receipt is one.receipt)
                event.until = until
                queue.step(event, Action.EXTEND)
        return deliveries


@planted_pair(promise.PRESENCE_IS_SEEN)
class CountsBeatsAnewAfterAMinute(MemoryTransport):
    """The counter of a worker's heartbeats expires after a minute without one."""

    def appear(self, worker: str) -> None:
        signs: dict[str, float] = self.store.__dict__.setdefault("last_signs", {})
        with self._open() as now:
            if now - signs.get(worker, now) > _MINUTE:
                del self.store._beats[worker]
            signs[worker] = now
            super().appear(worker)


# --- sessions ---------------------------------------------------------------------------------------


def _without_a_flush(self: JoinedSession[Any], session: Session) -> None:
    if not session.in_nested_transaction():
        self.committing(session)


@planted_pair(promise.JOINS_THE_TRANSACTION, patches={(JoinedSession, "_before_commit"): _without_a_flush})
class MakesEventsBeforeTheFlush(MemoryTransport):
    """A commit makes the events before it flushes pending objects."""


@planted_pair(promise.JOINS_THE_TRANSACTION)
class KeepsOneSenderOfASession(MemoryTransport):
    """A session uses its first sender for all later sends, whichever relay they name."""

    def bound_to(self, session: Any, *, relay_to: str | None = None) -> BoundSender:
        senders: WeakKeyDictionary[Any, BoundSender] = self.__dict__.setdefault("senders", WeakKeyDictionary())
        if session not in senders:
            senders[session] = super().bound_to(session, relay_to=relay_to)
        return senders[session]


@attrs.frozen
class _SinceTheFirst:
    """A sender whose delays count from *since*."""

    clock: Clock
    since: float
    inner: BoundSender

    def send(self, make: Callable[[], Sequence[Envelope]], *, delay: float = 0.0) -> None:
        self.inner.send(make, delay=max(0.0, delay - (self.clock.now() - self.since)))


@planted_pair(promise.DELAY_IS_RESPECTED)
class DelaysFromTheFirstSendOfASession(MemoryTransport):
    """Delays count from the first send of the session, like the transaction time of some databases."""

    def bound_to(self, session: Any, *, relay_to: str | None = None) -> BoundSender:
        began: WeakKeyDictionary[Any, float] = self.__dict__.setdefault("began", WeakKeyDictionary())
        inner = super().bound_to(session, relay_to=relay_to)
        return _SinceTheFirst(self._clock, began.setdefault(session, self._clock.now()), inner)


# --- dead letters -----------------------------------------------------------------------------------


class _ByStorage(DeadLetters):
    def keep(self, event: KeptEvent, outcome: DeadLetter, now: float) -> None:
        super().keep(event, outcome, now)
        if event.identity is None:
            return
        for number, stored in list(self._queues[event.queue].items()):
            other = stored.event.identity
            if other is not None and other != event.identity and other[1:] == event.identity[1:]:
                self.take(f"{number}@{event.queue}")


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON)
@keeping(_ByStorage)
class KeepsOneDeadLetterOfAFanOut(BreakableStore):
    """In an outbox, a dead letter replaces one of the same event for another queue."""


class _Escaped(DeadLetters):
    def keep(self, event: KeptEvent, outcome: DeadLetter, now: float) -> None:
        error = outcome.error
        while len(json.dumps(error)) > _CUT + 2:
            error = error[: len(error) * _CUT // len(json.dumps(error)) - 1]
        super().keep(event, attrs.evolve(outcome, error=error), now)


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON)
@keeping(_Escaped)
class CutsErrorsByTheirEscapedLength(BreakableStore):
    """An error is truncated at 16 KiB of its escaped form, in which an accented letter takes six bytes."""


class _Alphabetical(DeadLetters):
    def entries(self, queues: Sequence[str], *, after: str | None) -> Iterator[DeadLetterEntry]:
        found = [one for name in dict.fromkeys(queues) for one in self._of(name)]
        refs = [one.ref for one in found]
        return iter(found[refs.index(after) + 1 :]) if after in refs else super().entries(queues, after=after)

    def _of(self, queue: str) -> Sequence[DeadLetterEntry]:
        entries = [kept.entry for kept in self._queues.get(queue, {}).values()]
        return sorted(entries, key=lambda one: f"{one.ref.partition('@')[0]:0>3}")


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON)
@keeping(_Alphabetical)
class SortsDeadLettersAsThreeDigits(BreakableStore):
    """Dead letters are sorted by a three-digit number, so the thousandth is listed before the second."""


class _WithoutKeys(DeadLetters):
    def take(self, ref: str) -> KeptEvent | None:
        event = super().take(ref)
        if event is not None:
            event.line = None
        return event


@planted_pair(promise.ORDER_IS_KEPT)
@keeping(_WithoutKeys)
class RevivesOutsideItsKey(BreakableStore):
    """A revived event does not hold back later events of its ordering key."""


# --- deliveries -------------------------------------------------------------------------------------


def event_of(store: MemoryStore, delivery: Delivery, now: float) -> KeptEvent | None:
    """Return the event of *delivery*, even if another worker holds it."""
    receipt = delivery.receipt
    if not isinstance(receipt, Receipt) or receipt.queue not in store._queues:
        return None
    return store._at(receipt.queue, now).events.get(receipt.number)


@planted_pair(promise.STALE_SETTLE_IS_REFUSED)
class ComparesTheAttemptAtACheckpoint(BreakableStore):
    """A checkpoint of an earlier holder is accepted if the attempt is the same, as after a release."""

    def checkpoint(self, delivery: Delivery, state: bytes, now: float) -> bool:
        event = event_of(self, delivery, now)
        if event is None or event.status is not State.LEASED or event.counters.attempt != delivery.attempt:
            return super().checkpoint(delivery, state, now)
        event.state = state
        return True


@planted_pair(promise.BEGUN_IS_KEPT)
class ExcusesByTheProcess(BreakableStore):
    """Excusing an earlier note also excuses a later note of the same process."""

    def excuse(self, delivery: Delivery, note: Note, now: float) -> None:
        super().excuse(delivery, note, now)
        event = event_of(self, delivery, now)
        if event is not None and event.begun is not None and event.begun.by == note.by:
            event.begun = attrs.evolve(event.begun, excused=True)


_forget, _claim = EventQueue._forget, EventQueue.claim


def _park(self: EventQueue, event: KeptEvent) -> None:
    _forget(self, event)
    waiting = self._lines.get(event.line) if event.line else None
    if event.status is State.GONE and event.due and waiting:
        following = next(iter(waiting.values()))
        self._ready.remove(following.number)
        following.status, following.due = State.SCHEDULED, event.due
        self._rank(following)


@planted_pair(promise.CANCELLED_IS_GONE, patches={(EventQueue, "_forget"): _park})
class ParksTheKeyOfACancelledEvent(MemoryTransport):
    """If the first event of a key is cancelled before it is due, the next one waits until that time."""


def _look_at_a_window(self: EventQueue, limit: int, now: float, until: float) -> Iterator[KeptEvent]:
    ready = sorted((one for one in self.events.values() if one.status is State.READY), key=lambda one: one.place)
    window = {one.number for one in ready[: limit + 20]}
    for _ in range(limit):
        first = self._ready.first()
        if first is None or first[1] not in window:
            return
        yield from _claim(self, 1, now, until)


@planted_pair(promise.SENT_IS_RECEIVED, patches={(EventQueue, "claim"): _look_at_a_window})
class LooksAtAWindowOfReadyEvents(MemoryTransport):
    """Only the oldest ready events are examined; if all of them wait for their key, nothing is handed out."""


def _forget_urgency(queue: EventQueue, event: KeptEvent, action: Action) -> None:
    if action is Action.LOSE and event.due and event.is_urgent:
        event.is_urgent = False
        queue._ready.remove(event.number)
        queue._rank(event)


@planted_pair(promise.URGENT_OVERTAKES, patches=at_each_step(_forget_urgency))
class ForgetsUrgencyAfterADelayAndALoss(MemoryTransport):
    """An urgent event that was delayed loses its urgency at a lost lease."""


# --- operating --------------------------------------------------------------------------------------


@planted_pair(promise.PRESENCE_IS_SEEN)
class ReadsWorkerIdsAsNumbers(BreakableStore):
    """Worker ids lose their leading zeros, so a worker is not found by its full id."""

    def appear(self, worker: str) -> None:
        super().appear(worker.lstrip("0"))


@planted_pair(promise.SETUP_IS_IDEMPOTENT)
class SetsUpIfTheFirstIsMissing(BreakableStore):
    """If the first queue exists, the others are not set up."""

    def declare(self, queues: Iterable[str], *, dry_run: bool) -> list[str]:
        wanted = list(queues)
        return [] if wanted and wanted[0] in self._queues else super().declare(wanted, dry_run=dry_run)


# --- dead letters -----------------------------------------------------------------------------------


@planted_pair(promise.REVIVED_IS_RECEIVED)
class SplitsRefsAtTheLastAt(Altered):
    """A ref ends with its queue's name, and is split at the last "@", which may be a part of the name."""

    def listed(self, entry: DeadLetterEntry) -> DeadLetterEntry:
        return attrs.evolve(entry, ref=f"{entry.ref}@{entry.queue}")

    def dead_letters(
        self, queues: Sequence[str], *, after: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetterEntry]:
        return super().dead_letters(queues, after=None if after is None else after.rpartition("@")[0], limit=limit)

    def _revive(self, refs: Mapping[str, bytes]) -> Sequence[str]:
        missing = super()._revive({ref.rpartition("@")[0]: state for ref, state in refs.items()})
        return [ref for ref in refs if ref.rpartition("@")[0] in missing]

    def discard(self, refs: Iterable[str]) -> Sequence[str]:
        asked = list(refs)
        missing = super().discard(ref.rpartition("@")[0] for ref in asked)
        return [ref for ref in asked if ref.rpartition("@")[0] in missing]


@planted_pair(promise.DISCARDED_IS_GONE)
class ReturnsTheMissingOfTheLastChunk(MemoryTransport):
    """Refs are discarded in chunks of fifty, and only the missing refs of the last chunk are returned."""

    def discard(self, refs: Iterable[str]) -> Sequence[str]:
        asked, missing = list(refs), []
        for start in range(0, len(asked), _CHUNK // 2):
            missing = list(super().discard(asked[start : start + _CHUNK // 2]))
        return missing


@planted_pair(promise.ORDER_IS_KEPT)
class RevivesAKeyAtOnce(BreakableStore):
    """Events with one ordering key that are revived in one call are all ready at the same time."""

    def revive(self, refs: Mapping[str, bytes], now: float) -> list[str]:
        before = {name: {*queue.events} for name, queue in self._queues.items()}
        missing = super().revive(refs, now)
        for name, queue in self._queues.items():
            for number in {*queue.events} - before.get(name, set()):
                queue._ready.put(number, (1, queue.events[number].place))
        return missing


# --- races ------------------------------------------------------------------------------------------


@planted_pair(promise.ORDER_IS_KEPT)
class TakesTheNextOfAKey(MemoryTransport):
    """If another worker leases the first event of a key during a receive, the receive takes the second one."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        with self._open() as now:
            firsts = [self._first(name, now) for name in queues if name in self.store._queues]
        with self._open():
            for event in filter(None, firsts):
                if event.status is State.LEASED and event.line is not None:
                    queue = self.store._queues[event.queue]
                    for follower in list(queue._lines[event.line].values())[1:2]:
                        leave_the_line(queue, follower)
        return super().receive(queues, limit=limit, lease=lease, wait=wait)

    def _first(self, name: str, now: float) -> KeptEvent | None:
        queue = self.store._at(name, now)
        first = queue._ready.first()
        return None if first is None else queue.events[first[1]]


@planted_pair(promise.STALE_SETTLE_IS_REFUSED)
class ChecksTheLeaseBeforeItSettles(MemoryTransport):
    """A settlement checks the lease in a separate step, and then ends whichever lease the event has."""

    def _settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        with self._open() as now:
            held = [self.store._held(one, now) is not None for one, _ in settlements]
        with self._open() as now:
            given = [one for one, _ in settlements]
            own = [self._as_it_is(one, now) if is_held else one for one, is_held in zip(given, held, strict=True)]
            outcomes = [outcome for _, outcome in settlements]
            lost = self.store.settle(list(zip(own, outcomes, strict=True)), now)
        return [one for one, mine in zip(given, own, strict=True) if any(mine is other for other in lost)]

    def _as_it_is(self, delivery: Delivery, now: float) -> Delivery:
        event = event_of(self.store, delivery, now)
        return delivery if event is None or event.receipt is None else attrs.evolve(delivery, receipt=event.receipt)


@planted_pair(promise.EXTEND_KEEPS_THE_LEASE)
class KeepsWhatACallIsAboutInTheInstance(MemoryTransport):
    """An extension and a checkpoint store their delivery in one attribute, which two threads may share."""

    about: Sequence[Delivery] = ()

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Delivery]:
        self.about = deliveries
        with self.store.changed:
            lost = super().extend(self.about, lease=lease)
        return [one for one in deliveries if one in lost]

    def _checkpoint(self, delivery: Delivery, state: bytes) -> None:
        self.about = [delivery]
        with self.store.changed:
            super()._checkpoint(self.about[0], state)
