"""Dispatchers: their interface, and the one that writes events to a transport for later."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextvars import copy_context
from typing import TYPE_CHECKING, TypeVar, Unpack

import attrs
import msgspec

from relevo._clock import Clock, SystemClock
from relevo._dispatch.batch import send_envelopes
from relevo._dispatch.packer import Packer
from relevo._event.subject import SubjectTypes
from relevo._hook import Hooks
from relevo._identity import IdFactory, uuid7
from relevo._listener.call import DispatchOptions
from relevo._listener.listener import Listener, ListenerTable, Mark
from relevo._transport.envelope import DEFAULT_QUEUE, Envelope
from relevo._transport.route import Target, checked_queue
from relevo._transport.transport import Transport
from relevo.errors import ConfigurationError, did_you_mean, shown

if TYPE_CHECKING:
    from relevo._listener.protocol import ListenerOptions

T = TypeVar("T")


# One is made for each dispatch, while the caller waits: a Struct takes a fifth of the time of an attrs class.
class Dispatched(msgspec.Struct, frozen=True, kw_only=True):
    """What a dispatch did."""

    id: str
    """The event's id; empty if it was only called in process."""

    targets: tuple[Target, ...]
    """Where it went."""


class Dispatcher(ABC):
    """
    Takes an event from the application and gets it to its listeners, now or later.

    Args:
        listeners: The registered listeners.
    """

    def __init__(self, listeners: ListenerTable):
        self._table = listeners

    @property
    def listeners(self) -> ListenerTable:
        """The registered listeners: ``listeners()`` are all, ``listeners("image.created")`` those of one event."""
        return self._table

    @abstractmethod
    def dispatch_many(self, events: Iterable[object], **options: Unpack[DispatchOptions]) -> list[Dispatched]:
        """
        Dispatch *events*, in their order and with the same options; all are checked before the first is.

        Args:
            events: Each as :meth:`dispatch` takes it.

            options: As :meth:`dispatch` takes them.

        Raises:
            SendError: Of some it is not certain that they are safe; positions are those of *events*.

            RelevoError: Whatever :meth:`dispatch` raises; nothing was written.
        """

    def dispatch(self, event: object, **options: Unpack[DispatchOptions]) -> Dispatched:
        """
        Dispatch *event*.

        Args:
            event: An :class:`Event`, or an instance of a declared class.

            session: Write it inside this session's transaction: both commit, or neither.

            delay: Not handled before; seconds, a timedelta, or text such as ``"5m"``.

            at: Not handled before that moment: a datetime with a zone, or seconds since the epoch.

            urgency: ``high`` overtakes, where the transport claims it.

            ordering_key: Handled in order with others of this key, where the transport claims it.

            expires: The moment after which it is dead-lettered instead of handled: a datetime with a zone,
                seconds since the epoch, or a timedelta or text such as ``"1h"``, from now on.

        Raises:
            EncodeError: It has no faithful form; nothing was written.

            SendError: The transport cannot say that it is safe.

            TransportUnavailableError: The server could not be reached; nothing was sent.

            ConfigurationError: It is not an event, or the transport does not claim what is asked for.
        """
        return self.dispatch_many((event,), **options)[0]

    async def adispatch(self, event: object, **options: Unpack[DispatchOptions]) -> Dispatched:
        """
        Do as :meth:`dispatch`, without holding up the loop: what waits for a server does so in a thread.

        Where it is cancelled, the event is dispatched nevertheless, as soon as a thread of the loop is free; the end of
        ``asyncio.run`` waits for that. Whoever was cancelled does not hear of an error then. Only what is cancelled
        before it is awaited, such as a task that has not begun, is not dispatched.
        """
        return (await self.adispatch_many((event,), **options))[0]

    async def adispatch_many(self, events: Iterable[object], **options: Unpack[DispatchOptions]) -> list[Dispatched]:
        """Do as :meth:`dispatch_many`, without holding up the loop; where it is cancelled, as :meth:`adispatch`."""
        if options.get("session") is not None:  # enlisted: nothing is written yet, and the session is not the thread's
            return self.dispatch_many(events, **options)
        from asyncio import get_running_loop, shield  # noqa: PLC0415 - whoever awaits has it

        # Not a task, which the end of the loop would cancel too; the loop waits for its threads.
        run = copy_context().run
        return await shield(
            get_running_loop().run_in_executor(None, lambda: run(self.dispatch_many, events, **options))
        )

    def listen(self, thing: T, *others: object) -> T:
        """
        Register marked functions and subscribers; again is fine.

        Returns:
            *thing*, so that it can stand above the mark: ``@dispatcher.listen``.

        Raises:
            ConfigurationError: One of them holds no listener, or two listeners have one id.
        """
        self.listeners.extend((thing, *others))
        return thing

    def unlisten(self, *things: object) -> None:
        """Take out what :meth:`listen` registered; what is not there is passed over."""
        self.listeners.withdraw(things)

    def add_listener(
        self, event: str | type, function: Callable[..., object], **options: Unpack[ListenerOptions]
    ) -> Listener:
        """
        Register *function*, which has no mark; what is returned can be taken out.

        Args:
            event: A declared class, or a name.

            function: Whom to call.

            options: As :func:`listener` takes them: priority, queue, retry, id, aliases, missing, time_limit.

        Raises:
            ConfigurationError: *function* cannot be called, or not with an event, or another argument is invalid.
        """
        known = attrs.fields_dict(Mark)
        if unknown := sorted(options.keys() - known.keys()):
            raise TypeError(f"a listener has no {unknown[0]}=…{did_you_mean(unknown[0], known)}")
        return self.listeners.add(function, Mark(event=event, **options))

    def remove_listener(self, listener: Listener) -> None:
        """Take *listener* out; does nothing if it is not there."""
        self.listeners.remove(listener)

    def has_listeners(self, event: object = None) -> bool:
        """Return whether anybody hears *event*, a name, a declared class or an event; any event by default."""
        return bool(self.listeners(event))

    def listener_priority(self, event: object, function: Callable[..., object]) -> int | None:
        """Return the priority with which *function* hears *event*; ``None`` if it does not."""
        return next((each.priority for each in self.listeners(event) if each.function == function), None)


