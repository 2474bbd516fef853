"""Dispatchers: one calls the listeners now, the other writes the event to a transport for later."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Unpack, get_args

import attrs

from relevo._call import Call, Outgoing, Terms
from relevo._clock import Clock, Duration, Moment, SystemClock, moment, seconds
from relevo._codec import checked_source, content_of, encoded, generic_from, subject_of, typed_from
from relevo._context import ambient
from relevo._envelope import DEFAULT_QUEUE, Envelope, Urgency
from relevo._event import Event, declared, name_of
from relevo._hook import Hooks, observed
from relevo._identity import IdFactory, uuid7
from relevo._listener import Listener, ListenerTable, Mark
from relevo._retry import Retry
from relevo._route import NOW, Target, checked_queue
from relevo._subject import Subject, SubjectTypes
from relevo._transport import Transport
from relevo.errors import ConfigurationError, EncodeError, SubjectError, UnsupportedError, did_you_mean, shown

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
        listeners: Who hears what.
    """

    def __init__(self, listeners: ListenerTable):
        self._table = listeners

    @property
    def listeners(self) -> ListenerTable:
        """Who hears what: ``listeners()`` are all, ``listeners("image.created")`` those of one event."""
        return self._table

    @abstractmethod
    def dispatch_many(self, events: Iterable[object], **terms: Unpack[Terms]) -> list[Dispatched]:
        """
        Dispatch *events*, in their order and on the same terms; all are checked before the first is.

        Args:
            events: Each as :meth:`dispatch` takes it.

            terms: As :meth:`dispatch` takes them.

        Raises:
            SendError: Of some it is not certain that they are safe; positions are those of *events*.

            RelevoError: Whatever :meth:`dispatch` raises; nothing was written.
        """

    def dispatch(self, event: object, **terms: Unpack[Terms]) -> Dispatched:
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
        return self.dispatch_many((event,), **terms)[0]

    async def adispatch(self, event: object, **terms: Unpack[Terms]) -> Dispatched:
        """
        Do as :meth:`dispatch`, without holding up the loop: what waits for a server does so in a thread.

        Where it is cancelled meanwhile, the event is dispatched nevertheless.
        """
        return (await self.adispatch_many((event,), **terms))[0]

    async def adispatch_many(self, events: Iterable[object], **terms: Unpack[Terms]) -> list[Dispatched]:
        """Do as :meth:`dispatch_many`, without holding up the loop."""
        if terms.get("session") is not None:  # enlisted: nothing is written yet, and the session is not the thread's
            return self.dispatch_many(events, **terms)
        from asyncio import to_thread  # noqa: PLC0415 - whoever awaits has it

        return await to_thread(self.dispatch_many, events, **terms)

    def listen(self, *things: object) -> None:
        """
        Register marked functions and subscribers; again is fine.

        Raises:
            ConfigurationError: One of them holds no listener, or two listeners have one id.
        """
        self.listeners.extend(things)

    def unlisten(self, *things: object) -> None:
        """Take out what :meth:`listen` registered; what is not there is passed over."""
        self.listeners.withdraw(things)

    def add_listener(
        self,
        event: str | type,
        function: Callable[..., object],
        *,
        priority: int = 0,
        queue: str | None = None,
        retry: Retry | int | None = None,
        id: str | None = None,  # noqa: A002 - the word that users see
    ) -> Listener:
        """Register *function*, which has no mark, as :func:`listener` would; what is returned can be taken out."""
        retry = Retry(retry) if isinstance(retry, int) else retry
        return self.listeners.add(function, Mark(event=event, priority=priority, queue=queue, retry=retry, id=id))

    def remove_listener(self, listener: Listener) -> None:
        """Take *listener* out; does nothing if it is not there."""
        self.listeners.remove(listener)

    def has_listeners(self, event: object = None) -> bool:
        """Return whether anybody hears *event*, a name, a declared class or an event; any event if unsaid."""
        return bool(self.listeners(event))

    def listener_priority(self, event: object, function: Callable[..., object]) -> int | None:
        """Return the priority with which *function* hears *event*; ``None`` if it does not."""
        return next((each.priority for each in self.listeners(event) if each.function == function), None)


