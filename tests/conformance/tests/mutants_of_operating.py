"""Bugs of find, cancel, purge, stats and wait, together with delays, leases, keys and other queues."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import attrs

from relevo import Action, Delivery, Envelope, Found, Outcome, Release, Settlement, State, Stats
from relevo.errors import LeaseLostError, TransportError
from relevo_conformance import promise
from relevo_memory import MemoryTransport
from relevo_memory._queue import EventQueue, KeptEvent

from .memory import BreakableStore
from .planting import Altered, AlteredStore, living, planted, planted_pair


class Sparing(BreakableStore):
    """Excludes some events from cancel and purge."""

    def spares(self, event: KeptEvent) -> bool:
        """Return whether *event* is excluded."""
        return False

    @contextmanager
    def _sparing(self, now: float) -> Iterator[None]:
        for queue, _ in living(self):
            queue.pass_time(now)
        spared = [(queue, event) for queue, event in living(self) if self.spares(event)]
        for queue, event in spared:
            del queue.events[event.number]
        try:
            yield
        finally:
            for queue, event in spared:
                queue.events[event.number] = event


class SparingAtACancel(Sparing):
    def cancel(self, event_id: str, now: float) -> int:
        with self._sparing(now):
            return super().cancel(event_id, now)


class SparingAtAPurge(Sparing):
    def purge(self, name: str, now: float) -> int:
        with self._sparing(now):
            return super().purge(name, now)


@planted_pair(promise.CANCELLED_IS_GONE)
class CancelsNoRetries(SparingAtACancel):
    """An event that waits for its retry is not cancelled."""

    def spares(self, event: KeptEvent) -> bool:
        return event.status is State.SCHEDULED and event.counters.attempt > 1


@planted_pair(promise.CANCELLED_IS_GONE)
class CancelsNothingThatWasLost(SparingAtACancel):
    """An event whose lease was lost is not cancelled."""

    def spares(self, event: KeptEvent) -> bool:
        return event.status is State.READY and event.counters.lost_leases > 0


@planted_pair(promise.CANCELLED_IS_GONE)
class CancelsNothingUrgent(SparingAtACancel):
    """An urgent event is not cancelled."""

    def spares(self, event: KeptEvent) -> bool:
        return event.status is not State.LEASED and event.is_urgent


@planted_pair(promise.CANCELLED_IS_GONE)
class CancelsNothingBehindAKey(SparingAtACancel):
    """An event that waits for an earlier one of its ordering key is not cancelled."""

    def spares(self, event: KeptEvent) -> bool:
        queue = self._queue(event.queue)
        return event.status is State.READY and event.line is not None and not queue._has_its_turn(event)


@planted_pair(promise.PURGED_IS_GONE)
class PurgesNothingDelayed(SparingAtAPurge):
    """A purge does not remove delayed events."""

    def spares(self, event: KeptEvent) -> bool:
        return event.status is State.SCHEDULED


@planted_pair(promise.PURGED_IS_GONE)
class PurgesNoRetries(SparingAtAPurge):
    """A purge does not remove events that wait for a retry."""

    def spares(self, event: KeptEvent) -> bool:
        return event.status is State.SCHEDULED and event.counters.attempt > 1


@planted_pair(promise.PURGED_IS_GONE)
class PurgesNothingBehindAKey(SparingAtAPurge):
    """A purge does not remove events that wait for an earlier one of their ordering key."""

    def spares(self, event: KeptEvent) -> bool:
        queue = self._queue(event.queue)
        return event.status is State.READY and event.line is not None and not queue._has_its_turn(event)


@planted_pair(promise.PURGED_IS_GONE)
class PurgesNothingUrgent(SparingAtAPurge):
    """A purge does not remove urgent events."""

    def spares(self, event: KeptEvent) -> bool:
        return event.status is State.READY and event.is_urgent


@planted_pair(promise.PURGED_IS_GONE)
class PurgesQueuesThatBeginLikeIt(BreakableStore):
    """A purge empties all queues whose names start with the given name."""

    def purge(self, name: str, now: float) -> int:
        others = [one for one in self._queues if one.startswith(name) and one != name]
        return super().purge(name, now) + sum(self._take_out(one, now) for one in others)


@planted_pair(promise.PURGED_IS_GONE)
class CountsTheHeldInAPurge(BreakableStore):
    """The number that a purge returns includes held events."""

    def purge(self, name: str, now: float) -> int:
        number = super().purge(name, now)
        return number + (self._queues[name].leased if name in self._queues else 0)


@planted_pair(promise.FOUND_AS_IT_IS)
class FindsWhatWaitsBehindAKeyAsDelayed(MemoryTransport):
    """An event that waits for an earlier one of its ordering key is found as scheduled."""

    def find(self, event_id: str) -> Sequence[Found]:
        found = []
        for one in super().find(event_id):
            queue = self.store._queues[one.queue]
            waits = [
                event
                for event in queue.events.values()
                if event.envelope == one.envelope and event.status is State.READY and not queue._has_its_turn(event)
            ]
            found.append(attrs.evolve(one, status="scheduled", until=one.enqueued_at) if waits else one)
        return found


@planted_pair(promise.FOUND_AS_IT_IS)
class FindsRetriesAsReady(Altered):
    """An event that waits for its retry is found as ready."""

    def found(self, found: Found) -> Found:
        waits = found.status == "scheduled" and found.attempt > 1
        return attrs.evolve(found, status="ready", until=None) if waits else found


@planted_pair(promise.FOUND_AS_IT_IS)
class FindsADelayFromItsSending(Altered):
    """An event that waits for its retry is found with its send time as its due time."""

    def found(self, found: Found) -> Found:
        waits = found.status == "scheduled" and found.attempt > 1
        return attrs.evolve(found, until=found.enqueued_at) if waits else found


@planted_pair(promise.FOUND_AS_IT_IS)
class FindsWithoutLostLeases(Altered):
    """A held event is found without its lost leases."""

    def found(self, found: Found) -> Found:
        return attrs.evolve(found, lost_leases=0) if found.status == "leased" else found


@planted_pair(promise.FOUND_AS_IT_IS)
class FindsWithoutAnExpiry(Altered):
    """An event is found without its expiry."""

    def found(self, found: Found) -> Found:
        return attrs.evolve(found, envelope=attrs.evolve(found.envelope, expires=None))


@planted_pair(promise.FOUND_AS_IT_IS)
class MovesWhatIsFound(BreakableStore):
    """A lookup of an event with an ordering key gives its turn to the next one of the key."""

    def find(self, event_id: str, now: float) -> list[Found]:
        found = super().find(event_id, now)
        for queue, event in living(self):
            is_it = event.identity is not None and event.identity[2] == event_id and event.status is State.READY
            if is_it and event.line is not None and len(queue._lines[event.line]) > 1:
                queue._ready.remove(event.number)
                queue._lines[event.line].move_to_end(event.number)
                queue._rank(next(iter(queue._lines[event.line].values())))
        return found


@planted_pair(promise.STATS_ARE_TRUE_AT_REST)
class CountsWhatIsDueAsDelayed(MemoryTransport):
    """An event that is due counts as scheduled until the next receive."""

    def stats(self, queue: str) -> Stats:
        known = self.store._queues.get(queue)
        waiting = 0 if known is None else known.scheduled
        stats = super().stats(queue)
        due = max(0, waiting - (stats.scheduled or 0))
        return attrs.evolve(stats, ready=(stats.ready or 0) - due, scheduled=(stats.scheduled or 0) + due)


@planted_pair(promise.STATS_ARE_TRUE_AT_REST)
class CountsRetriesAsReady(Altered):
    """An event that waits for its retry counts as ready."""

    def counted(self, stats: Stats, queue: EventQueue) -> Stats:
        waiting = sum(event.status is State.SCHEDULED and event.counters.attempt > 1 for event in queue.events.values())
        return attrs.evolve(stats, ready=(stats.ready or 0) + waiting, scheduled=(stats.scheduled or 0) - waiting)


@planted_pair(promise.STATS_ARE_TRUE_AT_REST)
class CountsNothingUrgent(Altered):
    """Ready urgent events are not counted."""

    def counted(self, stats: Stats, queue: EventQueue) -> Stats:
        urgent = sum(event.status is State.READY and event.is_urgent for event in queue.events.values())
        return attrs.evolve(stats, ready=(stats.ready or 0) - urgent)


@planted(promise.STATS_ARE_TRUE_AT_REST, by_chance=False)
class KnowsTheAgeOfTheFirstInItsTable(AlteredStore):
    """The age of the oldest event is that of the first one in the table, behind which a revived one is stored."""

    def stats(self, name: str, now: float) -> Stats:
        stats = super().stats(name, now)
        if stats.oldest_age is None:
            return stats
        ready = (event for event in self._at(name, now).events.values() if event.status is State.READY)
        return attrs.evolve(stats, oldest_age=max(0.0, now - next(ready).enqueued_at))


@planted(promise.ERRORS_ARE_TRANSLATED, by_chance=False)
class CreatesTheQueueThatItCounts(AlteredStore):
    """Asking for the figures of a queue that was never set up creates it, so its missing setup is not reported."""

    def stats(self, name: str, now: float) -> Stats:
        with self.changed:
            self._at(name, now)
            return super().stats(name, now)


@planted_pair(promise.STATS_ARE_TRUE_AT_REST)
class CountsTheRevivedAsDead(BreakableStore):
    """A dead letter that was revived still counts as dead."""

    def revive(self, refs: Mapping[str, bytes], now: float) -> list[str]:
        missing = super().revive(refs, now)
        revived = vars(self).setdefault("revived", [])
        revived.extend(ref.partition("@")[2] for ref in refs if ref not in missing)
        return missing

    def stats(self, name: str, now: float) -> Stats:
        stats = super().stats(name, now)
        return attrs.evolve(stats, dead=(stats.dead or 0) + vars(self).get("revived", []).count(name))


@planted_pair(promise.STATS_ARE_TRUE_AT_REST)
class KnowsAnAgeThoughNothingIsReady(Altered):
    """If no event is ready, the age of the oldest held event is reported."""

    def counted(self, stats: Stats, queue: EventQueue) -> Stats:
        sent = [event.enqueued_at for event in queue.events.values() if event.status is State.LEASED]
        if stats.oldest_age is None and sent:
            return attrs.evolve(stats, oldest_age=max(0.0, self._clock.now() - min(sent)))
        return stats


@planted_pair(promise.STATS_ARE_TRUE_AT_REST)
class MakesARetryYoung(AlteredStore):
    """The age of an event is measured from its last nack."""

    def ended(self, event: KeptEvent, outcome: Outcome, now: float) -> None:
        if event.counters.attempt > 1:
            vars(event)["since"] = now

    def stats(self, name: str, now: float) -> Stats:
        stats = super().stats(name, now)
        since = [
            vars(event).get("since", event.enqueued_at)
            for queue, event in living(self)
            if queue.name == name and event.status is State.READY
        ]
        return attrs.evolve(stats, oldest_age=max(0.0, now - min(since))) if since else stats


# --- several queues --------------------------------------------------------------------------------


@planted_pair(promise.PREFERENCE_IS_KEPT)
class PrefersUrgentEventsOfAnyQueue(BreakableStore):
    """An urgent event of a later queue is received before a normal one of the queue that is named first."""

    def claim(self, queues: Sequence[str], *, limit: int, lease: float, now: float) -> list[Delivery]:
        for queue, _ in living(self):
            queue.pass_time(now)
        urgent = [name for name in queues if name in self._queues and self._has_urgent(self._queues[name])]
        order = sorted(queues, key=lambda name: name not in urgent)
        return super().claim(order, limit=limit, lease=lease, now=now)

    def _has_urgent(self, queue: EventQueue) -> bool:
        first = queue._ready.first()
        return first is not None and queue.events[first[1]].is_urgent


@planted_pair(promise.PREFERENCE_IS_KEPT)
class PrefersWhatWasLost(BreakableStore):
    """A later queue is received first if it has an event whose lease was lost."""

    def claim(self, queues: Sequence[str], *, limit: int, lease: float, now: float) -> list[Delivery]:
        for queue, _ in living(self):
            queue.pass_time(now)
        lost = {
            queue.name for queue, event in living(self) if event.status is State.READY and event.counters.lost_leases
        }
        return super().claim(sorted(queues, key=lambda name: name not in lost), limit=limit, lease=lease, now=now)


@planted_pair(promise.PREFERENCE_IS_KEPT)
class SortsTheLaterQueues(BreakableStore):
    """All queues after the first one are received in alphabetical order."""

    def claim(self, queues: Sequence[str], *, limit: int, lease: float, now: float) -> list[Delivery]:
        return super().claim([*queues[:1], *sorted(queues[1:])], limit=limit, lease=lease, now=now)


class Waiting(MemoryTransport):
    """Looks at all queues, and then waits as :meth:`wait_for` does."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        came = super().receive(queues, limit=limit, lease=lease, wait=0.0)
        if came or wait <= 0.0:
            return came
        return self.wait_for(
            lambda names, left: super(Waiting, self).receive(names, limit=limit, lease=lease, wait=left), queues, wait
        )

    def wait_for(
        self, receive: Callable[[Sequence[str], float], Sequence[Delivery]], queues: Sequence[str], wait: float
    ) -> Sequence[Delivery]:
        """Return the deliveries that arrive within *wait* seconds."""
        return receive(queues, wait)


