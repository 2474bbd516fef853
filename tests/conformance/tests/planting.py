"""
Plant bugs in the memory transport: what the modules of bugs share.

A bug is a class with the one thing that it does wrong, in the transport or in its store. :class:`Altered` and
:class:`AlteredStore` have a hook for each thing that goes through them, so that most bugs are one method.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from relevo import Action, DeadLetterEntry, Delivery, Envelope, Found, Outcome, Settlement, Stats
from relevo_conformance.mutant import Mutant
from relevo_conformance.promise import Promise
from relevo_memory import MemoryStore, MemoryTransport
from relevo_memory._queue import EventQueue, Identity, KeptEvent
from relevo_memory._store import Posting

from .memory import BreakableStore, MemoryHarness

MUTANTS: list[Mutant] = []

Patches = Mapping[tuple[object, str], object]


def planted(
    breaks: Promise, *, by_chance: bool = True, exactly: bool = True, patches: Patches | None = None
) -> Callable[[type], type]:
    """Plant a transport or a store that breaks *breaks*."""

    def plant(broken: type) -> type:
        attribute = "store_type" if issubclass(broken, BreakableStore) else "transport"
        MUTANTS.append(
            Mutant(
                name=broken.__name__,
                wrong=inspect.getdoc(broken) or "",
                harness=type(f"{broken.__name__}Harness", (MemoryHarness,), {attribute: broken}),
                breaks=breaks,
                by_chance=by_chance,
                exactly=exactly,
                patches=patches or {},
            )
        )
        return broken

    return plant


def planted_pair(breaks: Promise, *, patches: Patches | None = None) -> Callable[[type], type]:
    """Plant a bug that shows when two features meet, or in large quantities; chance need not find it."""
    return planted(breaks, by_chance=False, exactly=False, patches=patches)


class Altered(MemoryTransport):
    """A transport with hooks for what goes through it; none of them changes anything."""

    def sent(self, envelope: Envelope) -> Envelope:
        """Return what is stored of *envelope*."""
        return envelope

    def received(self, delivery: Delivery) -> Delivery:
        """Return what is handed out of *delivery*."""
        event = delivery.envelope
        return attrs.evolve(delivery, envelope=self.read(event)) if isinstance(event, Envelope) else delivery

    def read(self, event: Envelope) -> Envelope:
        """Return the envelope that is handed out of *event*."""
        return event

    def settled(self, delivery: Delivery, outcome: Outcome) -> Outcome:
        """Return what is done instead of *outcome*."""
        return outcome

    def listed(self, entry: DeadLetterEntry) -> DeadLetterEntry:
        """Return what is listed of a dead letter."""
        return entry

    def found(self, found: Found) -> Found:
        """Return what is found of an event."""
        return found

    def counted(self, stats: Stats, queue: EventQueue) -> Stats:
        """Return the figures that are reported for *queue*."""
        return stats

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        super().send([self.sent(one) for one in envelopes], delay=delay)

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        return [self.received(one) for one in super().receive(queues, limit=limit, lease=lease, wait=wait)]

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        return super().settle([(one, self.settled(one, outcome)) for one, outcome in settlements])

    def dead_letters(
        self, queues: Sequence[str], *, after: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetterEntry]:
        return [self.listed(one) for one in super().dead_letters(queues, after=after, limit=limit)]

    def find(self, event_id: str) -> Sequence[Found]:
        return [self.found(one) for one in super().find(event_id)]

    def stats(self, queue: str) -> Stats:
        stats = super().stats(queue)
        return self.counted(stats, self.store._queues[queue]) if queue in self.store._queues else stats


class AlteredStore(BreakableStore):
    """A store with hooks for what happens to its events; none of them changes anything."""

    def posted(self, posting: Posting, now: float) -> Posting:
        """Return what is stored of *posting*."""
        return posting

    def added(self, event: KeptEvent, queue: EventQueue) -> None:
        """Spoil an *event* that was just sent."""

    def repeated(self, event: KeptEvent, queue: EventQueue, posting: Posting) -> None:
        """Spoil an *event* that was just sent again as *posting*."""

    def taken(self, event: KeptEvent, queue: EventQueue) -> None:
        """Spoil an *event* that was just leased."""

    def ending(self, event: KeptEvent, outcome: Outcome) -> Outcome:
        """Return what is done to *event* instead of *outcome*."""
        return outcome

    def ended(self, event: KeptEvent, outcome: Outcome, now: float) -> None:
        """Spoil an *event* that was just settled."""

    def revived(self, event: KeptEvent, queue: EventQueue) -> None:
        """Spoil an *event* that was just revived."""

    def add(self, postings: Sequence[Posting], now: float) -> None:
        known = numbers(self)
        super().add([self.posted(one, now) for one in postings], now)
        again = {(one.queue, one.envelope.source, one.envelope.id): one for one in postings}
        for queue, event in living(self):
            identity = event.identity and (queue.name, *event.identity[1:])
            if event.number not in known:
                self.added(event, queue)
            elif identity in again:
                self.repeated(event, queue, again[identity])

    def claim(self, queues: Sequence[str], *, limit: int, lease: float, now: float) -> list[Delivery]:
        taken = super().claim(queues, limit=limit, lease=lease, now=now)
        held = {id(one.receipt) for one in taken}
        for queue, event in living(self):
            if id(event.receipt) in held:
                self.taken(event, queue)
        return taken

    def _end(self, event: KeptEvent, outcome: Outcome, now: float) -> None:
        super()._end(event, self.ending(event, outcome), now)
        self.ended(event, outcome, now)

    def revive(self, refs: Mapping[str, bytes], now: float) -> list[str]:
        known = numbers(self)
        missing = super().revive(refs, now)
        for queue, event in living(self, without=known):
            self.revived(event, queue)
        return missing


class Lenient(set[Any]):
    """A set from which anything can be removed."""

    def remove(self, item: object) -> None:
        self.discard(item)


def living(store: MemoryStore, *, without: frozenset[int] = frozenset()) -> Iterator[tuple[EventQueue, KeptEvent]]:
    """Yield the events of *store* that are neither done nor dead, each with its queue."""
    for queue in tuple(store._queues.values()):
        for number, event in tuple(queue.events.items()):
            if number not in without:
                yield queue, event


def numbers(store: MemoryStore) -> frozenset[int]:
    """Return the numbers of all living events of *store*."""
    return frozenset(event.number for _, event in living(store))


_step, _init, _admit = EventQueue.step, KeptEvent.__init__, EventQueue.admit


def at_each_step(spoil: Callable[[EventQueue, KeptEvent, Action], None]) -> Patches:
    """Return patches that call *spoil* after each action on an event."""

    def step(self: EventQueue, event: KeptEvent, action: Action) -> None:
        _step(self, event, action)
        spoil(self, event, action)

    return {(EventQueue, "step"): step}


def identified_by(alter: Callable[[Identity], Identity]) -> Patches:
    """Return patches by which events are the same if *alter* returns the same for them."""

    def init(self: KeptEvent, *arguments: object, **options: object) -> None:
        _init(self, *arguments, **options)  # type: ignore[arg-type]
        if self.identity is not None:
            self.identity = alter(self.identity)

    return {(KeptEvent, "__init__"): init}


def in_line_by(alter: Callable[[str], str | None]) -> Patches:
    """Return patches by which events wait for one another if *alter* returns the same for their ordering keys."""

    def admit(self: EventQueue, event: KeptEvent) -> None:
        if event.line is not None:
            target, key = event.line
            altered = alter(key)
            event.line = None if altered is None else (target, altered)
        _admit(self, event)

    return {(EventQueue, "admit"): admit}


def leave_the_line(queue: EventQueue, event: KeptEvent) -> None:
    """Let *event* wait for no other of its ordering key, and no other for it."""
    if event.line is None or event.number not in queue._lines.get(event.line, ()):
        return
    waiting = queue._lines[event.line]
    del waiting[event.number]
    if not waiting:
        del queue._lines[event.line]
    event.line = None
    for one in (event, *([next(iter(waiting.values()))] if waiting else [])):
        queue._rank(one)
