"""
Memory transports with one bug each, and the promise that every one of them breaks.

Most are bugs that real transports had. A suite that lets one of them pass proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from unittest import mock

import attrs

from relevo import (
    Ack,
    BoundSender,
    DeadLetter,
    DeadLetterEntry,
    Delivery,
    Envelope,
    Nack,
    Release,
    Settlement,
    State,
    Stats,
    Unreadable,
)
from relevo.errors import DecodeError, LeaseLostError, SendError, TransportError
from relevo_conformance import promise
from relevo_conformance.promise import Promise
from relevo_memory import MemoryStore, MemoryTransport
from relevo_memory._queue import EventQueue, KeptEvent
from relevo_memory._store import Posting

from .memory import BreakableStore, MemoryHarness


@attrs.frozen(kw_only=True)
class Mutant:
    """One planted bug."""

    name: str
    harness: type[MemoryHarness]
    breaks: Promise
    """The promise that must be found broken."""

    by_chance: bool = True
    """Whether the random histories alone must find it too; not where they never look."""

    patches: Mapping[tuple[object, str], object]

    @contextmanager
    def planted(self) -> Iterator[type[MemoryHarness]]:
        """Plant the bug for a while."""
        with ExitStack() as stack:
            for (target, attribute), replacement in self.patches.items():
                stack.enter_context(mock.patch.object(target, attribute, replacement))
            yield self.harness


MUTANTS: list[Mutant] = []


def planted(
    breaks: Promise, *, by_chance: bool = True, patches: Mapping[tuple[object, str], object] | None = None
) -> Callable[[type], type]:
    """Plant a transport or a store that breaks *breaks*."""

    def plant(broken: type) -> type:
        attribute = "store_type" if issubclass(broken, BreakableStore) else "transport"
        harness = type(f"{broken.__name__}Harness", (MemoryHarness,), {attribute: broken})
        MUTANTS.append(
            Mutant(name=broken.__name__, harness=harness, breaks=breaks, by_chance=by_chance, patches=patches or {})
        )
        return broken

    return plant


def settled_as(settlements: Sequence[Settlement], change: Callable[[Settlement], Settlement]) -> Sequence[Settlement]:
    """Return *settlements* as a buggy transport understands them."""
    return [change(settlement) for settlement in settlements]


def give_back(store: MemoryStore, envelopes: Sequence[Envelope]) -> None:
    """Let *store* hold the very *envelopes* where it has some of the same ids."""
    for queue in store._queues.values():
        for event in queue.events.values():
            for envelope in envelopes:
                if isinstance(event.envelope, Envelope) and event.envelope.id == envelope.id:
                    event.envelope = envelope


# --- sending ---------------------------------------------------------------------------------------


@planted(promise.SENT_IS_RECEIVED)
class LosesTheLastOfABatch(MemoryTransport):
    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        super().send(envelopes[:-1] if len(envelopes) > 2 else envelopes, delay=delay)


@planted(promise.SEND_TELLS_APART)
class SwallowsItsErrors(MemoryTransport):
    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        with suppress(TransportError):
            super().send(envelopes, delay=delay)


@planted(promise.RESENT_IS_ONE)
class RemembersForEverWhatWasSent(BreakableStore):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[str, str, str]] = set()

    def add(self, postings: Sequence[Posting], now: float) -> None:
        fresh = [one for one in postings if (one.queue, one.envelope.source, one.envelope.id) not in self.seen]
        super().add(fresh, now)
        self.seen.update((one.queue, one.envelope.source, one.envelope.id) for one in postings)


@planted(promise.RESENT_IS_ONE, by_chance=False)
class TellsEventsApartByTheirIdAlone(MemoryTransport):
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


@planted(promise.NO_INVENTION)
class SendsUnderAnIdOfItsOwnToo(MemoryTransport):
    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        super().send(envelopes, delay=delay)
        super().send([attrs.evolve(one, id=f"{one.id}-copy") for one in envelopes[:1]], delay=delay)


@planted(promise.SEND_TELLS_APART)
class SaysRefusedWhereNobodyKnows(MemoryTransport):
    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        try:
            super().send(envelopes, delay=delay)
        except SendError as error:
            raise SendError(self.name, refused=range(len(envelopes)), why="refused") from error


@planted(promise.SEND_TELLS_APART)
class ForgetsOnePositionInItsError(MemoryTransport):
    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        try:
            super().send(envelopes, delay=delay)
        except SendError as error:
            raise SendError(self.name, unknown=range(1, len(envelopes)), why="unknown") from error


@planted(promise.BATCH_IS_ATOMIC)
class TearsABatchWhenTheAnswerIsLost(BreakableStore):
    def add(self, postings: Sequence[Posting], now: float) -> None:
        if self.breakage == "after" and len(postings) > 1:
            MemoryStore.add(self, postings[: len(postings) // 2], now)
            raise SendError("memory", unknown=range(len(postings)), why="the answer was lost")
        super().add(postings, now)


class NoIdentities(set[Any]):
    """Whatever is put into it, nothing is there."""

    def __contains__(self, item: object) -> bool:
        return False

    def remove(self, item: object) -> None:
        pass


@planted(promise.RESENT_IS_ONE)
class MakesASecondOneOfEverySend(BreakableStore):
    def _queue(self, name: str) -> EventQueue:
        queue = super()._queue(name)
        queue._identities = NoIdentities()
        return queue


@planted(promise.DELAY_IS_RESPECTED)
class IgnoresDelays(MemoryTransport):
    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        super().send(envelopes)


@planted(promise.DELAY_IS_RESPECTED, by_chance=False)
class RoundsDelaysDown(MemoryTransport):
    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        super().send(envelopes, delay=max(0.0, delay - 0.5))


@planted(promise.RESENT_IS_ONE)
class MakesNothingNewBesideADeadLetter(BreakableStore):
    """Whoever sends the event again after a mend waits for ever."""

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
    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        super().send([attrs.evolve(one, body=one.body[:65535]) for one in envelopes], delay=delay)


@planted(promise.PAYLOAD_IS_UNTOUCHED)
class ReadsBodiesAsText(MemoryTransport):
    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        text = [attrs.evolve(one, body=one.body.decode(errors="replace").encode()) for one in envelopes]
        super().send(text, delay=delay)


@planted(promise.PAYLOAD_IS_UNTOUCHED)
class WritesHeadersInLowerCase(MemoryTransport):
    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        lower = [attrs.evolve(one, headers={k.lower(): v for k, v in one.headers.items()}) for one in envelopes]
        super().send(lower, delay=delay)


@planted(promise.PAYLOAD_IS_UNTOUCHED, by_chance=False)
class KeepsTheSendersOwnHeaders(MemoryTransport):
    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        super().send(envelopes, delay=delay)
        give_back(self.store, envelopes)


@planted(promise.PAYLOAD_IS_UNTOUCHED)
class DropsEmptyHeaders(MemoryTransport):
    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        full = [attrs.evolve(one, headers={k: v for k, v in one.headers.items() if v}) for one in envelopes]
        super().send(full, delay=delay)


@planted(promise.PAYLOAD_IS_UNTOUCHED)
class DropsWhatHasExpired(MemoryTransport):
    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        super().send([attrs.evolve(one, expires=None) if one.expires == 0.0 else one for one in envelopes], delay=delay)


@planted(promise.PAYLOAD_IS_UNTOUCHED)
class SaysThatARedeliveryWasSentNow(MemoryTransport):
    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        deliveries = super().receive(queues, limit=limit, lease=lease, wait=wait)
        return [attrs.evolve(one, enqueued_at=self._clock.now()) if one.attempt > 1 else one for one in deliveries]


@planted(promise.QUEUES_ARE_ISOLATED)
class FindsQueuesByPrefix(MemoryTransport):
    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        found = [name for queue in queues for name in self.store._queues if name.startswith(queue)]
        return super().receive(found or queues, limit=limit, lease=lease, wait=wait)


# --- receiving -------------------------------------------------------------------------------------


@planted(promise.LIMIT_IS_RESPECTED)
class HandsOutOneMore(MemoryTransport):
    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        return super().receive(queues, limit=limit + 1, lease=lease, wait=wait)


@planted(promise.LIMIT_IS_RESPECTED, by_chance=False)
class LeasesMoreThanItHandsOut(MemoryTransport):
    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        return super().receive(queues, limit=limit + 3, lease=lease, wait=wait)[:limit]


@planted(promise.LEASED_IS_HIDDEN)
class EndsLeasesAtHalfTime(MemoryTransport):
    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        return super().receive(queues, limit=limit, lease=lease / 2, wait=wait)


@planted(promise.LEASED_IS_HIDDEN)
class LooksBeforeItClaims(BreakableStore):
    """A read and a write that another receive can come between, as a claim without a lock has them."""

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
    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        return super().receive(queues, limit=limit, lease=1e12, wait=wait)

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Delivery]:
        return super().extend(deliveries, lease=1e12)


@planted(promise.LOST_LEASE_RETURNS)
class AcksWhenItHandsOut(MemoryTransport):
    """At most once: a killed worker takes its events along."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        deliveries = super().receive(queues, limit=limit, lease=lease, wait=wait)
        self.store.settle([(one, Ack()) for one in deliveries if one.attempt == 2], self._clock.now())
        return deliveries

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        lost = super().settle(settlements)
        return [one for one in lost if one.attempt != 2]


