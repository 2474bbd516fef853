"""The in-process dispatcher: it calls listeners at once, writes nothing and promises no delivery."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Unpack

import attrs
import msgspec

from relevo._clock import Clock, SystemClock
from relevo._dispatch.dispatcher import Dispatched, Dispatcher
from relevo._dispatch.packer import check_options, checked_expires
from relevo._event.codec import content_of, subject_of, typed_from
from relevo._event.event import Event, event_from, name_of
from relevo._event.subject import SubjectTypes
from relevo._listener.call import Call, DispatchOptions, Outgoing, SubjectMissingError
from relevo._listener.listener import Listener, ListenerTable
from relevo._transport.route import NOW, Target
from relevo.errors import ConfigurationError


class LocalDispatcher(Dispatcher):
    """
    Calls the listeners in this process, during the dispatch.

    Listeners are called by priority, then in order of registration. A listener may stop the propagation. An error
    of a listener is raised by the dispatch, and the later listeners are not called. An event cannot be delayed; the
    other options have no effect, since the event is handled at once. The dispatch does not wait for a missing
    subject: the listener's ``missing=`` option applies immediately.

    Args:
        listeners: The listeners to call; by default an empty table.

        subjects: Names and loads subjects.

        clock: The source of time.
    """

    def __init__(
        self,
        listeners: ListenerTable | None = None,
        *,
        subjects: SubjectTypes | None = None,
        clock: Clock | None = None,
    ):
        super().__init__(ListenerTable(unique=False) if listeners is None else listeners)
        self._clock = clock or SystemClock()
        self._subjects = SubjectTypes() if subjects is None else subjects
        self._done = Dispatched(id="", targets=(Target(NOW),))

    def dispatch(
        self,
        event: object,
        arguments: Mapping[str, Any] | None = None,
        *,
        subject: Any = None,
        **options: Unpack[DispatchOptions],
    ) -> Dispatched:
        event = event_from(event, arguments, subject)
        self.call(event, self._table.of(self._checked(event, options)))
        return self._done

    def dispatch_many(self, events: Iterable[object], **options: Unpack[DispatchOptions]) -> list[Dispatched]:
        events = list(events)
        for event in events:
            self._checked(event, options)
        return [self.dispatch(event, **options) for event in events]

    def call(self, event: object, listeners: Sequence[Listener], *, outgoing: Outgoing | None = None) -> None:
        """
        Call *listeners* with *event*, in the order given, until one stops the propagation.

        Args:
            event: As it was dispatched.

            listeners: The listeners to call.

            outgoing: Takes the events that they dispatch by their :class:`Call`; by default this dispatcher.
        """
        by_name = isinstance(event, Event)
        if isinstance(event, Event) and event.subject is not None:
            event = attrs.evolve(event, subject=self._subjects.named(event.subject) or event.subject)
        for listener in listeners:
            form = event if by_name is (listener.event_type is None) else _form(event, listener)
            if not listener.takes_call:
                if (result := listener.function(form)) is not None:
                    _refuse_awaitable(result, listener)
                continue
            call = Call(
                listener_id=listener.id,
                queue=NOW,
                attempt=1,
                lost_leases=0,
                document=None,
                subject=subject_of(event),
                subjects=self._subjects,
                outgoing=outgoing or self,
            )
            try:
                _refuse_awaitable(listener.function(form, call), listener)
            except SubjectMissingError:
                # No waiting, unlike in a worker: the caller of the dispatch waits too, maybe inside a transaction.
                if listener.mark.missing == "fail":
                    raise
                call.give_subject_up()
                if listener.mark.missing == "tombstone":
                    _refuse_awaitable(listener.function(form, call), listener)
            finally:
                call.end()
            call.send_held()
            if call.stopped:
                break

    def _checked(self, event: object, options: DispatchOptions) -> str:
        """Return the name of *event*, after validating it and its *options*."""
        name = event.name if isinstance(event, Event) else name_of(event)
        if options:
            refuse_delay(name, options)
            checked_expires(options.get("expires"), now=self._clock.now())
        return name

    def hold(self, event: object, *, key: str, options: DispatchOptions) -> object:
        """Validate *event* and return it for :meth:`send_held`."""
        self._checked(event, options)
        return event

    def send_held(self, held: Sequence[object]) -> None:
        """Dispatch the events that :meth:`hold` returned."""
        self.dispatch_many(held)


def _refuse_awaitable(result: object, listener: Listener) -> None:
    if hasattr(result, "__await__"):
        getattr(result, "close", int)()  # avoids a second warning from Python
        raise TypeError(f"{listener.id} returned an awaitable, which is not awaited; its work was not done")


def _form(event: object, listener: Listener) -> object:
    """Return *event* in the form that *listener* takes."""
    kind = listener.event_type
    if isinstance(event, Event):
        return event if kind is None else typed_from(event, kind)
    return generic_from(event) if kind is None else event


def generic_from(event: object) -> Event:
    """Return *event*, an instance of a declared class, as an :class:`Event`."""
    return Event(name_of(event), msgspec.json.decode(content_of(event).data), subject=subject_of(event))


def refuse_delay(event_name: str, options: DispatchOptions) -> None:
    """Raise :class:`ConfigurationError` if *options* have a delay, which is impossible in process."""
    check_options(event_name, options)
    if options.get("delay") or options.get("at") is not None:
        raise ConfigurationError(
            f'"{event_name}" cannot be delayed, since its route calls listeners in process; route it to a transport'
        )
