"""The call: what a listener gets beside the event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import RLock
from typing import Any, Protocol, TypedDict, Unpack

import attrs

from relevo._clock import Duration, Moment
from relevo._event.codec import Document, context_of
from relevo._event.context import ambient
from relevo._event.subject import Gone, Subject, SubjectTypes
from relevo._transport.envelope import Urgency
from relevo.errors import ConfigurationError, RelevoError


class SubjectMissingError(RelevoError):
    """
    Raised by :attr:`Call.subject` when the subject cannot be found.

    Let it pass: it may not be committed yet, so the listener is called again for a while before the
    event is dead-lettered as ``subject-missing``. It does not count as a run.
    """

    def __init__(self, subject: Subject):
        self.subject = subject
        super().__init__(f"the subject {subject} is gone, or not committed yet")


class DispatchOptions(TypedDict, total=False):
    """What a dispatch may say beside the event; :meth:`App.dispatch` tells what each means, and its default."""

    session: Any
    delay: Duration
    at: Moment | None
    urgency: Urgency
    ordering_key: str | None
    expires: Moment | None


class Outgoing(Protocol):
    """Where the events go that a listener dispatches by its call."""

    def hold(self, event: object, *, key: str, options: DispatchOptions) -> object:
        """Check *event*, and return it as :meth:`send_held` takes it; *key* tells it from the others of its call."""
        ...

    def send_held(self, held: Sequence[Any]) -> None:
        """Dispatch what :meth:`hold` returned."""
        ...


@attrs.define(kw_only=True, eq=False, repr=False)
class Call:
    """
    One call of one listener.

    In process, at a dispatch that calls listeners at once, there is no delivery: the attempt is 1 and
    the queue is ``now``.
    """

    listener_id: str
    """Its id."""

    queue: str
    """The queue that the event was received from."""

    attempt: int
    """1 at the first run of this listener for this event; other listeners count for themselves."""

    lost_leases: int
    """Earlier hand-overs that ended without a settlement: a crash, a lost connection, a lease that ran out."""

    stopped: bool = attrs.field(default=False, init=False)
    """Whether :meth:`stop_propagation` was called."""

    _document: Document | None
    _subject: Any
    _subjects: SubjectTypes
    _outgoing: Outgoing | None = None
    _loaded: Any = attrs.field(default=None, init=False)
    _held: list[object] = attrs.field(factory=list, init=False)
    _over: bool = attrs.field(default=False, init=False)
    _lock: RLock = attrs.field(factory=RLock, init=False)
    _gone: bool = attrs.field(default=False, init=False)

    @property
    def event_id(self) -> str:
        """The event's id, the same at every attempt: what to make effects idempotent by. Empty in process."""
        return self._document.id if self._document else ""

    @property
    def source(self) -> str:
        """The application that dispatched it. Empty in process."""
        return self._document.source if self._document else ""

    @property
    def time(self) -> str:
        """When it was dispatched, after RFC 3339. Empty in process."""
        return (self._document.time if self._document else None) or ""

    @property
    def correlation_id(self) -> str | None:
        """What all events of one business case share: the id of the first one, unless it was given another."""
        return (self._document.correlationid or self._document.id) if self._document else ambient().correlation

    @property
    def causation_id(self) -> str | None:
        """The id of the event whose listener dispatched this one. ``None`` in process."""
        return self._document.causationid if self._document else None

    @property
    def context(self) -> Mapping[str, Any]:
        """What the application added at the dispatch."""
        return context_of(self._document) if self._document else ambient().context

    @property
    def subject_found(self) -> bool:
        """Whether the listener asked for the subject and got it."""
        return self._loaded is not None

    @property
    def subject(self) -> Any:
        """
        What the event happened to, loaded when first asked for; ``None`` if the event has no subject.

        It is a :class:`Gone` for a listener that asked for that, once the subject was waited for in vain.

        Raises:
            SubjectMissingError: It is gone or not committed yet.

            SubjectError: Its type is not registered.
        """
        if not isinstance(self._subject, Subject):
            return self._subject
        if self._loaded is None:
            self._loaded = self._subjects.load(self._subject)
            if self._loaded is None and self._gone:
                return Gone(self._subject.type, self._subject.id)
            if self._loaded is None:
                raise SubjectMissingError(self._subject)
        return self._loaded

    def dispatch(self, event: object, **options: Unpack[DispatchOptions]) -> None:
        """
        Dispatch *event* when this listener has returned without an error; if it raises, nothing is sent.

        It is checked now. Whoever outlives the listener, such as a thread or a callback of its, has to dispatch
        by the application. When the listener is run again after a crash, and dispatches the same again, that
        has the same ids: it is the same event.

        Args:
            event: An :class:`Event`, or an instance of a declared class.

            options: As :meth:`App.dispatch` takes them, but for the session.

        Raises:
            ConfigurationError: It cannot be dispatched like this, or the listener has ended.

            EncodeError: It has no faithful form.
        """
        if self._outgoing is None or options.get("session") is not None:
            raise ConfigurationError(
                f"{self.listener_id}: call.dispatch() sends after the listener, so it takes no session, and an "
                f"application must be there; app.dispatch(…) sends at once"
            )
        with self._lock:  # by a thread while the listener returns: held in time, or refused
            if self._over:
                raise ConfigurationError(
                    f"{self.listener_id}: the listener has ended, so nobody sends any more what call.dispatch() is "
                    f"given; app.dispatch(…) sends at once, from wherever it is called"
                )
            key = f"{self.source} {self.listener_id} {len(self._held)}"
            self._held.append(self._outgoing.hold(event, key=key, options=options))

    def give_subject_up(self) -> bool:
        """Have :attr:`subject` be a :class:`Gone` from now on, for another try; return whether it was not yet."""
        gone, self._gone = self._gone, True
        self._held.clear()
        return not gone

    def end(self) -> None:
        """Refuse to dispatch any more; whoever called the listener does so, however that ended."""
        with self._lock:
            self._over = True

    def send_held(self) -> None:
        """End, and send what was dispatched by this call; whoever called the listener does so after its return."""
        self.end()
        if self._held and self._outgoing is not None:
            self._outgoing.send_held(self._held)

    def stop_propagation(self) -> None:
        """Keep the listeners that come after this one in its queue from being called, for good, even if it raises."""
        self.stopped = True
