"""Send events along their routes: call listeners now, and send to transports for later."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from relevo._clock import Clock
from relevo._dispatch.chosen import check_reached, chosen_routing, texts_of
from relevo._dispatch.dispatched import Dispatched
from relevo._dispatch.gathering import Gathering, ReadyEvent
from relevo._dispatch.in_process import LocalDispatcher, check_in_process
from relevo._dispatch.packer import (
    NO_CONDITIONS,
    Conditions,
    PackedEvent,
    Packer,
    check_options,
    checked_expires,
    surroundings,
)
from relevo._dispatch.unique import KeyClaim, dispatched
from relevo._event.context import Ambient, enter, leave
from relevo._event.event import Event, name_of
from relevo._hook import Hooks, observe
from relevo._listener.call import DispatchOptions
from relevo._listener.listener import Listener, ListenerTable
from relevo._transport.acceptance import QueueTable
from relevo._transport.envelope import DEFAULT_QUEUE, Envelope
from relevo._transport.route import MOST_ROUTINGS, NOW, Routes, Routing, Target, fan_out
from relevo._transport.sent_to import headers_for
from relevo._transport.transport import BoundSender, Transport, UniqueSender
from relevo.errors import ConfigurationError, RelevoError, SendError, TransportError, UnsupportedError, shown

T = TypeVar("T")


class Destinations(Protocol):
    """The transports of an application, set up at first use."""

    set_up: Callable[[str], Transport]
    """Takes the name of a transport, sets it up once, and returns it."""

    @property
    def transports(self) -> Mapping[str, Transport]:
        """The transports by the names that routes use."""
        ...

    def has_outbox(self, name: str) -> bool:
        """Return whether what a session sends to the transport *name* is written to an outbox."""
        ...

    def bind(self, name: str, session: Any) -> BoundSender:
        """Return a sender that writes events for the transport *name* inside *session*."""
        ...


class Listeners(Protocol):
    """The listeners of an application; some of their modules may not be imported yet."""

    known: ListenerTable
    """The listeners that are registered so far."""

    @property
    def imported(self) -> ListenerTable:
        """Those that are not registered yet, as far as they are imported."""
        ...

    @property
    def table(self) -> ListenerTable:
        """All listeners; imports the other modules now."""
        ...


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

        queues: The options of the queues; an event that its queue does not accept is refused.

        notice: Called with a name and its routing when that is worked out, which is at the first dispatch of the name.
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
        queues: QueueTable,
        notice: Callable[[str, Routing], None],
    ):
        self.packer = packer
        self.destinations = destinations
        known = queues.checked(routes.routing) if queues else routes.routing

        def noticed(name: str) -> Routing:
            routing = known(name)
            notice(name, routing)
            return routing

        self._routing = lru_cache(MOST_ROUTINGS)(noticed)
        self._routes = routes
        self._classes = bool(routes.classes)
        self._queues = queues

        def sent(name: str, targets: tuple[Target, ...]) -> Routing:
            routing = Routing.of(targets, headers=headers_for(targets))
            for target in routing.deferred:
                queues.check(name, target)
            notice(name, routing)
            return routing

        self._sent = lru_cache(MOST_ROUTINGS)(sent)
        self._listeners = listeners
        self._local = local
        self._hooks = hooks
        self._clock = clock

    def dispatch(self, events: Iterable[object], options: DispatchOptions, session: Any) -> list[Dispatched]:
        """Validate all *events*, then send them together, inside *session* if one is given."""
        ready, results = [], []
        conditions: Conditions | None = None
        for event in events:
            each = self.check(event, options, session, conditions=conditions)
            if each.packed is not None:
                conditions = each.packed.conditions
            ready.append(each)
            results.append(each.dispatched)
        self.send(ready, session)
        return results

    def calls_listeners(self, events: Sequence[object], options: DispatchOptions) -> bool:
        """Return whether a target of *events* calls listeners in process; what is not an event does not."""
        with suppress(RelevoError):
            if (to := options.get("to")) is not None:
                return self._routing_to(to).is_now
            for event in events:
                name = event.name if isinstance(event, Event) else name_of(event)
                if self._routing_of(name, event, {}).is_now:
                    return True
        return False

    def check(
        self,
        event: object,
        options: DispatchOptions,
        session: Any,
        made_id: Callable[[bytes], str] | None = None,
        *,
        conditions: Conditions | None = None,
        now: float | None = None,
    ) -> ReadyEvent:
        """
        Validate *event* and its *options*, and return it ready to be sent.

        Args:
            event: The event as it was dispatched.

            options: The other arguments of the dispatch.

            session: The session of the dispatch.

            made_id: As for :meth:`Packer.pack`.

            conditions: The *options* if they were validated for an earlier event of the dispatch. All its events have
                the same: with ``at`` each would have a wait of its own, and be sent in a call of its own.

            now: As for :meth:`Packer.pack`.
        """
        name = event.name if isinstance(event, Event) else name_of(event)
        routing = self._routing_of(name, event, options) if options or self._classes else self._routing(name)
        if not isinstance(event, Event):
            self._refuse_other_class(name, event)
        listeners: Sequence[Listener] = ()
        if routing.is_now:
            check_in_process(name, options)
            listeners = self._listeners.table.in_queue(
                name, NOW, routing.first
            )  # imports modules: before anything is sent
        if session is None and len(routing.transports) > 1:
            raise fan_out(name, routing.transports)
        if not routing.deferred:
            self.check_unsent(event, name, options)
            event_id = event.id if isinstance(event, Event) else None
            if event_id is None:  # values that need no form in JSON have no bytes, so its place is all that counts
                event_id = made_id(name.encode()) if made_id else self.packer.new_id()
            return ReadyEvent(event, None, routing, listeners, Dispatched(id=event_id, targets=routing.targets))
        version = None
        if isinstance(event, Event):
            imported, known = self._listeners.imported, self._listeners.known  # in this order: both change meanwhile
            if name in known.event_types:
                version = known.version_of(event)
            if version is None and name in imported.event_types:
                version = imported.version_of(event)
        pack = self.packer.pack if routing.headers is None else partial(self.packer.pack, headers=routing.headers)
        packed = pack(
            event, options, routing.deferred, made_id=made_id, conditions=conditions, version=version, now=now
        )
        if packed.conditions is not NO_CONDITIONS:
            for transport in routing.transports:
                packed.conditions.check_claims(self.destinations.transports[transport])
        claim = packed.conditions.claim
        if claim is not None:
            self._check_unique(name, routing, session)
        return ReadyEvent(event, packed, routing, listeners, dispatched(packed.id, routing.targets, claim))

    def _routing_of(self, name: str, event: object, options: DispatchOptions) -> Routing:
        """
        Return where *event* goes: to the targets in *options*, else along the route of its *name* or its class.

        A worker may know the name alone, and not the class. So if there are routes by class, the envelopes say where
        they were sent, unless the name has a route of its own.

        Raises:
            ConfigurationError: There is no such target, or no route.
        """
        if (to := options.get("to")) is not None:
            return self._chosen(name, to)
        if not self._classes or name in self._routes.table:
            return self._routing(name)
        return self._sent(name, self._routes.targets(name, None if isinstance(event, Event) else type(event)))

    def _chosen(self, name: str, to: str | Sequence[str]) -> Routing:
        """
        Return the routing to the targets *to* for the event *name*.

        Raises:
            ConfigurationError: It is not one, or a listener that is known here would not get the event.
        """
        routing = self._routing_to(to)
        for target in routing.deferred:
            self._queues.check(name, target)
        if routing.is_now:
            found = self._listeners.table.of(name)
        else:
            imported, known = self._listeners.imported, self._listeners.known  # in this order: both change meanwhile
            found = (*imported.of(name), *known.of(name))
        check_reached(found, routing, {each: self._served(each) for each in self.destinations.transports})
        return routing

    def _routing_to(self, to: object) -> Routing:
        return chosen_routing(texts_of(to), transports=self.destinations.transports, routes=self._routes)

    def _served(self, transport: str) -> Sequence[str]:
        return self._routes.queues(transport) or (DEFAULT_QUEUE,)

    def _check_unique(self, name: str, routing: Routing, session: Any) -> None:
        """
        Check that one store knows whether an event with the key lives.

        Raises:
            ConfigurationError: The event *name* goes to several transports.

            UnsupportedError: It passes an outbox, whose events leave it while they live.
        """
        if len(routing.transports) > 1:
            raise ConfigurationError(
                f'"{name}" cannot be unique, since its route leads to {" and ".join(routing.transports)}; each would '
                f"check the key by itself; route it to one transport, or remove unique="
            )
        (transport,) = routing.transports
        if session is not None and self.destinations.has_outbox(transport):
            raise UnsupportedError(transport, "unique", "a session writes its events to an outbox, which they leave")

    def send(self, ready: Sequence[ReadyEvent], session: Any) -> None:
        """Call listeners in process; then send *ready* and the events that they dispatched, or enlist in *session*."""
        if session is not None and any(each.listeners for each in ready):
            for name in dict.fromkeys(name for each in ready for name in each.routing.transports):
                self.destinations.bind(name, session)  # if it cannot be joined, no listener is called
        number = len(ready)
        positions: Sequence[int] = range(number)
        for each in ready:
            if each.routing.is_now:
                ready, positions = self._call_in_process(ready, session)
                break
        batches = Batches(self.packer, ready, positions, number)
        if session is None:
            batches.send(self.send_unjoined)
        else:
            batches.enlist(lambda name: self.destinations.bind(name, session))
        self.note_sent(ready)

    def _call_in_process(self, ready: Sequence[ReadyEvent], session: Any) -> tuple[Sequence[ReadyEvent], Sequence[int]]:
        """Call listeners in process; return *ready* with the events that they dispatched, and their positions."""
        gathering = Gathering(self.check, self.call, session)
        for position, each in enumerate(ready):
            gathering.add(each, position)
        return gathering.ready, gathering.positions

    def call(self, ready: ReadyEvent, gathering: Gathering) -> None:
        """Call the in-process listeners of *ready*; *gathering* takes the events that they dispatch."""
        if not ready.listeners:
            self._local.call(ready.event, ())
            return
        if ready.packed is not None and gathering.session is None:
            self.packer.envelopes(ready.packed)  # raises for a subject without an id before a listener is called
        around = ready.packed.around if ready.packed is not None else surroundings(ready.event, self._hooks)
        event_id = ready.dispatched.id
        token = enter(Ambient(around.context, around.correlation or event_id, event_id))  # not a block, which is slower
        try:
            self._local.call(
                ready.event, ready.listeners, outgoing=gathering, event_id=event_id, session=gathering.session
            )
        finally:
            leave(token)

    def note_sent(self, ready: Sequence[ReadyEvent]) -> None:
        """Do nothing; subclasses override it to observe *ready* after it was sent or enlisted."""

    def send_unjoined(self, batch: Batch, envelopes: Sequence[Envelope]) -> None:
        """Send *envelopes* outside of a session."""
        transport = self.destinations.set_up(batch.transport)
        send_envelopes(transport, envelopes, delay=batch.wait, hooks=self._hooks, claim=batch.claim)

    def _refuse_other_class(self, name: str, event: object) -> None:
        """Refuse an instance of another class than the listeners take, unless it is that class, defined again."""
        imported, known = self._listeners.imported, self._listeners.known
        if name not in known.event_types:
            known = imported
        cls, kind = type(event), known.event_types.get(name)
        if kind is not None and kind.cls is not cls and known.declare(cls).cls is not cls:
            raise ConfigurationError(
                f'"{name}": {shown(event)} is an instance of an earlier definition of {cls.__qualname__}; create it '
                f"again with the current class"
            )

    def check_unsent(self, event: object, name: str, options: DispatchOptions) -> None:
        """Validate the *options* of an event that needs no envelope, as packing it would."""
        check_options(name, options)
        if (expires := options.get("expires")) is not None:
            checked_expires(expires, now=self._clock.now())


class Batch(NamedTuple):
    """The events that are sent in one call."""

    transport: str
    """Its name."""

    wait: float
    """Seconds before which none is handled."""

    claim: KeyClaim | None
    """The unique key of the only event, if it has one."""

    @classmethod
    def of(cls, transport: str, packed: PackedEvent) -> Batch:
        """Return the batch in which *packed* is sent to *transport*."""
        return cls(transport, packed.conditions.wait, packed.conditions.claim)


class Batches(msgspec.Struct, frozen=True):
    """The events of one dispatch by transport and delay, in order."""

    packer: Packer
    ready: Sequence[ReadyEvent]
    positions: Sequence[int]
    """For each event its index in the dispatch, or that of the event that its listener was called with."""

    number: int
    """The number of events in the dispatch."""

    def send(self, send: Callable[[Batch, Sequence[Envelope]], None]) -> None:
        """
        Send all batches, each by a call of *send* with the envelopes.

        Raises:
            SendError: Not every event is known to be safe; it holds the positions.

            TransportError: Nothing was sent.
        """
        self._send_each(self._envelopes(), send)

    def enlist(self, bound: Callable[[str], BoundSender]) -> None:
        """
        Write all events in a session's transaction: all, or none if one cannot be written.

        On a plain connection they are written now. So the first batch whose envelopes are needed makes those of all
        batches, including other transports, before anything is written.

        Args:
            bound: Takes the name of a transport, returns a sender that has joined the session for it.

        Raises:
            SendError: Not every event was written; it holds the positions.
        """
        batches: dict[Batch, Callable[[], Sequence[Envelope]]] = {}
        senders: dict[str, BoundSender] = {}
        made: dict[Batch, list[Envelope]] | None = None
        refused = False

        def envelopes(batch: Batch) -> Sequence[Envelope]:
            nonlocal made
            if refused:
                return ()
            if made is None:
                made = self._envelopes()
            return made[batch]

        for each in self.ready:
            if each.packed is not None:
                for transport in each.routing.transports:
                    batch = Batch.of(transport, each.packed)
                    batches[batch] = partial(envelopes, batch)
                    if transport not in senders:
                        senders[transport] = bound(transport)
        try:
            self._send_each(
                batches, lambda batch, make: enlist(senders[batch.transport], make, batch.wait, batch.claim)
            )
        except BaseException:
            refused = True
            raise

    def _envelopes(self) -> dict[Batch, list[Envelope]]:
        """Return the envelopes of each batch: all, or none if one cannot be made."""
        made: dict[Batch, list[Envelope]] = {}
        for each in self.ready:
            packed, routing = each.packed, each.routing
            if packed is None:
                continue
            envelopes = packed.envelopes or self.packer.envelopes(packed)
            for transport in routing.transports:
                own = envelopes if len(routing.transports) == 1 else routing.of_transport(transport, envelopes)
                batch = Batch.of(transport, packed)
                if batch in made:
                    made[batch] += own
                else:
                    made[batch] = [*own]
        return made

    def _places(self) -> Iterator[tuple[int, Batch]]:
        """Yield for each envelope, in order, the position of its event, and its batch."""
        for each, position in zip(self.ready, self.positions, strict=True):
            if each.packed is not None:
                for target in each.routing.deferred:
                    yield position, Batch.of(target.transport, each.packed)

    def _send_each(self, batches: Mapping[Batch, T], send: Callable[[Batch, T], None]) -> None:
        """Call *send* for every batch; an error reports the result for each event of the dispatch."""
        done: list[Batch] = []
        for batch, content in batches.items():
            try:
                send(batch, content)
            except SendError as error:
                raise self._send_error(batch, done, error, error.why) from error
            except TransportError as error:
                if not done:
                    raise
                everything = range(sum(each == batch for _, each in self._places()))
                none = SendError(batch.transport, refused=everything, why=str(error))
                raise self._send_error(batch, done, none, str(error)) from error
            done.append(batch)

    def _send_error(self, failed: Batch, done: Sequence[Batch], error: SendError, why: str) -> SendError:
        """Return the error with the result for each event; one that only some targets got is unknown."""
        fates: list[set[str]] = [set() for _ in range(self.number)]
        for position, batch in self._places():
            if batch != failed:
                fates[position].add("sent" if batch in done else "refused")
        positions = [position for position, batch in self._places() if batch == failed]
        for fate in ("sent", "refused", "unknown"):
            for index in getattr(error, fate):
                fates[positions[index]].add(fate)
        known = {"sent", "refused"}
        return SendError(
            failed.transport,
            sent=[position for position, fate in enumerate(fates) if fate == {"sent"} or not fate],
            refused=[position for position, fate in enumerate(fates) if fate == {"refused"}],
            unknown=[position for position, fate in enumerate(fates) if "unknown" in fate or fate >= known],
            why=why,
        )


def send_envelopes(
    transport: Transport, envelopes: Sequence[Envelope], *, delay: float, hooks: Hooks, claim: KeyClaim | None = None
) -> None:
    """Send *envelopes* inside the observing hooks; if they have a *claim*, only if it is granted."""
    observers = hooks.observers("relevo_around_send")
    if not observers:
        _send(transport, envelopes, delay, claim)
        return
    with observe(observers, transport=transport.name, envelopes=envelopes):
        _send(transport, envelopes, delay, claim)


def _send(transport: Transport, envelopes: Sequence[Envelope], delay: float, claim: KeyClaim | None) -> None:
    if claim is None:
        transport.send(envelopes, delay=delay)
    else:
        claim.decide(transport.send_unique(envelopes, key=claim.key, within=claim.within, delay=delay))


def enlist(sender: BoundSender, make: Callable[[], Sequence[Envelope]], delay: float, claim: KeyClaim | None) -> None:
    """Write what *make* returns in the transaction of *sender*; if there is a *claim*, only if it is granted."""
    if claim is None:
        sender.send(make, delay=delay)
    elif not isinstance(sender, UniqueSender):
        raise ConfigurationError(f"{shown(sender)} cannot send unique events, although its transport claims unique")
    else:
        sender.send_unique(make, key=claim.key, within=claim.within, decided=claim.decide, delay=delay)
