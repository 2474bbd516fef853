"""Deferred functions: each has an event whose fields are its parameters, and a listener that calls it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Container, Coroutine, Iterable, Sequence
from functools import update_wrapper, wraps
from types import FrameType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar, Unpack, get_type_hints

import msgspec

from relevo._event.event import MAX_NAME, checked_name
from relevo._listener.call import Call, DispatchOptions
from relevo._listener.decorator import event as declare
from relevo._listener.listener import CALLED, MARKS, Mark, default_id, is_async, marks_of
from relevo._synonym import DISPATCH, missing_attribute
from relevo.errors import ConfigurationError, EventNameError, shown

if TYPE_CHECKING:
    from relevo._dispatch.dispatched import Dispatched
    from relevo._dispatch.protocol import Deferring
    from relevo._listener.protocol import DeferredOptions

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

PREFIX = "deferred."
"""The beginning of the default name of an event; the module and the name of the function follow."""

_OPTIONS = frozenset(DispatchOptions.__annotations__)

_YIELDING = frozenset({"to"})
"""The options that are an argument of a function with a parameter of that name, such as ``send_mail(to, text)``."""


class Dispatching(Protocol):
    """The methods of a dispatcher that a deferred function calls."""

    def dispatch(self, event: object, **options: Unpack[DispatchOptions]) -> Dispatched: ...

    async def adispatch(self, event: object, **options: Unpack[DispatchOptions]) -> Dispatched: ...

    def dispatch_many(self, events: Iterable[object], **options: Unpack[DispatchOptions]) -> list[Dispatched]: ...

    def listen(self, thing: T, *others: object) -> T: ...


class DeferredFunction(Generic[P, R]):
    """
    A function decorated with :meth:`Dispatcher.deferred`: calling it runs it now, :meth:`defer` runs it later.

    Args:
        dispatcher: The one that dispatches its events.

        function: The function.

        name: The name of its event.

        called: The listener that calls it, with its marks.

        event_type: The declared class of its event.
    """

    def __init__(
        self,
        dispatcher: Dispatching,
        function: Callable[P, R],
        name: str,
        called: Callable[[Any], Any],
        event_type: type,
    ):
        update_wrapper(self, function)  # first, since an attribute of the function may have the name of one of these
        self._dispatcher = dispatcher
        self._function = function
        self._signature = inspect.signature(function)
        self._event_type = event_type
        self._options = _OPTIONS - (_YIELDING & self._signature.parameters.keys())
        self.name = name
        vars(self)[MARKS], vars(self)[CALLED] = marks_of(called), called
        if sys.version_info >= (3, 12) and is_async(function):
            inspect.markcoroutinefunction(self)  # Starlette, for one, would call it in a thread and await nothing

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function now, as if it had no decorator."""
        return self._function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<DeferredFunction {self.name}>"

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> object:
            """Raise :class:`AttributeError`; for a method that other tools have, say what to call instead."""
            return missing_attribute(self, "DeferredFunction", name)

    def __reduce__(self) -> str:
        """Pickle it by its name, as a function is pickled."""
        return self._function.__qualname__

    def event(self, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        """
        Return the event that calls the function with these arguments, for ``dispatch`` and ``dispatch_many``.

        In a listener, ``call.dispatch(send_receipt.event(7))`` belongs to the listener's run: a retry does not send it
        a second time.

        Raises:
            TypeError: The function does not take these arguments.
        """
        __tracebackhide__ = True
        return self._event(args, kwargs)

    def _event(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        __tracebackhide__ = True
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            answers = [DISPATCH[name] for name in kwargs if name in DISPATCH and name not in self._signature.parameters]
            raise TypeError("; ".join([f"{self._function.__qualname__}(): {error}", *answers[:1]])) from None
        return self._event_type(**bound.arguments)

    if TYPE_CHECKING:

        @property
        def defer(self) -> Deferring[P, Dispatched]: ...

        @property
        def adefer(self) -> Deferring[P, Coroutine[Any, Any, Dispatched]]: ...

    else:

        def defer(self, /, *args: Any, **kwargs: Any) -> Dispatched:
            """
            Dispatch an event that calls the function later with these arguments.

            Args:
                args: The arguments of the function, by position.

                kwargs: The arguments of the function, by name, and the options of :meth:`Dispatcher.dispatch`, such as
                    ``session=`` and ``delay=``. If the function has a parameter ``to``, ``to=`` is its argument.

            Raises:
                TypeError: The function does not take these arguments.

                EncodeError: An argument does not fit its annotation, or has no exact form in JSON. Not raised if the
                    event is handled in process, where nothing is encoded.

                RelevoError: Any other error of :meth:`Dispatcher.dispatch`.
            """
            options, arguments = _split(kwargs, self._options)
            return self._dispatcher.dispatch(self._event(args, arguments), **options)

        async def adefer(self, /, *args: Any, **kwargs: Any) -> Dispatched:
            """Do what :meth:`defer` does without blocking the event loop; see :meth:`Dispatcher.adispatch`."""
            options, arguments = _split(kwargs, self._options)
            return await self._dispatcher.adispatch(self._event(args, arguments), **options)

    def map(self, items: Iterable[Any], **options: Unpack[DispatchOptions]) -> list[Dispatched]:
        """
        Dispatch an event for each of *items*; it calls the function with the item as the only argument.

        They are sent together, as by :meth:`Dispatcher.dispatch_many`; an iterator is sent in batches.

        Args:
            items: The argument of each call.

            options: The options of :meth:`Dispatcher.dispatch_many`.

        Raises:
            TypeError: The function does not take one argument.

            RelevoError: Any error of :meth:`Dispatcher.dispatch_many`.
        """
        events = (self._event((item,), {}) for item in items)
        batch = list(events) if hasattr(items, "__len__") else events
        return self._dispatcher.dispatch_many(batch, **options)


def _split(kwargs: dict[str, Any], names: Container[str]) -> tuple[DispatchOptions, dict[str, Any]]:
    """Return the options of a dispatch among *kwargs*, those with one of *names*, and the others."""
    options: Any = {name: value for name, value in kwargs.items() if name in names}
    return options, {name: value for name, value in kwargs.items() if name not in names}


def deferred_function(
    dispatcher: Dispatching, function: Callable[P, R], name: str | None, options: DeferredOptions, frame: FrameType
) -> DeferredFunction[P, R]:
    """
    Declare the event of *function*, and register a listener that calls it.

    Args:
        dispatcher: The one with which they are registered, and which dispatches the events.

        function: The function.

        name: The name of the event.

        options: The options of the listener; ``aliases`` are earlier names of the event.

        frame: The frame that decorates it, for annotations that name local classes.

    Raises:
        EventNameError: A name is invalid.

        ConfigurationError: *function* cannot be deferred, or an option is invalid.
    """
    given: object = function
    if not inspect.isfunction(given):
        raise ConfigurationError(
            f"{shown(function)} cannot be deferred; put @app.deferred above a function, below its other decorators"
        )
    place = default_id(function)
    if marks_of(given):
        raise ConfigurationError(f"{place} cannot be deferred: it is a listener; write a function for each")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(f"{place} cannot be deferred: it has a yield, so calling it does not run it")
    signature = inspect.signature(function)
    fields = _fields(function, signature, place, frame)
    aliases = options.get("aliases", ())
    earlier = (aliases,) if isinstance(aliases, str) else tuple(aliases)
    own = _own_name(place) if name is None else checked_name(name)
    names = dict.fromkeys((own, *map(checked_name, earlier)))
    types = [_event_type(function, each, fields) for each in names]
    # The id is the name of the event, which outlives that of the function: a call that has failed once is found by it.
    given_id = options.get("id")
    marks = [
        Mark(
            event=each,
            id=each_name if given_id is None else given_id,
            queue=options.get("queue"),
            retry=options.get("retry"),
            time_limit=options.get("time_limit"),
            memory_limit=options.get("memory_limit"),
        )
        for each_name, each in zip(names, types, strict=True)
    ]
    called = _listener(function, signature, marks)
    made = DeferredFunction(dispatcher, function, own, called, types[0])
    dispatcher.listen(made)
    return made


def _own_name(place: str) -> str:
    """Return the name of the event of the function at *place*, ``module:qualified.name``."""
    try:
        return checked_name(PREFIX + place.replace(":", ".").replace(".<locals>", ""))
    except EventNameError as error:
        raise ConfigurationError(
            f"{place} cannot be deferred under its own name, since that of an event has at most {MAX_NAME} letters of "
            f'A-Z a-z 0-9 _ -; name its event: @app.deferred("receipt.send")'
        ) from error


def _fields(
    function: Callable[..., object], signature: inspect.Signature, place: str, frame: FrameType
) -> list[tuple[Any, ...]]:
    """
    Return the fields of the event of *function*.

    A parameter with a default may be missing in the event; the default is the one of the function that runs.
    """
    for name in signature.parameters:
        if name in ("self", "cls"):
            raise ConfigurationError(
                f"{place} cannot be deferred: it is a method, and its instance is not sent; write a function"
            )
        if name in _OPTIONS - _YIELDING:
            raise ConfigurationError(
                f"{place} cannot be deferred: rename its parameter {name}, since {name}= is an option of the dispatch"
            )
        if name.startswith("_"):
            raise ConfigurationError(
                f"{place} cannot be deferred: rename its parameter {name}, since it begins with an underscore"
            )

    def annotated() -> None: ...  # without what it returns, which may be imported for type checkers alone

    annotated.__annotations__ = {
        each.name: each.annotation for each in signature.parameters.values() if each.annotation is not each.empty
    }
    names = inspect.unwrap(function).__globals__
    try:
        hints = get_type_hints(
            annotated, names, frame.f_locals if frame.f_globals is names else None, include_extras=True
        )
    except Exception as error:
        raise ConfigurationError(
            f"{place} cannot be deferred: its annotations cannot be evaluated: {error}; import at run time what they "
            f"name"
        ) from error
    if taking := [name for name, hint in hints.items() if hint is Call]:
        raise ConfigurationError(
            f"{place} cannot be deferred: its parameter {taking[0]} is the call, which is not sent; write a listener"
        )
    return [_field(each, hints.get(each.name, Any)) for each in signature.parameters.values()]


def _field(parameter: inspect.Parameter, hint: Any) -> tuple[Any, ...]:
    if parameter.kind is parameter.VAR_POSITIONAL:
        return parameter.name, tuple[hint, ...], ()
    if parameter.kind is parameter.VAR_KEYWORD:
        return parameter.name, dict[str, hint], msgspec.field(default_factory=dict)
    if parameter.default is parameter.empty:
        return parameter.name, hint
    return parameter.name, hint, msgspec.UNSET


def _event_type(function: Callable[..., object], name: str, fields: Sequence[tuple[Any, ...]]) -> type:
    made = msgspec.defstruct(
        function.__name__, fields, module=function.__module__, kw_only=True, frozen=True, forbid_unknown_fields=False
    )
    made.__qualname__ = function.__qualname__
    made.__doc__ = f"The arguments of {function.__qualname__}."
    return declare(name)(made)


def _listener(
    function: Callable[..., Any], signature: inspect.Signature, marks: Sequence[Mark]
) -> Callable[[Any], Any]:
    """Return the listener that calls *function* with the fields of its event."""

    def bound(event: Any) -> inspect.BoundArguments:
        found = inspect.BoundArguments(
            signature,
            {name: value for name in signature.parameters if (value := getattr(event, name)) is not msgspec.UNSET},
        )
        found.apply_defaults()
        return found

    if is_async(function):

        @wraps(function)
        async def call_async(event: Any) -> Any:
            arguments = bound(event)
            return await function(*arguments.args, **arguments.kwargs)

        made: Any = call_async
    else:

        @wraps(function)
        def call(event: Any) -> Any:
            arguments = bound(event)
            return function(*arguments.args, **arguments.kwargs)

        made = call
    made.__signature__ = inspect.Signature([inspect.Parameter("event", inspect.Parameter.POSITIONAL_ONLY)])
    made.__dict__[MARKS] = tuple(marks)
    listener: Callable[[Any], Any] = made
    return listener
