"""The decorators for event classes and listeners. They only mark; an application registers."""

from __future__ import annotations

import inspect
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, Never, TypeVar, Unpack, get_type_hints, overload

import attrs

from relevo._clock import Duration
from relevo._event.event import (
    MAX_VERSION,
    Event,
    EventType,
    Upcaster,
    checked_name,
    declared,
    fields_of,
    is_model,
)
from relevo._listener.lifespan import LIFESPAN, lifespan_for
from relevo._listener.listener import (
    CALLED,
    MARKS,
    Mark,
    Missing,
    Sessions,
    default_id,
    is_function,
    marked_methods,
    marks_of,
)
from relevo._listener.namesake import HIDES, Definition, are_different, hidden, in_one_cell, note_replaced
from relevo._mark import MARK
from relevo._retry import Retry
from relevo._synonym import LISTENER, counted
from relevo.errors import ConfigurationError, did_you_mean, no_option, shown

if TYPE_CHECKING:
    from relevo._listener.protocol import E, ListenerOptions, Listening

T = TypeVar("T", bound=type)
F = TypeVar("F", bound=Callable[..., Any])
L = TypeVar("L", bound=Callable[..., Iterator[Any] | AsyncIterator[Any]])


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
    Declare the decorated class as the event *name*: an attrs class, a dataclass, a Struct or a pydantic model.

    It only marks the class; an application registers it with the first listener for it.

    The data uses the fields' Python names, unless the class renames them: a :class:`msgspec.Struct` with
    ``rename`` or ``field(name=…)``, a pydantic model with an alias. An alias of attrs is the name of an
    argument only and is not used in the data. The tag of a Struct is not part of the data, since the event has a name.

    Data that is read must fit the fields' types. For fields of imprecise types, such as ``Any``, ``dict`` or a class
    with subclasses, a dispatch reads the data back and refuses values that would be different.
    A pydantic model decides itself how strictly it is read; fields of bytes need ``ser_json_bytes`` and
    ``val_json_bytes`` set to ``base64``, which needs pydantic 2.9 or later.

    Args:
        name: The stable name of the event, as it is sent.

        version: The version of the fields; raise it when a change is one that older listeners cannot read.

        subject: The field that holds the id of the subject.

        of: The name of the registered subject type; required with *subject*.

        retry: The default policy of this event's listeners.

        upcasters: From a version to a function that returns the next version's data from that version's data; one for
            every version from the oldest that may still arrive. By default older data is read as it is.

    Raises:
        EventNameError: *name* is invalid.

        ConfigurationError: The class has no named fields, or a field that is written and read under different
            names; *subject* is not a field, or *of* is missing; *version* is below 1; *upcasters* are not
            callables for consecutive versions up to the one before *version*.
    """
    checked_name(name)
    if type(version) is not int or not 1 <= version <= MAX_VERSION:
        raise ConfigurationError(f'the version of "{name}": expected an integer from 1; got {shown(version)}')
    if (subject is None) != (of is None):
        raise ConfigurationError(f'the event "{name}" needs both subject= (a field) and of= (its type), or neither')
    steps = dict(upcasters or {})
    consecutive = range(max(1, version - len(steps)), version)
    if {*map(shown, steps)} != {*map(shown, consecutive)} or not all(map(callable, steps.values())):
        raise ConfigurationError(
            f'the upcasters of "{name}": expected functions for consecutive versions up to {version - 1}; '
            f"got {_listed(steps)}"
        )

    def mark(cls: T) -> T:
        fields = fields_of(cls)
        if fields is None:
            raise ConfigurationError(
                f"{shown(cls)} has no fields; put @relevo.event(…) above @attrs.frozen, @dataclass, a Struct or a model"
            )
        if subject is not None and subject not in fields:
            raise ConfigurationError(
                f'the event "{name}" has no field "{subject}" for its subject{did_you_mean(subject, fields)}'
            )
        if is_model(cls) and (private := next(iter(cls.__private_attributes__), None)):  # type: ignore[attr-defined]
            raise ConfigurationError(
                f'the event "{name}" has the private attribute "{private}", which is not sent; make it a field, or a '
                f"functools.cached_property that is computed from the fields"
            )
        if hidden := [field for field in fields if field.startswith("_")]:
            raise ConfigurationError(
                f'the event "{name}" has the field "{hidden[0]}"; '
                f"fields with a leading underscore are not sent, rename it"
            )
        declaration = EventType(
            name=name,
            version=version,
            cls=cls,
            fields=fields,
            subject=subject,
            of=of,
            retry=retry,
            upcasters=steps,
            is_model=is_model(cls),
        )
        setattr(cls, MARK, declaration)
        return cls

    return mark


def _listed(upcasters: Mapping[Any, object]) -> str:
    """Return the versions of *upcasters* as text, each with its value unless that is callable."""
    texts = (f"from {shown(key)}" + ("" if callable(each) else f" {shown(each)}") for key, each in upcasters.items())
    return ", ".join(texts) or "none"


@overload
def listener(event: type[E], **options: Unpack[ListenerOptions]) -> Listening[E]: ...
@overload
def listener(event: str, **options: Unpack[ListenerOptions]) -> Listening[Event]: ...
@overload
def listener(event: str | type | None = None, **options: Unpack[ListenerOptions]) -> Listening[Any]: ...
@overload
def listener(event: F, /) -> F: ...
def listener(
    event: Any = None,
    *functions: Never,
    priority: int = 0,
    queue: str | None = None,
    retry: Retry | int | None = None,
    id: str | None = None,  # noqa: A002 - part of the public signature
    aliases: Iterable[str] = (),
    missing: Missing = "fail",
    time_limit: Duration | None = None,
    memory_limit: int | str | None = None,
    transactional: bool | Sessions = False,
    **unknown: Never,
) -> Any:
    """
    Mark a function or method to be called for *event*; it can still be called directly.

    Marks can be stacked to listen to several events. A marked function is registered when its module
    is listed under ``listeners`` or passed to ``App(listeners=…)``; marked methods when an instance is.

    Args:
        event: A declared class, for instances of it, or a name, for an :class:`Event`; by default the declared class
            that annotates the function's parameter, so that ``@relevo.listener`` alone is enough.

        priority: Listeners of higher priority are called first; equal ones in order of registration.

        queue: The queue in which it runs; by default the first queue that the event is routed to.

        retry: A policy, or the number of runs of the default policy. By default the event's, the
            queue's or the default policy is used.

        id: The key of its stored progress, of printable characters; ``module:qualified.name`` by default.

        aliases: Earlier ids, so that the progress of a renamed listener is found.

        missing: What to do if the subject was not found for a minute: ``fail`` dead-letters the event, ``skip`` skips
            the listener, ``tombstone`` passes a :class:`Gone` as the subject. If the dispatch calls it in process, it
            does not wait, and ``fail`` raises :class:`SubjectMissingError`.

        time_limit: The longest run if listeners run in child processes or threads; by default the application's.

        memory_limit: Bytes, or text such as ``"512M"``, that the child process may occupy while it runs; by default the
            application's. Only listeners in child processes are limited.

        transactional: Call it in a transaction of the database that keeps the events, with ``call.session``. When it
            returns, what it wrote, the events of ``call.dispatch`` and the record that it is done commit together; when
            it raises, all of it is rolled back. With ``True`` the transport makes the session; pass your own
            ``sessionmaker`` or ``scoped_session`` instead, as for other settings. An async listener needs an
            ``async_sessionmaker``. The transport has to be a :class:`relevo.backend.TransactionalHandling`.

        functions: None; this is a decorator, and the error says what to write for a function that exists.

        unknown: There are no others; the error names the one that is meant.

    Raises:
        TypeError: There is no such option.

        EventNameError: *event* is an invalid name.

        ConfigurationError: *event* is neither text nor a declared class, no event is named and the parameter has no
            declared class, or another argument is invalid.
    """
    refuse_functions(event, functions)
    refuse_unknown(unknown)
    options: ListenerOptions = {
        "priority": priority,
        "queue": queue,
        "retry": retry,
        "id": id,
        "aliases": aliases,
        "missing": missing,
        "time_limit": time_limit,
        "memory_limit": memory_limit,
        "transactional": transactional,
    }
    return marking(event, options, frame=sys._getframe(1))  # noqa: SLF001 - only the frame shows what is replaced


def lifespan(function: L, /) -> L:
    """
    Mark a generator function that opens, once in a process, what listeners need, and closes it at the end.

    A listener gets what it yields by its type, as a parameter after the call: ``def update(event, call, engine:
    Engine)``. It is opened in each process before the first call of such a listener: a worker, a child process, a
    program whose dispatch calls listeners. If that fails, the listener is not called, and its event is given back to be
    handled later; this is not a run. It is closed by :meth:`App.close`, which the command line calls, or at the end of
    the process, the last one first.

    An async generator function runs on the event loop of async listeners, and only these can get its value. A marked
    function is registered like a listener: when its module is listed under ``listeners``, or when it is passed to
    ``App(listeners=…)``.

    Args:
        function: A function with one ``yield`` that is annotated with the type of what it yields, such as
            ``Iterator[Engine]`` or ``AsyncIterator[AsyncClient]``. Its parameters get what other lifespans yield.

    Raises:
        ConfigurationError: It is not such a function.
    """
    return marked_lifespan(function, sys._getframe(1))  # noqa: SLF001 - for local classes


def marked_lifespan(function: L, frame: FrameType) -> L:
    """Mark *function* as :func:`lifespan` does; *frame* is that of its definition."""
    made = lifespan_for(function, id=default_id(function), names=frame.f_locals)
    vars(function)[LIFESPAN] = made
    return function


def refuse_functions(event: object, functions: Sequence[object]) -> None:
    """Raise :class:`TypeError` if a decorator got *functions* after the *event*."""
    if functions:
        raise TypeError(
            f"listener: expected the event and options; got {shown(functions[0])} too; this is a decorator, so write "
            f"@app.listener({shown(event)}) above the function, or app.add_listener({shown(event)}, function)"
        )


def refuse_unknown(options: Mapping[str, object]) -> None:
    """Raise :class:`TypeError` if *options* has one that a listener has not."""
    known = attrs.fields_dict(Mark)
    if name := min(options.keys() - known.keys(), default=""):
        raise no_option("a listener", name, known, counted(LISTENER, options))


def marking(
    event: Any, options: ListenerOptions, *, frame: FrameType, then: Callable[[Any], object] | None = None
) -> Any:
    """
    Return the decorator that :func:`listener` returns, or the function that it decorates without parentheses.

    Args:
        event: The first argument of :func:`listener`.

        options: The other ones.

        frame: The frame in which :func:`listener` was called.

        then: Called with each function that was marked.
    """

    def attach(function: Any, frame: FrameType) -> Any:
        inner = _inner(function)
        if isinstance(inner, type) or not callable(inner) or not hasattr(inner, "__dict__") or hasattr(inner, CALLED):
            raise _unmarkable(function)
        made = Mark(event=_annotated_event(inner, frame), **options) if mark is None else mark
        before = marks_of(inner)
        inner.__dict__[MARKS] = (made, *before)
        try:
            _note_namesake(inner, frame)
            if then is not None:
                then(function)
        except BaseException:
            inner.__dict__[MARKS] = before  # so that it does not take the place of the earlier function of its name
            raise
        return function

    if event is None or isinstance(event, (staticmethod, classmethod)) or is_function(event):
        mark = None
        if event is not None:
            return attach(event, frame)
    elif _is_listener_class(event):
        raise _unmarkable(event)
    else:
        mark = Mark(event=event, **options)
    return lambda function: attach(function, sys._getframe(1))  # noqa: SLF001 - as above


def _is_listener_class(thing: object) -> bool:
    """Return whether *thing* is a class of listeners, above which the decorator stands without parentheses."""
    if not isinstance(thing, type) or MARK in vars(thing):
        return False
    return any("__call__" in vars(each) for each in thing.__mro__) or bool(marked_methods(thing))


def _unmarkable(thing: object) -> ConfigurationError:
    fix = "mark a function, or a method in its class"
    if isinstance(thing, type):
        fix += f", which may be __call__, and register an instance, as in app.listen({thing.__name__}(…))"
    return ConfigurationError(f"{shown(thing)} cannot be marked; {fix}")


def _annotated_event(function: Any, frame: FrameType) -> type:
    """
    Return the declared class that annotates the first parameter of *function*, or the second one of a method.

    Args:
        function: The function.

        frame: The frame of its definition, for names that are not global.

    Raises:
        ConfigurationError: It has no such annotation, or a class that is not declared.
    """
    parameters = [each for each in inspect.signature(function).parameters.values() if each.name not in _OWNERS]
    annotation = parameters[0].annotation if parameters else inspect.Parameter.empty
    where = f"{default_id(function)}: no event is named"
    found = annotation

    def alone() -> None: ...  # the other annotations may be of modules that are only imported for type checkers

    alone.__annotations__ = {"event": annotation}
    try:
        if isinstance(annotation, str):
            found = get_type_hints(alone, inspect.unwrap(function).__globals__, frame.f_locals)["event"]
    except Exception as error:
        raise ConfigurationError(
            f"{where}, and the annotation of its first parameter cannot be evaluated: {error}; "
            f'write @relevo.listener("image.created") with the name of its event'
        ) from error
    if found in (inspect.Parameter.empty, Any, object, Event):
        raise ConfigurationError(
            f'{where}; write @relevo.listener("image.created") with its name, or annotate the first parameter with a '
            f"class marked with @relevo.event(…)"
        )
    if not isinstance(found, type):
        raise ConfigurationError(
            f"{where}, and {found} is not a class; write one @relevo.listener(…) above it for each event"
        )
    try:
        return declared(found).cls
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}, and {error}") from None


_OWNERS = ("self", "cls")
"""The names of the parameter by which a method gets its instance or its class."""


# --- duplicate names ----------------------------------------------------------------------------------------


def _note_namesake(function: Any, frame: FrameType) -> None:
    """
    Record the marked function that *function* replaces under the same name: Python does not report it.

    In a reloaded module and a cell of a notebook, which have new code, it is a new definition of the earlier one. In
    cells the explicit ids of two functions may say that they are different listeners.

    Args:
        function: The marked function.

        frame: The frame of its module or class; inside functions names may be reused.

    Raises:
        ConfigurationError: The frame is that of a class, whose earlier method could not be found later, or both are
            in one cell.
    """
    if frame.f_code.co_flags & inspect.CO_OPTIMIZED:
        return
    named = _inner(frame.f_locals.get(function.__name__))
    before = inspect.unwrap(named)
    code = getattr(before, "__code__", None)
    if before is function or not (marks_of(named) or marks_of(before)):
        return
    if not any(code is each for each in frame.f_code.co_consts):
        definition = Definition.of(function)
        if definition is None or not definition.replaces(Definition.of(before)):
            return
        if in_one_cell(before.__code__, definition.code):
            raise hidden(before, function)
        ids = [[mark.id for mark in marks_of(each)] for each in (function, before)]
        if not (definition.is_in_cell and are_different(*ids)):
            note_replaced(before, function)
        return
    function.__dict__[HIDES] = before
    if function.__qualname__ != function.__name__:
        raise hidden(before, function)


def _inner(thing: Any) -> Any:
    return thing.__func__ if isinstance(thing, (staticmethod, classmethod)) else thing
