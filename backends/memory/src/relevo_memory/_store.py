"""The store: the events of all queues, as on a server."""

from __future__ import annotations

import itertools
import math
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, NamedTuple

import attrs

from relevo import (
    MAX_DEATHS,
    Action,
    DeadLetter,
    DeadLetterEntry,
    DeadLetterFilter,
    Delivery,
    Envelope,
    EventFilter,
    EventGroup,
    Found,
    Lost,
    Nack,
    Note,
    Outcome,
    Presence,
    Release,
    Settlement,
    State,
    Stats,
    StuckKey,
    StuckKeys,
    Unreadable,
    WaitingEntry,
    action_of,
    after,
)
from relevo.errors import ConfigurationError, shown
from relevo_memory._dead_letter import MANY_DIGITS, DeadLetters
from relevo_memory._locks import FiredSchedules, KeptControls, KeptLimits, Locks
from relevo_memory._queue import EventQueue, KeptEvent, Receipt
from relevo_memory._unique import PostedClaim, UniqueKeys

_NO_HEADERS: Mapping[str, str] = Envelope(id="", source="", name="", body=b"").headers
"""The headers of an envelope without headers; immutable."""

_ALIVE: Mapping[State, Literal["ready", "leased", "scheduled"]] = {
    State.READY: "ready",
    State.LEASED: "leased",
    State.SCHEDULED: "scheduled",
}


def taken_over(envelope: Envelope) -> Envelope:
    """Return *envelope* with immutable headers, as if they had been serialised."""
    if envelope.headers is _NO_HEADERS:
        return envelope
    return attrs.evolve(envelope, headers=MappingProxyType(dict(envelope.headers)) if envelope.headers else _NO_HEADERS)


def _found(event: KeptEvent) -> Found | None:
    """Return *event* for display; ``None`` if it is unreadable."""
    if not isinstance(event.envelope, Envelope):
        return None
    return Found(
        queue=event.queue,
        envelope=event.envelope,
        status=_ALIVE[event.status],
        attempt=event.counters.attempt,
        lost_leases=event.counters.lost_leases,
        state=event.state,
        enqueued_at=event.enqueued_at,
        until={State.LEASED: event.until, State.SCHEDULED: event.due}.get(event.status),
        begun=event.begun,
    )


def _entry(event: KeptEvent, found: Found) -> WaitingEntry:
    """Return *event*, which is *found*, for a list."""
    return WaitingEntry(
        **attrs.asdict(found, recurse=False),
        cursor=f"{event.number}@{event.queue}",
        leased_at=event.leased_at if event.status is State.LEASED else None,
    )


def _name(entry: DeadLetterEntry) -> str | None:
    return entry.envelope.name if isinstance(entry.envelope, Envelope) else None


def _is_wanted(entry: DeadLetterEntry, where: DeadLetterFilter) -> bool:
    return where.matches(name=_name(entry), reason=entry.reason, died_at=entry.died_at)


def _grouped(keys: Iterable[tuple[str, float]]) -> list[EventGroup]:
    """Return a group for each of *keys*, which come with the times of their members; the largest first."""
    times: defaultdict[str, list[float]] = defaultdict(list)
    for key, at in keys:
        times[key].append(at)
    groups = [EventGroup(key=key, count=len(at), oldest=min(at), newest=max(at)) for key, at in times.items()]
    return sorted(groups, key=lambda group: (-group.count, group.key))


class Posting(NamedTuple):
    """One envelope on its way into the store."""

    queue: str
    """Where it is stored; in an outbox not the envelope's own queue."""

    envelope: Envelope
    due: float
    """Seconds since the epoch; it is not handed out earlier."""

    claim: PostedClaim | None = None
    """The claim of its event on a unique key; the copies of an event have the same one."""