@planted_pair(promise.WAIT_IS_KEPT)
class WaitsForTheFirstQueueAlone(Waiting):
    """A receive that waits on several queues notices only events of the first queue."""

    def wait_for(
        self, receive: Callable[[Sequence[str], float], Sequence[Delivery]], queues: Sequence[str], wait: float
    ) -> Sequence[Delivery]:
        return receive(queues[:1], wait)


@planted_pair(promise.WAIT_IS_KEPT)
class WaitsForTheLastQueueAlone(Waiting):
    """A receive that waits on several queues notices only events of the last queue."""

    def wait_for(
        self, receive: Callable[[Sequence[str], float], Sequence[Delivery]], queues: Sequence[str], wait: float
    ) -> Sequence[Delivery]:
        return receive(queues[-1:], wait)


class WaitingInVain(MemoryTransport):
    """A waiting receive leaves out some events that become ready during the wait."""

    def leaves_out(self, event: KeptEvent, now: float) -> bool:
        """Return whether a receive that begins *now* leaves out *event*."""
        return False

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        now = self._clock.now()
        left_out = {event.number for _, event in living(self.store) if self.leaves_out(event, now)}
        came = super().receive(queues, limit=limit, lease=lease, wait=wait)
        taken: list[Delivery] = []
        for one in came:
            receipt: Any = one.receipt
            event = self.store._held(one, self._clock.now())
            if wait > 0.0 and receipt.number in left_out and event is not None:
                self.store._queue(one.queue).step(event, Action.RELEASE)
            else:
                taken.append(one)
        if came and not taken:
            self._clock.sleep(wait)
        return taken