class LocalDispatcher(Dispatcher):
    """
    Calls the listeners at the dispatch, in this process.

    By priority, then in order of registration; a listener may stop the propagation; an error
    propagates to whoever dispatched, and the later listeners are not called. An event cannot be delayed;
    other terms hold by themselves, since nothing is sooner than now.

    Args:
        listeners: Whom to call; an own, empty table if unsaid.

        subjects: Names and loads subjects.
    """

    def __init__(self, listeners: ListenerTable | None = None, *, subjects: SubjectTypes | None = None):
        super().__init__(ListenerTable(unique=False) if listeners is None else listeners)
        self._subjects = SubjectTypes() if subjects is None else subjects
        self._done = Dispatched(id="", targets=(Target(NOW),))

    def dispatch(self, event: object, **terms: Unpack[Terms]) -> Dispatched:
        name = event.name if isinstance(event, Event) else name_of(event)
        if terms:
            refuse_delay(name, terms)
        self.call(event, self._table.of(name))
        return self._done

    def dispatch_many(self, events: Iterable[object], **terms: Unpack[Terms]) -> list[Dispatched]:
        return [self.dispatch(event, **terms) for event in events]

    def call(self, event: object, listeners: Sequence[Listener], *, outgoing: Outgoing | None = None) -> None:
        """
        Call *listeners* with *event*, in the order given, until one stops the propagation.

        Args:
            event: As it was dispatched.

            listeners: Whom to call.

            outgoing: Where what they dispatch by their :class:`Call` goes; here, if unsaid.
        """
        by_name = isinstance(event, Event)
        if isinstance(event, Event) and event.subject is not None:
            event = attrs.evolve(event, subject=self._subjects.named(event.subject) or event.subject)
        for listener in listeners:
            form = event if by_name is (listener.event_type is None) else _form(event, listener)
            if not listener.takes_call:
                listener.function(form)
                continue
            call = Call(
                listener_id=listener.id,
                queue=NOW,
                attempt=1,
                losses=0,
                document=None,
                subject=subject_of(event),
                subjects=self._subjects,
                outgoing=outgoing or self,
            )
            listener.function(form, call)
            call.send_held()
            if call.stopped:
                break

    def hold(self, event: object, *, key: str, terms: Terms) -> object:
        """Check *event* and keep it for :meth:`send_held`."""
        refuse_delay(name_of(event), terms)
        return event

    def send_held(self, held: Sequence[object]) -> None:
        """Dispatch what was kept."""
        self.dispatch_many(held)


def _form(event: object, listener: Listener) -> object:
    """Return *event* as what *listener* asks for."""
    kind = listener.event_type
    if isinstance(event, Event):
        return event if kind is None else typed_from(event, kind)
    return generic_from(event) if kind is None else event


