"""Bugs that show when one feature is used by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import attrs

from relevo import (
    MAX_DEATHS,
    Ack,
    BoundSender,
    DeadLetter,
    DeadLetterEntry,
    Delivery,
    Envelope,
    Found,
    Lost,
    Nack,
    Note,
    Outcome,
    Presence,
    Release,
    Settlement,
    State,
    Stats,
    Unreadable,
)
from relevo.errors import DecodeError, LeaseLostError, SendError, TransportError
from relevo_conformance import promise
from relevo_memory import MemoryStore, MemoryTransport
from relevo_memory._queue import EventQueue, KeptEvent
from relevo_memory._store import Posting

from .memory import BreakableStore
from .planting import Lenient, planted


def settled_as(settlements: Sequence[Settlement], change: Callable[[Settlement], Settlement]) -> Sequence[Settlement]:
    """Return *settlements*, each changed by *change*."""
    return [change(settlement) for settlement in settlements]


def give_back(store: MemoryStore, envelopes: Sequence[Envelope]) -> None:
    """Replace the envelopes of *store* by those of *envelopes* with the same ids, without a copy."""
    for queue in store._queues.values():
        for event in queue.events.values():
            for envelope in envelopes:
                if isinstance(event.envelope, Envelope) and event.envelope.id == envelope.id:
                    event.envelope = envelope


# --- sending ---------------------------------------------------------------------------------------


@planted(promise.SENT_IS_RECEIVED)
class LosesTheLastOfABatch(MemoryTransport):
    """The last event of a batch of three or more is not sent."""

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        super().send(envelopes[:-1] if len(envelopes) > 2 else envelopes, delay=delay)


@planted(promise.SEND_TELLS_APART)
class SwallowsItsErrors(MemoryTransport):
    """A failed send returns as if it had succeeded."""

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        with suppress(TransportError):
            super().send(envelopes, delay=delay)


@planted(promise.RESENT_IS_ONE)
class RemembersForEverWhatWasSent(BreakableStore):
    """An event that is done cannot be sent again, because every event ever sent counts as a duplicate."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[str, str, str]] = set()

    def add(self, postings: Sequence[Posting], now: float) -> None:
        fresh = [one for one in postings if (one.queue, one.envelope.source, one.envelope.id) not in self.seen]
        super().add(fresh, now)
        self.seen.update((one.queue, one.envelope.source, one.envelope.id) for one in postings)


@planted(promise.RESENT_IS_ONE, by_chance=False)
class TellsEventsApartByTheirIdAlone(MemoryTransport):
    """Events that share an id are duplicates, even from different sources or for different queues."""

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        known = {
            event.envelope.id
            for queue in self.store._queues.values()
            for event in queue.events.values()
            if isinstance(event.envelope, Envelope)
        }
        fresh: dict[str, Envelope] = {}
        for envelope in envelopes:
            if envelope.id not in known:
                fresh.setdefault(envelope.id, envelope)
        super().send(list(fresh.values()), delay=delay)


@planted(promise.RESENT_IS_ONE, by_chance=False)
class LooksForWhatIsKeptOnceABatch(BreakableStore):
    """An event that occurs twice in one batch is sent twice."""

    def add(self, postings: Sequence[Posting], now: float) -> None:
        super().add(postings, now)
        seen: set[tuple[str, str, str]] = set()
        for posting in postings:
            identity = (posting.queue, posting.envelope.source, posting.envelope.id)
            if identity in seen:
                queue = self._queue(posting.queue)
                known, queue._identities = queue._identities, Lenient()
                MemoryStore.add(self, [posting], now)
                queue._identities |= known
            seen.add(identity)


@planted(promise.NO_INVENTION)
class SendsUnderAnIdOfItsOwnToo(MemoryTransport):
    """The first event of a batch is sent a second time under another id."""

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        super().send(envelopes, delay=delay)
        super().send([attrs.evolve(one, id=f"{one.id}-copy") for one in envelopes[:1]], delay=delay)


@planted(promise.SEND_TELLS_APART)
class SaysRefusedWhereNobodyKnows(MemoryTransport):
    """If the answer is lost, all events are reported as refused, although some may be stored."""

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        try:
            super().send(envelopes, delay=delay)
        except SendError as error:
            raise SendError(self.name, refused=range(len(envelopes)), why="refused") from error


@planted(promise.SEND_TELLS_APART)
class ForgetsOnePositionInItsError(MemoryTransport):
    """The error of a failed send does not mention the first event."""

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        try:
            super().send(envelopes, delay=delay)
        except SendError as error:
            raise SendError(self.name, unknown=range(1, len(envelopes)), why="unknown") from error


