"""Dispatchers: one calls the listeners now, the other writes the event to a transport for later."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from math import isfinite
from typing import Any, get_args

import attrs

from relevo._call import Call
from relevo._clock import Clock, Duration, SystemClock, seconds
from relevo._codec import checked_source, content_of, encoded, generic_from, subject_of, typed_from
from relevo._envelope import DEFAULT_QUEUE, Envelope, Urgency
from relevo._event import Event, name_of
from relevo._hook import Hooks, observed
from relevo._identity import IdFactory, uuid7
from relevo._listener import Listener, ListenerTable
from relevo._route import NOW, Target, checked_queue
from relevo._subject import Subject, SubjectTypes
from relevo._transport import Transport
from relevo.errors import EncodeError, SubjectError, UnsupportedError, shown

_LONGEST_ID = "9" * 40


@attrs.frozen(kw_only=True)
class Dispatched:
    """What a dispatch did."""

    id: str
    """The event's id; empty if it was only called in process."""

    targets: tuple[Target, ...]
    """Where it went."""


class Dispatcher(ABC):
    """Takes an event from the application and gets it to its listeners, now or later."""

    @abstractmethod
    def dispatch(self, event: object) -> Dispatched:
        """
        Dispatch *event*.

        Args:
            event: An :class:`Event`, or an instance of a declared class.

        Raises:
            ConfigurationError: It is not an event, or cannot be dispatched like this.
        """


class LocalDispatcher(Dispatcher):
    """
    Calls the listeners at the dispatch, in this process.

    By priority, then in order of registration; a listener may stop the propagation; an error
    propagates to whoever dispatched, and the later listeners are not called.

    Args:
        listeners: Whom to call; an own, empty table if unsaid.

        subjects: Names and loads subjects.
    """

    def __init__(self, listeners: ListenerTable | None = None, *, subjects: SubjectTypes | None = None):
        self.listeners = ListenerTable() if listeners is None else listeners
        self._subjects = SubjectTypes() if subjects is None else subjects
        self._done = Dispatched(id="", targets=(Target(NOW),))

    def dispatch(self, event: object) -> Dispatched:
        self.call(event, self.listeners.of(name_of(event)))
        return self._done

    def call(self, event: object, listeners: Sequence[Listener]) -> None:
        """Call *listeners* with *event*, in the order given, until one stops the propagation."""
        subject = subject_of(event)
        if isinstance(event, Event) and subject is not None:
            event = attrs.evolve(event, subject=self._subjects.named(subject) or subject)
        for listener in listeners:
            form = _form(event, listener)
            if not listener.takes_call:
                listener.function(form)
                continue
            call = Call(
                listener_id=listener.id,
                queue=NOW,
                attempt=1,
                losses=0,
                document=None,
                subject=subject,
                subjects=self._subjects,
            )
            listener.function(form, call)
            if call.stopped:
                break


def _form(event: object, listener: Listener) -> object:
    """Return *event* as what *listener* asks for."""
    kind = listener.event_type
    if isinstance(event, Event):
        return event if kind is None else typed_from(event, kind)
    return generic_from(event) if kind is None else event


