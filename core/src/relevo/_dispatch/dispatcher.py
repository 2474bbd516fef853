"""The dispatcher interface, and the dispatcher that sends events to a transport for later."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Never, ParamSpec, TypeVar, Unpack, overload

from relevo._dispatch.deferred_function import DeferredFunction, deferred_function
from relevo._dispatch.dispatched import Dispatched
from relevo._event.context import enter_awaited
from relevo._event.event import Event, event_from
from relevo._listener.call import DispatchOptions
from relevo._listener.decorator import marked_lifespan, marking, refuse_functions, refuse_unknown
from relevo._listener.listener import Listener, ListenerTable, Mark, marks_of, takes_call
from relevo._listener.process_loop import in_dispatch_thread
from relevo._synonym import LISTENER
from relevo.errors import ConfigurationError, no_option, shown

if TYPE_CHECKING:
    from relevo._listener.protocol import DeferredOptions, E, ListenerOptions, Listening

L = TypeVar("L", bound=Callable[..., Iterator[Any] | AsyncIterator[Any]])
F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")

_DEFERRED = ("queue", "retry", "id", "aliases", "time_limit", "memory_limit")


class Dispatcher(ABC):
    """
    Takes events from the application, and calls their listeners now or later.

    Args:
        listeners: The registered listeners.
    """

    def __init__(self, listeners: ListenerTable):
        self._table = listeners

    @property
    def listeners(self) -> ListenerTable:
        """The registered listeners; call it for all of them, or with an event: ``listeners("image.created")``."""
        return self._table

    @abstractmethod
    def dispatch_many(self, events: Iterable[object], **options: Unpack[DispatchOptions]) -> list[Dispatched]:
        """
        Dispatch *events*, in order and with the same options.

        Those of a list, a tuple or another collection are validated before the first is dispatched, and sent
        together. A generator or another iterator is dispatched in batches of 1,000, each validated and sent before the
        next is taken, so that memory does not grow with their number. With a session all are validated first.

        Args:
            events: Events, or instances of declared classes.

            options: Options as in :meth:`dispatch`; ``unique`` is the key of one event.

        Raises:
            SendError: Not every event is known to be safe; positions are indexes of *events*. Of an iterator, an
                earlier batch was sent; the error of the later batch is the cause, and the events after the last
                position were not taken. If an event of that batch is invalid, ``index`` is its place.

            BaseException: The iterator raised it, or Ctrl-C ended it; a note says how many events were dispatched.

            RelevoError: Any error of :meth:`dispatch`; nothing was written.
        """

    def dispatch(
        self,
        event: object,
        arguments: Mapping[str, Any] | None = None,
        *,
        subject: Any = None,
        **options: Unpack[DispatchOptions],
    ) -> Dispatched:
        """
        Dispatch *event*.

        Args:
            event: An :class:`Event`, an instance of a declared class, or the name of an event.

            arguments: With a name: the event's data, in the types of JSON.

            subject: With a name: the object that the event is about, as for :class:`Event`.

            session: Write it inside this session's transaction: both commit, or neither.

            delay: Time before which it is not handled: seconds, a timedelta, or text such as ``"5m"``.

            at: Moment before which it is not handled: a datetime with a zone, seconds since the epoch, or the
                time from now as a timedelta or text such as ``"1h"``; not together with *delay*. A number before
                the year 2000 is an error.

            urgency: ``high`` overtakes ``normal``, if the transport claims ``urgency``.

            ordering_key: Handle it in order with other events of this key, if the transport claims ``order``.

            expires: Moment after which it is dead-lettered instead of handled: a datetime with a zone,
                seconds since the epoch, or the time from now as a timedelta or text such as ``"1h"``. A time in
                the past is an error.

            unique: A key, up to 255 printable characters: while an event of this application with the same key lives,
                nothing is sent, and the result is a ``duplicate``. An event lives until it is handled or a dead letter.
                The transport has to claim ``unique``.

            within: Time from the dispatch for which the key stays taken, also if the event is handled before: seconds,
                a timedelta, or text such as ``"10m"``. Only with *unique*.

            to: The targets in place of those of the route, see :meth:`App.dispatch`; other dispatchers have no routes
                and refuse it.

        Raises:
            EncodeError: A value has no exact form in JSON; nothing was written.

            UnsupportedError: An option needs a capability that the transport does not claim; nothing was written.

            SendError: The event is not known to be safe.

            TransportUnavailableError: The server could not be reached; nothing was sent.

            ConfigurationError: It is not an event, or an option is invalid.
        """
        return self.dispatch_many((event_from(event, arguments, subject),), **options)[0]

    async def adispatch(
        self,
        event: object,
        arguments: Mapping[str, Any] | None = None,
        *,
        subject: Any = None,
        **options: Unpack[DispatchOptions],
    ) -> Dispatched:
        """
        Dispatch *event* as :meth:`dispatch` does, in a thread, so that the event loop is not blocked.

        If this is cancelled, the event is dispatched nevertheless, as soon as a thread of the loop is free;
        ``asyncio.run`` waits for it. If it calls listeners in process, it has threads apart, since these listeners may
        need those of the loop, and only the end of the process waits for it. An error is not reported then. Only a call
        that is cancelled before it is awaited, such as a task that has not started, does not dispatch.
        """
        return (await self.adispatch_many((event_from(event, arguments, subject),), **options))[0]

    async def adispatch_many(self, events: Iterable[object], **options: Unpack[DispatchOptions]) -> list[Dispatched]:
        """Dispatch *events* as :meth:`dispatch_many` does, in a thread; see :meth:`adispatch` for cancellation."""
        if options.get("session") is not None:  # only enlisted, and the session must not be used in another thread
            return self.dispatch_many(events, **options)
        from asyncio import current_task, shield  # noqa: PLC0415 - an awaiting program has imported it

        # Not a task: the end of the loop would cancel that too, but it waits for its threads.
        run = copy_context().run
        run(enter_awaited, current_task())
        calls = isinstance(events, Sequence) and self._calls_listeners(events, options)  # an iterator is for the thread
        return await shield(
            in_dispatch_thread(lambda: run(self.dispatch_many, events, **options), calls_listeners=calls)
        )

    def _calls_listeners(self, events: Sequence[object], options: DispatchOptions) -> bool:
        """Return whether the dispatch of *events* calls listeners in process."""
        return False

    def bound_to(self, session: Any) -> Dispatcher:
        """
        Return this dispatcher for one unit of work: it passes *session* to each dispatch, so no caller can forget it.

        Code that gets it needs to know neither the session nor how the application stores its rows. It shares the
        listeners, and is thrown away with the session.

        Args:
            session: What is passed as ``session`` to each :meth:`dispatch`.

        Raises:
            ConfigurationError: *session* is ``None``; a dispatch with another ``session`` raises it too.
        """
        return _BoundDispatcher(self, session)

    @overload
    def listener(self, event: type[E], **options: Unpack[ListenerOptions]) -> Listening[E]: ...
    @overload
    def listener(self, event: str, **options: Unpack[ListenerOptions]) -> Listening[Event]: ...
    @overload
    def listener(self, event: str | type | None = None, **options: Unpack[ListenerOptions]) -> Listening[Any]: ...
    @overload
    def listener(self, event: F, /) -> F: ...
    def listener(self, event: Any = None, *functions: Never, **options: Unpack[ListenerOptions]) -> Any:
        """
        Mark the decorated function as :func:`relevo.listener` does, and register it as :meth:`listen` does.

        Args:
            event: A declared class, or a name; by default the declared class that annotates the function's parameter.

            options: The options of :func:`relevo.listener`.

            functions: None; :meth:`add_listener` registers a function that exists.

        Raises:
            TypeError: There are such arguments, or there is no such option.

            ConfigurationError: The function cannot be a listener: it is a method, whose instance is not known here, or
                has the wrong parameters; or an argument is invalid.
        """

        def register(function: Any) -> None:
            if isinstance(function, classmethod):
                function = function.__func__
            function = getattr(function, "__func__", function)  # of a staticmethod
            takes_call(function, marks_of(function)[0].event)  # raises where the function is defined
            self.listen(function)

        refuse_functions(event, functions)
        refuse_unknown(options)
        return marking(event, options, frame=sys._getframe(1), then=register)  # noqa: SLF001 - as in relevo.listener

    @overload
    def deferred(self, function: Callable[P, R], /) -> DeferredFunction[P, R]: ...
    @overload
    def deferred(
        self, name: str | None = None, /, **options: Unpack[DeferredOptions]
    ) -> Callable[[Callable[P, R]], DeferredFunction[P, R]]: ...
    def deferred(self, given: Any = None, /, **options: Unpack[DeferredOptions]) -> Any:
        """
        Let the decorated function be called later: ``send_receipt.defer(7)`` dispatches an event, a worker runs it.

        The event has the arguments by name, checked against the annotations; they may have the types of a declared
        class. An argument may be left out if its parameter has a default. The function can still be called directly.
        Its event is like any other one: it is routed by its name, retried, and kept as a dead letter.

        Args:
            given: The name of its event; by default ``deferred.``, the module and the qualified name of the function.
                If the decorator is written without parentheses, this is the function.

            options: ``queue``, ``retry``, ``time_limit``, ``memory_limit`` and ``id`` as for :func:`relevo.listener`,
                but the default id is the name of the event; ``aliases`` are earlier names of the event, so that calls
                that wait under them are run.

        Raises:
            TypeError: There is no such option.

            EventNameError: A name is invalid.

            ConfigurationError: The function cannot be deferred: it is a method, a generator or a listener, a parameter
                has the name of an option of the dispatch, or an annotation has no form in JSON.
        """
        if unknown := sorted(options.keys() - {*_DEFERRED}):
            raise no_option("a deferred function", unknown[0], _DEFERRED, LISTENER)
        if given is None or isinstance(given, str):
            return lambda function: deferred_function(self, function, given, options, sys._getframe(1))  # noqa: SLF001
        return deferred_function(self, given, None, options, sys._getframe(1))  # noqa: SLF001 - for local classes

    def lifespan(self, function: L, /) -> L:
        """
        Mark the decorated function as :func:`relevo.lifespan` does, and register it as :meth:`listen` does.

        Args:
            function: A generator function, or an async one, that is annotated with the type of what it yields.

        Raises:
            ConfigurationError: It is not, or another lifespan yields the same type.
        """
        return self.listen(marked_lifespan(function, sys._getframe(1)))  # noqa: SLF001 - for local classes

    def listen(self, thing: T, *others: object) -> T:
        """
        Register marked functions, lifespans and subscribers; registering them again does nothing.

        Returns:
            *thing*, so that it can be used as a decorator above the mark: ``@dispatcher.listen``.

        Raises:
            ConfigurationError: One of them has no listener, or two listeners have the same id.
        """
        self._table.extend((thing, *others))
        return thing

    def unlisten(self, *things: object) -> None:
        """
        Remove functions and subscribers; ignore things that are not registered.

        Raises:
            ConfigurationError: One of *things* has no listener.
        """
        self._table.withdraw(things)

    def add_listener(
        self, event: str | type, function: Callable[..., object], **options: Unpack[ListenerOptions]
    ) -> Listener:
        """
        Register *function*, which has no mark; return the listener, for :meth:`remove_listener`.

        Args:
            event: A declared class, or a name.

            function: The function to call.

            options: The options of :func:`listener`: priority, queue, retry, id, aliases, missing, time_limit,
                memory_limit, transactional.

        Raises:
            ConfigurationError: *function* cannot be called, has the wrong parameters, or another argument is invalid.
        """
        refuse_unknown(options)
        return self.listeners.add(function, Mark(event=event, **options))

    def remove_listener(self, listener: Listener | Callable[..., object] | str) -> None:
        """
        Remove *listener*, all listeners that call a function, or those with an id; do nothing if there are none.

        Args:
            listener: What :meth:`add_listener` returned, the function, or the id.

        Raises:
            ConfigurationError: It is none of these.
        """
        given: object = listener
        if isinstance(listener, Listener):
            self._remove(listener)
        elif isinstance(listener, str):
            self._remove_id(listener)
        elif callable(given):
            self._remove_function(listener)
        else:
            raise ConfigurationError(
                f"remove_listener: expected a function, the id of a listener, or the Listener that add_listener() "
                f"returned; got {shown(given)}"
            )

    def _remove(self, listener: Listener) -> None:
        self._table.remove(listener)

    def _remove_id(self, listener_id: str) -> None:
        self._table.remove_id(listener_id)

    def _remove_function(self, function: Callable[..., object]) -> None:
        self._table.remove_function(function)

    def has_listeners(self, event: object = None) -> bool:
        """Return whether *event*, a name, a declared class or an event, has listeners; by default, any event."""
        return bool(self.listeners(event))

    def listener_priority(self, event: object, function: Callable[..., object]) -> int | None:
        """Return the priority of *function* among the listeners of *event*; ``None`` if it is not one of them."""
        return next((each.priority for each in self.listeners(event) if each.function == function), None)


class _BoundDispatcher(Dispatcher):
    """
    What :meth:`Dispatcher.bound_to` returns.

    Args:
        dispatcher: The dispatcher that does the work.

        session: The session that it passes to each dispatch.

    Raises:
        ConfigurationError: *session* is ``None``.
    """

    def __init__(self, dispatcher: Dispatcher, session: Any):
        if session is None:  # events would be written at once, whether the unit of work is committed or not
            raise ConfigurationError("bound_to: expected a session; got None")
        self._dispatcher = dispatcher
        self._session = session

    @property
    def listeners(self) -> ListenerTable:
        return self._dispatcher.listeners

    def dispatch_many(self, events: Iterable[object], **options: Unpack[DispatchOptions]) -> list[Dispatched]:
        return self._dispatcher.dispatch_many(events, **self._with_session(options))

    async def adispatch_many(self, events: Iterable[object], **options: Unpack[DispatchOptions]) -> list[Dispatched]:
        return await self._dispatcher.adispatch_many(events, **self._with_session(options))

    def listen(self, thing: T, *others: object) -> T:
        return self._dispatcher.listen(thing, *others)

    def unlisten(self, *things: object) -> None:
        self._dispatcher.unlisten(*things)

    def _remove(self, listener: Listener) -> None:
        self._dispatcher.remove_listener(listener)

    def _remove_id(self, listener_id: str) -> None:
        self._dispatcher.remove_listener(listener_id)

    def _remove_function(self, function: Callable[..., object]) -> None:
        self._dispatcher.remove_listener(function)

    def _with_session(self, options: DispatchOptions) -> DispatchOptions:
        other = options.get("session")
        if other is not None and other is not self._session:
            raise ConfigurationError("dispatch: this dispatcher is bound to another session; leave session= out")
        return {**options, "session": self._session}
