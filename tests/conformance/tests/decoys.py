"""
Memory transports that are unusual, but correct: what they do breaks no promise.

A suite that fails for one of them asks for more than the transport interface, and would exclude good transports.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import attrs

from relevo import (
    Ack,
    Action,
    DeadLetterEntry,
    Delivery,
    Envelope,
    Nack,
    Note,
    Release,
    Settlement,
    State,
    Stats,
    Transport,
)
from relevo.backend import HandlingTransaction
from relevo.errors import SendError, TransportUnavailableError
from relevo_memory import MemoryTransport
from relevo_memory._queue import EventQueue, KeptEvent

from .decoy import decoy
from .memory import BreakableStore, MemoryHarness


class Unordered(MemoryTransport):
    """Claims no order of any kind."""

    capabilities = attrs.evolve(MemoryTransport.capabilities, order="none")

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        if not self._closed and any(one.ordering_key is not None for one in envelopes):
            raise self._unsupported("order")
        super().send(envelopes, delay=delay)


# --- order -----------------------------------------------------------------------------------------


class Shuffled(BreakableStore):
    """Events of one urgency are delivered in random order, though none waits for long."""

    def _queue(self, name: str) -> EventQueue:
        if name not in self._queues:
            queue = self._queues[name] = EventQueue(name)
            queue._places = map(scattered, itertools.count())  # type: ignore[assignment]
        return self._queues[name]


def scattered(place: int) -> int:
    """Return a random place near *place*."""
    return place ^ random.randrange(8)  # noqa: S311 - no secret


@decoy
class HandsOutInRandomOrderHarness(MemoryHarness):
    """Claims no order, and delivers in random order."""

    transport: ClassVar[type[MemoryTransport]] = Unordered
    store_type: ClassVar[type[BreakableStore]] = Shuffled


@decoy
class PutsWhatIsReleasedToTheEnd(BreakableStore):
    """An event that is given back goes to the end of its queue, but keeps its place within its ordering key."""

    def _queue(self, name: str) -> EventQueue:
        if name not in self._queues:
            self._queues[name] = ToTheEnd(name)
        return self._queues[name]


class ToTheEnd(EventQueue):
    def _rank(self, event: KeptEvent) -> None:
        if event.status is State.READY:
            event.place = next(self._places)
        super()._rank(event)


# --- receiving -------------------------------------------------------------------------------------


@decoy
class HandsOutOneAtATime(MemoryTransport):
    """Hands out one event at a time, whatever the limit is."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        return super().receive(queues, limit=min(limit, 1), lease=lease, wait=wait)


class Forgetful(MemoryTransport):
    """Every third receive returns nothing."""

    looks = 0

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        self.looks += 1
        if self.looks % 3 == 0:
            return super().receive(queues, limit=0, lease=lease, wait=0.0)
        return super().receive(queues, limit=limit, lease=lease, wait=wait)


@decoy
class ComesWithEmptyHandsNowAndThenHarness(MemoryHarness):
    """Some receives return nothing, like a broker whose nodes do not all answer; the harness sets a patience."""

    transport: ClassVar[type[MemoryTransport]] = Forgetful
    patience = 10.0  # more than a busy machine needs; it is over only if an event is lost
    glance = 0.01


class LeasesForABitLonger(MemoryTransport):
    """A transport whose leases end a millisecond late."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        return super().receive(queues, limit=limit, lease=lease + 0.001, wait=wait)

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Delivery]:
        return super().extend(deliveries, lease=lease + 0.001)


@decoy
class LeasesForABitLongerHarness(MemoryHarness):
    """A lease ends a millisecond late, which is within the harness's slack."""

    transport: ClassVar[type[MemoryTransport]] = LeasesForABitLonger
    slack: ClassVar[float] = 0.002


@decoy
class IsSlowAtTimes(MemoryTransport):
    """Some calls take 10 ms."""

    calls = 0

    @contextmanager
    def _open(self) -> Iterator[float]:
        self.calls += 1
        if self.calls % 25 == 0:
            time.sleep(0.01)
        with super()._open() as now:
            yield now


@attrs.frozen
class Ticket:
    """A receipt that is compared by value."""

    number: int
    hand_over: int