@planted_pair(promise.WAIT_IS_KEPT)
class WaitsForNoDelayToEnd(WaitingInVain):
    """A waiting receive does not return events that become due during the wait."""

    def leaves_out(self, event: KeptEvent, now: float) -> bool:
        return event.status is State.SCHEDULED and event.due > now


@planted_pair(promise.WAIT_IS_KEPT)
class WaitsForNoLeaseToEnd(WaitingInVain):
    """A waiting receive does not return events whose lease ends during the wait."""

    def leaves_out(self, event: KeptEvent, now: float) -> bool:
        return event.status is State.LEASED and event.until > now


# --- expiry ----------------------------------------------------------------------------------------


class DroppingTheExpired(BreakableStore):
    """Drops some expired events at a receive."""

    def drops(self, event: KeptEvent) -> bool:
        """Return whether *event*, which has expired, is dropped."""
        return False

    def claim(self, queues: Sequence[str], *, limit: int, lease: float, now: float) -> list[Delivery]:
        for queue, event in living(self):
            queue.pass_time(now)
            expires = event.envelope.expires if isinstance(event.envelope, Envelope) else None
            if expires is not None and expires < now and event.status is State.READY and self.drops(event):
                queue.step(event, Action.CANCEL)
        return super().claim(queues, limit=limit, lease=lease, now=now)


