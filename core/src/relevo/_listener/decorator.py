"""The two decorators, for event classes and for listeners. They only mark."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from relevo._clock import Duration
from relevo._event.event import MARK, MAX_VERSION, Event, EventType, Upcaster, checked_name, fields_of
from relevo._listener.listener import MARKS, Mark, Missing, marks_of
from relevo._retry import Retry
from relevo.errors import ConfigurationError, did_you_mean, shown

if TYPE_CHECKING:
    from relevo._listener.protocol import E, ListenerOptions, Listening

T = TypeVar("T", bound=type)
F = TypeVar("F", bound=Callable[..., Any])


def event(
    name: str,
    *,
    version: int = 1,
    subject: str | None = None,
    of: str | None = None,
    retry: Retry | None = None,
    upcasters: Mapping[int, Upcaster] | None = None,
) -> Callable[[T], T]:
    """
    Declare the decorated class to be the event *name*: an attrs class, a dataclass, a Struct or a pydantic model.

    It only marks the class; an application registers it when one of its listeners asks for it.

    A field travels under its name in Python, unless its class says otherwise: a :class:`msgspec.Struct` by
    ``rename`` or ``field(name=…)``, a pydantic model by an alias. An alias of attrs is the name of an
    argument, which does not travel; nor does the tag of a Struct, since the event has a name.

    What is read must fit the fields' types. Where these say less than what they hold, such as ``Any``, ``dict`` or a
    class that has subclasses, a dispatch compares with what is read back, and refuses what would have changed.
    A pydantic model decides itself how strictly it is read; its bytes need ``ser_json_bytes`` and ``val_json_bytes``
    to be ``base64``, which pydantic knows from 2.9 on.

    Args:
        name: The stable text that travels.

        version: Of the fields; goes up when they change in a way that older listeners cannot read.

        subject: The field that holds the id of the subject.

        of: The subject's type, as registered; needed with *subject*.

        retry: For listeners of this event that say nothing themselves.

        upcasters: From an earlier version to what makes data of the next one of its data; one for every
            version from the oldest that still may come. Without any, earlier data is read as it is.

    Raises:
        EventNameError: *name* cannot name an event.

        ConfigurationError: What is decorated has no fields that travel, or one that is not read under the
            name under which it travels; *subject* is none of them, or comes without *of*; *version* is
            below 1; *upcasters* are not callables for consecutive versions up to the one before *version*.
    """
    checked_name(name)
    if type(version) is not int or not 1 <= version <= MAX_VERSION:
        raise ConfigurationError(f'the version of "{name}" is {shown(version)}; versions are whole numbers from 1')
    if (subject is None) != (of is None):
        raise ConfigurationError(f'the event "{name}" needs both subject= (a field) and of= (its type), or neither')
    steps = dict(upcasters or {})
    consecutive = range(max(1, version - len(steps)), version)
    if {*map(shown, steps)} != {*map(shown, consecutive)} or not all(map(callable, steps.values())):
        raise ConfigurationError(
            f'the upcasters of "{name}" are {_listed(steps)}; '
            f"name functions for consecutive versions up to {version - 1}"
        )

    def mark(cls: T) -> T:
        fields = fields_of(cls)
        if fields is None:
            raise ConfigurationError(
                f"{shown(cls)} has no fields; put @relevo.event(…) above @attrs.frozen, @dataclass, a Struct or a model"
            )
        if subject is not None and subject not in fields:
            raise ConfigurationError(
                f'the event "{name}" has no field "{subject}" to be its subject{did_you_mean(subject, fields)}'
            )
        if hidden := [field for field in fields if field.startswith("_")]:
            raise ConfigurationError(f'"{name}" has "{hidden[0]}"; fields with a leading underscore do not travel')
        declaration = EventType(
            name=name, version=version, cls=cls, fields=fields, subject=subject, of=of, retry=retry, upcasters=steps
        )
        setattr(cls, MARK, declaration)
        return cls

    return mark


def _listed(upcasters: Mapping[Any, object]) -> str:
    """Return which *upcasters* there are; of a function, which is right, its version says enough."""
    told = (f"from {shown(key)}" + ("" if callable(each) else f" {shown(each)}") for key, each in upcasters.items())
    return ", ".join(told) or "none"


@overload
def listener(event: type[E], **terms: Unpack[ListenerOptions]) -> Listening[E]: ...
@overload
def listener(event: str, **terms: Unpack[ListenerOptions]) -> Listening[Event]: ...
@overload
def listener(event: str | type, **terms: Unpack[ListenerOptions]) -> Listening[Any]: ...
def listener(
    event: str | type,
    *,
    priority: int = 0,
    queue: str | None = None,
    retry: Retry | int | None = None,
    id: str | None = None,  # noqa: A002 - the word that users see
    aliases: Iterable[str] = (),
    missing: Missing = "fail",
    time_limit: Duration | None = None,
) -> Callable[[F], F]:
    """
    Mark a function or method to be called for *event*; it stays plainly callable.

    Marks can be stacked to listen to several events. A marked function is registered when its module
    is named under ``listeners`` or given to ``App(listeners=…)``; marked methods when an instance is.

    Args:
        event: A declared class, for instances of it, or a name, for an :class:`Event`.

        priority: Listeners of higher priority are called first; equals in order of registration.

        queue: Where it runs; the first queue that the event is routed to by default.

        retry: A policy, or a number of runs of the default policy. Otherwise the event's, the
            queue's or the default policy holds.

        id: What its progress is kept under; ``module:qualified.name`` by default.

        aliases: Earlier ids, so that a renamed listener knows what it did before.

        missing: What becomes of it when it asks for a subject that cannot be found for a minute: it fails
            (the event is dead-lettered), is skipped, or is called with a :class:`Gone` for the subject. Where it
            is called at the dispatch nothing is waited for, and to fail is to raise :class:`SubjectMissingError`.

        time_limit: For how long it may run where listeners run in child processes or threads; what the
            application says by default.

    Raises:
        EventNameError: *event* is text that cannot name an event.

        ConfigurationError: It is neither text nor a declared class, or another argument is invalid.
    """
    mark = Mark(
        event=event,
        priority=priority,
        queue=queue,
        retry=retry,
        id=id,
        aliases=aliases,
        missing=missing,
        time_limit=time_limit,
    )

    def attach(function: F) -> F:
        inner = _inner(function)
        if isinstance(inner, type) or not hasattr(inner, "__dict__") or not callable(inner):
            raise ConfigurationError(f"{shown(function)} cannot be marked; mark a function, or a method in its class")
        inner.__dict__[MARKS] = (mark, *marks_of(inner))
        _note_namesake(inner, sys._getframe(1))  # noqa: SLF001 - what else knows that a name is given away
        return function

    return attach


# --- two of one name ----------------------------------------------------------------------------------------

_HIDES = "__relevo_hides__"
"""Under which a function has the marked one whose name it took."""


def _note_namesake(function: Any, frame: FrameType) -> None:
    """
    Write down which marked function loses its name to *function*: Python says nothing, and only the later is found.

    A module that is loaded again, or a cell of a notebook, has code of its own, in which the earlier has no part.

    Args:
        function: What is marked.

        frame: Where that happens: a module or a class; in a function names may well be used again.

    Raises:
        ConfigurationError: It is a class, in which there is nothing else to find the earlier one by.
    """
    if frame.f_code.co_flags & inspect.CO_OPTIMIZED:
        return
    before = inspect.unwrap(_inner(frame.f_locals.get(function.__name__)))
    code = getattr(before, "__code__", None)
    if before is function or not marks_of(before) or not any(code is each for each in frame.f_code.co_consts):
        return
    function.__dict__[_HIDES] = before
    if function.__qualname__ != function.__name__:
        raise hidden(before, function)


def hidden_by(function: object) -> Iterator[Any]:
    """Yield the marked functions whose name *function* took, the nearest first."""
    found = getattr(function, "__dict__", {}).get(_HIDES)
    if found is not None:
        yield found
        yield from hidden_by(found)


def hidden(before: Any, function: Any) -> ConfigurationError:
    """Return the error that says that *function* took the name of *before*, and where both stand."""
    first, later = before.__code__.co_firstlineno, inspect.unwrap(function).__code__.co_firstlineno
    return ConfigurationError(
        f'"{function.__qualname__}" in line {later} takes the name of the listener in line {first}, '
        f"which nobody would call; give one of them another name"
    )


def _inner(thing: Any) -> Any:
    return thing.__func__ if isinstance(thing, (staticmethod, classmethod)) else thing