@planted(promise.LOSSES_ARE_COUNTED)
class ForgetsLosses(MemoryTransport):
    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        deliveries = super().receive(queues, limit=limit, lease=lease, wait=wait)
        return [attrs.evolve(one, losses=0) for one in deliveries]


@planted(promise.LOSSES_ARE_COUNTED)
class CountsNoAttemptForACrash(MemoryTransport):
    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        deliveries = super().receive(queues, limit=limit, lease=lease, wait=wait)
        return [attrs.evolve(one, attempt=one.attempt - one.losses) for one in deliveries]


@planted(promise.MALFORMED_IS_QUARANTINED)
class RaisesOverForeignBytes(MemoryTransport):
    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        deliveries = super().receive(queues, limit=limit, lease=lease, wait=wait)
        if any(isinstance(one.envelope, Unreadable) for one in deliveries):
            raise DecodeError("this is no envelope")
        return deliveries


@planted(promise.MALFORMED_IS_QUARANTINED)
class DropsForeignBytes(MemoryTransport):
    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        deliveries = super().receive(queues, limit=limit, lease=lease, wait=wait)
        foreign = [one for one in deliveries if isinstance(one.envelope, Unreadable)]
        self.store.settle([(one, Ack()) for one in foreign], self._clock.now())
        return [one for one in deliveries if one not in foreign]


