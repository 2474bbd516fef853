"""The dispatcher that calls listeners at once; it writes nothing and promises no delivery."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Unpack

import attrs
import msgspec

from relevo._dispatch.dispatcher import Dispatched, Dispatcher
from relevo._dispatch.packer import check_options
from relevo._event.codec import content_of, subject_of, typed_from
from relevo._event.event import Event, name_of
from relevo._event.subject import SubjectTypes
from relevo._listener.call import Call, DispatchOptions, Outgoing, SubjectMissingError
from relevo._listener.listener import Listener, ListenerTable
from relevo._transport.route import NOW, Target
from relevo.errors import ConfigurationError


class LocalDispatcher(Dispatcher):
    """
    Calls the listeners at the dispatch, in this process.

    By priority, then in order of registration; a listener may stop the propagation; an error
    propagates to whoever dispatched, and the later listeners are not called. An event cannot be delayed;
    other options hold by themselves, since nothing is sooner than now. A subject that cannot be found is not
    waited for: what the listener says it is to do without its subject, it does at once.

    Args:
        listeners: The listeners to call; an empty table of its own by default.

        subjects: Names and loads subjects.
    """

    def __init__(self, listeners: ListenerTable | None = None, *, subjects: SubjectTypes | None = None):
        super().__init__(ListenerTable(unique=False) if listeners is None else listeners)
        self._subjects = SubjectTypes() if subjects is None else subjects
        self._done = Dispatched(id="", targets=(Target(NOW),))

    def dispatch(self, event: object, **options: Unpack[DispatchOptions]) -> Dispatched:
        self.call(event, self._table.of(_checked(event, options)))
        return self._done

    def dispatch_many(self, events: Iterable[object], **options: Unpack[DispatchOptions]) -> list[Dispatched]:
        events = list(events)
        for event in events:
            _checked(event, options)
        return [self.dispatch(event, **options) for event in events]

    def call(self, event: object, listeners: Sequence[Listener], *, outgoing: Outgoing | None = None) -> None:
        """
        Call *listeners* with *event*, in the order given, until one stops the propagation.

        Args:
            event: As it was dispatched.

            listeners: The listeners to call.

            outgoing: Where what they dispatch by their :class:`Call` goes; here, by default.
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
                # It is not waited for, as a worker would: whoever dispatched waits too, maybe inside the transaction.
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

    def hold(self, event: object, *, key: str, options: DispatchOptions) -> object:
        """Check *event* and keep it for :meth:`send_held`."""
        refuse_delay(name_of(event), options)
        return event

    def send_held(self, held: Sequence[object]) -> None:
        """Dispatch what was kept."""
        self.dispatch_many(held)


def _refuse_awaitable(result: object, listener: Listener) -> None:
    if hasattr(result, "__await__"):
        getattr(result, "close", int)()  # so that Python does not warn of it as well
        raise TypeError(f"{listener.id} returned an awaitable, which nobody awaits; its work was not done")


def _checked(event: object, options: DispatchOptions) -> str:
    """Return the name of *event*, after validating it and its *options*."""
    name = event.name if isinstance(event, Event) else name_of(event)
    if options:
        refuse_delay(name, options)
    return name


def _form(event: object, listener: Listener) -> object:
    """Return *event* as what *listener* asks for."""
    kind = listener.event_type
    if isinstance(event, Event):
        return event if kind is None else typed_from(event, kind)
    return generic_from(event) if kind is None else event


def generic_from(event: object) -> Event:
    """Return *event*, an instance of a declared class, as an :class:`Event`."""
    return Event(name_of(event), msgspec.json.decode(content_of(event).data), subject=subject_of(event))


def refuse_delay(event_name: str, options: DispatchOptions) -> None:
    """Raise :class:`ConfigurationError` if *options* ask for a delay where listeners are called at once."""
    check_options(event_name, options)
    if options.get("delay") or options.get("at") is not None:
        raise ConfigurationError(f'"{event_name}" is called at once, it cannot be delayed; route it to a transport')