@planted(promise.BATCH_IS_ATOMIC)
class TearsABatchWhenTheAnswerIsLost(BreakableStore):
    """If the answer is lost, only half of the batch is stored."""

    def add(self, postings: Sequence[Posting], now: float) -> None:
        if self.countdown is not None and self.countdown.fault.moment == "after" and len(postings) > 1:
            MemoryStore.add(self, postings[: len(postings) // 2], now)
            raise SendError("memory", unknown=range(len(postings)), why="the answer was lost")
        super().add(postings, now)


class NoIdentities(set[Any]):
    """A set that never contains anything."""

    def __contains__(self, item: object) -> bool:
        return False

    def remove(self, item: object) -> None:
        pass


@planted(promise.RESENT_IS_ONE)
class MakesASecondOneOfEverySend(BreakableStore):
    """Sending an unfinished event again creates a duplicate."""

    def _queue(self, name: str) -> EventQueue:
        queue = super()._queue(name)
        queue._identities = NoIdentities()
        return queue


@planted(promise.DELAY_IS_RESPECTED)
class IgnoresDelays(MemoryTransport):
    """A delayed event is ready at once."""

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        super().send(envelopes)


@planted(promise.DELAY_IS_RESPECTED, by_chance=False)
class RoundsDelaysDown(MemoryTransport):
    """A delay is half a second too short."""

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        super().send(envelopes, delay=max(0.0, delay - 0.5))


@planted(promise.RESENT_IS_ONE)
class MakesNothingNewBesideADeadLetter(BreakableStore):
    """An event that has a dead letter is dropped when it is sent again."""

    def add(self, postings: Sequence[Posting], now: float) -> None:
        dead = {
            (entry.queue, entry.envelope.source, entry.envelope.id)
            for entry in self.dead_letters([one.queue for one in postings], after=None, limit=1000)
            if isinstance(entry.envelope, Envelope)
        }
        super().add(
            [one for one in postings if (one.queue, one.envelope.source, one.envelope.id) not in dead],
            now,
        )


# --- the payload -----------------------------------------------------------------------------------


@planted(promise.PAYLOAD_IS_UNTOUCHED, by_chance=False)
class CutsBodiesAt64Kilobytes(MemoryTransport):
    """A body is truncated at 65,535 bytes."""

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        super().send([attrs.evolve(one, body=one.body[:65535]) for one in envelopes], delay=delay)


@planted(promise.PAYLOAD_IS_UNTOUCHED)
class ReadsBodiesAsText(MemoryTransport):
    """Bytes of a body that are not UTF-8 are replaced."""

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        text = [attrs.evolve(one, body=one.body.decode(errors="replace").encode()) for one in envelopes]
        super().send(text, delay=delay)


@planted(promise.PAYLOAD_IS_UNTOUCHED)
class WritesHeadersInLowerCase(MemoryTransport):
    """The names of headers are converted to lower case."""

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        lower = [attrs.evolve(one, headers={k.lower(): v for k, v in one.headers.items()}) for one in envelopes]
        super().send(lower, delay=delay)


@planted(promise.PAYLOAD_IS_UNTOUCHED, by_chance=False)
class KeepsTheSendersOwnHeaders(MemoryTransport):
    """The store keeps the sender's own mapping, so the sender can change an event after the send."""

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        super().send(envelopes, delay=delay)
        give_back(self.store, envelopes)


@planted(promise.PAYLOAD_IS_UNTOUCHED)
class DropsEmptyHeaders(MemoryTransport):
    """Headers with an empty value are dropped."""

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        full = [attrs.evolve(one, headers={k: v for k, v in one.headers.items() if v}) for one in envelopes]
        super().send(full, delay=delay)


@planted(promise.PAYLOAD_IS_UNTOUCHED)
class ReadsAnExpiryOfZeroAsNone(MemoryTransport):
    """An expiry of 0 is read as None."""

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        super().send([attrs.evolve(one, expires=None) if one.expires == 0.0 else one for one in envelopes], delay=delay)


@planted(promise.PAYLOAD_IS_UNTOUCHED)
class SaysThatARedeliveryWasSentNow(MemoryTransport):
    """From the second delivery on, the send time is the time of the receive."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        deliveries = super().receive(queues, limit=limit, lease=lease, wait=wait)
        return [attrs.evolve(one, enqueued_at=self._clock.now()) if one.attempt > 1 else one for one in deliveries]


@planted(promise.QUEUES_ARE_ISOLATED)
class FindsQueuesByPrefix(MemoryTransport):
    """A receive takes events from all queues whose names start with the given name."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        found = [name for queue in queues for name in self.store._queues if name.startswith(queue)]
        return super().receive(found or queues, limit=limit, lease=lease, wait=wait)


# --- receiving -------------------------------------------------------------------------------------


@planted(promise.LIMIT_IS_RESPECTED)
class HandsOutOneMore(MemoryTransport):
    """A receive returns one event more than its limit."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        return super().receive(queues, limit=limit + 1, lease=lease, wait=wait)


@planted(promise.LIMIT_IS_RESPECTED, by_chance=False)
class LeasesMoreThanItHandsOut(MemoryTransport):
    """A receive leases three events more than it returns."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        return super().receive(queues, limit=limit + 3, lease=lease, wait=wait)[:limit]


@planted(promise.LEASED_IS_HIDDEN)
class EndsLeasesAtHalfTime(MemoryTransport):
    """A lease ends after half of its duration."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        return super().receive(queues, limit=limit, lease=lease / 2, wait=wait)


@planted(promise.LEASED_IS_HIDDEN, by_chance=False)
class EndsLeasesASecondEarly(MemoryTransport):
    """A lease ends one second early."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        return super().receive(queues, limit=limit, lease=lease - 1.0, wait=wait)


@planted(promise.LEASED_IS_HIDDEN)
class LooksBeforeItClaims(BreakableStore):
    """The first event of a received batch can be received again, because select and lease are two steps."""

    def claim(self, queues: Sequence[str], *, limit: int, lease: float, now: float) -> list[Delivery]:
        taken = super().claim(queues, limit=limit, lease=lease, now=now)
        if len(taken) > 1:
            event = self._held(taken[0], now)
            if event is not None:
                event.until = now
                self._queue(event.queue)._leased.put(event.number, (now, 0))
        return taken


@planted(promise.LOST_LEASE_RETURNS)
class LeasesForEver(MemoryTransport):
    """A lease never ends, so events of a killed worker are never delivered again."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        return super().receive(queues, limit=limit, lease=1e12, wait=wait)

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Delivery]:
        return super().extend(deliveries, lease=1e12)


@planted(promise.LOST_LEASE_RETURNS)
class AcksWhenItHandsOut(MemoryTransport):
    """Events are acked when they are handed out, so those of a killed worker are lost."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        deliveries = super().receive(queues, limit=limit, lease=lease, wait=wait)
        self.store.settle([(one, Ack()) for one in deliveries], self._clock.now())
        return deliveries

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        super().settle(settlements)
        return []


@planted(promise.LOST_LEASES_ARE_COUNTED)
class ForgetsLostLeases(MemoryTransport):
    """Each delivery reports 0 lost leases."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        deliveries = super().receive(queues, limit=limit, lease=lease, wait=wait)
        return [attrs.evolve(one, lost_leases=0) for one in deliveries]


@planted(promise.LOST_LEASES_ARE_COUNTED)
class CountsNoAttemptForACrash(MemoryTransport):
    """A delivery that ends in a crash counts as a lost lease, but not as an attempt."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        deliveries = super().receive(queues, limit=limit, lease=lease, wait=wait)
        return [attrs.evolve(one, attempt=one.attempt - one.lost_leases) for one in deliveries]


@planted(promise.MALFORMED_IS_QUARANTINED)
class RaisesOverForeignBytes(MemoryTransport):
    """A receive raises an error when it meets bytes that are not an envelope."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        deliveries = super().receive(queues, limit=limit, lease=lease, wait=wait)
        if any(isinstance(one.envelope, Unreadable) for one in deliveries):
            raise DecodeError("this is no envelope")
        return deliveries


@planted(promise.MALFORMED_IS_QUARANTINED)
class DropsForeignBytes(MemoryTransport):
    """Bytes that are not an envelope are acked and never handed out."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        deliveries = super().receive(queues, limit=limit, lease=lease, wait=wait)
        foreign = [one for one in deliveries if isinstance(one.envelope, Unreadable)]
        self.store.settle([(one, Ack()) for one in foreign], self._clock.now())
        return [one for one in deliveries if one not in foreign]


@planted(promise.MALFORMED_IS_QUARANTINED, by_chance=False)
class DropsTheHeadersOfForeignBytes(MemoryTransport):
    """Foreign bytes are handed out without their headers."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        def bare(delivery: Delivery) -> Delivery:
            if isinstance(delivery.envelope, Unreadable):
                return attrs.evolve(delivery, envelope=attrs.evolve(delivery.envelope, headers={}))
            return delivery

        return [bare(one) for one in super().receive(queues, limit=limit, lease=lease, wait=wait)]


@planted(promise.PREFERENCE_IS_KEPT)
class TakesTheLastQueueFirst(MemoryTransport):
    """Of several queues, the one that is named last is emptied first."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        return super().receive(queues[::-1], limit=limit, lease=lease, wait=wait)


@planted(promise.ORDER_IS_KEPT, patches={(EventQueue, "_has_its_turn"): lambda self, event: True})
class IgnoresOrderingKeys(MemoryTransport):
    """A ready event is handed out although an earlier event of its key is unsettled."""


@planted(promise.URGENT_OVERTAKES, by_chance=False)
class IgnoresUrgency(MemoryTransport):
    """An urgent event does not overtake others."""

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        super().send([attrs.evolve(one, urgency="normal") for one in envelopes], delay=delay)
        give_back(self.store, envelopes)


# --- settling --------------------------------------------------------------------------------------


@planted(promise.ACK_IS_FINAL)
class ForgetsAcksOfWhatWasLostBefore(MemoryTransport):
    """The ack of an event with lost leases is treated as a release."""

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        return super().settle(
            settled_as(
                settlements, lambda one: (one[0], Release()) if isinstance(one[1], Ack) and one[0].lost_leases else one
            )
        )


@planted(promise.ACK_IS_FINAL, by_chance=False)
class SettlesAHundredOfABatch(MemoryTransport):
    """Only the first hundred settlements of a batch are done, but all are reported as done."""

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        return super().settle(settlements[:100])


@planted(promise.NACK_RETURNS_LATER)
class GivesBackAtOnce(MemoryTransport):
    """The delay of a nack is ignored."""

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        return super().settle(
            settled_as(settlements, lambda one: (one[0], Nack(state=one[1].state)) if isinstance(one[1], Nack) else one)
        )


@planted(promise.NACK_RETURNS_LATER)
class DropsWhatIsGivenBackThreeTimes(MemoryTransport):
    """The third nack is treated as an ack."""

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        return super().settle(
            settled_as(
                settlements, lambda one: (one[0], Ack()) if isinstance(one[1], Nack) and one[0].attempt >= 3 else one
            )
        )


@planted(promise.NACK_RETURNS_LATER)
class ForgetsTheStateThatNobodyReplaced(MemoryTransport):
    """A nack without a state clears the state."""

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        def forget(one: Settlement) -> Settlement:
            delivery, outcome = one
            return (
                (delivery, Nack(delay=outcome.delay, state=outcome.state or b"")) if isinstance(outcome, Nack) else one
            )

        return super().settle(settled_as(settlements, forget))


@planted(promise.RELEASE_COUNTS_NOTHING)
class CountsReleases(MemoryTransport):
    """A release counts as an attempt."""

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        return super().settle(
            settled_as(settlements, lambda one: (one[0], Nack()) if isinstance(one[1], Release) else one)
        )


@planted(promise.STATE_IS_BOUNDED, by_chance=False)
class KeepsAnyState(MemoryTransport):
    """A state that is too long is accepted."""

    def _check_states(self, states: Iterable[bytes | None]) -> None:
        pass


@planted(promise.ACK_IS_FINAL, by_chance=False)
class SettlesWhatStandsBeforeAStateThatIsTooLong(MemoryTransport):
    """If a batch is refused for a state that is too long, the settlements before it are still done."""

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        return [lost for settlement in settlements for lost in super(type(self), self).settle([settlement])]


@planted(promise.DEAD_IS_KEPT_WITH_REASON, by_chance=False)
class RevivesWhatStandsBeforeAStateThatIsTooLong(MemoryTransport):
    """If a revival is refused for a state that is too long, the dead letters before it are still revived."""

    def revive(self, refs: Mapping[str, bytes]) -> Sequence[str]:
        return [missing for ref in refs for missing in super(type(self), self).revive({ref: refs[ref]})]


@planted(promise.STALE_SETTLE_IS_REFUSED)
class SaysNothingOfLostLeases(MemoryTransport):
    """Settling a delivery that is no longer held is reported as done."""

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        super().settle(settlements)
        return []


@planted(promise.STALE_SETTLE_IS_REFUSED, by_chance=False)
class SettlesADeliveryTwiceInOneBatch(MemoryTransport):
    """If a delivery occurs twice in one batch, both settlements are reported as done."""

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        first = {id(delivery): (delivery, outcome) for delivery, outcome in reversed(settlements)}
        return super().settle(list(first.values())[::-1])


@planted(promise.STALE_SETTLE_IS_REFUSED)
class FencesByIdAlone(BreakableStore):
    """A previous holder can settle an event that another worker holds now."""

    def _held(self, delivery: Delivery, now: float) -> KeptEvent | None:
        for event in self._at(delivery.queue, now).events.values():
            if event.envelope is delivery.envelope and event.status is State.LEASED:
                return event
        return None


@planted(promise.STALE_SETTLE_IS_REFUSED)
class FencesByIdAndAttempt(BreakableStore):
    """A receipt compares only event and attempt, so an old receipt is valid again after a revival."""

    def _held(self, delivery: Delivery, now: float) -> KeptEvent | None:
        for event in self._at(delivery.queue, now).events.values():
            same = event.envelope is delivery.envelope and event.counters.attempt == delivery.attempt
            if same and event.status is State.LEASED:
                return event
        return None


@planted(promise.ACK_IS_FINAL)
class StopsABatchAtTheFirstStaleOne(MemoryTransport):
    """A batch stops at the first delivery that is no longer held, and the later ones are reported as done."""

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        for settlement in settlements:
            if lost := super().settle([settlement]):
                return lost
        return []


@planted(promise.EXTEND_KEEPS_THE_LEASE)
class ExtendsNothing(MemoryTransport):
    """An extension ends the lease at once."""

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Delivery]:
        return super().extend(deliveries, lease=0.001)


@planted(promise.EXTEND_KEEPS_THE_LEASE, by_chance=False)
class EndsExtensionsASecondEarly(MemoryTransport):
    """An extended lease ends one second early."""

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Delivery]:
        return super().extend(deliveries, lease=lease - 1.0)


