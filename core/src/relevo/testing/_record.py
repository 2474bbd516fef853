"""The record of the events that an application under test dispatched, in order."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any
from weakref import ReferenceType, ref

import attrs
import msgspec

from relevo._dispatch.dispatched import Dispatched
from relevo._dispatch.gathering import ReadyEvent
from relevo._dispatch.unique import is_refused
from relevo._event.codec import Document, content_of, context_of, decoded, generic, subject_of
from relevo._event.event import Event
from relevo._transport.envelope import Envelope
from relevo._transport.route import NOW, Target
from relevo.errors import DecodeError, shown

_NO_CONTEXT: Mapping[str, Any] = MappingProxyType({})


@attrs.frozen(kw_only=True, repr=False)
class DispatchedEvent:
    """
    An event that was dispatched; one entry for all queues of its route.

    An event in a session's transaction counts as dispatched when the transaction commits. An event that is handled in
    process counts at once, even if the transaction is rolled back or a listener raises an error.
    """

    event: Any
    """An :class:`Event` with arguments in their JSON form; an instance of a declared class if that was requested."""

    id: str
    """The id that the dispatch returned."""

    targets: tuple[Target, ...]
    """Its targets, in the order of its route."""

    delay: float = 0.0
    """Seconds from the dispatch, or the commit, before which it is not handled."""

    context: Mapping[str, Any] = attrs.field(factory=dict)
    """The context that it was dispatched with, as its listeners find it in :attr:`Call.context`."""

    failed: bool = False
    """Whether a listener in process raised an error, which the dispatch raised too; nothing was sent then."""

    in_session: bool = False
    """Whether it was dispatched with ``session=``, so that it commits together with the rows of that session."""

    envelope: Envelope | None = None
    """The envelope for the first target; ``None`` if listeners were only called in process."""

    @property
    def queue(self) -> str:
        """The queue of the first of its targets; ``now`` in process."""
        first = self.targets[0]
        return NOW if first.transport == NOW else first.queue

    def __repr__(self) -> str:
        return f"<{format_dispatched(self)}>"


class Record:
    """Stores the dispatched events; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: list[DispatchedEvent] = []
        self._positions: dict[str, int] = {}
        self._routes: dict[str, Sequence[Target]] = {}
        self._enlisted: dict[str, tuple[Event, ReferenceType[Any], Dispatched]] = {}
        self._joined: set[str] = set()
        """The ids of the events that were dispatched with a session."""

    def __iter__(self) -> Iterator[DispatchedEvent]:
        with self._lock:
            return iter(tuple(self._events))

    @property
    def enlisted(self) -> Sequence[Event]:
        """The events that were dispatched inside a session that has not committed."""
        with self._lock:
            return tuple(event for event, kept, _ in self._enlisted.values() if kept() is not None)

    @property
    def dropped(self) -> Sequence[Event]:
        """The events that were dispatched inside a session that ended without a commit, or a savepoint of one."""
        with self._lock:
            left = self._enlisted.values()
            return tuple(event for event, kept, result in left if kept() is None and not is_refused(result))

    def add_joined(self, event_id: str) -> None:
        """Record that the event with that id is dispatched with a session."""
        with self._lock:
            self._joined.add(event_id)

    def add_dispatched(self, ready: ReadyEvent, context: Mapping[str, Any] = _NO_CONTEXT) -> None:
        """
        Record a dispatch: the event is passed to in-process listeners with *context*, was sent before, or is enlisted.

        What a session has enlisted lives as long as its transaction: a rollback drops it.
        """
        event, result = ready.event, ready.dispatched
        with self._lock:
            self._routes[result.id] = result.targets
            if any(target.transport == NOW for target in result.targets):
                new = DispatchedEvent(
                    event=_plain(event),
                    id=result.id,
                    targets=(),
                    context=context,
                    in_session=result.id in self._joined,
                )
                self._add(result.id, Target(NOW), new)
            elif result.id in self._positions:
                self._sort(self._positions[result.id])
            else:
                kept: Any = ready.packed.envelopes[0] if ready.packed and ready.packed.envelopes else ready
                self._enlisted[result.id] = _plain(event), ref(kept), result

    def add_failed(self, ready: ReadyEvent) -> None:
        """Mark the event *ready*, of which an in-process listener raised."""
        with self._lock:
            position = self._positions[ready.dispatched.id]
            self._events[position] = attrs.evolve(self._events[position], failed=True)

    def add_sent(self, envelope: Envelope, target: Target, delay: float) -> None:
        """Record that *envelope* was stored for *target*, there or in its outbox."""
        document = _read(envelope)
        new = DispatchedEvent(
            event=generic(document),
            id=envelope.id,
            targets=(),
            delay=delay,
            context=context_of(document),
            in_session=envelope.id in self._joined,
            envelope=envelope,
        )
        with self._lock:
            self._enlisted.pop(envelope.id, None)
            self._add(envelope.id, target, new)

    def _add(self, event_id: str, target: Target, new: DispatchedEvent) -> None:
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
        """Sort the targets of an event in the order of its route, if that is known."""
        known = self._events[position]
        order = list(self._routes.get(known.id, ()))
        targets = sorted(known.targets, key=lambda each: order.index(each) if each in order else len(order))
        self._events[position] = attrs.evolve(known, targets=tuple(targets))


def format_dispatched(dispatched: DispatchedEvent) -> str:
    """Return *dispatched* in one line."""
    where = ", ".join(map(str, dispatched.targets))
    when = f", in {dispatched.delay:g} s" if dispatched.delay else ""
    return f"{format_event(dispatched.event)} to {where}{when}{', failed' if dispatched.failed else ''}"


def format_event(event: Any) -> str:
    """Return *event* in one line: its name, its arguments and its subject."""
    if not isinstance(event, Event):
        return shown(event)
    parts = [f"{key}={shown(value)}" for key, value in event.arguments.items()]
    if event.subject is not None:
        parts.append(f"subject={format_subject(event.subject)}")
    return f"{event.name}({', '.join(parts)})"


def format_subject(subject: object) -> str:
    """Return *subject* in one line: ``image/7``, or the object if it has no name yet."""
    return str(subject) if type(subject).__str__ is not object.__str__ else shown(subject)


def _plain(event: object) -> Event:
    """Return a copy of *event* in its JSON form, so that later changes of it do not change the record."""
    content = content_of(event)
    return Event(content.name, msgspec.json.decode(content.data), subject=subject_of(event))


def _read(envelope: Envelope) -> Document:
    try:
        document = decoded(envelope.body)
        generic(document)
    except DecodeError:  # a test sent an invalid event on purpose
        return Document(id=envelope.id, source=envelope.source, type=envelope.name, specversion="1.0")
    return document