@planted_pair(promise.NACK_RETURNS_LATER)
class DropsRetriesThatExpired(DroppingTheExpired):
    """An expired event is dropped after a nack instead of being delivered again."""

    def drops(self, event: KeptEvent) -> bool:
        return event.counters.attempt > 1 and not event.counters.lost_leases


@planted_pair(promise.LOST_LEASE_RETURNS)
class DropsWhatWasLostAndExpired(DroppingTheExpired):
    """An expired event is dropped when its lease is lost."""

    def drops(self, event: KeptEvent) -> bool:
        return event.counters.lost_leases > 0


@planted_pair(promise.SENT_IS_RECEIVED)
class DropsWhatExpiredBeforeItWasDue(DroppingTheExpired):
    """A delayed event that expires before it is due is dropped."""

    def drops(self, event: KeptEvent) -> bool:
        return event.due > event.enqueued_at and event.counters.attempt == 1


# --- failures and races ----------------------------------------------------------------------------


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON)
class LosesTheDeadLetterWhenARevivalFails(MemoryTransport):
    """A dead letter is deleted if its revival fails."""

    def revive(self, refs: Mapping[str, bytes]) -> Sequence[str]:
        try:
            return super().revive(refs)
        except TransportError:
            for ref in refs:
                self.store._dead.take(ref)
            raise