@planted(promise.STALE_SETTLE_IS_REFUSED)
class ExtendsWhatIsNotHeld(MemoryTransport):
    """Extending a delivery that is no longer held is reported as done."""

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Delivery]:
        super().extend(deliveries, lease=lease)
        return []


@planted(promise.CHECKPOINT_SURVIVES_A_LOST_LEASE)
class KeepsCheckpointsInTheWorkersMemory(MemoryTransport):
    """A checkpoint does not reach the store."""

    def checkpoint(self, delivery: Delivery, state: bytes) -> None:
        super().checkpoint(delivery, delivery.state)


# --- the store -------------------------------------------------------------------------------------


@planted(promise.DEAD_IS_KEPT_WITH_REASON)
class ForgetsTheError(MemoryTransport):
    """A dead letter is kept without its error."""

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        return super().settle(
            settled_as(
                settlements,
                lambda one: (one[0], attrs.evolve(one[1], error="")) if isinstance(one[1], DeadLetter) else one,
            )
        )


@planted(promise.DEAD_IS_KEPT_WITH_REASON)
class DropsTheDead(MemoryTransport):
    """A dead-lettered event is acked instead of kept."""

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        return super().settle(
            settled_as(settlements, lambda one: (one[0], Ack()) if isinstance(one[1], DeadLetter) else one)
        )