class DeferredDispatcher(Dispatcher):
    """
    Writes events to a queue of a transport and returns; a worker calls the listeners later.

    When a dispatch returns, and had no session, the event is as safe as the transport claims.

    Args:
        transport: Where to.

        listeners: The listeners that a worker calls; an empty table of its own by default.

        queue: The named stream.

        source: Who dispatches: the application's name.

        clock: Where the time comes from.

        ids: Makes the id of an event.

        subjects: Names subjects.

        hooks: Plugins that add to the context of an event, and look on.

    Raises:
        ConfigurationError: *transport* is not a transport, or *queue* or *source* is invalid.
    """

    def __init__(
        self,
        transport: Transport,
        listeners: ListenerTable | None = None,
        *,
        queue: str = DEFAULT_QUEUE,
        source: str = "app",
        clock: Clock | None = None,
        ids: IdFactory = uuid7,
        subjects: SubjectTypes | None = None,
        hooks: Hooks | None = None,
    ):
        super().__init__(ListenerTable() if listeners is None else listeners)
        if not isinstance(transport, Transport):
            raise ConfigurationError(f"DeferredDispatcher: {shown(transport)} is not a relevo.Transport; open one")
        self.transport = transport
        self.queue = checked_queue(queue, where="DeferredDispatcher")
        self._hooks = hooks or Hooks()
        self._packer = Packer(source, clock or SystemClock(), ids, subjects or SubjectTypes(), self._hooks)

    def dispatch_many(self, events: Iterable[object], **options: Unpack[DispatchOptions]) -> list[Dispatched]:
        targets = (Target(self.transport.name, self.queue),)
        packed_events = [self._packer.pack(event, options) for event in events]
        for packed in packed_events:
            packed.conditions.check_claims(self.transport)

        def made() -> list[Envelope]:  # all before any is written, which on a plain connection is at once
            return [envelope for packed in packed_events for envelope in self._packer.envelopes(packed, targets)]

        session = options.get("session")
        if packed_events and session is not None:
            self.transport.bound_to(session).send(made, delay=packed_events[0].conditions.wait)
        elif packed_events:
            send_envelopes(self.transport, made(), delay=packed_events[0].conditions.wait, hooks=self._hooks)
        return [Dispatched(id=packed.id, targets=targets) for packed in packed_events]
