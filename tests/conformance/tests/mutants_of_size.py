"""Bugs of quantities: the hundredth and the thousandth event of a batch, a queue, a purge, a count and a lookup."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from relevo import Ack, Action, BoundSender, Delivery, Envelope, Found, Settlement, State, Stats, Unreadable
from relevo_conformance import promise
from relevo_memory import MemoryTransport
from relevo_memory._queue import EventQueue, KeptEvent
from relevo_memory._ranking import Ranking
from relevo_memory._store import Posting

from .memory import BreakableStore
from .planting import Altered, AlteredStore, living, planted, planted_pair


@planted_pair(promise.SENT_IS_RECEIVED)
class SendsAHundredOfABatch(BreakableStore):
    """Only the first hundred events of a batch are sent."""

    def add(self, postings: Sequence[Posting], now: float) -> None:
        super().add(postings[:100], now)


@planted_pair(promise.SENT_IS_RECEIVED)
class SendsAThousandOfABatch(BreakableStore):
    """Only the first thousand events of a batch are sent."""

    def add(self, postings: Sequence[Posting], now: float) -> None:
        super().add(postings[:1000], now)


@planted_pair(promise.SENT_IS_RECEIVED)
class KeepsAThousandOfAQueue(AlteredStore):
    """A queue with more than a thousand events drops the oldest."""

    def added(self, event: KeptEvent, queue: EventQueue) -> None:
        while len(queue.events) > 1000:
            oldest = min(one.number for one in queue.events.values() if one.status is not State.LEASED)
            queue.step(queue.events[oldest], Action.CANCEL)


@planted_pair(promise.ACK_IS_FINAL)
class SettlesFiveHundredOfABatch(MemoryTransport):
    """Only the first five hundred settlements of a batch are done, but all are reported as done."""

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        return super().settle(settlements[:500])


@planted_pair(promise.EXTEND_KEEPS_THE_LEASE)
class ExtendsAHundredOfABatch(MemoryTransport):
    """Only the first hundred leases of a batch are extended."""

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Delivery]:
        return super().extend(deliveries[:100], lease=lease)


@planted_pair(promise.PURGED_IS_GONE)
class PurgesAHundred(BreakableStore):
    """A purge removes at most a hundred events of a queue."""

    most = 100

    def purge(self, name: str, now: float) -> int:
        free = [(queue, one) for queue, one in living(self) if queue.name == name]
        spared = [(queue, one) for queue, one in free if one.status is State.READY]
        for queue, event in spared[self.most :]:
            del queue.events[event.number]
        number = super().purge(name, now)
        for queue, event in spared[self.most :]:
            queue.events[event.number] = event
        return number


@planted_pair(promise.PURGED_IS_GONE)
class PurgesAThousand(PurgesAHundred):
    """A purge removes at most a thousand events of a queue."""

    most = 1000


@planted_pair(promise.STATS_ARE_TRUE_AT_REST)
class CountsToAHundred(Altered):
    """At most a hundred ready events are counted."""

    def counted(self, stats: Stats, queue: EventQueue) -> Stats:
        return attrs.evolve(stats, ready=min(stats.ready or 0, 100))


@planted_pair(promise.STATS_ARE_TRUE_AT_REST)
class CountsTheHeldToAHundred(Altered):
    """At most a hundred held events are counted."""

    def counted(self, stats: Stats, queue: EventQueue) -> Stats:
        return attrs.evolve(stats, leased=min(stats.leased or 0, 100))


@planted_pair(promise.STATS_ARE_TRUE_AT_REST)
class CountsTheDeadToAHundred(Altered):
    """At most a hundred dead letters are counted."""

    def counted(self, stats: Stats, queue: EventQueue) -> Stats:
        return attrs.evolve(stats, dead=min(stats.dead or 0, 100))


@planted_pair(promise.REVIVED_IS_RECEIVED)
class RevivesAHundred(MemoryTransport):
    """Only the first hundred refs of a call are revived."""

    def revive(self, refs: Mapping[str, bytes]) -> Sequence[str]:
        self._check_states(refs.values())
        return super().revive(dict([*refs.items()][:100]))


@planted_pair(promise.DISCARDED_IS_GONE)
class DiscardsAHundred(MemoryTransport):
    """Only the first hundred refs of a call are discarded."""

    def discard(self, refs: Iterable[str]) -> Sequence[str]:
        return super().discard([*refs][:100])


@planted_pair(promise.FOUND_AS_IT_IS)
class FindsTwo(MemoryTransport):
    """A lookup returns at most two of the events with one id."""

    def find(self, event_id: str) -> Sequence[Found]:
        return super().find(event_id)[:2]


@planted_pair(promise.LEASED_IS_HIDDEN)
class HidesAHundredOfAReceive(BreakableStore):
    """Events of a receive beyond the first hundred can be received again."""

    def claim(self, queues: Sequence[str], *, limit: int, lease: float, now: float) -> list[Delivery]:
        taken = super().claim(queues, limit=limit, lease=lease, now=now)
        for one in taken[100:]:
            event = self._held(one, now)
            if event is not None:
                event.until = now
                self._queue(event.queue)._leased.put(event.number, (now, 0))
        return taken


@planted_pair(promise.JOINS_THE_TRANSACTION)
class WritesAHundredOfATransaction(MemoryTransport):
    """Only the first hundred events of a transaction are stored."""

    def bound_to(self, session: Any, *, relay_to: str | None = None) -> BoundSender:
        store: Any = self.store
        if "add" not in vars(store):
            stored = store.add
            store.add = lambda postings, now: stored(postings if vars(self).get("plain") else postings[:100], now)
        return super().bound_to(session, relay_to=relay_to)

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        vars(self)["plain"] = True
        try:
            super().send(envelopes, delay=delay)
        finally:
            vars(self)["plain"] = False


@planted_pair(promise.SENT_IS_RECEIVED)
class LooksAtTwoQueues(MemoryTransport):
    """A receive from several queues looks only at the first two."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        return super().receive(queues[:2], limit=limit, lease=lease, wait=wait)