@planted(promise.PREFERENCE_IS_KEPT)
class TakesTheLastQueueFirst(MemoryTransport):
    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        return super().receive(queues[::-1], limit=limit, lease=lease, wait=wait)


@planted(promise.ORDER_IS_KEPT, patches={(EventQueue, "_has_its_turn"): lambda self, event: True})
class IgnoresOrderingKeys(MemoryTransport):
    """Whatever is ready has its turn."""


@planted(promise.URGENT_OVERTAKES, by_chance=False)
class IgnoresUrgency(MemoryTransport):
    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        super().send([attrs.evolve(one, urgency="normal") for one in envelopes], delay=delay)
        give_back(self.store, envelopes)


# --- settling --------------------------------------------------------------------------------------


@planted(promise.ACK_IS_FINAL)
class ForgetsAcks(MemoryTransport):
    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        return super().settle(
            settled_as(
                settlements, lambda one: (one[0], Release()) if isinstance(one[1], Ack) and one[0].losses else one
            )
        )


@planted(promise.NACK_RETURNS_LATER)
class GivesBackAtOnce(MemoryTransport):
    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        return super().settle(
            settled_as(settlements, lambda one: (one[0], Nack(state=one[1].state)) if isinstance(one[1], Nack) else one)
        )


@planted(promise.NACK_RETURNS_LATER)
class DropsWhatIsGivenBackThreeTimes(MemoryTransport):
    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        return super().settle(
            settled_as(
                settlements, lambda one: (one[0], Ack()) if isinstance(one[1], Nack) and one[0].attempt >= 3 else one
            )
        )


@planted(promise.NACK_RETURNS_LATER)
class ForgetsTheStateThatNobodyReplaced(MemoryTransport):
    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        def forget(one: Settlement) -> Settlement:
            delivery, outcome = one
            return (
                (delivery, Nack(delay=outcome.delay, state=outcome.state or b"")) if isinstance(outcome, Nack) else one
            )

        return super().settle(settled_as(settlements, forget))


@planted(promise.RELEASE_COUNTS_NOTHING)
class CountsReleases(MemoryTransport):
    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        return super().settle(
            settled_as(settlements, lambda one: (one[0], Nack()) if isinstance(one[1], Release) else one)
        )


@planted(promise.STATE_IS_BOUNDED, by_chance=False)
class KeepsAnyState(MemoryTransport):
    def _refuse_if_long(self, state: bytes | None) -> None:
        pass


