"""Listeners: callables for one event, how they are marked, registered and ordered."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import attrs

from relevo._event import EventType, EventTypes, checked_name
from relevo._retry import DEFAULT_RETRY, Retry
from relevo.errors import ConfigurationError, DuplicateListenerError

F = TypeVar("F", bound=Callable[..., Any])

_MARKS = "__relevo_listeners__"


@attrs.frozen(kw_only=True)
class Mark:
    """What :func:`listener` was told; the function itself stays as it is."""

    event: str | type
    priority: int = 0
    queue: str | None = None
    retry: Retry | None = None
    id: str | None = None
    aliases: tuple[str, ...] = ()


def listener(
    event: str | type,
    *,
    priority: int = 0,
    queue: str | None = None,
    retry: Retry | int | None = None,
    id: str | None = None,  # noqa: A002 - the word that users see
    aliases: Iterable[str] = (),
) -> Callable[[F], F]:
    """
    Mark a function or method to be called for *event*; it stays plainly callable.

    Marks can be stacked to listen to several events. A marked function is registered when its module
    is named under ``listeners`` or given to ``App(listeners=…)``; marked methods when an instance is.

    Args:
        event: A declared class, for instances of it, or a name, for an :class:`Event`.

        priority: Listeners of higher priority are called first; equals in order of registration.

        queue: Where it runs; the first queue that the event is routed to if unsaid.

        retry: A policy, or a number of runs of the default policy. Otherwise the event's, the
            queue's or the default policy holds.

        id: What its progress is kept under; ``module:qualified.name`` if unsaid.

        aliases: Earlier ids, so that a renamed listener knows what it did before.

    Raises:
        EventNameError: *event* is text that cannot name an event.
    """
    if isinstance(event, str):
        checked_name(event)
    policy = Retry(retry) if isinstance(retry, int) else retry
    mark = Mark(event=event, priority=priority, queue=queue, retry=policy, id=id, aliases=tuple(aliases))

    def attach(function: F) -> F:
        own = getattr(function, _MARKS, ())
        function.__relevo_listeners__ = (mark, *own)  # type: ignore[attr-defined]
        return function

    return attach


@attrs.frozen(kw_only=True, eq=False)
class Listener:
    """A callable registered for one event."""

    id: str
    event_name: str
    event_type: EventType | None
    """What it is called with an instance of; ``None``: with an :class:`Event`."""

    function: Callable[..., object]
    takes_call: bool
    """It has a second parameter, for the :class:`Call`."""

    priority: int = 0
    queue: str | None = None
    retry: Retry | None = None
    aliases: tuple[str, ...] = ()


def marks_of(thing: object) -> tuple[Mark, ...]:
    """Return the marks on *thing*, in the order in which they stand above it."""
    found = getattr(thing, _MARKS, ())
    return found if isinstance(found, tuple) else ()


def marked(things: Iterable[object]) -> Iterator[tuple[Callable[..., object], Mark]]:
    """
    Yield what is marked among *things*: functions, and the methods of subscribers.

    Raises:
        ConfigurationError: One of them has no mark on or in it.
    """
    for thing in things:
        found = False
        if callable(thing) and marks_of(thing):
            for mark in marks_of(thing):
                found = True
                yield thing, mark
        elif not inspect.isclass(thing):
            for name in dict.fromkeys(name for cls in type(thing).__mro__ for name in vars(cls)):
                if marks_of(getattr(type(thing), name, None)):
                    bound = getattr(thing, name)
                    for mark in marks_of(bound):
                        found = True
                        yield bound, mark
        if not found:
            message = f"{thing!r} has no listener; put @relevo.listener(…) above a function, or above methods and pass an instance"
            raise ConfigurationError(message)


class ListenerTable:
    """
    The listeners of an application, ordered by priority and then by registration.

    Args:
        event_types: Learns the declared classes that listeners ask for.
    """

    def __init__(self, event_types: EventTypes | None = None):
        self.event_types = EventTypes() if event_types is None else event_types
        self._by_name: dict[str, list[Listener]] = {}
        self._ordered: dict[str, tuple[Listener, ...]] = {}
        self._queued: dict[tuple[str, str, str], tuple[Listener, ...]] = {}

    def add(self, function: Callable[..., object], mark: Mark) -> Listener:
        """
        Register *function* for the event of *mark*.

        Raises:
            DuplicateListenerError: The event has a listener of that id.

            ConfigurationError: *function* cannot be called with an event.
        """
        event_type = None if isinstance(mark.event, str) else self.event_types.add(mark.event)
        event_name = event_type.name if event_type else str(mark.event)
        made = Listener(
            id=mark.id or _default_id(function),
            event_name=event_name,
            event_type=event_type,
            function=function,
            takes_call=_takes_call(function),
            priority=mark.priority,
            queue=mark.queue,
            retry=mark.retry,
            aliases=mark.aliases,
        )
        siblings = self._by_name.setdefault(event_name, [])
        taken = {name for sibling in siblings for name in (sibling.id, *sibling.aliases)}
        if not taken.isdisjoint((made.id, *made.aliases)):
            raise DuplicateListenerError(made.id, event_name)
        siblings.append(made)
        self._forget()
        return made

    def extend(self, things: Iterable[object]) -> None:
        """Register all that is marked among *things*: functions and subscribers."""
        for function, mark in marked(things):
            self.add(function, mark)

    def remove(self, listener: Listener) -> None:
        """Take *listener* out; does nothing if it is not there."""
        siblings = self._by_name.get(listener.event_name, [])
        if listener in siblings:
            siblings.remove(listener)
            self._forget()

    def of(self, event_name: str) -> tuple[Listener, ...]:
        """Return the listeners of *event_name* in the order in which they are called."""
        found = self._ordered.get(event_name)
        if found is None:
            siblings = self._by_name.get(event_name, ())
            found = tuple(sorted(siblings, key=lambda each: -each.priority))
            self._ordered[event_name] = found
        return found

    def in_queue(self, event_name: str, queue: str, first: str) -> tuple[Listener, ...]:
        """
        Return those of *event_name* that run in *queue*.

        Args:
            event_name: The event.

            queue: Where it was received from.

            first: The queue that the event is routed to first; listeners that name none run there.
        """
        key = (event_name, queue, first)
        found = self._queued.get(key)
        if found is None:
            found = tuple(each for each in self.of(event_name) if (each.queue or first) == queue)
            self._queued[key] = found
        return found

    def __iter__(self) -> Iterator[Listener]:
        for event_name in sorted(self._by_name):
            yield from self.of(event_name)

    def __len__(self) -> int:
        return sum(len(siblings) for siblings in self._by_name.values())

    def _forget(self) -> None:
        self._ordered.clear()
        self._queued.clear()


def policy_of(listener: Listener, *, event: EventType | None = None, queue: Retry | None = None) -> Retry:
    """Return the retry policy of *listener*: its own, else the event's, else the queue's, else the default."""
    event = listener.event_type or event
    return listener.retry or (event.retry if event else None) or queue or DEFAULT_RETRY


def _default_id(function: Callable[..., object]) -> str:
    module = getattr(function, "__module__", None) or type(function).__module__
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return f"{module}:{name}"


def _takes_call(function: Callable[..., object]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return True
    needed = [p for p in positional if p.default is p.empty]
    if not positional or len(needed) > 2 or any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters):
        message = f"{_default_id(function)} cannot be a listener: it must take (event) or (event, call)"
        raise ConfigurationError(message)
    return len(needed) == 2 or (len(positional) > 1 and positional[1].name == "call")
