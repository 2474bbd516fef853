"""What a listener is told beside the event."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relevo._codec import Document, context_of
from relevo._subject import Subject, SubjectTypes
from relevo.errors import RelevoError


class SubjectMissingError(RelevoError):
    """
    Raised by :attr:`Call.subject` when the subject cannot be found.

    Let it pass: it may not be committed yet, so the listener is called again for a while before the
    event is dead-lettered as ``subject-missing``. It does not count as a run.
    """

    def __init__(self, subject: Subject):
        self.subject = subject
        super().__init__(f"the subject {subject} is gone, or not committed yet")


class Call:
    """
    One call of one listener.

    In process, at a dispatch that calls listeners at once, there is no delivery: the attempt is 1 and
    the queue is ``now``.
    """

    __slots__ = (
        "_document",
        "_loaded",
        "_subject",
        "_subjects",
        "attempt",
        "listener_id",
        "losses",
        "queue",
        "stopped",
    )

    def __init__(
        self,
        *,
        listener_id: str,
        queue: str,
        attempt: int,
        losses: int,
        document: Document | None,
        subject: Any,
        subjects: SubjectTypes,
    ):
        self.listener_id = listener_id
        """Its id."""
        self.queue = queue
        """The queue that the event was received from."""
        self.attempt = attempt
        """1 at the first run of this listener for this event; other listeners count for themselves."""
        self.losses = losses
        """How many processes died while they held this event."""
        self.stopped = False
        """Whether :meth:`stop_propagation` was called."""
        self._document = document
        self._subject = subject
        self._subjects = subjects
        self._loaded: Any = None

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
        """What all events of one business case share."""
        return self._document.correlationid if self._document else None

    @property
    def causation_id(self) -> str | None:
        """The id of the event whose listener dispatched this one."""
        return self._document.causationid if self._document else None

    @property
    def context(self) -> Mapping[str, Any]:
        """What the application added at the dispatch."""
        return context_of(self._document) if self._document else {}

    @property
    def subject_found(self) -> bool:
        """Whether the listener asked for the subject and got it."""
        return self._loaded is not None

    @property
    def subject(self) -> Any:
        """
        What the event happened to, loaded when first asked for; ``None`` if the event has no subject.

        Raises:
            SubjectMissingError: It is gone or not committed yet.

            SubjectError: Its type is not registered.
        """
        if not isinstance(self._subject, Subject):
            return self._subject
        if self._loaded is None:
            self._loaded = self._subjects.load(self._subject)
            if self._loaded is None:
                raise SubjectMissingError(self._subject)
        return self._loaded

    def stop_propagation(self) -> None:
        """Keep the listeners that come after this one in its queue from being called, for good."""
        self.stopped = True