@planted(promise.DEAD_IS_KEPT_WITH_REASON)
class ListsTheDeadOnce(MemoryTransport):
    """Listing dead letters removes all but two of them, as reading a broker's queue can."""

    def dead_letters(
        self, queues: Sequence[str], *, after: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetterEntry]:
        entries = super().dead_letters(queues, after=after, limit=limit)
        self.store.discard([entry.ref for entry in entries[2:]])
        return entries


@planted(promise.REVIVED_IS_RECEIVED)
class RevivesWithOldCounters(MemoryTransport):
    """A revived event is delivered as attempt 2."""

    def revive(self, refs: Mapping[str, bytes]) -> Sequence[str]:
        before = {event.number for queue in self.store._queues.values() for event in queue.events.values()}
        missing = super().revive(refs)
        for queue in self.store._queues.values():
            for event in queue.events.values():
                if event.number not in before:
                    event.counters = attrs.evolve(event.counters, attempt=2)
        return missing


@planted(promise.REVIVED_IS_RECEIVED)
class ForgetsTheStateOfTheRevived(MemoryTransport):
    """A revived event is delivered with another state than the one it was revived with."""

    def revive(self, refs: Mapping[str, bytes]) -> Sequence[str]:
        return super().revive(dict.fromkeys(refs, b"old"))