@planted_pair(promise.LEASED_IS_HIDDEN)
class EndsLeasesWhenAnExtensionFails(MemoryTransport):
    """A failed extension ends the leases that it should extend."""

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Delivery]:
        try:
            return super().extend(deliveries, lease=lease)
        except TransportError:
            for one in deliveries:
                event = self.store._held(one, self._clock.now())
                if event is not None:
                    self.store._queue(event.queue).step(event, Action.LOSE)
            raise


@planted_pair(promise.STALE_SETTLE_IS_REFUSED)
class AcksTwiceWhenThreadsRace(MemoryTransport):
    """A settlement checks the lease in a separate step, so two concurrent settlements both count."""

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        with self.store.changed:
            now = self._clock.now()
            held = {id(one) for one, _ in settlements if self.store._held(one, now) is not None}
        lost = super().settle(settlements)
        once = {one for one, times in Counter(id(one) for one, _ in settlements).items() if times == 1}
        return [one for one in lost if id(one) not in held & once]


@planted_pair(promise.CANCELLED_IS_GONE)
class CancelsWhatIsReceivedMeanwhile(MemoryTransport):
    """A cancel finds and removes an event in two steps, even if it is received in between."""

    def cancel(self, event_id: str) -> int:
        with self.store.changed:
            doomed = [
                (queue, event)
                for queue, event in living(self.store)
                if event.identity is not None and event.identity[2] == event_id and event.status is State.READY
            ]
        number = super().cancel(event_id)
        with self.store.changed:
            for queue, event in doomed:
                if event.status is State.LEASED and event.number in queue.events:
                    queue.step(event, Action.ACK)
                    number += 1
        return number


@planted(promise.TAKEN_BY_ITS_ID, by_chance=False)
class TakesOnlyWhatIsDue(MemoryTransport):
    """An event that is scheduled is not taken by its id."""

    def take(self, queue: str, event_id: str, *, lease: float) -> Sequence[Delivery]:
        if any(one.status == "scheduled" for one in self.find(event_id)):
            return []
        return super().take(queue, event_id, lease=lease)


@planted(promise.DELAY_IS_RESPECTED, by_chance=False)
class RevivesLaterAtOnce(MemoryTransport):
    """What is revived with a delay is ready at once, so another worker takes it first."""

    def _revive_later(self, refs: Mapping[str, bytes], delay: float) -> Sequence[str]:
        return self._revive(refs)


@planted(promise.TAKEN_BY_ITS_ID, by_chance=False)
class TakesTheNextOne(MemoryTransport):
    """A take by an id leases the event that is ready first."""

    def take(self, queue: str, event_id: str, *, lease: float) -> Sequence[Delivery]:
        return super().receive([queue], limit=1, lease=lease, wait=0.0) if self.find(event_id) else []


@planted(promise.ORDER_IS_KEPT, by_chance=False)
class TakesOutOfTurn(MemoryTransport):
    """A take by an id leases an event that waits for an earlier one of its ordering key."""

    def take(self, queue: str, event_id: str, *, lease: float) -> Sequence[Delivery]:
        turns = EventQueue._has_its_turn
        EventQueue._has_its_turn = lambda self, event: True  # type: ignore[method-assign]
        try:
            return super().take(queue, event_id, lease=lease)
        finally:
            EventQueue._has_its_turn = turns  # type: ignore[method-assign]


