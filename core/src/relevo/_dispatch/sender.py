"""Send events along their routes: call listeners now, and send to transports for later."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import attrs
import msgspec

from relevo._clock import Clock, moment
from relevo._dispatch.batch import Batches, Groups, TransportBatch, send_envelopes
from relevo._dispatch.dispatcher import Dispatched
from relevo._dispatch.in_process import LocalDispatcher, refuse_delay
from relevo._dispatch.packer import NO_CONDITIONS, PackedEvent, Packer, check_options, surroundings
from relevo._event.context import within
from relevo._event.event import Event, name_of
from relevo._hook import Hooks
from relevo._listener.call import DispatchOptions
from relevo._listener.listener import Listener, ListenerTable
from relevo._transport.route import NOW, Routes, Target, by_transport, fan_out
from relevo._transport.transport import BoundSender, Transport
from relevo.errors import DuplicateEventError

_MOST_ROUTINGS = 1000
"""The largest number of event names whose routing is cached, in case a program generates names."""


class Destinations(Protocol):
    """The transports of an application, set up at first use."""

    @property
    def transports(self) -> Mapping[str, Transport]:
        """The transports by the names that routes use."""
        ...

    def ready(self, name: str) -> Transport:
        """Return the transport *name*, set up."""
        ...

    def bound(self, name: str, session: Any) -> BoundSender:
        """Return a sender that writes events for the transport *name* inside *session*."""
        ...


class Listeners(Protocol):
    """The listeners of an application; some of their modules may not be imported yet."""

    known: ListenerTable
    """The listeners of the modules that are imported."""

    @property
    def table(self) -> ListenerTable:
        """All listeners; imports the other modules now."""
        ...


@attrs.frozen(kw_only=True)
class Routing:
    """The targets of one event name."""

    targets: tuple[Target, ...]
    groups: Groups
    """The targets without ``now``, by transport."""

    is_now: bool
    first: str
    """``now`` if that is the first target, so that listeners without a queue are called in process."""

    @classmethod
    def of(cls, targets: tuple[Target, ...]) -> Routing:
        """Return the routing to *targets*."""
        return cls(
            targets=targets,
            groups=by_transport(targets),
            is_now=any(target.transport == NOW for target in targets),
            first=NOW if targets[0].transport == NOW else "",
        )


class ReadyEvent(msgspec.Struct, frozen=True):
    """A validated event that can be sent; nothing is written yet."""

    event: object
    packed: PackedEvent | None
    routing: Routing
    listeners: Sequence[Listener]
    """The listeners that are called in process."""

    dispatched: Dispatched


class Sender:
    """
    Validates events and sends them along *routes*.

    Args:
        routes: The routing table.

        destinations: The transports.

        packer: Makes envelopes.

        listeners: The listeners.

        local: Calls listeners in process.

        hooks: The plugins.

        clock: The source of time.
    """

    def __init__(
        self,
        *,
        routes: Routes,
        destinations: Destinations,
        packer: Packer,
        listeners: Listeners,
        local: LocalDispatcher,
        hooks: Hooks,
        clock: Clock,
    ):
        self.packer = packer
        self.destinations = destinations
        self._routes = routes
        self._listeners = listeners
        self._local = local
        self._hooks = hooks
        self._clock = clock
        self._routings: dict[str, Routing] = {}

    def dispatch(self, events: Iterable[object], options: DispatchOptions, session: Any) -> list[Dispatched]:
        """Validate all *events*, then send them together, inside *session* if one is given."""
        ready = [self.check(event, options, session) for event in events]
        self.send(ready, session)
        return [each.dispatched for each in ready]

    def check(
        self,
        event: object,
        options: DispatchOptions,
        session: Any,
        made_id: Callable[[bytes], str] | None = None,
    ) -> ReadyEvent:
        """Validate *event* and its *options*, and return it ready to be sent."""
        name = event.name if isinstance(event, Event) else name_of(event)
        routing = self._routings.get(name) or self._routing(name)
        if not isinstance(event, Event):
            self._refuse_other_class(name, event)
        listeners: Sequence[Listener] = ()
        if routing.is_now:
            refuse_delay(name, options)
            listeners = self._listeners.table.in_queue(
                name, NOW, routing.first
            )  # imports modules: before anything is sent
        if len(routing.groups) > 1 and session is None:
            raise fan_out(name, routing.groups)
        if not routing.groups:
            self.check_unsent(event, name, options)
            return ReadyEvent(event, None, routing, listeners, Dispatched(id="", targets=routing.targets))
        packed = self.packer.pack(event, options, made_id=made_id)
        if packed.conditions is not NO_CONDITIONS:
            for transport in routing.groups:
                packed.conditions.check_claims(self.destinations.transports[transport])
        return ReadyEvent(event, packed, routing, listeners, Dispatched(id=packed.id, targets=routing.targets))

    def send(self, ready: Sequence[ReadyEvent], session: Any) -> None:
        """Call listeners in process; then send *ready* and the events that they dispatched, or enlist in *session*."""
        if session is not None and any(each.listeners for each in ready):
            for name in dict.fromkeys(name for each in ready for name in each.routing.groups):
                self.destinations.bound(name, session)  # if it cannot be joined, no listener is called
        gathering = Gathering(self, session, len(ready))
        for position, each in enumerate(ready):
            gathering.add(each, position)
        gathering.send()

    def call(self, ready: ReadyEvent, gathering: Gathering) -> None:
        """Call the in-process listeners of *ready*; *gathering* takes the events that they dispatch."""
        if not ready.listeners:
            return
        if ready.packed is not None and gathering.session is None:
            self.packer.envelopes(ready.packed, ())  # raises for a subject without an id before a listener is called
        around = ready.packed.around if ready.packed is not None else surroundings(ready.event, self._hooks)
        event_id = ready.dispatched.id
        around = attrs.evolve(
            around,
            correlation=around.correlation or event_id or None,
            causation=event_id or around.causation,
        )
        with within(around):
            self._local.call(ready.event, ready.listeners, outgoing=gathering)

    def note_sent(self, ready: Sequence[ReadyEvent]) -> None:
        """Do nothing; subclasses override it to observe *ready* after it was sent or enlisted."""

    def send_batch(self, batch: TransportBatch) -> None:
        """Send *batch* outside of a session."""
        transport = self.destinations.ready(batch.transport)
        send_envelopes(transport, batch.envelopes, delay=batch.wait, hooks=self._hooks)

    def _routing(self, name: str) -> Routing:
        routing = Routing.of(self._routes.targets(name))
        if len(self._routings) < _MOST_ROUTINGS:
            self._routings[name] = routing
        return routing

    def _refuse_other_class(self, name: str, event: object) -> None:
        kind = self._listeners.known.event_types.get(name)
        if kind is not None and kind.cls is not type(event):
            raise DuplicateEventError(name, kind.cls, type(event))

    def check_unsent(self, event: object, name: str, options: DispatchOptions) -> None:
        """Validate the *options* of an event that needs no envelope, as packing it would."""
        check_options(name, options)
        if (expires := options.get("expires")) is not None:
            moment(expires, now=self._clock.now(), what="the expires of a dispatch")


class Gathering:
    """
    The events of one dispatch, and the events that in-process listeners dispatch by their call.

    Args:
        sender: Validates and sends.

        session: The session of the dispatch.

        number: The number of events in the dispatch.
    """

    __slots__ = ("_batches", "_gathered", "_position", "_sender", "session")

    def __init__(self, sender: Sender, session: Any, number: int):
        self.session = session
        self._sender = sender
        self._batches = Batches(number)
        self._position = 0
        self._gathered: list[ReadyEvent] = []

    def add(self, ready: ReadyEvent, position: int) -> None:
        """Add *ready*, call its listeners in process, and add the events that they dispatch."""
        self._gathered.append(ready)
        if ready.packed is not None:
            self._batches.add(ready.packed, ready.routing.groups, position)
        if ready.routing.is_now:
            self._position = position
            self._sender.call(ready, self)

    def hold(self, event: object, *, key: str, options: DispatchOptions) -> object:
        """Validate *event*, which a listener dispatches, and return it for :meth:`send_held`."""
        return self._sender.check(event, options, self.session)

    def send_held(self, held: Sequence[Any]) -> None:
        """Add the events that a listener dispatched, and call their listeners in process."""
        for each in held:
            self.add(each, self._position)

    def send(self) -> None:
        """Send all gathered events, or enlist them in the session."""
        sender = self._sender
        if self.session is None:
            self._batches.send(sender.packer, sender.send_batch)
        else:
            self._batches.enlist(sender.packer, lambda name: sender.destinations.bound(name, self.session))
        sender.note_sent(self._gathered)