# --- large bodies ----------------------------------------------------------------------------------


def cut(delivery: Delivery) -> Delivery:
    """Return *delivery* with at most 65,535 bytes of its body."""
    event = delivery.envelope
    if isinstance(event, Unreadable):
        return delivery
    return attrs.evolve(delivery, envelope=attrs.evolve(event, body=event.body[:65535]))


@planted_pair(promise.PAYLOAD_IS_UNTOUCHED)
class CutsLargeBodiesAfterALostLease(Altered):
    """After a lost lease, a body is truncated at 65,535 bytes."""

    def received(self, delivery: Delivery) -> Delivery:
        return cut(delivery) if delivery.lost_leases else delivery


@planted_pair(promise.PAYLOAD_IS_UNTOUCHED)
class CutsLargeBodiesAfterADelay(AlteredStore):
    """The body of a delayed event is truncated at 65,535 bytes."""

    def added(self, event: KeptEvent, queue: EventQueue) -> None:
        if event.status is State.SCHEDULED and isinstance(event.envelope, Envelope):
            event.envelope = attrs.evolve(event.envelope, body=event.envelope.body[:65535])


@planted_pair(promise.FOUND_AS_IT_IS)
class FindsLargeBodiesCut(Altered):
    """An event is found with only the first 65,535 bytes of its body."""

    def found(self, found: Found) -> Found:
        return attrs.evolve(found, envelope=attrs.evolve(found.envelope, body=found.envelope.body[:65535]))


@planted_pair(promise.SENT_IS_RECEIVED)
class DropsWhatIsTooLargeInABatch(BreakableStore):
    """If the bodies of a batch exceed a megabyte in total, the remaining events are dropped."""

    def add(self, postings: Sequence[Posting], now: float) -> None:
        fitting: list[Posting] = []
        size = 0
        for one in postings:
            size += len(one.envelope.body)
            if size <= 1_048_576 or not fitting:
                fitting.append(one)
        super().add(fitting, now)


@planted_pair(promise.SENT_IS_RECEIVED)
class DropsWhatIsTooLargeInAReceive(MemoryTransport):
    """If the bodies of a receive exceed a megabyte in total, the remaining events are acked."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        came = super().receive(queues, limit=limit, lease=lease, wait=wait)
        kept: list[Delivery] = []
        size = 0
        for one in came:
            size += len(one.envelope.body if isinstance(one.envelope, Envelope) else one.envelope.raw)
            if size <= 1_048_576 or not kept:
                kept.append(one)
        self.store.settle([(one, Ack()) for one in came[len(kept) :]], self._clock.now())
        return kept


@planted_pair(promise.PAYLOAD_IS_UNTOUCHED)
class CutsIdsOfManyBytes(Altered):
    """An id is truncated at 255 bytes, which are fewer characters in most languages."""

    def sent(self, envelope: Envelope) -> Envelope:
        return attrs.evolve(envelope, id=envelope.id.encode()[:255].decode(errors="ignore"))


@planted_pair(promise.PAYLOAD_IS_UNTOUCHED)
class TakesAHeaderForItsOwn(Altered):
    """A header "content-type" of the sender is taken for that of the store, and not delivered."""

    def sent(self, envelope: Envelope) -> Envelope:
        kept = {name: value for name, value in envelope.headers.items() if name.lower() != "content-type"}
        return attrs.evolve(envelope, headers=kept)


def _sweep(ranking: Ranking, number: int) -> None:
    ranking._ranks.pop(number, None)
    if len(ranking._heap) > 2 * len(ranking._ranks) + 64:
        ranking._heap = [(rank, each) for each, rank in ranking._ranks.items()]


@planted(promise.LOST_LEASE_RETURNS, by_chance=False, patches={(Ranking, "remove"): _sweep})
class MakesNoHeapOfWhatASweepLeaves(MemoryTransport):
    """After a hundred settlements the heap of leases and delays is swept, and what is left is in no order."""
