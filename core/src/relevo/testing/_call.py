"""Calls for the unit tests of listeners."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import attrs
import msgspec

from relevo._clock import Clock, SystemClock
from relevo._dispatch.packer import Packer
from relevo._event.codec import Document, content_of, subject_of
from relevo._event.context import ambient
from relevo._event.subject import Subject, SubjectTypes
from relevo._event.validation import json_of
from relevo._hook import Hooks
from relevo._identity import uuid7
from relevo._listener.call import Call, DispatchOptions
from relevo.errors import ConfigurationError, SubjectError
from relevo.testing._clock import FakeClock

_EARLY = FakeClock(946_684_800.0)
"""It stands at the beginning of the year 2000, before all dates in events; a smaller number is a mistake."""


class _Recorder:
    """Keeps the events that a listener dispatches by its call, instead of sending them."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.options: list[DispatchOptions] = []

    def hold(self, event: object, *, key: str, options: DispatchOptions, session: Any = None) -> object:
        _check(event, options)
        self.events.append(event)
        self.options.append(options)
        return event

    def send_held(self, held: Sequence[Any], session: Any = None) -> None:
        """Do nothing: they are recorded."""


def _check(event: object, options: DispatchOptions) -> None:
    """Raise what a dispatch raises now, unless it depends on the present time: a test passes on every day."""
    try:
        _packer(SystemClock()).check(event, options)
    except ConfigurationError:
        if not all(_is_accepted(event, each, _packer(_EARLY)) for each in _independent(options)):
            raise


def _packer(clock: Clock) -> Packer:
    return Packer("test", clock, uuid7, SubjectTypes(), Hooks())


def _is_accepted(event: object, options: DispatchOptions, packer: Packer) -> bool:
    try:
        packer.check(event, options)
    except ConfigurationError:
        return False
    return True


def _independent(options: DispatchOptions) -> Sequence[DispatchOptions]:
    """Return *options*; apart if they can be compared only in the present, as a date with a time from now."""
    is_date = options.get("at") is not None and not isinstance(options.get("at"), (str, timedelta))
    if not (is_date and isinstance(options.get("expires"), (str, timedelta))):
        return [options]
    first, second = options.copy(), options.copy()
    del first["at"], second["expires"]
    return [first, second]


class _NoSubjects(SubjectTypes):
    """What a call has that no application made."""

    def load(self, subject: Subject) -> Any:
        raise SubjectError(
            f"make_call cannot load the subject {subject}, since it has no application; pass what your listener "
            f"expects: make_call(…, subject=…)"
        )


@attrs.define(kw_only=True, eq=False, repr=False)
class RecordedCall(Call):
    """
    A call that :func:`make_call` made.

    Its :meth:`dispatch` refuses an event or an option as that of an application does, except for what depends on
    routes, transports and registered subjects, or on the present time: ``expires=`` may be a date in the past, so that
    a test with a fixed date passes on every day.
    """

    dispatched: list[Any]
    """The events that the listener dispatched by this call, in order; nothing is sent."""

    dispatch_options: list[DispatchOptions]
    """The options of each of these dispatches, as they were written, such as ``{"delay": "1h"}``."""


def make_call(
    event: object = None,
    *,
    subject: Any = None,
    attempt: int = 1,
    lost_leases: int = 0,
    queue: str = "default",
    event_id: str = "1",
    context: Mapping[str, Any] | None = None,
    session: Any = None,
) -> RecordedCall:
    """
    Return a call for a listener in a unit test, which needs no application.

    For example ``create_thumbnail(event, make_call(subject=image))``; the result lists what the listener dispatched.

    Args:
        event: The event that the listener is called with, for :attr:`Call.arguments` and the subject.

        subject: The object that the event is about; by default the subject of *event*.

        attempt: The number of this run of the listener, from 1.

        lost_leases: The number of earlier deliveries that ended without a settlement.

        queue: The queue that the event was received from.

        event_id: The id of the event.

        context: The context of the event; it is added to that of :func:`relevo.context` around this call.

        session: The session of a transactional listener.

    Raises:
        EncodeError: A value of *event* or *context* has no exact form in JSON.

        ConfigurationError: *event* is not an event.
    """
    around = ambient()
    document = Document(
        id=event_id,
        source="test",
        type="",
        specversion="1.0",
        correlationid=around.correlation,
        relevocontext=json_of({**around.context, **(context or {})}, "event", "context").decode(),
        data=msgspec.Raw(b"{}"),
    )
    if event is not None:
        content = content_of(event)
        document.type, document.data = content.name, msgspec.Raw(content.data)
        subject = subject_of(event) if subject is None else subject
    recorder = _Recorder()
    return RecordedCall(
        listener_id="listener",
        queue=queue,
        attempt=attempt,
        lost_leases=lost_leases,
        document=document,
        subject=subject,
        subjects=_NoSubjects(),
        outgoing=recorder,
        event=event,
        session=session,
        dispatched=recorder.events,
        dispatch_options=recorder.options,
    )