@decoy
class MakesNewObjectsEachTime(MemoryTransport):
    """Each return value is a new object, and receipts are plain numbers."""

    tickets: ClassVar[dict[Ticket, Any]] = {}
    numbers: ClassVar[Iterator[int]] = itertools.count()  # one that two threads cannot draw twice

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        return tuple(map(self._issued, super().receive(queues, limit=limit, lease=lease, wait=wait)))

    def take(self, queue: str, event_id: str, *, lease: float) -> Sequence[Delivery]:
        return tuple(map(self._issued, super().take(queue, event_id, lease=lease)))

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        own = [(self._own(delivery), outcome) for delivery, outcome in settlements]
        return self._given(super().settle(own), [delivery for delivery, _ in settlements], [one for one, _ in own])

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Delivery]:
        own = [self._own(delivery) for delivery in deliveries]
        return self._given(super().extend(own, lease=lease), deliveries, own)

    def checkpoint(self, delivery: Delivery, state: bytes) -> None:
        super().checkpoint(self._own(delivery), state)

    def begin(self, delivery: Delivery, note: Note) -> None:
        super().begin(self._own(delivery), note)

    def excuse(self, delivery: Delivery, note: Note) -> None:
        super().excuse(self._own(delivery), note)

    def handling(self, delivery: Delivery, *, sessions: Callable[[], Any] | None = None) -> HandlingTransaction:
        return super().handling(self._own(delivery), sessions=sessions)

    def dead_letters(
        self, queues: Sequence[str], *, after: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetterEntry]:
        return tuple(attrs.evolve(one) for one in super().dead_letters(queues, after=after, limit=limit))

    def _issued(self, delivery: Delivery) -> Delivery:
        ticket = Ticket(delivery.receipt.number, next(self.numbers))  # type: ignore[attr-defined]
        self.tickets[ticket] = delivery.receipt
        envelope = delivery.envelope
        return attrs.evolve(delivery, envelope=attrs.evolve(envelope), receipt=attrs.evolve(ticket))

    def _own(self, delivery: Delivery) -> Delivery:
        receipt = delivery.receipt
        return attrs.evolve(delivery, receipt=self.tickets.get(receipt) if isinstance(receipt, Ticket) else receipt)

    @staticmethod
    def _given(lost: Sequence[Delivery], given: Sequence[Delivery], own: Sequence[Delivery]) -> Sequence[Delivery]:
        return [one for one, mine in zip(given, own, strict=True) if any(mine is other for other in lost)]


@decoy
class KeepsWholeSeconds(BreakableStore):
    """Send times are truncated to whole seconds."""

    def _queue(self, name: str) -> EventQueue:
        if name not in self._queues:
            self._queues[name] = InWholeSeconds(name)
        return self._queues[name]


class InWholeSeconds(EventQueue):
    def admit(self, event: KeptEvent) -> None:
        event.enqueued_at = float(int(event.enqueued_at))
        if event.status is State.READY:
            event.due = min(event.due, event.enqueued_at)
        super().admit(event)


# --- weaker claims ---------------------------------------------------------------------------------


@decoy
class RoundsDelaysUp(MemoryTransport):
    """Delays are rounded up to whole seconds, and claimed with that resolution."""

    capabilities = attrs.evolve(MemoryTransport.capabilities, delay=1.0)
    step: ClassVar[float] = 1.0

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        super().send(envelopes, delay=up(delay, self.step))

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        late = [
            (one, attrs.evolve(outcome, delay=up(outcome.delay, self.step)) if isinstance(outcome, Nack) else outcome)
            for one, outcome in settlements
        ]
        return super().settle(late)


def up(delay: float, step: float = 1.0) -> float:
    return math.ceil(delay / step) * step


class Tearing(MemoryTransport):
    """Sends a batch in parts of two, and reports the outcome of each event."""

    capabilities = attrs.evolve(MemoryTransport.capabilities, atomic_batch=False)

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        for start in range(0, len(envelopes) or 1, 2):
            part = envelopes[start : start + 2]
            try:
                super().send(part, delay=delay)
            except SendError as error:
                refused = [*(start + each for each in error.refused), *range(start + len(part), len(envelopes))]
                unknown = [each for each in range(start, start + len(part)) if each not in refused]
                raise SendError(
                    self.name, sent=range(start), unknown=unknown, refused=refused, why=error.why
                ) from error
            except TransportUnavailableError as error:
                rest = range(start, len(envelopes))
                raise SendError(self.name, sent=range(start), refused=rest, why=error.why) from error


@decoy
class SendsABatchInPartsHarness(MemoryHarness):
    """Does not claim atomic batches."""

    transport: ClassVar[type[MemoryTransport]] = Tearing