class MemoryStore:
    """
    Events in this process's memory, shared by any number of transports.

    It is to :class:`MemoryTransport` what a server is to other transports: it stores the events, manages their leases,
    and has no clock and no name, and never waits. Every method that depends on the time takes it as an argument, in
    seconds since the epoch. Every method holds :attr:`changed`, and notifies it when something may have become ready.
    """

    def __init__(self) -> None:
        # Re-entrant: a signal handler may close a transport in the thread that holds it.
        self.changed = threading.Condition(threading.RLock())
        self._queues: dict[str, EventQueue] = {}
        self._dead = DeadLetters()
        self._numbers = itertools.count()
        self._foreign: list[tuple[str, Unreadable]] = []
        self._beats: Counter[str] = Counter()
        self._announcements: dict[str, tuple[bytes, float]] = {}
        self.locks = Locks()
        self.schedules = FiredSchedules()
        self.controls = KeptControls()
        self.limits = KeptLimits()
        self._unique = UniqueKeys(self._lives)

    def declare(self, queues: Iterable[str], *, dry_run: bool) -> list[str]:
        """Create the queues that are missing; return their names."""
        with self.changed:
            missing = [name for name in dict.fromkeys(queues) if name not in self._queues]
            if not dry_run:
                for name in missing:
                    self._queue(name)
            return missing

    def put_raw(self, queue: str, raw: bytes, headers: Mapping[str, str] = _NO_HEADERS) -> None:
        """
        Store bytes that are not an envelope, as another program would.

        They are handed out as :class:`Unreadable`. They have no time of their own, and get that of the first access to
        the store.
        """
        foreign = Unreadable(
            raw=raw, headers=MappingProxyType(dict(headers)), why="bytes put into the store, not an envelope"
        )
        with self.changed:
            self._foreign.append((queue, foreign))
            self.changed.notify_all()

    def add(self, postings: Sequence[Posting], now: float) -> None:
        """
        Store *postings*, except for those whose claim is not granted.

        An event that is alive in its queue already stays unchanged.
        """
        with self.changed:
            if self._foreign:
                self._take_foreign(now)
            queues: dict[str, EventQueue] = {}
            for name, envelope, due, claim in postings:
                if claim is not None and not self._unique.grants(claim, envelope, now):
                    continue
                queue = queues.get(name) or queues.setdefault(name, self._at(name, now))
                status = State.SCHEDULED if due > now else State.READY
                event = KeptEvent(next(self._numbers), name, taken_over(envelope), now, status, due=due)
                if not queue.knows(event):
                    queue.admit(event)
            self.changed.notify_all()

    def _lives(self, source: str, event_id: str) -> bool:
        return any(queue.holds(source, event_id) for queue in self._queues.values())

    def claim(self, queues: Sequence[str], *, limit: int, lease: float, now: float) -> list[Delivery]:
        """Lease up to *limit* ready events: first all of the first of *queues*, then of the next."""
        with self.changed:
            self._take_foreign(now)
            taken: list[Delivery] = []
            for name in queues:
                if name in self._queues and len(taken) < limit:
                    claimed = self._at(name, now).claim(limit - len(taken), now, now + lease)
                    taken.extend(event.delivery() for event in claimed)
            return taken

    def take(self, name: str, event_id: str, *, lease: float, now: float) -> list[Delivery]:
        """Lease the events of *event_id* in the queue *name* that can be leased, also before they are due."""
        with self.changed:
            if name not in self._queues:
                return []
            return [event.delivery() for event in self._at(name, now).take(event_id, now, now + lease)]

    def next_change(self, queues: Sequence[str]) -> float:
        """Return when the next lease or delay in *queues* ends; infinity if there is none."""
        with self.changed:
            known = (self._queues[name] for name in queues if name in self._queues)
            return min((queue.next_change() for queue in known), default=float("inf"))

    def settle(self, settlements: Sequence[Settlement], now: float) -> list[Delivery]:
        """Apply each of *settlements*; return the deliveries that are no longer held."""
        with self.changed:
            self.changed.wait_for(lambda: not any(self._is_pinned(delivery) for delivery, _ in settlements))
            lost = []
            for delivery, outcome in settlements:
                event = self._held(delivery, now)
                if event is None:
                    lost.append(delivery)
                else:
                    self._end(event, outcome, now)
            self.changed.notify_all()
            return lost

    def extend(self, deliveries: Sequence[Delivery], *, lease: float, now: float) -> list[Delivery]:
        """Let each lease end *lease* seconds from *now*; return the deliveries that are no longer held."""
        with self.changed:
            lost = []
            for delivery in deliveries:
                event = self._held(delivery, now)
                if event is None:
                    lost.append(delivery)
                elif event.unpinned_until is not None:
                    event.unpinned_until = now + lease
                else:
                    event.until = now + lease
                    self._queue(event.queue).step(event, Action.EXTEND)
            # Threads that wait for the end of a lease have to compute it again.
            self.changed.notify_all()
            return lost

    def checkpoint(self, delivery: Delivery, state: bytes, now: float) -> bool:
        """Keep *state* with *delivery*; return whether it is still held."""
        with self.changed:
            event = self._held(delivery, now)
            if event is None:
                return False
            event.state = state
            self._queue(event.queue).step(event, Action.CHECKPOINT)
            return True

    def holds(self, delivery: Delivery, now: float) -> bool:
        """Return whether *delivery* is held."""
        with self.changed:
            return self._held(delivery, now) is not None

    def pin(self, delivery: Delivery, now: float) -> bool:
        """Keep *delivery* leased until :meth:`unpin`, which a settlement waits for; return whether it is still held."""
        with self.changed:
            event = self._held(delivery, now)
            if event is None:
                return False
            event.unpinned_until, event.until = event.until, math.inf
            self._queue(event.queue).step(event, Action.EXTEND)
            return True

    def unpin(self, delivery: Delivery, now: float) -> None:
        """Let the lease of *delivery* end as it would have ended without :meth:`pin`."""
        with self.changed:
            event = self._held(delivery, now)
            if event is not None and event.unpinned_until is not None:
                event.until, event.unpinned_until = event.unpinned_until, None
                self._queue(event.queue).step(event, Action.EXTEND)
            self.changed.notify_all()

    def _is_pinned(self, delivery: Delivery) -> bool:
        receipt = delivery.receipt
        if not isinstance(receipt, Receipt) or receipt.queue not in self._queues:
            return False
        event = self._queues[receipt.queue].events.get(receipt.number)
        return event is not None and event.receipt is receipt and event.unpinned_until is not None

    def begin(self, delivery: Delivery, note: Note, now: float) -> bool:
        """Keep *note* and its deaths with *delivery*; return whether it is still held."""
        with self.changed:
            event = self._held(delivery, now)
            if event is None:
                return False
            event.begun, event.deaths = note, note.deaths[-MAX_DEATHS:]
            return True

    def excuse(self, delivery: Delivery, note: Note, now: float) -> None:
        """Mark *note* as excused if it is still the last one, even if another worker holds the event."""
        receipt = delivery.receipt
        with self.changed:
            if isinstance(receipt, Receipt) and receipt.queue in self._queues:
                event = self._at(receipt.queue, now).events.get(receipt.number)
                if event is not None and event.begun == note:
                    event.begun = attrs.evolve(note, excused=True)

    def appear(self, worker: str) -> None:
        """Count a heartbeat of *worker*."""
        with self.changed:
            self._beats[worker] += 1

    def presence(self, workers: Iterable[str]) -> dict[str, Presence]:
        """Return the heartbeats of *workers*, without those that sent none."""
        with self.changed:
            return {worker: Presence(beats=self._beats[worker]) for worker in workers if worker in self._beats}

    def announce(self, worker: str, about: bytes, *, until: float) -> None:
        """Keep what *worker* announces about itself until that time."""
        with self.changed:
            self._announcements[worker] = about, until

    def workers(self, now: float) -> dict[str, bytes]:
        """Return the announcements that have not expired."""
        with self.changed:
            self.forget_announcements(now)
            return {who: about for who, (about, _) in self._announcements.items()}

    def forget_announcements(self, now: float) -> None:
        """Forget the announcements that have expired, so that a clock that is set back brings none of them back."""
        with self.changed:
            self._announcements = {who: entry for who, entry in self._announcements.items() if entry[1] > now}

    def stats(self, name: str, now: float) -> Stats:
        """Return the figures of the queue *name*; all are 0 if it was never used."""
        with self.changed:
            self._take_foreign(now)
            dead = self._dead.count(name)
            if name not in self._queues:
                return Stats(ready=0, leased=0, scheduled=0, dead=dead)
            queue = self._at(name, now)
            sent = (event.enqueued_at for event in queue.events.values() if event.status is State.READY)
            oldest = min(sent, default=None)
            return Stats(
                ready=queue.ready,
                leased=queue.leased,
                scheduled=queue.scheduled,
                dead=dead,
                oldest_age=None if oldest is None else max(0.0, now - oldest),
            )

    def dead_letters(
        self, queues: Sequence[str], *, after: str | None, limit: int, where: DeadLetterFilter | None = None
    ) -> list[DeadLetterEntry]:
        """Return up to *limit* of the dead letters that match *where*, queue by queue, the oldest first."""
        with self.changed:
            entries = self._dead.entries(queues, after=after)
            wanted = entries if where is None else (one for one in entries if _is_wanted(one, where))
            return list(itertools.islice(wanted, max(0, min(limit, sys.maxsize))))

    def revive(self, refs: Mapping[str, bytes], now: float) -> list[str]:
        """
        Make dead letters ready again with the state given for each; return the refs that were not revived.

        If the same event was sent again meanwhile and is alive, it stays unchanged and the dead letter is removed: the
        living event started from the beginning, so it does all that the revived one would. If the living event has
        another content, the dead letter stays.
        """
        return self.revive_later(refs, now, due=now)

    def revive_later(self, refs: Mapping[str, bytes], now: float, *, due: float) -> list[str]:
        """Do as :meth:`revive`, but schedule those that are *due* later than *now*."""
        with self.changed:
            missing = []
            for ref, state in refs.items():
                event = self._dead.find(ref)
                if event is None or self._at(event.queue, now).knows_other(event):
                    missing.append(ref)
                    continue
                self._dead.take(ref)
                queue = self._at(event.queue, now)
                if not queue.knows(event):
                    event.status = after(event.status, Action.REVIVE)
                    if due > now:  # as a new event that is sent with a delay
                        event.status, event.due = State.SCHEDULED, due
                    event.counters = event.counters.after(Action.REVIVE)
                    event.begun, event.deaths = None, ()
                    event.state = state
                    queue.admit(event)
            self.changed.notify_all()
            return missing

    def discard(self, refs: Iterable[str]) -> list[str]:
        """Delete dead letters; return the refs that were not found."""
        with self.changed:
            missing = []
            for ref in refs:
                event = self._dead.take(ref)
                if event is None:
                    missing.append(ref)
                else:
                    event.status = after(event.status, Action.DISCARD)
            return missing

    def cancel(self, event_id: str, now: float) -> int:
        """Remove the events of *event_id* that no worker holds, in all queues; return how many."""
        with self.changed:
            return sum(self._take_out(name, now, event_id) for name in tuple(self._queues))

    def find(self, event_id: str, now: float) -> list[Found]:
        """Return the living events of *event_id* in all queues."""
        with self.changed:
            living = (found for name in tuple(self._queues) for _, found in self._living(name, now))
            return [found for found in living if found.envelope.id == event_id]

    def waiting(
        self, queues: Sequence[str], *, where: EventFilter, after: str | None, limit: int, now: float
    ) -> list[WaitingEntry]:
        """
        Return up to *limit* of the living events of *queues* that match *where*, in the order of their numbers.

        Raises:
            ConfigurationError: *after* is not a cursor of one of *queues*.
        """
        wanted = list(dict.fromkeys(queues))
        seen = -1
        if after is not None:
            number, _, queue = after.partition("@")
            if not (number.isascii() and number.isdigit() and len(number) < MANY_DIGITS and queue in wanted):
                known = ", ".join(f'"{name}"' for name in wanted)
                raise ConfigurationError(f"{shown(after)} is not a cursor of {known}; give one that was returned")
            wanted, seen = wanted[wanted.index(queue) :], int(number)
        with self.changed:
            entries: list[WaitingEntry] = []
            for name in wanted:
                # By number, which a revived event keeps.
                living = sorted(self._living(name, now), key=lambda pair: pair[0].number)
                entries += [_entry(event, one) for event, one in living if event.number > seen and where.matches(one)]
                seen = -1
            return entries[: max(0, limit)]

    def groups(self, queues: Sequence[str], *, by: str, where: EventFilter, now: float) -> list[EventGroup]:
        """Count the living events of *queues* that match *where*."""
        with self.changed:
            living = [found for name in dict.fromkeys(queues) for _, found in self._living(name, now)]
            return _grouped(
                ({"event": one.envelope.name, "queue": one.queue, "state": one.status}[by], one.enqueued_at)
                for one in living
                if where.matches(one)
            )

    def dead_groups(self, queues: Sequence[str], *, by: str, where: DeadLetterFilter) -> list[EventGroup]:
        """Count the dead letters of *queues* that match *where*."""
        with self.changed:
            return _grouped(
                ({"event": _name(one) or "", "queue": one.queue, "reason": one.reason}[by], one.died_at)
                for one in self._dead.entries(queues, after=None)
                if _is_wanted(one, where)
            )

    def stuck_keys(self, queues: Sequence[str], *, longer: float, limit: int, now: float) -> StuckKeys:
        """
        Return the stuck ordering keys of *queues*, those stuck the longest first.

        Raises:
            ConfigurationError: *longer* is not a number.
        """
        if math.isnan(longer):
            raise ConfigurationError("longer: expected seconds; got nan")
        with self.changed:
            keys = [
                StuckKey(
                    queue=name,
                    key=key,
                    waiting=len(due),
                    since=min(max(event.enqueued_at, event.due) for event in due),
                    first=_entry(first, found),
                )
                for name in dict.fromkeys(queues)
                if name in self._queues
                for (_, key), first, due in self._at(name, now).stuck(now, longer)
                if (found := _found(first)) is not None
            ]
            keys.sort(key=lambda one: one.since)
            return StuckKeys(keys=tuple(keys[: max(0, limit)]), total=len(keys))

    def purge(self, name: str, now: float) -> int:
        """Remove the events of the queue *name* that no worker holds; return how many."""
        with self.changed:
            self._take_foreign(now)
            return self._take_out(name, now)

    def _living(self, name: str, now: float) -> Iterator[tuple[KeptEvent, Found]]:
        """Yield the readable events of the queue *name* that are neither done nor dead."""
        if name in self._queues:
            for event in self._at(name, now).events.values():
                if (found := _found(event)) is not None:
                    yield event, found

    def _queue(self, name: str) -> EventQueue:
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = EventQueue(name)
        return queue

    def _at(self, name: str, now: float) -> EventQueue:
        queue = self._queue(name)
        queue.pass_time(now)
        return queue

    def _take_foreign(self, now: float) -> None:
        if not self._foreign:
            return
        foreign, self._foreign = self._foreign, []
        for name, unreadable in foreign:
            number = next(self._numbers)
            event = KeptEvent(number=number, queue=name, envelope=unreadable, enqueued_at=now, status=State.READY)
            self._at(name, now).admit(event)

    def _held(self, delivery: Delivery, now: float) -> KeptEvent | None:
        receipt = delivery.receipt
        if not isinstance(receipt, Receipt) or receipt.queue not in self._queues:
            return None
        event = self._at(receipt.queue, now).events.get(receipt.number)
        return event if event is not None and event.receipt is receipt else None

    def _end(self, event: KeptEvent, outcome: Outcome, now: float) -> None:
        if isinstance(outcome, (Nack, DeadLetter, Lost)) and outcome.state is not None:
            event.state = outcome.state
        if isinstance(outcome, (Nack, Release)):
            event.due = now + max(0.0, outcome.delay)
        if isinstance(outcome, Lost) and outcome.death is not None:
            event.begun, event.deaths = None, (*event.deaths, outcome.death)[-MAX_DEATHS:]
        if isinstance(outcome, DeadLetter):
            # First stored as a dead letter, then removed: after an error in between it is not lost.
            self._dead.keep(event, outcome, now)
        queue = self._queue(event.queue)
        queue.step(event, action_of(outcome))
        queue.pass_time(now)

    def _take_out(self, name: str, now: float, event_id: str | None = None) -> int:
        if name not in self._queues:
            return 0
        queue = self._at(name, now)
        doomed = [
            event
            for event in queue.events.values()
            if event.status is not State.LEASED
            and (event_id is None or (isinstance(event.envelope, Envelope) and event.envelope.id == event_id))
        ]
        for event in doomed:
            queue.step(event, Action.CANCEL)
        # Events that waited behind one of them may have their turn now.
        self.changed.notify_all()
        return len(doomed)
