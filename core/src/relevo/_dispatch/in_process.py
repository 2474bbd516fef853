"""The in-process dispatcher: it calls listeners at once, writes nothing and promises no delivery."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from logging import DEBUG, getLogger
from typing import Any, Unpack

import attrs

from relevo._awaited import refuse_undone
from relevo._clock import Clock, SystemClock
from relevo._dispatch.dispatched import Dispatched
from relevo._dispatch.dispatcher import Dispatcher
from relevo._dispatch.packer import check_options, checked_expires, refuse_to, surroundings
from relevo._event.codec import generic_from, subject_of, typed_from, with_id
from relevo._event.context import ambient, within
from relevo._event.event import Event, EventType, event_from, name_of, own_values
from relevo._event.subject import SubjectTypes
from relevo._hook import Hooks, Observer, hooks_of, observe
from relevo._listener.call import Call, DispatchOptions, Outgoing
from relevo._listener.listener import Listener, ListenerTable
from relevo._listener.open_values import OpenValues
from relevo._listener.process_loop import awaited, is_awaitable, is_in_loop
from relevo._listener.wrapper import check_wrapped, wrapped
from relevo._transport.route import NOW, Target
from relevo.errors import ConfigurationError, SubjectMissingError, described

_log = getLogger("relevo.dispatch")


class LocalDispatcher(Dispatcher):
    """
    Calls the listeners in this process, during the dispatch.

    Listeners are called by priority, then in order of registration. A listener may stop the propagation. An error of a
    listener is raised by the dispatch, and the later listeners are not called. An event cannot be delayed; the other
    options have no effect, since the event is handled at once. Nothing is sent, so the arguments and the subject may be
    any objects; listeners get these objects, and copies of lists and dictionaries in the arguments. The dispatch does
    not wait for a missing subject: the listener's ``missing=`` option applies immediately.

    Args:
        listeners: The listeners to call; by default an empty table.

        subjects: Names and loads subjects.

        clock: The source of time.

        hooks: Plugins that add to the context of an event, and observe: a :class:`Hooks`, or a list of plugins.

        opened: What lifespans have opened, for the listeners that need it; by default those of *listeners* are opened
            at the first call that needs them, and closed at the end of the process.

    Raises:
        PluginError: A plugin is invalid, see :class:`Hooks`.
    """

    def __init__(
        self,
        listeners: ListenerTable | None = None,
        *,
        subjects: SubjectTypes | None = None,
        clock: Clock | None = None,
        hooks: Hooks | Iterable[object] | None = None,
        opened: OpenValues | None = None,
    ):
        super().__init__(ListenerTable(unique=False) if listeners is None else listeners)
        self._clock = clock or SystemClock()
        self._hooks = hooks_of(hooks)
        self._opened = OpenValues(self._table.lifespans) if opened is None else opened
        self._subjects = SubjectTypes() if subjects is None else subjects
        self._done = Dispatched(id="", targets=(Target(NOW),))

    def __repr__(self) -> str:
        number = len(self._table)
        return f"<LocalDispatcher with {number} listener{'' if number == 1 else 's'}>"

    @property
    def listeners(self) -> ListenerTable:
        self._table.renew()
        return self._table

    def dispatch(
        self,
        event: object,
        arguments: Mapping[str, Any] | None = None,
        *,
        subject: Any = None,
        **options: Unpack[DispatchOptions],
    ) -> Dispatched:
        event = event_from(event, arguments, subject)
        listeners = self.listeners.of(self._checked(event, options))
        if self._hooks.enriches or ambient().context:
            with within(surroundings(event, self._hooks)):
                self.call(event, listeners, session=options.get("session"))
        else:
            self.call(event, listeners, session=options.get("session"))
        return self._done

    def dispatch_many(self, events: Iterable[object], **options: Unpack[DispatchOptions]) -> list[Dispatched]:
        events = list(events)
        for event in events:
            self._checked(event, options)
        return [self.dispatch(event, **options) for event in events]

    def _calls_listeners(self, events: Sequence[object], options: DispatchOptions) -> bool:
        return True

    def call(
        self,
        event: object,
        listeners: Sequence[Listener],
        *,
        outgoing: Outgoing | None = None,
        event_id: str = "",
        session: Any = None,
    ) -> None:
        """
        Call *listeners* with *event*, in the order given, until one stops the propagation.

        All listeners for its name get the same object, and so do all for its class; the subject is that of *event*.

        Args:
            event: As it was dispatched.

            listeners: The listeners to call.

            outgoing: Takes the events that they dispatch by their :class:`Call`; by default this dispatcher.

            event_id: The id that listeners get; by default that of *event* alone.

            session: The session of the dispatch, for their :class:`Call`.
        """
        observers, logs = self._hooks.observers("relevo_around_call"), _log.isEnabledFor(DEBUG)
        if logs and not listeners:
            _log.debug("%s has no listener in process", name_of(event))
        by_name = isinstance(event, Event)
        if isinstance(event, Event) and listeners:
            own_values(event)
        if event_id and isinstance(event, Event) and event.id is None:
            event = with_id(event, event_id)
        forms: _Forms | None = None
        if self._hooks.wraps:
            check_wrapped(listeners, self._hooks)
            listeners = [wrapped(each, self._hooks, partial(_completed, session)) for each in listeners]
        for listener in listeners:
            form = event
            if by_name is not (listener.event_type is None):
                forms = forms or _Forms(event, self._subjects, event_id)
                form = forms.of(listener.event_type)
            call = self._call_of(listener, event, outgoing or self, event_id, session) if listener.takes_call else None
            if listener.needs and call is not None:
                call.given = self._opened.values(listener) or self._opened.open(listener)
            if not (observers or logs):
                _run(listener, form, call, session)
            else:
                with _observed(event, listener.id, observers):
                    _run(listener, form, call, session)
            if call is not None and call.stopped:
                break

    def _call_of(self, listener: Listener, event: object, outgoing: Outgoing, event_id: str, session: Any) -> Call:
        return Call(
            listener_id=listener.id,
            queue=NOW,
            attempt=1,
            lost_leases=0,
            document=None,
            subject=subject_of(event),
            subjects=self._subjects,
            outgoing=outgoing,
            event=event,
            event_id=event_id or (event.id if isinstance(event, Event) else None) or "",
            session=session,
        )

    def _checked(self, event: object, options: DispatchOptions) -> str:
        """Return the name of *event*, after validating it and its *options*."""
        name = event.name if isinstance(event, Event) else name_of(event)
        if options:
            refuse_to(options)
            check_in_process(name, options)
            checked_expires(options.get("expires"), now=self._clock.now())
        return name

    def hold(self, event: object, *, key: str, options: DispatchOptions, session: Any = None) -> object:
        """Validate *event* and return it for :meth:`send_held`."""
        self._checked(event, options)
        return event

    def send_held(self, held: Sequence[object], session: Any = None) -> None:
        """Dispatch the events that :meth:`hold` returned."""
        self.dispatch_many(held, session=session)


class _Forms:
    """The forms of one event that listeners take beside its own: each is made once, at its first use."""

    def __init__(self, event: object, subjects: SubjectTypes, event_id: str):
        self._event = event
        self._id = event_id
        self._subjects = subjects
        self._made: dict[type | None, object] = {}

    def of(self, kind: EventType | None) -> object:
        """Return the event as an instance of the class that *kind* declares, or as an :class:`Event`."""
        key = None if kind is None else kind.cls
        if key not in self._made:
            named = generic_from(self._event)
            if self._id and named.id is None:
                named = with_id(named, self._id)
            self._made[key] = named if kind is None else self._typed(named, kind)
        return self._made[key]

    def _typed(self, event: Event, kind: EventType) -> object:
        needs_id = kind.subject is not None and kind.fields[kind.subject] not in event.arguments
        if needs_id and event.subject is not None:
            event = attrs.evolve(event, subject=self._subjects.named(event.subject))
        return typed_from(event, kind)


def _run(listener: Listener, event: object, call: Call | None, session: object) -> None:
    """Call *listener* for a dispatch with *session*, and dispatch the events of its *call*."""
    if call is None:
        _complete(listener.function(event), listener, None)
        return
    try:
        _complete(listener.function(event, call, **call.given), listener, session)
    except SubjectMissingError:
        # No waiting, unlike in a worker: the caller of the dispatch waits too, maybe inside a transaction.
        if listener.mark.missing == "fail":
            raise
        call.give_subject_up()
        if listener.mark.missing == "tombstone":
            _complete(listener.function(event, call, **call.given), listener, session)
    finally:
        if call.end():
            call.release()
    call.send_held()


def _complete(result: object, listener: Listener, session: object) -> None:
    """Complete *result*, which *listener* returned, if it is awaitable; raise if it is work that is not done."""
    if result is not None:
        refuse_undone(_completed(session, result, listener), listener.id)


def _completed(session: object, result: object, listener: Listener) -> object:
    """Return *result*, which *listener* returned in a dispatch with *session*; if it is awaitable, once it is done."""
    if session is not None and is_awaitable(result) and is_in_loop():
        getattr(result, "close", int)()
        raise ConfigurationError(
            f"{listener.id} is async, and a dispatch with session= in async code calls it in process: it would use the "
            f"session on another event loop than yours; route its event to a transport, leave the session out, or "
            f"write it as def"
        )
    return awaited(result, listener.id)


@contextmanager
def _observed(event: object, listener_id: str, observers: Sequence[Observer]) -> Iterator[None]:
    """Run the block, a call of the listener *listener_id*, inside the observing hooks, and log it."""
    try:
        with observe(observers, event=event, listener_id=listener_id):
            yield
    except BaseException as error:
        _log.debug("%s: %s raised in process: %s", name_of(event), listener_id, described(error))
        raise
    _log.debug("%s: %s was called in process", name_of(event), listener_id)


def check_in_process(event_name: str, options: DispatchOptions) -> None:
    """
    Validate the *options* of an event whose listeners are called in process.

    Raises:
        EncodeError: One is invalid.

        ConfigurationError: It is to be delayed, or unique, which is impossible in process.
    """
    check_options(event_name, options)
    if options.get("unique") is not None:
        raise ConfigurationError(
            f'"{event_name}" cannot be unique, since "now" calls its listeners in process; route it to a transport '
            f"alone, or name one with to=, or remove unique="
        )
    if options.get("delay") or options.get("at") is not None:
        raise ConfigurationError(
            f'"{event_name}" cannot be delayed, since "now" calls its listeners in process; route it to a transport, '
            f"or name one with to=, or remove delay= and at="
        )