@planted(promise.ACK_IS_FINAL, by_chance=False)
class SettlesWhatStandsBeforeAStateThatIsTooLong(MemoryTransport):
    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        return [lost for settlement in settlements for lost in super(type(self), self).settle([settlement])]


@planted(promise.DEAD_IS_KEPT_WITH_REASON, by_chance=False)
class RevivesWhatStandsBeforeAStateThatIsTooLong(MemoryTransport):
    def revive(self, refs: Mapping[str, bytes]) -> Sequence[str]:
        return [missing for ref in refs for missing in super(type(self), self).revive({ref: refs[ref]})]


@planted(promise.STALE_SETTLE_IS_REFUSED)
class SaysNothingOfLostLeases(MemoryTransport):
    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        super().settle(settlements)
        return []


@planted(promise.STALE_SETTLE_IS_REFUSED)
class FencesByIdAlone(BreakableStore):
    def _held(self, delivery: Delivery, now: float) -> KeptEvent | None:
        for event in self._at(delivery.queue, now).events.values():
            if event.envelope is delivery.envelope and event.status is State.LEASED:
                return event
        return None


@planted(promise.STALE_SETTLE_IS_REFUSED)
class FencesByIdAndAttempt(BreakableStore):
    """A revival begins the attempts afresh, so an old receipt fits again."""

    def _held(self, delivery: Delivery, now: float) -> KeptEvent | None:
        for event in self._at(delivery.queue, now).events.values():
            same = event.envelope is delivery.envelope and event.counters.attempt == delivery.attempt
            if same and event.status is State.LEASED:
                return event
        return None


@planted(promise.ACK_IS_FINAL)
class StopsABatchAtTheFirstStaleOne(MemoryTransport):
    """It reports that one, and says of those behind it that they are settled."""

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        for settlement in settlements:
            if lost := super().settle([settlement]):
                return lost
        return []


@planted(promise.EXTEND_KEEPS_THE_LEASE)
class ExtendsNothing(MemoryTransport):
    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Delivery]:
        return super().extend(deliveries, lease=0.001)


@planted(promise.STALE_SETTLE_IS_REFUSED)
class ExtendsWhatIsNotHeld(MemoryTransport):
    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Delivery]:
        super().extend(deliveries, lease=lease)
        return []


@planted(promise.CHECKPOINT_SURVIVES_A_LOSS)
class KeepsCheckpointsInTheWorkersMemory(MemoryTransport):
    def checkpoint(self, delivery: Delivery, state: bytes) -> None:
        super().checkpoint(delivery, delivery.state)


# --- the store -------------------------------------------------------------------------------------


@planted(promise.DEAD_IS_KEPT_WITH_REASON)
class ForgetsTheError(MemoryTransport):
    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        return super().settle(
            settled_as(
                settlements,
                lambda one: (one[0], attrs.evolve(one[1], error="")) if isinstance(one[1], DeadLetter) else one,
            )
        )


@planted(promise.DEAD_IS_KEPT_WITH_REASON)
class DropsTheDead(MemoryTransport):
    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        return super().settle(
            settled_as(settlements, lambda one: (one[0], Ack()) if isinstance(one[1], DeadLetter) else one)
        )


@planted(promise.DEAD_IS_KEPT_WITH_REASON)
class ListsTheDeadOnce(MemoryTransport):
    """Looking at dead letters takes them out, as browsing a queue of a broker can."""

    def dead_letters(
        self, queues: Sequence[str], *, after: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetterEntry]:
        entries = super().dead_letters(queues, after=after, limit=limit)
        self.store.discard([entry.ref for entry in entries[2:]])
        return entries


@planted(promise.REVIVED_IS_RECEIVED)
class RevivesWithOldCounters(MemoryTransport):
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
    def revive(self, refs: Mapping[str, bytes]) -> Sequence[str]:
        return super().revive(dict.fromkeys(refs, b"old"))


@planted(promise.DISCARDED_IS_GONE)
class DiscardsNothing(MemoryTransport):
    def discard(self, refs: Iterable[str]) -> Sequence[str]:
        return []


@planted(promise.CANCELLED_IS_GONE)
class CancelsNothing(MemoryTransport):
    def cancel(self, event_id: str) -> int:
        return 1


@planted(promise.PURGED_IS_GONE)
class PurgesWhatIsHeld(MemoryTransport):
    def purge(self, queue: str) -> int:
        number = super().purge(queue)
        if queue in self.store._queues:
            held = list(self.store._queues[queue].events.values())
            self.store.settle([(event.delivery(), Ack()) for event in held], self._clock.now())
            number += len(held)
        return number