@planted_pair(promise.LEASED_IS_HIDDEN)
class EndsTheLeaseWhenItWasDue(MemoryTransport):
    """The lease of an event that was taken before it was due ends when it would have been due."""

    def take(self, queue: str, event_id: str, *, lease: float) -> Sequence[Delivery]:
        dues = {event.number: event.due for _, event in living(self.store) if event.status is State.SCHEDULED}
        taken = super().take(queue, event_id, lease=lease)
        with self.store.changed:
            for place, event in living(self.store):
                if event.number in dues and event.status is State.LEASED:
                    event.until = min(event.until, dues[event.number])
                    place.step(event, Action.EXTEND)
        return taken


@planted_pair(promise.EXTEND_KEEPS_THE_LEASE)
class ExtendsNothingThatWasTaken(MemoryTransport):
    """The lease of an event that was taken by its id is not extended, and no error says so."""

    _taken: tuple[object, ...] = ()

    def take(self, queue: str, event_id: str, *, lease: float) -> Sequence[Delivery]:
        taken = super().take(queue, event_id, lease=lease)
        self._taken += tuple(one.receipt for one in taken)
        return taken

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Delivery]:
        return super().extend([one for one in deliveries if one.receipt not in self._taken], lease=lease)


@planted_pair(promise.ERRORS_ARE_TRANSLATED)
class SignsReceiptsWithItsName(MemoryTransport):
    """A delivery is lost once its transport is called otherwise."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.signed: dict[int, tuple[str, Delivery]] = {}

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        came = super().receive(queues, limit=limit, lease=lease, wait=wait)
        self.signed |= {id(one): (self.name, one) for one in came}
        return came

    def _settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        renamed = [one for one, _ in settlements if self.signed.get(id(one), (self.name, one))[0] != self.name]
        return [*renamed, *super()._settle([each for each in settlements if each[0] not in renamed])]


@planted(promise.CLOSE_IS_IDEMPOTENT, by_chance=False)
class SettlesNothingAfterAClose(MemoryTransport):
    """After a close, a settlement of nothing succeeds."""

    def _settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        return super()._settle(settlements) if settlements else ()


@planted(promise.CLOSE_IS_IDEMPOTENT, by_chance=False)
class ReceivesNothingAfterAClose(MemoryTransport):
    """After a close, a receive with a limit of 0 succeeds."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        return super().receive(queues, limit=limit, lease=lease, wait=wait) if limit > 0 and queues else ()


@planted(promise.ERRORS_ARE_TRANSLATED, by_chance=False)
class TakesOnlyFromKnownQueues(MemoryTransport):
    """A take from a queue that was never used raises a KeyError."""

    def take(self, queue: str, event_id: str, *, lease: float) -> Sequence[Delivery]:
        if not self._closed and queue not in self.store._queues:
            raise KeyError(queue)
        return super().take(queue, event_id, lease=lease)


@planted(promise.TAKEN_BY_ITS_ID, by_chance=False)
class TakesNothingFromAnOutbox(MemoryTransport):
    """An event that waits for a relay is not taken."""

    def take(self, queue: str, event_id: str, *, lease: float) -> Sequence[Delivery]:
        came = super().take(queue, event_id, lease=lease)
        if not queue.startswith("outbox/"):
            return came
        self.settle([(one, Release()) for one in came])
        return ()


@planted(promise.DELAY_IS_RESPECTED, by_chance=False)
class RevivesAtOnceWhatIsDueInDays(MemoryTransport):
    """A delay of a day or more is ignored by a revival."""

    def _revive_later(self, refs: Mapping[str, bytes], delay: float) -> Sequence[str]:
        return super()._revive_later(refs, delay if delay < 86_400.0 else 0.0)


@planted(promise.STALE_SETTLE_IS_REFUSED, by_chance=False)
class NamesTheEventThatWasLost(MemoryTransport):
    """The error of a checkpoint without a lease names the event instead of the delivery."""

    def _checkpoint(self, delivery: Delivery, state: bytes) -> None:
        try:
            super()._checkpoint(delivery, state)
        except LeaseLostError as error:
            raise LeaseLostError(self.name, delivery.envelope) from error


@planted_pair(promise.BEGUN_IS_KEPT)
class TakesWithoutTheNote(MemoryTransport):
    """A taken event is handed out without its note and its deaths."""

    def take(self, queue: str, event_id: str, *, lease: float) -> Sequence[Delivery]:
        return [attrs.evolve(one, begun=None, deaths=()) for one in super().take(queue, event_id, lease=lease)]