class Unsure(MemoryTransport):
    """Claims that lost leases are counted "at least"."""

    capabilities = attrs.evolve(MemoryTransport.capabilities, lost_leases="at least")

    watched: frozenset[str] = frozenset()

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        self.watched |= frozenset(queues)
        return super().receive(queues, limit=limit, lease=lease, wait=wait)


@decoy
class CountsTooManyLostLeasesHarness(MemoryHarness):
    """When a worker is killed, ready events of its queues count as lost, as if they had been fetched ahead."""

    transport: ClassVar[type[MemoryTransport]] = Unsure

    def kill(self, transport: Transport) -> None:
        assert isinstance(transport, Unsure)
        for name in transport.watched & self.store._queues.keys():
            for event in self.store._queues[name].events.values():
                if event.status is State.READY:
                    event.counters = event.counters.after(Action.LOSE)


class OnItsWay(MemoryTransport):
    """Claims that a settlement is only sent; a kill can undo the last ones."""

    capabilities = attrs.evolve(MemoryTransport.capabilities, settlement="sent", dedupe=False, order="none")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.acked: list[tuple[float, Delivery]] = []
        self._checkpoints: dict[str, bytes] = {}
        """By receipt: the state of the last checkpoint."""

    def checkpoint(self, delivery: Delivery, state: bytes) -> None:
        super().checkpoint(delivery, state)
        self._checkpoints[str(delivery.receipt)] = state

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        if not self._closed and any(one.ordering_key is not None for one in envelopes):
            raise self._unsupported("order")
        super().send(envelopes, delay=delay)

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        lost = super().settle(settlements)
        now = self._clock.now()
        self.acked += [
            (now, self._as_kept(one)) for one, outcome in settlements if isinstance(outcome, Ack) and one not in lost
        ]
        return lost

    def _as_kept(self, delivery: Delivery) -> Delivery:
        return attrs.evolve(delivery, state=self._checkpoints.get(str(delivery.receipt), delivery.state))


class NoIdentities(set[Any]):
    """Treats no event as a duplicate."""

    def __contains__(self, item: object) -> bool:
        return False

    def remove(self, item: object) -> None:
        pass


class Repeating(BreakableStore):
    """An event that is sent twice is there twice."""

    def _queue(self, name: str) -> EventQueue:
        queue = super()._queue(name)
        queue._identities = NoIdentities()
        return queue


class Unmerged(MemoryTransport):
    """Claims atomic batches, but not that the same event is stored once."""

    capabilities = attrs.evolve(MemoryTransport.capabilities, dedupe=False)


@decoy
class StoresWhatIsSentAgainHarness(MemoryHarness):
    """An event that is sent twice is delivered twice."""

    transport: ClassVar[type[MemoryTransport]] = Unmerged
    store_type: ClassVar[type[BreakableStore]] = Repeating


class Doubling(Repeating):
    def bring_back(self, delivery: Delivery) -> None:
        """Let the event of *delivery* be delivered again, as after a lost lease."""
        queue = self._queue(delivery.queue)
        event = KeptEvent(
            number=next(self._numbers),
            queue=delivery.queue,
            envelope=delivery.envelope,
            enqueued_at=delivery.enqueued_at,
            status=State.READY,
            state=delivery.state,
        )
        event.counters = attrs.evolve(
            event.counters, attempt=delivery.attempt + 1, lost_leases=delivery.lost_leases + 1
        )
        queue.admit(event)


@decoy
class LosesAcksWithTheirWorkerHarness(MemoryHarness):
    """An event that was acked less than a second before its worker was killed is delivered again."""

    transport: ClassVar[type[MemoryTransport]] = OnItsWay
    store_type: ClassVar[type[BreakableStore]] = Doubling

    def kill(self, transport: Transport) -> None:
        assert isinstance(transport, OnItsWay)
        assert isinstance(self.store, Doubling)
        for at, delivery in transport.acked:
            if self.clock.now() - at < 1.0:
                self.store.bring_back(delivery)
        transport.acked.clear()


@decoy
class CountsRoughly(MemoryTransport):
    """Statistics are those of another moment."""

    capabilities = attrs.evolve(MemoryTransport.capabilities, stats="approximate")

    def stats(self, queue: str) -> Stats:
        stats = super().stats(queue)
        return attrs.evolve(stats, ready=(stats.ready or 0) + 3, leased=None, oldest_age=None)


@decoy
class SettlesInTheOrderOfItsLiking(MemoryTransport):
    """The releases of a batch are settled last."""

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        return super().settle(sorted(settlements, key=lambda one: isinstance(one[1], Release)))
