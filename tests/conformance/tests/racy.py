"""
Memory transports with bugs that only a race shows: each call checks the state, and then acts in a second step.

Their harness has no ``turnstile``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence

from relevo import Action, Delivery, Envelope, Settlement, State
from relevo.errors import LeaseLostError
from relevo_conformance import Harness, promise
from relevo_conformance.mutant import Mutant
from relevo_conformance.promise import Promise
from relevo_memory import MemoryTransport
from relevo_memory._queue import EventQueue, KeptEvent, Receipt

from .memory import MemoryHarness

RACY: list[Mutant] = []


class UnhookedHarness(MemoryHarness):
    """Drives the memory transport, but cannot stop it between two steps."""

    turnstile = Harness.turnstile  # type: ignore[assignment]  # as if it defined none


def racy(breaks: Promise) -> Callable[[type[MemoryTransport]], type[MemoryTransport]]:
    """Plant a transport that breaks *breaks*."""

    def plant(broken: type[MemoryTransport]) -> type[MemoryTransport]:
        harness = type(f"{broken.__name__}Harness", (UnhookedHarness,), {"transport": broken})
        wrong = inspect.getdoc(broken) or ""
        RACY.append(Mutant(name=broken.__name__, wrong=wrong, harness=harness, breaks=breaks, by_chance=False))
        return broken

    return plant


def take_away(queue: EventQueue, event: KeptEvent) -> None:
    """Remove *event*, even if it is held."""
    if event.number in queue.events:
        queue._rankings[event.status].remove(event.number)
        event.status = State.GONE
        queue._rank(event)


def ready(queue: EventQueue) -> list[KeptEvent]:
    return [event for event in queue.events.values() if event.status is State.READY]


@racy(promise.LEASED_IS_HIDDEN)
class LeasesWhatWasReady(MemoryTransport):
    """A receive selects ready events, and then leases them without checking again."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        with self._open() as now:
            seen = [
                (queue, event) for queue in (self.store._at(name, now) for name in queues) for event in ready(queue)
            ]
        with self._open() as now:
            for queue, event in seen[:limit]:
                if event.status is State.READY:
                    event.until = now + lease
                    queue.step(event, Action.RECEIVE)
                event.receipt = Receipt(queue.name, event.number)
            return [event.delivery() for _, event in seen[:limit]]


@racy(promise.STALE_SETTLE_IS_REFUSED)
class SettlesWhatWasHeld(MemoryTransport):
    """A settlement checks the receipt, and then settles without checking again."""

    def _settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        with self._open() as now:
            held = [(self.store._held(delivery, now), outcome) for delivery, outcome in settlements]
            lost = [delivery for delivery, _ in settlements if self.store._held(delivery, now) is None]
        with self._open() as now:
            for event, outcome in held:
                if event is not None and event.status is State.LEASED:
                    self.store._end(event, outcome, now)
            return lost


@racy(promise.ACK_IS_FINAL)
class ExtendsWhatWasHeld(MemoryTransport):
    """An extension checks the receipt, and then writes the lease, which restores a settled event."""

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Delivery]:
        with self._open() as now:
            held = [(delivery, self.store._held(delivery, now)) for delivery in deliveries]
        with self._open() as now:
            for delivery, event in held:
                if event is not None and event.status is not State.LEASED:
                    queue = self.store._queue(event.queue)
                    take_away(queue, event)
                    assert isinstance(delivery.receipt, Receipt)
                    event.status, event.until, event.receipt = State.LEASED, now + lease, delivery.receipt
                    queue.admit(event)
        return [delivery for delivery, event in held if event is None]


@racy(promise.NACK_RETURNS_LATER)
class KeepsTheStateOfWhatWasHeld(MemoryTransport):
    """A checkpoint checks the receipt, and then writes the state, even over that of a nack in between."""

    def _checkpoint(self, delivery: Delivery, state: bytes) -> None:
        with self._open() as now:
            event = self.store._held(delivery, now)
        if event is None:
            raise LeaseLostError(self.name, delivery)
        with self._open():
            event.state = state


@racy(promise.CANCELLED_IS_GONE)
class CancelsWhatWasReady(MemoryTransport):
    """A cancel finds the event, and then removes it, even if it was received in between."""

    def cancel(self, event_id: str) -> int:
        with self._open() as now:
            seen = [
                (queue, event)
                for queue in (self.store._at(name, now) for name in tuple(self.store._queues))
                for event in ready(queue)
                if isinstance(event.envelope, Envelope) and event.envelope.id == event_id
            ]
        with self._open():
            for queue, event in seen:
                take_away(queue, event)
            return len(seen)


@racy(promise.PURGED_IS_GONE)
class PurgesWhatWasReady(MemoryTransport):
    """A purge selects ready events, and then removes them, even if they were received in between."""

    def purge(self, queue: str) -> int:
        with self._open() as now:
            seen = ready(self.store._at(queue, now))
        with self._open() as now:
            for event in seen:
                take_away(self.store._at(queue, now), event)
            return len(seen)


@racy(promise.REVIVED_IS_RECEIVED)
class RevivesWhatWasDead(MemoryTransport):
    """A revival finds the dead letter, and then creates the event, even if another revival did so in between."""

    def _revive(self, refs: Mapping[str, bytes]) -> Sequence[str]:
        with self._open():
            dead = self.store._dead._queues
            seen = {each.entry.ref for kept in dead.values() for each in kept.values()} & set(refs)
        with self._open() as now:
            self.store.revive({ref: refs[ref] for ref in seen}, now)
        return [ref for ref in refs if ref not in seen]


@racy(promise.RESENT_IS_ONE)
class SendsWhatWasMissing(MemoryTransport):
    """A send checks whether the event exists, and then stores it without checking again."""

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        with self._open() as now:
            there = [
                event.envelope for name in self.store._queues for event in self.store._at(name, now).events.values()
            ]
        with self._open() as now:
            for envelope in envelopes:
                if envelope not in there:
                    event = KeptEvent(next(self.store._numbers), envelope.queue, envelope, now, State.READY)
                    event.identity = None  # it equals no other
                    self.store._queue(envelope.queue).admit(event)
