"""Where the schedules of an application fire: its transports, and the coordinators that store up to when."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from logging import getLogger
from typing import cast

import attrs

from relevo._app.parts import Parts
from relevo._clock import Clock
from relevo._dispatch.gathering import ReadyEvent
from relevo._dispatch.sender import Sender
from relevo._identity import IdFactory
from relevo._listener.call import DispatchOptions
from relevo._schedule.clockwork import Clockwork, FiringLedger, ScheduleStep
from relevo._schedule.schedule import Due, Schedule
from relevo._transport.coordinator import Coordinator
from relevo._transport.schedule_store import Firing, ScheduleStore
from relevo.errors import (
    CodecError,
    ConfigurationError,
    RelevoError,
    SendError,
    TransportError,
    TransportUnavailableError,
)

_log = getLogger("relevo.app")

_OWN_FAULTS = (SendError, CodecError, ConfigurationError)
"""What storing the event of one schedule may raise; what else is raised concerns all."""

_LONGEST_KEY = 255
"""Characters of the name under which a coordinator stores something."""

_TTL = 30.0
"""Seconds after which another worker fires the schedules if the one that was about to do so has died."""


def home_of(schedule: Schedule, parts: Parts) -> str:
    """
    Return the name of the transport whose workers fire *schedule*: the one that its event is routed to.

    Raises:
        ConfigurationError: The event has no route, is called in process, or goes to several transports.
    """
    with _naming(schedule):
        routing = parts.routes.routing(schedule.event_name)
    if routing.is_now or len(routing.transports) != 1:
        targets = " and ".join(map(str, routing.targets))
        raise ConfigurationError(
            f'the schedule "{schedule.name}": its event "{schedule.event_name}" is routed to {targets}; expected one '
            f"transport, whose workers fire it"
        )
    return routing.transports[0]


def clockwork(
    name: str,
    schedules: Iterable[Schedule],
    parts: Parts,
    sender: Sender,
    instead: Callable[[Sender], FiringLedger] | None,
) -> Clockwork | None:
    """
    Return what fires those of *schedules* that belong to the transport *name*; ``None`` if there are none.

    Args:
        name: The name of the transport.

        schedules: All schedules.

        parts: The parts of the application.

        sender: Makes and sends the events.

        instead: Returns where they fire if the transport has no coordinator.

    Raises:
        ConfigurationError: One of them cannot be fired.
    """
    own = [each for each in schedules if home_of(each, parts) == name]
    if not own:
        return None
    now = parts.clock.now()
    for each in own:
        with _naming(each):
            sender.check(each.event, options_of(each, now), None)
    return Clockwork(own, _ledger_of(name, parts, sender, instead))


def store_of(name: str, parts: Parts) -> ScheduleStore | None:
    """Return the coordinator that stores up to when the schedules of the transport *name* have fired, if it has one."""
    store: object = parts.coordinator(parts.transports[name])
    return store if isinstance(store, ScheduleStore) else None


def _ledger_of(
    name: str, parts: Parts, sender: Sender, instead: Callable[[Sender], FiringLedger] | None
) -> FiringLedger:
    store = store_of(name, parts)
    own: Sequence[object] = (parts.transports[name], parts.outboxes.get(name))
    if store is None:
        if instead is None:
            raise ConfigurationError(
                f'schedules: the transport "{name}" cannot store up to when a schedule has fired; give it a '
                f'coordinator in a database, as in coordinator = "sqlite:///shop.db"'
            )
        return instead(sender)
    if store is own[0]:
        return StoredLedger(store, sender, parts.source, parts.clock)
    if store is own[1]:
        return StoredLedger(store, sender, parts.source, parts.clock, relay_to=name)
    return ApartLedger(store, sender, parts.source, parts.clock, name=name, ids=parts.ids)


@attrs.frozen(eq=False, repr=False)
class StoredLedger:
    """
    Stores up to when a schedule has fired together with the events of its ticks, in one transaction.

    Args:
        store: Where both are stored.

        sender: Makes the events.

        source: The name of the application.

        clock: The source of time.

        relay_to: The transport in whose outbox the events are stored, if any.
    """

    _store: ScheduleStore
    _sender: Sender
    _source: str
    _clock: Clock
    _relay_to: str | None = attrs.field(default=None, kw_only=True)

    @contextmanager
    def holding(self) -> Iterator[bool]:
        yield True

    def fired(self, names: Sequence[str]) -> Mapping[str, int]:
        keys = {self._key(name): name for name in names}
        return {keys[key]: moment for key, moment in self._store.fired([*keys]).items()}

    def fire(self, steps: Sequence[ScheduleStep], may_go_on: Callable[[], bool]) -> Collection[str]:
        ready = []
        for step in steps:
            try:
                ready.append((step, self._ready(step)))
            except Exception as error:  # noqa: BLE001 - a plugin, or a class of the application, may raise anything
                _cannot_fire(step, error)
        try:
            return self._fire(ready) if ready else ()
        except _OWN_FAULTS as error:
            if len(ready) == 1:
                _cannot_fire(ready[0][0], error)
                return ()
        # One by one, so that none keeps the others from firing.
        return [name for step, _ in ready if may_go_on() for name in self.fire([step], may_go_on)]

    def _fire(self, steps: Sequence[tuple[ScheduleStep, Sequence[ReadyEvent]]]) -> Collection[str]:
        firings = [self._firing(step, ready) for step, ready in steps]
        stored = self._store.fire(firings, relay_to=self._relay_to)
        fired = [each for each, firing in zip(steps, firings, strict=True) if firing.name in stored]
        self._sender.note_sent([event for _, ready in fired for event in ready])
        return [step.schedule.name for step, _ in fired]

    def _ready(self, step: ScheduleStep) -> list[ReadyEvent]:
        """Return the events of the ticks of *step*; the time of each event is that of its tick."""
        schedule = step.schedule
        options = options_of(schedule, self._clock.now())
        return [
            self._sender.check(schedule.event, options, None, _given(schedule.event_id(self._source, tick)), now=tick)
            for tick in step.due.ticks
        ]

    def _firing(self, step: ScheduleStep, ready: Sequence[ReadyEvent]) -> Firing:
        envelopes = [
            envelope
            for each in ready
            if each.packed is not None
            for envelope in self._sender.packer.envelopes(each.packed)
        ]
        return Firing(
            name=self._key(step.schedule.name), fired=step.fired, until=step.due.until, envelopes=tuple(envelopes)
        )

    def _key(self, name: str) -> str:
        return key_of(self._source, name)


@attrs.frozen(eq=False, repr=False)
class AloneLedger(StoredLedger):
    """
    Sends the events to their transport, and then stores elsewhere up to when their schedules have fired.

    One worker at a time does so. If it dies between the two, the next one sends one event again, with the same id.
    """

    def fire(self, steps: Sequence[ScheduleStep], may_go_on: Callable[[], bool]) -> Collection[str]:
        one = super().fire
        return [
            step.schedule.name
            for step in steps
            if all(may_go_on() and one(part, may_go_on) for part in _each_alone(step))
        ]

    def _fire(self, steps: Sequence[tuple[ScheduleStep, Sequence[ReadyEvent]]]) -> Collection[str]:
        ready = [event for _, events in steps for event in events]
        if ready:
            self._sender.send(ready, None)
        firings = [self._firing(step, ()) for step, _ in steps]
        stored = self._store.fire(firings)
        return [step.schedule.name for (step, _), firing in zip(steps, firings, strict=True) if firing.name in stored]


@attrs.frozen(eq=False, repr=False)
class ApartLedger(AloneLedger):
    """
    Does so with the lock of the coordinator that stores the times.

    Args:
        name: The name of the transport.

        ids: Makes the name of this holder of the lock.
    """

    _name: str = attrs.field(kw_only=True)
    _ids: IdFactory = attrs.field(kw_only=True)
    _held: dict[str, float] = attrs.field(factory=dict, init=False)
    """The receipt of the lock while it is held, and when it was last renewed, in seconds of a clock that only grows."""

    @contextmanager
    def holding(self) -> Iterator[bool]:
        coordinator = self._coordinator
        now = self._clock.monotonic()
        receipt = coordinator.lock(self._lock, holder=self._ids(0.0), ttl=_TTL)
        if receipt is None:
            yield False
            return
        self._held[receipt] = now
        try:
            yield True
        finally:
            self._held.clear()
            with suppress(TransportError):  # it is free when it expires
                coordinator.unlock(self._lock, receipt)

    def _fire(self, steps: Sequence[tuple[ScheduleStep, Sequence[ReadyEvent]]]) -> Collection[str]:
        self._renew()
        return super()._fire(steps)

    def _renew(self) -> None:
        """Renew the lock in time; a new schedule is stored without it."""
        now = self._clock.monotonic()
        for receipt, renewed in self._held.items():
            if now - renewed < _TTL / 3:
                continue
            if not self._coordinator.renew_lock(self._lock, receipt, ttl=_TTL):
                raise TransportUnavailableError(self._name, "another worker has begun to fire the schedules")
            self._held[receipt] = now

    @property
    def _lock(self) -> str:
        return key_of(self._source, self._name, kind="schedules")

    @property
    def _coordinator(self) -> Coordinator:
        store: object = self._store
        assert isinstance(store, Coordinator)  # noqa: S101 - a coordinator was chosen
        return store


def _each_alone(step: ScheduleStep) -> Iterator[list[ScheduleStep]]:
    """Yield the parts of *step*, of one tick each, so that a crash repeats one event at most."""
    fired, ticks = step.fired, step.due.ticks
    for tick in ticks[:-1]:
        yield [ScheduleStep(step.schedule, fired, Due((tick,), tick))]
        fired = tick
    yield [ScheduleStep(step.schedule, fired, Due(ticks[-1:], step.due.until))]


@contextmanager
def _naming(schedule: Schedule) -> Iterator[None]:
    """Name *schedule* in an error of the block."""
    try:
        yield
    except RelevoError as error:
        raise ConfigurationError(f'the schedule "{schedule.name}": {error}') from error


def options_of(schedule: Schedule, now: float) -> DispatchOptions:
    """Return the options with which the event of *schedule* is dispatched at *now*, in seconds since the epoch."""
    return cast("DispatchOptions", schedule.options(now))


def _cannot_fire(step: ScheduleStep, error: Exception) -> None:
    _log.error(
        'the schedule "%s" cannot fire: %s',
        step.schedule.name,
        error,
        exc_info=None if isinstance(error, RelevoError) else error,
    )


def _given(event_id: str) -> Callable[[bytes], str]:
    return lambda _: event_id


def key_of(source: str, name: str, *, kind: str = "schedule") -> str:
    """Return the name under which a coordinator stores what belongs to the schedule *name* of *source*."""
    key = f"{kind}/{source}/{name}"
    if len(key) <= _LONGEST_KEY:
        return key
    return f"{kind}/{sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()}"