@planted(promise.STATS_ARE_TRUE_AT_REST)
class CountsWhatIsHeldAsReady(MemoryTransport):
    def stats(self, queue: str) -> Stats:
        stats = super().stats(queue)
        return attrs.evolve(stats, ready=(stats.ready or 0) + (stats.leased or 0), leased=0)


@planted(promise.STATS_ARE_TRUE_AT_REST)
class CountsNothingBehindAnOrderingKey(MemoryTransport):
    def stats(self, queue: str) -> Stats:
        stats = super().stats(queue)
        return attrs.evolve(stats, ready=len(self.store._queue(queue)._ready))


@planted(promise.JOINS_THE_TRANSACTION)
class SendsBeforeTheCommit(MemoryTransport):
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
    def setup(self, queues: Sequence[str], *, dry_run: bool = False) -> Sequence[str]:
        return super().setup(queues)


@planted(promise.SETUP_IS_IDEMPOTENT, by_chance=False)
class RefusesAQueueAndDoesNotSayHowToMakeIt(MemoryTransport):
    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        if any(envelope.queue not in self.store._queues for envelope in envelopes):
            raise SendError(self.name, refused=range(len(envelopes)), why="404 NOT_FOUND")
        super().send(envelopes, delay=delay)


@planted(promise.CLOSE_IS_IDEMPOTENT, by_chance=False)
class ClosesOnce(MemoryTransport):
    def close(self) -> None:
        self._refuse()
        super().close()

    def _refuse(self) -> None:
        with self._open():
            pass


@planted(promise.CLOSE_IS_IDEMPOTENT, by_chance=False)
class SendsAfterItsClose(MemoryTransport):
    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        closed, self._closed = self._closed, False
        super().send(envelopes, delay=delay)
        self._closed = closed


@planted(promise.CLOSE_IS_IDEMPOTENT, by_chance=False)
class AcksWhatItHoldsWhenItCloses(MemoryTransport):
    held: list[Delivery]

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        deliveries = super().receive(queues, limit=limit, lease=lease, wait=wait)
        self.held = [*getattr(self, "held", []), *deliveries]
        return deliveries

    def close(self) -> None:
        self.store.settle([(one, Ack()) for one in getattr(self, "held", [])], self._clock.now())
        super().close()


@planted(promise.LOSSES_ARE_COUNTED, by_chance=False)
class ReleasesWhatItHoldsWhenItCloses(AcksWhatItHoldsWhenItCloses):
    """So an event that makes its worker close is never a suspect."""

    def close(self) -> None:
        self.store.settle([(one, Release()) for one in getattr(self, "held", [])], self._clock.now())
        MemoryTransport.close(self)


@planted(promise.LOSSES_ARE_COUNTED, by_chance=False)
class LosesWhatItFetchedAheadWhenItCloses(MemoryTransport):
    """Every clean stop makes suspects of events that nobody touched."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        return super().receive(queues, limit=max(limit, 5), lease=lease, wait=wait)[:limit]


@planted(promise.UNCLAIMED_IS_REFUSED, by_chance=False)
class KeepsTheDeadWithoutClaimingIt(MemoryTransport):
    capabilities = attrs.evolve(MemoryTransport.capabilities, dead_letters=False)


@planted(promise.UNCLAIMED_IS_REFUSED, by_chance=False)
class HonoursWhatItDoesNotClaim(MemoryTransport):
    capabilities = attrs.evolve(MemoryTransport.capabilities, delay=None)


@planted(promise.ERRORS_ARE_TRANSLATED)
class RaisesAsItsDriverDoes(MemoryTransport):
    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        lost = super().settle(settlements)
        if lost:
            raise KeyError(lost[0].receipt)
        return lost


@planted(promise.ERRORS_ARE_TRANSLATED, by_chance=False)
class GoesByTheNameItWasMadeWith(MemoryTransport):
    """Whatever the application calls it."""

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        lost = super().settle(settlements)
        if lost and self.name != "memory":
            raise LeaseLostError("memory", lost[0])
        return lost


@planted(promise.ERRORS_ARE_TRANSLATED, by_chance=False)
class HasAStoreThatGoesByTheNameItWasMadeWith(BreakableStore):
    teller = property(lambda self: "memory", lambda self, name: None)