@planted(promise.DISCARDED_IS_GONE)
class DiscardsNothing(MemoryTransport):
    """A discarded dead letter stays."""

    def discard(self, refs: Iterable[str]) -> Sequence[str]:
        return []


@planted(promise.CANCELLED_IS_GONE)
class CancelsNothing(MemoryTransport):
    """A cancelled event is still handed out."""

    def cancel(self, event_id: str) -> int:
        return 1


@planted(promise.FOUND_AS_IT_IS)
class FindsNothing(MemoryTransport):
    """A lookup never finds an event."""

    def find(self, event_id: str) -> Sequence[Found]:
        super().find(event_id)
        return []


@planted(promise.FOUND_AS_IT_IS, by_chance=False)
class FindsByPrefix(MemoryTransport):
    """A lookup finds all events whose ids start with the given id."""

    def find(self, event_id: str) -> Sequence[Found]:
        ids = {
            event.envelope.id
            for queue in self.store._queues.values()
            for event in queue.events.values()
            if isinstance(event.envelope, Envelope) and event.envelope.id.startswith(event_id)
        }
        return [one for each in ids for one in super(type(self), self).find(each)]


@planted(promise.FOUND_AS_IT_IS, by_chance=False)
class FindsALeaseWithoutItsEnd(MemoryTransport):
    """A held event is found without the end of its lease."""

    def find(self, event_id: str) -> Sequence[Found]:
        return [attrs.evolve(one, until=None) if one.status == "leased" else one for one in super().find(event_id)]


@planted(promise.PURGED_IS_GONE)
class PurgesWhatIsHeld(MemoryTransport):
    """A purge removes held events."""

    def purge(self, queue: str) -> int:
        number = super().purge(queue)
        if queue in self.store._queues:
            held = list(self.store._queues[queue].events.values())
            self.store.settle([(event.delivery(), Ack()) for event in held], self._clock.now())
            number += len(held)
        return number


@planted(promise.PURGED_IS_GONE, by_chance=False)
class PurgesWhatIsHeldAfterALostLease(MemoryTransport):
    """A purge removes held events that have a lost lease."""

    def purge(self, queue: str) -> int:
        number = super().purge(queue)
        if queue in self.store._queues:
            held = [event for event in self.store._queues[queue].events.values() if event.counters.lost_leases]
            self.store.settle([(event.delivery(), Ack()) for event in held], self._clock.now())
        return number


@planted(promise.STATS_ARE_TRUE_AT_REST)
class CountsWhatIsHeldAsReady(MemoryTransport):
    """Held events count as ready."""

    def stats(self, queue: str) -> Stats:
        stats = super().stats(queue)
        return attrs.evolve(stats, ready=(stats.ready or 0) + (stats.leased or 0), leased=0)


@planted(promise.STATS_ARE_TRUE_AT_REST)
class CountsNothingBehindAnOrderingKey(MemoryTransport):
    """Events that wait for an earlier one of their ordering key are not counted."""

    def stats(self, queue: str) -> Stats:
        stats = super().stats(queue)
        return attrs.evolve(stats, ready=len(self.store._queue(queue)._ready))


@planted(promise.JOINS_THE_TRANSACTION)
class SendsBeforeTheCommit(MemoryTransport):
    """Events of a transaction are sent at once, and stay if it is rolled back."""

    def bound_to(self, session: Any, *, relay_to: str | None = None) -> BoundSender:
        class AtOnce:
            def __init__(self, transport: MemoryTransport) -> None:
                self.transport = transport

            def send(self, make: Callable[[], Sequence[Envelope]], *, delay: float = 0.0) -> None:
                self.transport.send(make(), delay=delay)

        return AtOnce(self)


