"""Bugs of foreign bytes, in each operation on a delivery."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import attrs

from relevo import (
    Ack,
    Action,
    DeadLetter,
    DeadLetterEntry,
    Delivery,
    EventFilter,
    Found,
    Lost,
    Nack,
    Note,
    Outcome,
    Release,
    State,
    Stats,
    Unreadable,
    WaitingEntry,
)
from relevo_conformance import promise
from relevo_memory import MemoryTransport
from relevo_memory._queue import EventQueue, KeptEvent

from .memory import BreakableStore
from .planting import Altered, AlteredStore, living, planted_pair


def is_foreign(delivery: Delivery) -> bool:
    """Return whether *delivery* is of foreign bytes."""
    return isinstance(delivery.envelope, Unreadable)


@planted_pair(promise.NACK_RETURNS_LATER)
class GivesForeignBytesBackAtOnce(Altered):
    """The delay of a nack of foreign bytes is ignored."""

    def settled(self, delivery: Delivery, outcome: Outcome) -> Outcome:
        if isinstance(outcome, Nack) and is_foreign(delivery):
            return attrs.evolve(outcome, delay=0.0)
        return outcome


@planted_pair(promise.NACK_RETURNS_LATER)
class KeepsNoStateOfForeignBytes(Altered):
    """A nack of foreign bytes does not store its state."""

    def settled(self, delivery: Delivery, outcome: Outcome) -> Outcome:
        if isinstance(outcome, Nack) and is_foreign(delivery):
            return attrs.evolve(outcome, state=None)
        return outcome


@planted_pair(promise.MALFORMED_IS_QUARANTINED)
class DropsForeignBytesThatAreReleased(Altered):
    """A release of foreign bytes is treated as an ack."""

    def settled(self, delivery: Delivery, outcome: Outcome) -> Outcome:
        return Ack() if isinstance(outcome, Release) and is_foreign(delivery) else outcome


@planted_pair(promise.MALFORMED_IS_QUARANTINED)
class DropsForeignBytesThatAreReportedLost(Altered):
    """Foreign bytes that are reported lost are acked."""

    def settled(self, delivery: Delivery, outcome: Outcome) -> Outcome:
        return Ack() if isinstance(outcome, Lost) and is_foreign(delivery) else outcome


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON)
class KeepsNoErrorOfForeignBytes(Altered):
    """Foreign bytes are dead-lettered without their error and state."""

    def settled(self, delivery: Delivery, outcome: Outcome) -> Outcome:
        if isinstance(outcome, DeadLetter) and is_foreign(delivery):
            return DeadLetter(reason=outcome.reason)
        return outcome


@planted_pair(promise.MALFORMED_IS_QUARANTINED)
class ListsForeignBytesWithoutHeaders(Altered):
    """Dead-lettered foreign bytes are listed without their headers."""

    def listed(self, entry: DeadLetterEntry) -> DeadLetterEntry:
        if isinstance(entry.envelope, Unreadable):
            return attrs.evolve(entry, envelope=attrs.evolve(entry.envelope, headers={}))
        return entry


@planted_pair(promise.MALFORMED_IS_QUARANTINED)
class RevivesForeignBytesWithoutHeaders(AlteredStore):
    """Foreign bytes are revived without their headers."""

    def revived(self, event: KeptEvent, queue: EventQueue) -> None:
        if isinstance(event.envelope, Unreadable):
            event.envelope = attrs.evolve(event.envelope, headers={})


@planted_pair(promise.REVIVED_IS_RECEIVED)
class RevivesForeignBytesWithoutAState(AlteredStore):
    """Foreign bytes are revived with an empty state."""

    def revived(self, event: KeptEvent, queue: EventQueue) -> None:
        if isinstance(event.envelope, Unreadable):
            event.state = b""


@planted_pair(promise.DISCARDED_IS_GONE)
class DiscardsNoForeignBytes(BreakableStore):
    """A discard of foreign bytes is reported as done, but they stay."""

    def discard(self, refs: Iterable[str]) -> list[str]:
        foreign = {
            one.entry.ref
            for letters in self._dead._queues.values()
            for one in letters.values()
            if isinstance(one.entry.envelope, Unreadable)
        }
        return super().discard([ref for ref in refs if ref not in foreign])


@planted_pair(promise.PURGED_IS_GONE)
class PurgesNoForeignBytes(BreakableStore):
    """A purge does not remove foreign bytes."""

    def purge(self, name: str, now: float) -> int:
        self._take_foreign(now)
        spared = [
            (queue, event)
            for queue, event in living(self)
            if queue.name == name and isinstance(event.envelope, Unreadable) and event.status is State.READY
        ]
        for queue, event in spared:
            del queue.events[event.number]
        number = super().purge(name, now)
        for queue, event in spared:
            queue.events[event.number] = event
        return number


@planted_pair(promise.STATS_ARE_TRUE_AT_REST)
class CountsNoForeignBytes(Altered):
    """Ready foreign bytes are not counted."""

    def counted(self, stats: Stats, queue: EventQueue) -> Stats:
        foreign = sum(
            isinstance(event.envelope, Unreadable) and event.status is State.READY for event in queue.events.values()
        )
        return attrs.evolve(stats, ready=(stats.ready or 0) - foreign)


@planted_pair(promise.STATS_ARE_TRUE_AT_REST)
class CountsNoDeadForeignBytes(MemoryTransport):
    """Dead-lettered foreign bytes are not counted."""

    def stats(self, queue: str) -> Stats:
        stats = super().stats(queue)
        letters = self.store._dead._queues.get(queue, {})
        return attrs.evolve(stats, dead=sum(not isinstance(one.entry.envelope, Unreadable) for one in letters.values()))


@planted_pair(promise.EXTEND_KEEPS_THE_LEASE)
class ExtendsNoForeignBytes(MemoryTransport):
    """The lease of foreign bytes is not extended."""

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Delivery]:
        return super().extend([one for one in deliveries if not is_foreign(one)], lease=lease)


@planted_pair(promise.CHECKPOINT_SURVIVES_A_LOST_LEASE)
class KeepsNoCheckpointOfForeignBytes(BreakableStore):
    """A checkpoint of foreign bytes is not stored."""

    def checkpoint(self, delivery: Delivery, state: bytes, now: float) -> bool:
        return super().checkpoint(delivery, delivery.state if is_foreign(delivery) else state, now)


@planted_pair(promise.BEGUN_IS_KEPT)
class NotesNoForeignBytes(BreakableStore):
    """A note on foreign bytes is not stored."""

    def begin(self, delivery: Delivery, note: Note, now: float) -> bool:
        event = self._held(delivery, now)
        return event is not None and (is_foreign(delivery) or super().begin(delivery, note, now))


@planted_pair(promise.MALFORMED_IS_QUARANTINED)
class TakesEqualForeignBytesForOne(BreakableStore):
    """Foreign bytes are dropped as a duplicate if equal ones are in the queue."""

    def put_raw(self, queue: str, raw: bytes, headers: Mapping[str, str] = {}) -> None:
        known = {
            (name, event.envelope.raw)
            for name, one in self._queues.items()
            for event in one.events.values()
            if isinstance(event.envelope, Unreadable)
        } | {(name, one.raw) for name, one in self._foreign}
        if (queue, raw) not in known:
            super().put_raw(queue, raw, headers)


@planted_pair(promise.MALFORMED_IS_QUARANTINED)
class CutsForeignBytesAt64Kilobytes(BreakableStore):
    """Foreign bytes are truncated at 65,535 bytes."""

    def put_raw(self, queue: str, raw: bytes, headers: Mapping[str, str] = {}) -> None:
        super().put_raw(queue, raw[:65535], headers)


@planted_pair(promise.MALFORMED_IS_QUARANTINED)
class LooksForForeignBytesInOneQueue(BreakableStore):
    """A receive from several queues hands out foreign bytes of the first queue only."""

    def claim(self, queues: Sequence[str], *, limit: int, lease: float, now: float) -> list[Delivery]:
        taken = super().claim(queues, limit=limit, lease=lease, now=now)
        kept = []
        for one in taken:
            event = self._held(one, now)
            if is_foreign(one) and one.queue != queues[0] and event is not None:
                self._queue(one.queue).step(event, Action.RELEASE)
            else:
                kept.append(one)
        return kept


@planted_pair(promise.LOST_LEASE_RETURNS)
class HandsForeignBytesOutThreeTimes(BreakableStore):
    """Foreign bytes are dropped after their third lost lease."""

    def claim(self, queues: Sequence[str], *, limit: int, lease: float, now: float) -> list[Delivery]:
        for queue, event in living(self):
            queue.pass_time(now)
            lost = isinstance(event.envelope, Unreadable) and event.counters.lost_leases > 2
            if lost and event.status is State.READY:
                queue.step(event, Action.CANCEL)
        return super().claim(queues, limit=limit, lease=lease, now=now)


@planted_pair(promise.PURGED_IS_GONE)
class CountsNoForeignBytesThatAPurgeMeets(BreakableStore):
    """A purge that meets foreign bytes before a receive has noticed them removes them, and does not count them."""

    def purge(self, name: str, now: float) -> int:
        with self.changed:
            unnoticed = sum(queue == name for queue, _ in self._foreign)
            return super().purge(name, now) - unnoticed


@planted_pair(promise.MALFORMED_IS_QUARANTINED)
class PurgesForeignBytesOfOtherQueues(BreakableStore):
    """A purge also removes the foreign bytes of other queues that no receive has noticed."""

    def purge(self, name: str, now: float) -> int:
        with self.changed:
            self._foreign = [one for one in self._foreign if one[0] == name]
            return super().purge(name, now)


@planted_pair(promise.PURGED_IS_GONE)
class PurgesNoForeignBytesThatItMeets(BreakableStore):
    """A purge leaves foreign bytes that no receive has noticed."""

    def purge(self, name: str, now: float) -> int:
        with self.changed:
            unnoticed, self._foreign = self._foreign, []
            try:
                return super().purge(name, now)
            finally:
                self._foreign = unnoticed


@planted_pair(promise.MALFORMED_IS_QUARANTINED)
class DropsForeignBytesThatALookUpMeets(BreakableStore):
    """A look-up by an id drops foreign bytes that no receive has noticed."""

    def find(self, event_id: str, now: float) -> list[Found]:
        with self.changed:
            self._foreign.clear()
            return super().find(event_id, now)


@planted_pair(promise.ERRORS_ARE_TRANSLATED)
class CannotListBesideForeignBytes(BreakableStore):
    """A list of waiting events fails while there are foreign bytes that no receive has noticed."""

    def waiting(
        self, queues: Sequence[str], *, where: EventFilter, after: str | None, limit: int, now: float
    ) -> list[WaitingEntry]:
        for _, foreign in self._foreign:
            foreign.raw.decode("ascii")
        return super().waiting(queues, where=where, after=after, limit=limit, now=now)
