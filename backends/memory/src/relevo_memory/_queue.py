"""One queue: its events, moved only by the core's transition table."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator

import attrs

from relevo import Action, Counters, Delivery, Envelope, Note, State, Unreadable, after
from relevo.backend import made_delivery
from relevo_memory._ranking import Ranking

Identity = tuple[str, str, str]
"""The envelope's own queue, its source and its id."""

Content = tuple[object, ...]
"""The identity, and all else that the envelope holds."""

Line = tuple[str, str]
"""The envelope's own queue and its ordering key: in an outbox only events for the same queue wait for one another."""

_REMOVE_THE_NOTE = frozenset({Action.NACK, Action.REVIVE})
_KEEP_THEIR_PLACE = frozenset({Action.RELEASE, Action.LOSE})
"""After these an event keeps its place in the queue; after a nack it goes to the end."""


_INEXACT = 0.5e-6
"""Seconds by which a sum such as the time and a delay may be inexact, since floats are."""


@attrs.frozen(eq=False)
class Receipt:
    """Proof of one delivery; equal only to itself, so that an old one never matches."""

    queue: str
    number: int


class KeptEvent:
    """
    An event in the store.

    Args:
        number: Unique in the store, never used twice.

        queue: Where it is stored; in an outbox not the envelope's own queue.

        envelope: The envelope, or bytes that are none.

        enqueued_at: When it was stored.

        status: Its state in the transition table.

        due: When it becomes ready, if it is scheduled.

        state: The progress of its listeners.
    """

    counters = Counters()
    begun: Note | None = None
    deaths: tuple[str, ...] = ()

    place = 0
    """Its place among the ready events."""

    until = 0.0
    """When its lease ends, if it is leased."""

    leased_at = 0.0
    """When that began."""

    unpinned_until: float | None = None
    """When its lease would end, while the transaction of a listener commits; ``None`` at any other time."""

    receipt: Receipt | None = None

    identity: Identity | None = None
    """What identifies it in its queue; ``None`` if the event is unreadable, since it then equals no other."""

    line: Line | None = None
    """Its line, if it has an ordering key: events in the same line wait for their turn."""

    is_urgent = False

    def __init__(
        self,
        number: int,
        queue: str,
        envelope: Envelope | Unreadable,
        enqueued_at: float,
        status: State,
        *,
        due: float = 0.0,
        state: bytes = b"",
    ) -> None:
        self.number = number
        self.queue = queue
        self.envelope = envelope
        self.enqueued_at = enqueued_at
        self.status = status
        self.due = due
        self.state = state
        if isinstance(envelope, Envelope):
            # With the envelope's own queue: an outbox holds all copies of a fan-out in one queue.
            self.identity = (envelope.queue, envelope.source, envelope.id)
            if envelope.ordering_key is not None:
                self.line = (envelope.queue, envelope.ordering_key)
            self.is_urgent = envelope.urgency == "high"

    @property
    def content(self) -> Content | None:
        """What equals that of a copy of the same event; ``None`` if the event is unreadable."""
        event = self.envelope
        if not isinstance(event, Envelope):
            return None
        headers = frozenset(event.headers.items())
        return self.identity, event.name, event.body, headers, event.urgency, event.ordering_key, event.expires

    def delivery(self) -> Delivery:
        """Return the delivery as a value."""
        return made_delivery(
            envelope=self.envelope,
            queue=self.queue,
            attempt=self.counters.attempt,
            lost_leases=self.counters.lost_leases,
            begun=self.begun,
            deaths=self.deaths,
            receipt=self.receipt,
            state=self.state,
            enqueued_at=self.enqueued_at,
        )