# --- beginning and ending --------------------------------------------------------------------------


@planted(promise.SETUP_IS_IDEMPOTENT, by_chance=False)
class CreatesInADryRun(MemoryTransport):
    """A dry run of a set-up creates the queues."""

    def setup(self, queues: Sequence[str], *, dry_run: bool = False) -> Sequence[str]:
        return super().setup(queues)


@planted(promise.SETUP_IS_IDEMPOTENT, by_chance=False)
class RefusesAQueueAndDoesNotSayHowToMakeIt(MemoryTransport):
    """The error for a queue that was not set up does not name the command that creates it."""

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        if any(envelope.queue not in self.store._queues for envelope in envelopes):
            raise SendError(self.name, refused=range(len(envelopes)), why="404 NOT_FOUND")
        super().send(envelopes, delay=delay)


@planted(promise.CLOSE_IS_IDEMPOTENT, by_chance=False)
class ClosesOnce(MemoryTransport):
    """A second close raises."""

    def close(self) -> None:
        self._refuse()
        super().close()

    def _refuse(self) -> None:
        with self._open():
            pass


@planted(promise.CLOSE_IS_IDEMPOTENT, by_chance=False)
class SendsAfterItsClose(MemoryTransport):
    """A closed transport still sends."""

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        closed, self._closed = self._closed, False
        super().send(envelopes, delay=delay)
        self._closed = closed


@planted(promise.CLOSE_IS_IDEMPOTENT, by_chance=False)
class WakesNoReceiveWhenItCloses(MemoryTransport):
    """A close does not wake a waiting receive, which continues to the end of its wait."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        deadline = self._clock.monotonic() + wait
        came = super().receive(queues, limit=limit, lease=lease, wait=0.0)
        while not came and (now := self._clock.monotonic()) < deadline:
            self._clock.sleep(min(0.05, deadline - now))
            came = self.store.claim(queues, limit=limit, lease=lease, now=self._clock.now())
        return came


@planted(promise.CLOSE_IS_IDEMPOTENT, by_chance=False)
class AcksWhatItHoldsWhenItCloses(MemoryTransport):
    """A close acks the deliveries that the worker holds."""

    held: list[Delivery]

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        deliveries = super().receive(queues, limit=limit, lease=lease, wait=wait)
        self.held = [*getattr(self, "held", []), *deliveries]
        return deliveries

    def close(self) -> None:
        self.store.settle([(one, Ack()) for one in getattr(self, "held", [])], self._clock.now())
        super().close()


@planted(promise.LOST_LEASES_ARE_COUNTED, by_chance=False)
class ReleasesWhatItHoldsWhenItCloses(AcksWhatItHoldsWhenItCloses):
    """A close releases held deliveries, so an event that makes workers close never becomes a suspect."""

    def close(self) -> None:
        self.store.settle([(one, Release()) for one in getattr(self, "held", [])], self._clock.now())
        MemoryTransport.close(self)


@planted(promise.LOST_LEASES_ARE_COUNTED, by_chance=False)
class LosesWhatItFetchedAheadWhenItCloses(MemoryTransport):
    """Events that were only fetched ahead count as lost at each clean close."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        return super().receive(queues, limit=max(limit, 5), lease=lease, wait=wait)[:limit]


@planted(promise.NOBODY_STARVES, by_chance=False)
class HandsOutTheNewestFirst(BreakableStore):
    """The newest event is delivered first, so an old one waits forever under load."""

    def add(self, postings: Sequence[Posting], now: float) -> None:
        super().add(postings, now)
        for queue in self._queues.values():
            for event in queue.events.values():
                if event.status is State.READY and event.line is None:
                    event.place = -event.number
                    queue._rank(event)


@planted(promise.WAIT_IS_KEPT, by_chance=False)
class WaitsThoughItIsNotAskedTo(MemoryTransport):
    """A receive with a wait of 0 waits for a second."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        return super().receive(queues, limit=limit, lease=lease, wait=max(wait, 1.0))


@planted(promise.FAILURE_LOSES_NOTHING, by_chance=False)
class NeverRecoversFromAFailure(MemoryTransport):
    """After a failed settlement nothing more is handed out, as on a closed channel."""

    has_failed = False

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        try:
            return super().settle(settlements)
        except TransportError:
            self.has_failed = True
            raise

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        return [] if self.has_failed else super().receive(queues, limit=limit, lease=lease, wait=wait)


@planted(promise.LOST_LEASE_RETURNS)
class ForgetsWhatItTookWhenTheAnswerIsLost(MemoryTransport):
    """If the answer to a receive is lost, the events that it leased are acked."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        try:
            return super().receive(queues, limit=limit, lease=lease, wait=wait)
        except TransportError:
            countdown, self.store.countdown = self.store.countdown, None  # type: ignore[attr-defined]
            now = self._clock.now()
            left = [event for name in queues for event in self.store._at(name, now).events.values()]
            held = [event.delivery() for event in left if event.status is State.LEASED]
            self.store.settle([(one, Ack()) for one in held], now)
            self.store.countdown = countdown  # type: ignore[attr-defined]
            raise


