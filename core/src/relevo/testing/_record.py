"""The events that were dispatched while an application was tested, in order."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import msgspec

from relevo._dispatch.dispatcher import Dispatched
from relevo._event.codec import Document, content_of, decoded, generic, subject_of
from relevo._event.event import Event
from relevo._transport.envelope import Envelope
from relevo._transport.route import NOW, Target
from relevo.errors import DecodeError, shown


@attrs.frozen(kw_only=True, repr=False)
class DispatchedEvent:
    """
    An event that was dispatched: to every queue that its route names it is the same one.

    One that is inside a session's transaction is not dispatched until that commits.
    """

    event: Any
    """An :class:`Event` whose arguments are as JSON has them; where a declared class was asked for, one of it."""

    id: str
    """As the dispatch returned it; empty if it was only called in process."""

    targets: tuple[Target, ...]
    """Where it went, in the order of its route."""

    delay: float = 0.0
    """Seconds from the dispatch, or the commit, before which it is not handled."""

    envelope: Envelope | None = None
    """What was sent to the first of the targets; ``None`` if it was only called in process."""

    @property
    def queue(self) -> str:
        """The queue of the first of its targets; ``now`` in process."""
        first = self.targets[0]
        return NOW if first.transport == NOW else first.queue

    def __repr__(self) -> str:
        return f"<{told(self)}>"


class Record:
    """Keeps what was dispatched; may be written from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: list[DispatchedEvent] = []
        self._positions: dict[str, int] = {}
        self._routes: dict[str, Sequence[Target]] = {}
        self._enlisted: dict[str, Event] = {}

    def __iter__(self) -> Iterator[DispatchedEvent]:
        with self._lock:
            return iter(tuple(self._events))

    @property
    def enlisted(self) -> Sequence[Event]:
        """Those that were dispatched inside a session and that nobody has seen since."""
        with self._lock:
            return tuple(self._enlisted.values())

    def dispatched(self, event: object, told: Dispatched) -> None:
        """Note what the application was asked for: it went to the listeners that hear it now, or is enlisted."""
        with self._lock:
            self._routes[told.id] = told.targets
            if any(target.transport == NOW for target in told.targets):
                self._went(told.id, Target(NOW), DispatchedEvent(event=_plain(event), id=told.id, targets=()))
            elif told.id in self._positions:
                self._sort(self._positions[told.id])
            else:
                self._enlisted[told.id] = _plain(event)

    def taken(self, envelope: Envelope, target: Target, delay: float) -> None:
        """Note that *envelope* arrived for *target*, or in an outbox on the way to it."""
        new = DispatchedEvent(event=_read(envelope), id=envelope.id, targets=(), delay=delay, envelope=envelope)
        with self._lock:
            self._enlisted.pop(envelope.id, None)
            self._went(envelope.id, target, new)

    def _went(self, event_id: str, target: Target, new: DispatchedEvent) -> None:
        position = self._positions.get(event_id)
        if position is None:
            if event_id:
                self._positions[event_id] = len(self._events)
            self._events.append(attrs.evolve(new, targets=(target,)))
            return
        known = self._events[position]
        if target not in known.targets:
            self._events[position] = attrs.evolve(
                known,
                targets=(*known.targets, target),
                delay=max(known.delay, new.delay),
                envelope=known.envelope or new.envelope,
            )
            self._sort(position)

    def _sort(self, position: int) -> None:
        """Put the targets of an event into the order of its route, as far as that is known."""
        known = self._events[position]
        order = list(self._routes.get(known.id, ()))
        targets = sorted(known.targets, key=lambda each: order.index(each) if each in order else len(order))
        self._events[position] = attrs.evolve(known, targets=tuple(targets))


def told(dispatched: DispatchedEvent) -> str:
    """Return *dispatched* in one line."""
    where = ", ".join(map(str, dispatched.targets))
    return f"{event_told(dispatched.event)} to {where}" + (f", in {dispatched.delay:g} s" if dispatched.delay else "")


def event_told(event: Any) -> str:
    """Return *event* in one line: its name, its arguments and its subject."""
    if not isinstance(event, Event):
        return shown(event)
    parts = [f"{key}={shown(value)}" for key, value in event.arguments.items()]
    if event.subject is not None:
        parts.append(f"subject={subject_told(event.subject)}")
    return f"{event.name}({', '.join(parts)})"


def subject_told(subject: object) -> str:
    """Return *subject* for a line: ``image/7``, or the object if it has no name yet."""
    return str(subject) if type(subject).__str__ is not object.__str__ else shown(subject)


def _plain(event: object) -> Event:
    """Return *event* in JSON's terms, so that nothing that is changed in it later changes what is remembered."""
    content = content_of(event)
    return Event(content.name, msgspec.json.decode(content.data), subject=subject_of(event))


def _read(envelope: Envelope) -> Event:
    try:
        return generic(decoded(envelope.body))
    except DecodeError:  # somebody sent what is no event, to see what becomes of it
        bare = Document(id=envelope.id, source=envelope.source, type=envelope.name, specversion="1.0")
        return generic(bare)
