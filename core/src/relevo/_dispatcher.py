"""Dispatchers: one calls the listeners now, the other writes the event to a transport for later."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs

from relevo._call import Call
from relevo._clock import Clock, Duration, SystemClock, seconds
from relevo._codec import content_of, encoded, generic_from, typed_from
from relevo._envelope import DEFAULT_QUEUE, Envelope, Urgency
from relevo._event import Event, name_of
from relevo._hook import Hooks, observed
from relevo._identity import IdFactory, uuid7
from relevo._listener import Listener, ListenerTable
from relevo._route import NOW, Target, checked_queue
from relevo._subject import Subject, SubjectTypes
from relevo._transport import Transport
from relevo.errors import ConfigurationError, EncodeError, SubjectError

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
        for listener in listeners:
            form = self._form(event, listener)
            if not listener.takes_call:
                listener.function(form)
                continue
            call = Call(
                listener_id=listener.id,
                queue=NOW,
                attempt=1,
                losses=0,
                document=None,
                subject=_subject_of(event),
                subjects=self._subjects,
            )
            listener.function(form, call)
            if call.stopped:
                break

    def _form(self, event: object, listener: Listener) -> object:
        kind = listener.event_type
        if isinstance(event, Event):
            if kind is None:
                return event
            subject = event.subject
            if subject is not None and not isinstance(subject, Subject):
                event = attrs.evolve(event, subject=named(subject, self._subjects))
            return typed_from(event, kind)
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
        self._packer = Packer(source, clock or SystemClock(), ids, subjects or SubjectTypes(), hooks or Hooks())

    def dispatch(
        self,
        event: object,
        *,
        queue: str = DEFAULT_QUEUE,
        session: Any = None,
        delay: Duration = 0.0,
        urgency: Urgency = "normal",
        ordering_key: str | None = None,
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

        Raises:
            EncodeError: It has no faithful form; nothing was written.

            SendError: The transport cannot say that it is safe.

            ConfigurationError: The transport does not claim what is asked for.
        """
        target = Target(self.transport.name, checked_queue(queue, where="dispatch"))
        parcel = self._packer.pack(event, (target,), urgency=urgency, ordering_key=ordering_key)
        wait = seconds(delay, what="the delay of a dispatch")
        if session is None:
            self.transport.send(parcel.make(), delay=wait)
        else:
            self.transport.bound_to(session).send(parcel.make, delay=wait)
        return Dispatched(id=parcel.id, targets=(target,))


@attrs.frozen(kw_only=True)
class Parcel:
    """An event that was checked and has its id; its subject may get its own only at the commit."""

    id: str
    make: Callable[[], Sequence[Envelope]]
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
    """

    def __init__(self, source: str, clock: Clock, ids: IdFactory, subjects: SubjectTypes, hooks: Hooks):
        self.source = source
        self._clock = clock
        self._ids = ids
        self._subjects = subjects
        self._hooks = hooks

    def pack(
        self,
        event: object,
        targets: Iterable[Target],
        *,
        urgency: Urgency = "normal",
        ordering_key: str | None = None,
        expires: float | None = None,
    ) -> Parcel:
        """
        Check *event*, give it its id and return what makes its envelopes.

        Raises:
            EncodeError: It has no faithful form.

            SubjectError: Its subject is of no registered type.
        """
        content = content_of(event)
        now = self._clock.now()
        event_id = _checked_id(event) or self._ids(now)
        context = self._hooks.enrichment(event)
        queues = tuple(target.queue for target in targets)
        subject = _subject_of(event)

        def envelopes(about: Subject | None) -> list[Envelope]:
            body = encoded(content, id=event_id, source=self.source, now=now, subject=about, context=context)
            return [
                Envelope(
                    id=event_id,
                    source=self.source,
                    name=content.name,
                    queue=queue,
                    body=body,
                    urgency=urgency,
                    ordering_key=ordering_key,
                    expires=expires,
                )
                for queue in queues
            ]

        about = _named_if_it_can(subject, self._subjects)
        if subject is None or about is not None:
            made = envelopes(about)
            return Parcel(id=event_id, make=lambda: made)
        envelopes(Subject(self._subjects.of(subject).type, _LONGEST_ID))  # checked now, named at the commit
        return Parcel(id=event_id, make=lambda: envelopes(named(subject, self._subjects)))


def named(subject: object, subjects: SubjectTypes) -> Subject:
    """
    Return the name of *subject*.

    Raises:
        SubjectError: Its type is not registered, or it has no id yet.
    """
    found = _named_if_it_can(subject, subjects)
    if found is None:
        kind = subjects.of(subject)
        message = (
            f'the subject of type "{kind.type}" has no id yet; flush it first, '
            f"or dispatch with session=, which names it at the commit"
        )
        raise SubjectError(message)
    return found


def _named_if_it_can(subject: object, subjects: SubjectTypes) -> Subject | None:
    if subject is None or isinstance(subject, Subject):
        return subject
    kind = subjects.of(subject)
    name = kind.name(subject)
    return None if name is None else Subject(kind.type, name)


def _subject_of(event: object) -> Any:
    return event.subject if isinstance(event, Event) else None


def _checked_id(event: object) -> str | None:
    wanted = event.id if isinstance(event, Event) else None
    if wanted is None:
        return None
    if type(wanted) is not str or not 0 < len(wanted) <= 255 or not wanted.isprintable():
        raise EncodeError(name_of(event), "id", "must be 1 to 255 printable characters")
    return wanted


def sent(transport: Transport, envelopes: Sequence[Envelope], *, delay: float, hooks: Hooks) -> None:
    """Send *envelopes* while the observing hooks look on."""
    observers = hooks.observers("relevo_around_send")
    if not observers:
        transport.send(envelopes, delay=delay)
        return
    with observed(observers, transport=transport.name, envelopes=envelopes):
        transport.send(envelopes, delay=delay)


def grouped(targets: Iterable[Target]) -> Mapping[str, tuple[Target, ...]]:
    """Return *targets* by their transport, in order."""
    groups: dict[str, tuple[Target, ...]] = {}
    for target in targets:
        groups[target.transport] = (*groups.get(target.transport, ()), target)
    return groups


def refused_fan_out(event_name: str, transports: Iterable[str]) -> ConfigurationError:
    """Return the error for an event that would go to several transports, where a crash could part them."""
    names = ", ".join(f'"{name}"' for name in transports)
    return ConfigurationError(
        f'"{event_name}" is routed to several transports ({names}) that share no outbox; '
        f"a crash between them would lose a part: give them one outbox, or route it to one transport"
    )