@planted(promise.UNCLAIMED_IS_REFUSED, by_chance=False)
class KeepsTheDeadWithoutClaimingIt(MemoryTransport):
    """Dead letters are not claimed, but kept."""

    capabilities = attrs.evolve(MemoryTransport.capabilities, dead_letters=False)


@planted(promise.UNCLAIMED_IS_REFUSED, by_chance=False)
class HonoursWhatItDoesNotClaim(MemoryTransport):
    """Delays are not claimed, but accepted."""

    capabilities = attrs.evolve(MemoryTransport.capabilities, delay=None)


@planted(promise.ERRORS_ARE_TRANSLATED)
class RaisesAsItsDriverDoes(MemoryTransport):
    """Settling a delivery that is no longer held raises a KeyError."""

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        lost = super().settle(settlements)
        if lost:
            raise KeyError(lost[0].receipt)
        return lost


@planted(promise.ERRORS_ARE_TRANSLATED, by_chance=False)
class GoesByTheNameItWasMadeWith(MemoryTransport):
    """The error of a lost lease names the transport by its default name, not by the application's name for it."""

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        lost = super().settle(settlements)
        if lost and self.name != "memory":
            raise LeaseLostError("memory", lost[0])
        return lost


@planted(promise.ERRORS_ARE_TRANSLATED, by_chance=False)
class NamesItselfByItsDefaultInErrors(BreakableStore):
    """An error of the store names the transport by its default name, not by the application's name for it."""

    teller = property(lambda self: "memory", lambda self, name: None)


# --- what lasts ------------------------------------------------------------------------------------


@planted(promise.STALE_SETTLE_IS_REFUSED)
class SettlesAfterTheLeaseUntilTheNextReceive(BreakableStore):
    """A settlement is accepted after the lease has ended, until the next receive."""

    def _held(self, delivery: Delivery, now: float) -> KeptEvent | None:
        return super()._held(delivery, 0.0)


@planted(promise.PURGED_IS_GONE, by_chance=False)
class PurgesNothingThatWasEverHeld(BreakableStore):
    """A purge does not remove events whose lease has ended until a receive has noticed the end."""

    def purge(self, name: str, now: float) -> int:
        return super().purge(name, 0.0)


@planted(promise.NACK_RETURNS_LATER, by_chance=False)
class ForgetsDelaysOfMoreThanAnHour(MemoryTransport):
    """The delay of a nack is ignored if it is longer than an hour."""

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        def hurried(settlement: Settlement) -> Settlement:
            delivery, outcome = settlement
            if isinstance(outcome, Nack) and outcome.delay > 3600.0:
                return delivery, attrs.evolve(outcome, delay=0.0)
            return settlement

        return super().settle(settled_as(settlements, hurried))


@planted(promise.WOKEN_BY_A_SEND, by_chance=False)
class SleepsThroughItsWait(MemoryTransport):
    """A receive that finds nothing sleeps until its wait ends, although wakeup is claimed."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        came = super().receive(queues, limit=limit, lease=lease, wait=0.0)
        if came or wait <= 0.0:
            return came
        self._clock.sleep(wait)
        return super().receive(queues, limit=limit, lease=lease, wait=0.0)


# --- evidence --------------------------------------------------------------------------------------


@planted(promise.BEGUN_IS_KEPT)
class KeepsNoNotes(BreakableStore):
    """A note is accepted but not stored."""

    def begin(self, delivery: Delivery, note: Note, now: float) -> bool:
        return self._held(delivery, now) is not None


@planted(promise.BEGUN_IS_KEPT)
class ForgetsTheNoteWhenTheLeaseIsLost(MemoryTransport):
    """The note is lost when the lease of its holder ends."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        came = super().receive(queues, limit=limit, lease=lease, wait=wait)
        return [attrs.evolve(one, begun=None) if one.lost_leases else one for one in came]


@planted(promise.BEGUN_IS_KEPT)
class KeepsTheFirstNote(BreakableStore):
    """A second note does not replace the first."""

    def begin(self, delivery: Delivery, note: Note, now: float) -> bool:
        event = self._held(delivery, now)
        return event is not None and (event.begun is not None or super().begin(delivery, note, now))


@planted(promise.BEGUN_IS_KEPT)
class NotesTheWholeBatch(BreakableStore):
    """A note is stored with all events that its worker holds in the queue."""

    def begin(self, delivery: Delivery, note: Note, now: float) -> bool:
        is_held = super().begin(delivery, note, now)
        if is_held:
            for event in self._at(delivery.queue, now).events.values():
                if event.status is State.LEASED:
                    event.begun = note
        return is_held


@planted(promise.BEGUN_IS_KEPT)
class ReleasesWithoutTheNote(MemoryTransport):
    """A release removes the note."""

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        with self.store.changed:
            for delivery, outcome in settlements:
                event = self.store._held(delivery, self._clock.now())
                if event is not None and isinstance(outcome, Release):
                    event.begun = None
            return super().settle(settlements)


@planted(promise.BEGUN_IS_KEPT)
class RetriesWithTheNote(BreakableStore):
    """A nack keeps the note, so a later end of its process counts as a death."""

    def _end(self, event: KeptEvent, outcome: Outcome, now: float) -> None:
        note = event.begun
        super()._end(event, outcome, now)
        if isinstance(outcome, Nack):
            event.begun = note


