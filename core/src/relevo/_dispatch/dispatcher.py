"""Dispatchers: their interface, and the one that writes events to a transport for later."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextvars import copy_context
from typing import TYPE_CHECKING, TypeVar, Unpack, get_args

import attrs

from relevo._clock import Clock, Duration, Moment, SystemClock, moment, seconds
from relevo._event.codec import checked_source, content_of, encoded, subject_of
from relevo._event.context import ambient
from relevo._event.event import Event, declared, name_of
from relevo._event.subject import Subject, SubjectTypes
from relevo._hook import Hooks, observed
from relevo._identity import IdFactory, uuid7
from relevo._listener.call import DispatchOptions
from relevo._listener.listener import Listener, ListenerTable, Mark
from relevo._transport.envelope import DEFAULT_QUEUE, Envelope, Urgency
from relevo._transport.route import Target, checked_queue
from relevo._transport.transport import Transport
from relevo.errors import ConfigurationError, EncodeError, SubjectError, UnsupportedError, did_you_mean, shown

if TYPE_CHECKING:
    from relevo._listener.protocol import ListenerOptions

T = TypeVar("T")
_LONGEST_ID = "9" * 40


@attrs.frozen(kw_only=True)
class Dispatched:
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
            check_claims(self.transport, packed)

        def made() -> list[Envelope]:  # all before any is written, which on a plain connection is at once
            return [envelope for packed in packed_events for envelope in packed.make(targets)]

        session = options.get("session")
        if packed_events and session is not None:
            self.transport.bound_to(session).send(made, delay=packed_events[0].wait)
        elif packed_events:
            send_envelopes(self.transport, made(), delay=packed_events[0].wait, hooks=self._hooks)
        return [Dispatched(id=packed.id, targets=targets) for packed in packed_events]


@attrs.frozen(kw_only=True)
class PackedEvent:
    """An event that was checked and has its id; its subject may get its own only at the commit."""

    id: str
    urgency: Urgency
    ordering_key: str | None
    wait: float
    """Seconds from now before which it is not handled."""

    make: Callable[[Iterable[Target]], Sequence[Envelope]]
    """Returns one envelope for each target."""


@attrs.frozen
class Packer:
    """
    Makes envelopes of events.

    Args:
        source: The application's name.

        clock: Where the time comes from.

        ids: Makes the id of an event.

        subjects: Names subjects.

        hooks: Plugins that add to the context.

    Raises:
        ConfigurationError: *source* cannot name an application.
    """

    _source: str = attrs.field(converter=checked_source)
    _clock: Clock
    _ids: IdFactory
    _subjects: SubjectTypes
    _hooks: Hooks

    def pack(
        self, event: object, options: DispatchOptions, *, made_id: Callable[[bytes], str] | None = None
    ) -> PackedEvent:
        """
        Check *event* and its options, give it its id and return what makes its envelopes.

        Args:
            event: As it was dispatched.

            options: What else was said.

            made_id: From what it says to its id, unless it has one of its own; a new one by default.

        Raises:
            EncodeError: It, or what goes with it, has no faithful form.

            SubjectError: Its subject is of no registered type.

            ConfigurationError: An option is invalid.
        """
        content = content_of(event)
        now = self._clock.now()
        urgency, ordering_key, expires = (
            options.get("urgency", "normal"),
            options.get("ordering_key"),
            options.get("expires"),
        )
        check_options(content.name, options)
        wait = _wait(options.get("delay", 0.0), options.get("at"), now)
        until = None if expires is None else moment(expires, now=now, what="the expires of a dispatch")
        subject = subject_of(event)
        about = None if subject is None else self._subjects.named(subject)
        said = b"%b %b %b" % (content.name.encode(), str(about).encode("utf-8", "surrogatepass"), content.data)
        event_id = _checked_id(event) or (made_id(said) if made_id else self._ids(now))
        own = event.arguments if isinstance(event, Event) else declared(type(event)).fields
        context = {**self._hooks.enrichment(event), **ambient().context}
        around = attrs.evolve(ambient(), context={key: each for key, each in context.items() if key not in own})

        def body(about: Subject | None) -> bytes:
            return encoded(content, event_id=event_id, source=self._source, now=now, subject=about, around=around)

        pending = subject is not None and about is None  # named at the commit; but what can be checked is checked now
        checked = body(Subject(self._subjects.of(subject).type, _LONGEST_ID) if pending else about)

        def make(targets: Iterable[Target]) -> list[Envelope]:
            final = body(self._named(subject)) if pending else checked
            return [
                Envelope(
                    id=event_id,
                    source=self._source,
                    name=content.name,
                    queue=target.queue,
                    body=final,
                    urgency=urgency,
                    ordering_key=ordering_key,
                    expires=until,
                )
                for target in targets
            ]

        return PackedEvent(id=event_id, urgency=urgency, ordering_key=ordering_key, wait=wait, make=make)

    def _named(self, subject: object) -> Subject:
        found = self._subjects.named(subject)
        if found is None:
            raise SubjectError(
                f'the subject of type "{self._subjects.of(subject).type}" has no id yet, or its row was rolled back; '
                f"flush it first, or dispatch with session= where it was added, which names it at the commit"
            )
        return found


def _checked_id(event: object) -> str | None:
    wanted = event.id if isinstance(event, Event) else None
    if wanted is not None and not _is_line(wanted):
        raise EncodeError(name_of(event), "id", "must be 1 to 255 printable characters")
    return wanted


def check_options(event_name: str, options: DispatchOptions) -> None:
    """Raise :class:`EncodeError` if a dispatch option is invalid."""
    if unknown := sorted(options.keys() - DispatchOptions.__annotations__.keys()):
        raise TypeError(f"a dispatch has no {unknown[0]}=…{did_you_mean(unknown[0], DispatchOptions.__annotations__)}")
    if (urgency := options.get("urgency", "normal")) not in get_args(Urgency):
        raise EncodeError(event_name, "urgency", f"is {shown(urgency)}, it must be normal or high")
    if (ordering_key := options.get("ordering_key")) is not None and not _is_line(ordering_key):
        raise EncodeError(event_name, "ordering_key", "must be 1 to 255 printable characters")


def _wait(delay: Duration, at: Moment | None, now: float) -> float:
    wait = seconds(delay, what="the delay of a dispatch")
    if at is None:
        return wait
    if wait:
        raise ConfigurationError("a dispatch has delay= or at=, not both")
    return seconds(max(0.0, moment(at, now=now, what="the at of a dispatch") - now), what="the time until at=")


def _is_line(text: object) -> bool:
    return type(text) is str and 0 < len(text) <= 255 and text.isprintable()


def check_claims(transport: Transport, packed: PackedEvent) -> None:
    """Raise :class:`UnsupportedError` if *transport*, wherever the event waits before it, cannot honour its options."""
    if packed.urgency != "normal" and not transport.capabilities.urgency:
        raise UnsupportedError(transport.name, "urgency")
    if packed.ordering_key is not None and transport.capabilities.order == "none":
        raise UnsupportedError(transport.name, "order")
    if packed.wait and transport.capabilities.delay is None:
        raise UnsupportedError(transport.name, "delay")


def send_envelopes(transport: Transport, envelopes: Sequence[Envelope], *, delay: float, hooks: Hooks) -> None:
    """Send *envelopes* while the observing hooks look on."""
    with observed(hooks.observers("relevo_around_send"), transport=transport.name, envelopes=envelopes):
        transport.send(envelopes, delay=delay)
