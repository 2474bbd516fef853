"""Listeners: callables for one event, how they are registered and ordered."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, get_args

import attrs

from relevo._clock import Duration, seconds
from relevo._event.event import EventType, EventTypes, checked_name, declared, name_of
from relevo._retry import DEFAULT_RETRY, Retry
from relevo._transport.route import checked_queue
from relevo.errors import ConfigurationError, DuplicateListenerError, shown

Missing = Literal["fail", "skip", "tombstone"]
"""What becomes of a listener whose event's subject is gone."""

MAX_ID = 255
MARKS = "__relevo_listeners__"
"""Under which a function has its marks."""


def _policy(value: Retry | int | None) -> Retry | None:
    return Retry(value) if isinstance(value, int) else value


def _names(value: Iterable[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _limit(value: Duration) -> float:
    return seconds(value, what="time_limit of a listener", least=0.001)


@attrs.frozen(kw_only=True)
class Mark:
    """What :func:`listener` was told; the function itself stays as it is."""

    event: str | type
    priority: int = 0
    queue: str | None = None
    retry: Retry | None = attrs.field(default=None, converter=_policy)
    id: str | None = None
    aliases: tuple[str, ...] = attrs.field(default=(), converter=_names)
    missing: Missing = "fail"
    time_limit: float | None = attrs.field(default=None, converter=attrs.converters.optional(_limit))
    """Seconds for which it may run."""

    def __attrs_post_init__(self) -> None:
        event: Any = self.event
        retry: Any = self.retry
        ids: tuple[Any, ...] = self.aliases if self.id is None else (self.id, *self.aliases)
        if callable(event) and not isinstance(event, type):
            raise ConfigurationError(f'{_default_id(event)}: write @relevo.listener("noun.verbed") above it')
        where = f'a listener of "{declared(event).name if isinstance(event, type) else checked_name(event)}"'
        if self.queue is not None:
            checked_queue(self.queue, where=where)
        if type(self.priority) is not int:
            raise ConfigurationError(f"{where}: priority is a whole number, not {shown(self.priority)}")
        if not (retry is None or isinstance(retry, Retry)):
            raise ConfigurationError(f"{where}: retry is relevo.Retry(…) or a number of runs, not {shown(retry)}")
        if self.missing not in get_args(Missing):
            raise ConfigurationError(f"{where}: missing is fail, skip or tombstone, not {shown(self.missing)}")
        if not all(isinstance(each, str) and 0 < len(each) <= MAX_ID for each in ids):
            raise ConfigurationError(f"{where}: an id is text of 1 to {MAX_ID} characters, not {shown(ids)}")


@attrs.frozen(kw_only=True, eq=False)
class Listener:
    """A callable registered for one event."""

    id: str
    event_name: str
    event_type: EventType | None
    """What it is called with an instance of; ``None``: with an :class:`Event`."""

    function: Callable[..., object]
    mark: Mark
    """What it was registered by."""

    takes_call: bool
    """It has a second parameter, for the :class:`Call`."""

    priority: int = 0
    queue: str | None = None
    retry: Retry | None = None
    aliases: tuple[str, ...] = ()


def marks_of(thing: object) -> tuple[Mark, ...]:
    """Return the marks on *thing*, in the order in which they stand above it."""
    try:
        found = getattr(thing, MARKS, ())
    except Exception:  # noqa: BLE001 - a proxy that stands for nothing yet, such as Flask's request
        return ()
    return found if isinstance(found, tuple) else ()


def marked_methods(cls: type) -> list[str]:
    """Return the names of the methods of *cls* that are marked, as they stand in it."""
    found = {name: value for each in reversed(cls.__mro__) for name, value in vars(each).items()}
    return [name for name, value in found.items() if marks_of(getattr(value, "__func__", value))]


def marked(things: Iterable[object]) -> Iterator[tuple[Callable[..., object], Mark]]:
    """
    Yield what is marked among *things*: functions, and the methods of subscribers.

    Raises:
        ConfigurationError: One of them has no mark on or in it.
    """
    for thing in things:
        holders: list[Any] = [thing]
        if not (callable(thing) and marks_of(thing)):
            holders = [] if inspect.isclass(thing) else [getattr(thing, name) for name in marked_methods(type(thing))]
        found = [(each, mark) for each in holders for mark in marks_of(each)]
        yield from found
        if not found:
            raise ConfigurationError(
                f"{shown(thing)} has no listener; put @relevo.listener(…) above a function, "
                f"or above methods and pass an instance"
            )


class ListenerTable:
    """
    The listeners of an application, ordered by priority and then by registration.

    Args:
        event_types: Learns the declared classes that listeners ask for.

        unique: Refuse two listeners of one event with the same id. Where nothing is kept under it, in
            process, that is of no account.
    """

    def __init__(self, event_types: EventTypes | None = None, *, unique: bool = True):
        self.event_types = EventTypes() if event_types is None else event_types
        self._unique = unique
        self._by_name: dict[str, list[Listener]] = {}
        self._ordered: dict[str, tuple[Listener, ...]] = {}
        self._queued: dict[tuple[str, str, str], tuple[Listener, ...]] = {}

    def add(self, function: Callable[..., object], mark: Mark) -> Listener:
        """
        Register *function* for the event of *mark*; again is fine.

        Raises:
            DuplicateListenerError: The event has a listener of that id.

            ConfigurationError: *function* cannot be called, or not with an event.
        """
        event_type = self.event_types.add(mark.event) if isinstance(mark.event, type) else None
        event_name = event_type.name if event_type else str(mark.event)
        given: object = function
        if not callable(given):
            raise ConfigurationError(
                f'{shown(function)} cannot be a listener of "{event_name}": it cannot be called; give a function'
            )
        made = Listener(
            id=mark.id or _default_id(function),
            event_name=event_name,
            event_type=event_type,
            function=function,
            mark=mark,
            takes_call=_takes_call(function),
            priority=mark.priority,
            queue=mark.queue,
            retry=mark.retry,
            aliases=mark.aliases,
        )
        siblings = self._by_name.setdefault(event_name, [])
        for sibling in siblings:
            if sibling.function == function and sibling.mark is mark:
                return sibling
            taken = {sibling.id, *sibling.aliases}.intersection((made.id, *made.aliases))
            if taken and self._unique:
                raise DuplicateListenerError(min(taken), event_name, function, sibling.function)
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

    def copy(self) -> ListenerTable:
        """Return another table with the same listeners in the same order."""
        made = ListenerTable(EventTypes(self.event_types), unique=self._unique)
        made._by_name = {name: [*siblings] for name, siblings in self._by_name.items()}
        return made

    def withdraw(self, things: Iterable[object]) -> None:
        """Take out all that is marked among *things*; what is not there is passed over."""
        for function, mark in marked(things):
            for each in self(mark.event):
                if each.function == function and each.mark is mark:
                    self.remove(each)

    def __call__(self, event: object = None) -> tuple[Listener, ...]:
        """
        Return the listeners of *event* in the order in which they are called; of all events by default.

        Args:
            event: A name, a declared class, or an event.
        """
        if event is None:
            return tuple(self)
        if isinstance(event, type):
            event = declared(event).name
        return self.of(event if isinstance(event, str) else name_of(event))

    def of(self, event_name: str) -> tuple[Listener, ...]:
        """Return the listeners of *event_name* in the order in which they are called."""
        found = self._ordered.get(event_name)
        if found is None and event_name in self._by_name:
            found = tuple(sorted(self._by_name[event_name], key=lambda each: -each.priority))
            self._ordered[event_name] = found
        return found or ()

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
            if found:  # names that nobody here listens to come from outside, without end
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


def policy_of(listener: Listener, *, queue: Retry | None = None) -> Retry:
    """Return the retry policy of *listener*: its own, else the event's, else the queue's, else the default."""
    return listener.retry or (listener.event_type and listener.event_type.retry) or queue or DEFAULT_RETRY


def _default_id(function: Callable[..., object]) -> str:
    module = getattr(function, "__module__", None) or type(function).__module__
    if module == "__main__":  # as whoever imports it calls it: what a script did is known to a worker, too
        script = sys.argv[0].rpartition("/")[2].removesuffix(".py")
        module = getattr(sys.modules[module].__spec__, "name", None) or script or module
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return f"{module}:{name}"


def _takes_call(function: Callable[..., object]) -> bool:
    """Return whether *function* takes an event and a call, or only an event; raise if it takes something else."""
    name = _default_id(function)
    lazy = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    if any(check(function) or check(getattr(function, "__call__", None)) for check in lazy):  # noqa: B004 - a bound one
        raise ConfigurationError(
            f"{name} cannot be a listener: async def and generators do not run by being called; "
            f"write def, and asyncio.run(…) in it"
        )
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [p for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    if any(p.kind is p.VAR_POSITIONAL for p in needed):
        return True
    first = positional[0].name if positional else "call"
    if first == "self":
        raise ConfigurationError(f"{name} cannot be a listener by itself: pass an instance of its class")
    if first == "call" or len(needed) > 2 or any(p.kind is p.KEYWORD_ONLY for p in needed):
        raise ConfigurationError(f"{name} cannot be a listener: it must take (event) or (event, call)")
    return len(needed) == 2 or (len(positional) > 1 and positional[1].name == "call")