@planted(promise.BEGUN_IS_KEPT)
class RetriesWithoutTheDeaths(BreakableStore):
    """A nack removes the deaths."""

    def _end(self, event: KeptEvent, outcome: Outcome, now: float) -> None:
        super()._end(event, outcome, now)
        if isinstance(outcome, Nack):
            event.deaths = ()


@planted(promise.BEGUN_IS_KEPT)
class DropsADeathThatWasSeen(BreakableStore):
    """A death that the worker reports counts as an ordinary lost lease."""

    def _end(self, event: KeptEvent, outcome: Outcome, now: float) -> None:
        super()._end(event, attrs.evolve(outcome, death=None) if isinstance(outcome, Lost) else outcome, now)


@planted(promise.BEGUN_IS_KEPT, by_chance=False)
class KeepsTheFirstThreeDeaths(BreakableStore):
    """The death of a fourth process is not recorded."""

    def _end(self, event: KeptEvent, outcome: Outcome, now: float) -> None:
        deaths = event.deaths
        super()._end(event, outcome, now)
        if len(deaths) == MAX_DEATHS:
            event.deaths = deaths


@planted(promise.BEGUN_IS_KEPT, by_chance=False)
class RevivesWithTheDeaths(BreakableStore):
    """A dead letter is revived with its earlier deaths."""

    def revive(self, refs: Mapping[str, bytes], now: float) -> list[str]:
        with self.changed:
            kept = {
                id(one.event): one.event.deaths for letters in self._dead._queues.values() for one in letters.values()
            }
            missing = super().revive(refs, now)
            for queue in self._queues.values():
                for event in queue.events.values():
                    event.deaths = kept.get(id(event), event.deaths)
            return missing


@planted(promise.BEGUN_IS_KEPT, by_chance=False)
class ExcusesTheNoteOfAnotherProcess(BreakableStore):
    """A process that ends normally excuses the note of another process."""

    def excuse(self, delivery: Delivery, note: Note, now: float) -> None:
        receipt: Any = delivery.receipt
        event = self._at(receipt.queue, now).events.get(receipt.number)
        if event is not None and event.begun is not None:
            event.begun = attrs.evolve(event.begun, excused=True)


@planted(promise.BEGUN_IS_KEPT, by_chance=False)
class ExcusesOnlyWhatIsHeld(BreakableStore):
    """A note cannot be excused after the lease has ended."""

    def excuse(self, delivery: Delivery, note: Note, now: float) -> None:
        if self._held(delivery, now) is not None:
            super().excuse(delivery, note, now)


@planted(promise.STALE_SETTLE_IS_REFUSED)
class NotesWhatIsNoLongerHeld(BreakableStore):
    """A note is stored although the lease has ended."""

    def begin(self, delivery: Delivery, note: Note, now: float) -> bool:
        receipt: Any = delivery.receipt
        event = self._at(receipt.queue, now).events.get(receipt.number)
        if event is not None:
            event.begun, event.deaths = note, note.deaths
        return True


@planted(promise.RELEASE_COUNTS_NOTHING)
class ReleasesAtOnceWhateverTheDelay(MemoryTransport):
    """The delay of a release is ignored."""

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        return super().settle(
            settled_as(settlements, lambda one: (one[0], Release()) if isinstance(one[1], Release) else one)
        )


@planted(promise.RELEASE_COUNTS_NOTHING)
class CountsAReleaseForLater(BreakableStore):
    """A release with a delay counts as an attempt."""

    def _end(self, event: KeptEvent, outcome: Outcome, now: float) -> None:
        if isinstance(outcome, Release) and outcome.delay > 0:
            event.counters = attrs.evolve(event.counters, attempt=event.counters.attempt + 1)
        super()._end(event, outcome, now)


@planted(promise.PRESENCE_IS_SEEN, by_chance=False)
class ReportsEveryWorkerAsAlive(MemoryTransport):
    """Each worker id in a presence query is reported as alive."""

    def presence(self, workers: Sequence[str]) -> Mapping[str, Presence]:
        return {worker: Presence(beats=1, connected=True) for worker in workers}


@planted(promise.PRESENCE_IS_SEEN, by_chance=False)
class SeesEachWorkerOnce(BreakableStore):
    """The heartbeat counter of a worker does not rise when the worker appears again."""

    def appear(self, worker: str) -> None:
        self._beats[worker] = 1


@planted(promise.PRESENCE_IS_SEEN, by_chance=False)
class SeesOnlyItself(MemoryTransport):
    """Only the transport that reported a worker sees it."""

    def appear(self, worker: str) -> None:
        vars(self).setdefault("mine", set()).add(worker)
        super().appear(worker)

    def presence(self, workers: Sequence[str]) -> Mapping[str, Presence]:
        return super().presence([worker for worker in workers if worker in vars(self).get("mine", ())])


@planted(promise.PRESENCE_IS_SEEN, by_chance=False)
class TakesWhoAppearedForConnected(MemoryTransport):
    """A worker that appeared once counts as connected forever."""

    def presence(self, workers: Sequence[str]) -> Mapping[str, Presence]:
        return {worker: attrs.evolve(sign, connected=True) for worker, sign in super().presence(workers).items()}