class DeferredDispatcher(Dispatcher):
    """
    Writes events to a transport and returns; a worker calls the listeners later.

    Args:
        transport: Where to.

        source: Who dispatches: the application's name.

        clock: Where the time comes from.

        ids: Makes the id of an event.

        subjects: Names subjects.

        hooks: Plugins that add to the context of an event, and look on.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        source: str = "app",
        clock: Clock | None = None,
        ids: IdFactory = uuid7,
        subjects: SubjectTypes | None = None,
        hooks: Hooks | None = None,
    ):
        self.transport = transport
        self._hooks = hooks or Hooks()
        self._packer = Packer(source, clock or SystemClock(), ids, subjects or SubjectTypes(), self._hooks)

    def dispatch(
        self,
        event: object,
        *,
        queue: str = DEFAULT_QUEUE,
        session: Any = None,
        delay: Duration = 0.0,
        urgency: Urgency = "normal",
        ordering_key: str | None = None,
        expires: float | None = None,
    ) -> Dispatched:
        """
        Write *event* to *queue*; when this returns without a session it is as safe as the transport claims.

        Args:
            event: An :class:`Event`, or an instance of a declared class.

            queue: The named stream.

            session: Write it inside this session's transaction instead: both commit, or neither.

            delay: Not handled before; seconds, a timedelta, or text such as ``"5m"``.

            urgency: ``high`` overtakes, where the transport claims it.

            ordering_key: Handled in order with others of this key, where the transport claims it.

            expires: Seconds since the epoch after which it is dead-lettered instead of handled.

        Raises:
            EncodeError: It has no faithful form; nothing was written.

            SendError: The transport cannot say that it is safe.

            TransportUnavailableError: The server could not be reached; nothing was sent.

            ConfigurationError: The transport does not claim what is asked for.
        """
        target = Target(self.transport.name, checked_queue(queue, where="dispatch"))
        wait = seconds(delay, what="the delay of a dispatch")
        parcel = self._packer.pack(event, urgency=urgency, ordering_key=ordering_key, expires=expires)
        check_claims(self.transport, urgency=urgency, ordering_key=ordering_key)
        if session is None:
            sent(self.transport, parcel.make((target,)), delay=wait, hooks=self._hooks)
        else:
            self.transport.bound_to(session).send(lambda: parcel.make((target,)), delay=wait)
        return Dispatched(id=parcel.id, targets=(target,))


@attrs.frozen(kw_only=True)
class Parcel:
    """An event that was checked and has its id; its subject may get its own only at the commit."""

    id: str
    make: Callable[[Iterable[Target]], Sequence[Envelope]]
    """Returns one envelope for each target."""


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

    def __init__(self, source: str, clock: Clock, ids: IdFactory, subjects: SubjectTypes, hooks: Hooks):
        self._source = checked_source(source)
        self._clock = clock
        self._ids = ids
        self._subjects = subjects
        self._hooks = hooks

    def at(self, clock: Clock) -> Packer:
        """Return one that takes the time from *clock*."""
        return Packer(self._source, clock, self._ids, self._subjects, self._hooks)

    def pack(
        self,
        event: object,
        *,
        urgency: Urgency = "normal",
        ordering_key: str | None = None,
        expires: float | None = None,
    ) -> Parcel:
        """
        Check *event*, give it its id and return what makes its envelopes.

        Raises:
            EncodeError: It, or what goes with it, has no faithful form.

            SubjectError: Its subject is of no registered type.
        """
        content = content_of(event)
        now = self._clock.now()
        event_id = _checked_id(event) or self._ids(now)
        check_terms(content.name, urgency, ordering_key, expires)
        context = self._hooks.enrichment(event)
        subject = subject_of(event)
        about = None if subject is None else self._subjects.named(subject)

        def body(about: Subject | None) -> bytes:
            return encoded(content, id=event_id, source=self._source, now=now, subject=about, context=context)

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
                    expires=expires,
                )
                for target in targets
            ]

        return Parcel(id=event_id, make=make)

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


def check_terms(event_name: str, urgency: object, ordering_key: object, expires: object) -> None:
    """Raise :class:`EncodeError` if one of the terms of a dispatch is none."""
    if urgency not in get_args(Urgency):
        raise EncodeError(event_name, "urgency", f"is {shown(urgency)}, it must be normal or high")
    if ordering_key is not None and not _is_line(ordering_key):
        raise EncodeError(event_name, "ordering_key", "must be 1 to 255 printable characters")
    if expires is not None and (type(expires) not in (int, float) or not isfinite(expires)):  # type: ignore[arg-type]
        raise EncodeError(event_name, "expires", f"is {shown(expires)}, it must be seconds since the epoch")


def _is_line(text: object) -> bool:
    return type(text) is str and 0 < len(text) <= 255 and text.isprintable()


def check_claims(transport: Transport, *, urgency: Urgency, ordering_key: str | None) -> None:
    """Raise :class:`UnsupportedError` if *transport*, wherever the event waits before it, cannot keep these terms."""
    if urgency != "normal" and not transport.capabilities.urgency:
        raise UnsupportedError(transport.name, "urgency")
    if ordering_key is not None and transport.capabilities.order == "none":
        raise UnsupportedError(transport.name, "order")


def sent(transport: Transport, envelopes: Sequence[Envelope], *, delay: float, hooks: Hooks) -> None:
    """Send *envelopes* while the observing hooks look on."""
    observers = hooks.observers("relevo_around_send")
    if not observers:
        transport.send(envelopes, delay=delay)
        return
    with observed(observers, transport=transport.name, envelopes=envelopes):
        transport.send(envelopes, delay=delay)