class DeferredDispatcher(Dispatcher):
    """
    Writes events to a queue of a transport and returns; a worker calls the listeners later.

    When a dispatch returns, and had no session, the event is as safe as the transport claims.

    Args:
        transport: Where to.

        listeners: Whom a worker is to call; an own, empty table if unsaid.

        queue: The named stream.

        source: Who dispatches: the application's name.

        clock: Where the time comes from.

        ids: Makes the id of an event.

        subjects: Names subjects.

        hooks: Plugins that add to the context of an event, and look on.
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
        self.transport = transport
        self.queue = checked_queue(queue, where="DeferredDispatcher")
        self._hooks = hooks or Hooks()
        self._packer = Packer(source, clock or SystemClock(), ids, subjects or SubjectTypes(), self._hooks)

    def dispatch_many(self, events: Iterable[object], **terms: Unpack[Terms]) -> list[Dispatched]:
        targets = (Target(self.transport.name, self.queue),)
        parcels = [self._packer.pack(event, terms) for event in events]
        for parcel in parcels:
            check_claims(self.transport, parcel)
        session = terms.get("session")
        if session is not None:
            for parcel in parcels:
                self.transport.bound_to(session).send(partial(parcel.make, targets), delay=parcel.wait)
        elif parcels:
            envelopes = [envelope for parcel in parcels for envelope in parcel.make(targets)]
            sent(self.transport, envelopes, delay=parcels[0].wait, hooks=self._hooks)
        return [Dispatched(id=parcel.id, targets=targets) for parcel in parcels]


@attrs.frozen(kw_only=True)
class Parcel:
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

    def pack(self, event: object, terms: Terms, *, made_id: Callable[[bytes], str] | None = None) -> Parcel:
        """
        Check *event* and its terms, give it its id and return what makes its envelopes.

        Args:
            event: As it was dispatched.

            terms: What else was said.

            made_id: From what it says to its id, unless it has one of its own; a new one if unsaid.

        Raises:
            EncodeError: It, or what goes with it, has no faithful form.

            SubjectError: Its subject is of no registered type.

            ConfigurationError: A term is none.
        """
        content = content_of(event)
        now = self._clock.now()
        urgency, ordering_key, expires = terms.get("urgency", "normal"), terms.get("ordering_key"), terms.get("expires")
        check_terms(content.name, terms)
        wait = _wait(terms.get("delay", 0.0), terms.get("at"), now)
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

        return Parcel(id=event_id, urgency=urgency, ordering_key=ordering_key, wait=wait, make=make)

    def _named(self, subject: object) -> Subject:
        found = self._subjects.named(subject)
        if found is None:
            raise SubjectError(
                f'the subject of type "{self._subjects.of(subject).type}" has no id yet; flush it first, or dispatch '
                f"with session= where it was added, which names it at the commit"
            )
        return found


def _checked_id(event: object) -> str | None:
    wanted = event.id if isinstance(event, Event) else None
    if wanted is not None and not _is_line(wanted):
        raise EncodeError(name_of(event), "id", "must be 1 to 255 printable characters")
    return wanted


def check_terms(event_name: str, terms: Terms) -> None:
    """Raise :class:`EncodeError` if a term of a dispatch is none."""
    if unknown := sorted(terms.keys() - Terms.__annotations__.keys()):
        raise TypeError(f"a dispatch has no {unknown[0]}=…{did_you_mean(unknown[0], Terms.__annotations__)}")
    if (urgency := terms.get("urgency", "normal")) not in get_args(Urgency):
        raise EncodeError(event_name, "urgency", f"is {shown(urgency)}, it must be normal or high")
    if (ordering_key := terms.get("ordering_key")) is not None and not _is_line(ordering_key):
        raise EncodeError(event_name, "ordering_key", "must be 1 to 255 printable characters")


def _wait(delay: Duration, at: Moment | None, now: float) -> float:
    wait = seconds(delay, what="the delay of a dispatch")
    if at is None:
        return wait
    if wait:
        raise ConfigurationError("a dispatch has delay= or at=, not both")
    return seconds(max(0.0, moment(at, now=now, what="the at of a dispatch") - now), what="the time until at=")


def refuse_delay(event_name: str, terms: Terms) -> None:
    """Raise :class:`ConfigurationError` if *terms* ask for a delay where listeners are called at once."""
    check_terms(event_name, terms)
    if terms.get("delay") or terms.get("at") is not None:
        raise ConfigurationError(f'"{event_name}" is called at once, it cannot be delayed; route it to a transport')


def _is_line(text: object) -> bool:
    return type(text) is str and 0 < len(text) <= 255 and text.isprintable()


def check_claims(transport: Transport, parcel: Parcel) -> None:
    """Raise :class:`UnsupportedError` if *transport*, wherever the event waits before it, cannot keep its terms."""
    if parcel.urgency != "normal" and not transport.capabilities.urgency:
        raise UnsupportedError(transport.name, "urgency")
    if parcel.ordering_key is not None and transport.capabilities.order == "none":
        raise UnsupportedError(transport.name, "order")
    if parcel.wait and transport.capabilities.delay is None:
        raise UnsupportedError(transport.name, "delay")


def sent(transport: Transport, envelopes: Sequence[Envelope], *, delay: float, hooks: Hooks) -> None:
    """Send *envelopes* while the observing hooks look on."""
    with observed(hooks.observers("relevo_around_send"), transport=transport.name, envelopes=envelopes):
        transport.send(envelopes, delay=delay)