class EventQueue:
    """
    The living events of one queue, each in the ranking of its state.

    Of the events with one ordering key only the oldest is ever ranked among the ready events; the next has its turn
    when that one is finally settled. Thus at most one event of a key is held, whatever the size of the batch, and
    parallel workers cannot reorder them. A dead letter is settled: it blocks no other event.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.events: dict[int, KeptEvent] = {}
        self._identities: set[Identity] = set()
        self._meant: set[str] = set()
        """The own queues of the envelopes that there were; in an outbox they have other names than it."""
        self._lines: dict[Line, OrderedDict[int, KeptEvent]] = {}
        self._places = itertools.count()
        self._ready, self._scheduled, self._leased = Ranking(), Ranking(), Ranking()
        self._rankings = {State.READY: self._ready, State.SCHEDULED: self._scheduled, State.LEASED: self._leased}

    @property
    def scheduled(self) -> int:
        """The number of events that are not due yet."""
        return len(self._scheduled)

    @property
    def leased(self) -> int:
        """The number of events that a worker holds."""
        return len(self._leased)

    @property
    def ready(self) -> int:
        """The number of ready events, including those that wait for an earlier event of their key."""
        return len(self.events) - self.scheduled - self.leased

    def knows(self, event: KeptEvent) -> bool:
        """Return whether the same event is alive in this queue."""
        return event.identity in self._identities

    def holds(self, source: str, event_id: str) -> bool:
        """Return whether an event of that *source* and id is alive in this queue."""
        return any((meant, source, event_id) in self._identities for meant in self._meant)

    def knows_other(self, event: KeptEvent) -> bool:
        """Return whether an event with the same identity but other content is alive in this queue."""
        return self.knows(event) and any(
            one.identity == event.identity and one.content != event.content for one in self.events.values()
        )

    def admit(self, event: KeptEvent) -> None:
        """Add a new or revived event behind all others."""
        self.events[event.number] = event
        if event.identity is not None:
            self._identities.add(event.identity)
            self._meant.add(event.identity[0])
        if event.line is not None:
            self._lines.setdefault(event.line, OrderedDict())[event.number] = event
        event.place = next(self._places)
        self._rank(event)

    def step(self, event: KeptEvent, action: Action) -> None:
        """Apply *action* to *event*, as the transition table allows it."""
        left, event.status = event.status, after(event.status, action)
        event.counters = event.counters.after(action)
        if action in _REMOVE_THE_NOTE:
            event.begun = None
        self._rankings[left].remove(event.number)
        if event.status is not State.LEASED:
            event.receipt = None
        if event.status is State.READY and action not in _KEEP_THEIR_PLACE:
            event.place = next(self._places)
        self._rank(event)

    def pass_time(self, now: float) -> None:
        """Bring the queue up to date: end the leases that are over, and make ready what is due."""
        come = now + _INEXACT
        while (first := self._leased.first()) and first[0][0] <= come:
            self.step(self.events[first[1]], Action.LOSE)
        while (first := self._scheduled.first()) and first[0][0] <= come:
            self.step(self.events[first[1]], Action.COME_DUE)

    def next_change(self) -> float:
        """Return when the next lease or delay ends; infinity if there is none."""
        firsts = (self._leased.first(), self._scheduled.first())
        return min((first[0][0] for first in firsts if first), default=float("inf"))

    def stuck(self, now: float, longer: float) -> Iterator[tuple[Line, KeptEvent, list[KeptEvent]]]:
        """Yield each line whose first event blocks others, with that event and the others."""
        for line, events in self._lines.items():
            first, *others = events.values()
            due = [event for event in others if event.status is State.READY]
            is_held = first.status is State.LEASED and (
                first.counters.lost_leases > 0 or now - first.leased_at >= longer
            )
            if due and (is_held or first.status is State.SCHEDULED):
                yield line, first, due

    def claim(self, limit: int, now: float, until: float) -> Iterator[KeptEvent]:
        """Lease up to *limit* ready events, the urgent first, then in the order in which they became ready."""
        for _ in range(limit):
            first = self._ready.first()
            if first is None:
                return
            yield self._leased_until(self.events[first[1]], now, until)

    def take(self, event_id: str, now: float, until: float) -> list[KeptEvent]:
        """Lease the events of *event_id* that have their turn, also before they are due."""
        taken = []
        for event in list(self.events.values()):
            is_meant = isinstance(event.envelope, Envelope) and event.envelope.id == event_id
            if is_meant and event.status is not State.LEASED and self._has_its_turn(event):
                if event.status is State.SCHEDULED:
                    self.step(event, Action.COME_DUE)
                taken.append(self._leased_until(event, now, until))
        return taken

    def _leased_until(self, event: KeptEvent, now: float, until: float) -> KeptEvent:
        event.leased_at, event.until = now, until
        event.receipt = Receipt(self.name, event.number)
        self.step(event, Action.RECEIVE)
        return event

    def _rank(self, event: KeptEvent) -> None:
        match event.status:
            case State.READY:
                if self._has_its_turn(event):
                    self._ready.put(event.number, (0 if event.is_urgent else 1, event.place))
            case State.SCHEDULED:
                self._scheduled.put(event.number, (event.due, 0))
            case State.LEASED:
                self._leased.put(event.number, (event.until, 0))
            case State.DONE | State.DEAD | State.GONE:
                self._forget(event)

    def _has_its_turn(self, event: KeptEvent) -> bool:
        return event.line is None or next(iter(self._lines[event.line])) == event.number

    def _forget(self, event: KeptEvent) -> None:
        del self.events[event.number]
        if event.identity is not None:
            self._identities.remove(event.identity)
        if event.line is not None:
            waiting = self._lines[event.line]
            del waiting[event.number]
            if waiting:
                self._rank(next(iter(waiting.values())))
            else:
                del self._lines[event.line]
