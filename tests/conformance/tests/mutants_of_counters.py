"""Bugs of attempts and lost leases: after many deliveries, and beside retries, extensions, checkpoints and revivals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from relevo import (
    Ack,
    Action,
    Counters,
    DeadLetterEntry,
    Delivery,
    Found,
    Lost,
    Nack,
    Note,
    Outcome,
    Release,
    Settlement,
    State,
)
from relevo_conformance import promise
from relevo_memory import MemoryTransport
from relevo_memory._queue import EventQueue, KeptEvent
from relevo_memory._store import Posting

from .memory import BreakableStore
from .planting import Altered, AlteredStore, Patches, at_each_step, living, planted_pair


def _counts(action: Action, **more: int) -> Patches:
    """Return patches with which *action* changes counters that it should not change."""

    def spoil(queue: EventQueue, event: KeptEvent, did: Action) -> None:
        if did is action:
            counters = event.counters
            event.counters = Counters(
                attempt=counters.attempt + more.get("attempt", 0),
                lost_leases=counters.lost_leases + more.get("lost_leases", 0),
            )

    return at_each_step(spoil)


def _forgets_lost_leases_after(action: Action) -> Patches:
    def spoil(queue: EventQueue, event: KeptEvent, did: Action) -> None:
        if did is action:
            event.counters = attrs.evolve(event.counters, lost_leases=0)

    return at_each_step(spoil)


@planted_pair(promise.NACK_RETURNS_LATER)
class KeepsAttemptsInAByte(Altered):
    """The attempt wraps around after 255."""

    def received(self, delivery: Delivery) -> Delivery:
        return attrs.evolve(delivery, attempt=(delivery.attempt - 1) % 255 + 1)


@planted_pair(promise.NACK_RETURNS_LATER)
class CountsAHundredAttempts(Altered):
    """After a hundred attempts no further one is counted."""

    def received(self, delivery: Delivery) -> Delivery:
        return attrs.evolve(delivery, attempt=min(delivery.attempt, 100))


@planted_pair(promise.LOST_LEASES_ARE_COUNTED)
class KeepsLostLeasesInAByte(Altered):
    """The number of lost leases wraps around after 255."""

    def received(self, delivery: Delivery) -> Delivery:
        return attrs.evolve(delivery, lost_leases=delivery.lost_leases % 256)


@planted_pair(promise.LOST_LEASES_ARE_COUNTED)
class CountsSixteenLostLeases(Altered):
    """After sixteen lost leases no further one is counted."""

    def received(self, delivery: Delivery) -> Delivery:
        return attrs.evolve(delivery, lost_leases=min(delivery.lost_leases, 16))


@planted_pair(promise.SENT_IS_RECEIVED)
class DropsWhatWasDeliveredTwentyTimes(BreakableStore):
    """An event is dropped after twenty lost leases, as in a queue with a delivery limit."""

    def claim(self, queues: Sequence[str], *, limit: int, lease: float, now: float) -> list[Delivery]:
        for queue, event in living(self):
            queue.pass_time(now)
            if event.counters.lost_leases >= 20 and event.status is State.READY:
                queue.step(event, Action.CANCEL)
        return super().claim(queues, limit=limit, lease=lease, now=now)


@planted_pair(promise.NACK_RETURNS_LATER)
class DropsWhatWasRetriedAHundredTimes(BreakableStore):
    """An event is dropped after a hundred attempts."""

    def claim(self, queues: Sequence[str], *, limit: int, lease: float, now: float) -> list[Delivery]:
        for queue, event in living(self):
            queue.pass_time(now)
            if event.counters.attempt > 100 and event.status is State.READY:
                queue.step(event, Action.CANCEL)
        return super().claim(queues, limit=limit, lease=lease, now=now)


@planted_pair(promise.RELEASE_COUNTS_NOTHING)
class DropsWhatIsReleasedTenTimes(AlteredStore):
    """The tenth release of an event is treated as an ack."""

    def ending(self, event: KeptEvent, outcome: Outcome) -> Outcome:
        if isinstance(outcome, Release):
            times = vars(event)["releases"] = vars(event).get("releases", 0) + 1
            if times >= 10:
                return Ack()
        return outcome


@planted_pair(promise.REVIVED_IS_RECEIVED)
class RevivesWithLostLeases(AlteredStore):
    """A revived event keeps the lost leases from before its death."""

    def revive(self, refs: Mapping[str, bytes], now: float) -> list[str]:
        before = {id(one.event): one.event.counters for many in self._dead._queues.values() for one in many.values()}
        missing = super().revive(refs, now)
        for _, event in living(self):
            if id(event) in before and event.counters == Counters():
                event.counters = attrs.evolve(event.counters, lost_leases=before[id(event)].lost_leases)
        return missing


@planted_pair(promise.REVIVED_IS_RECEIVED)
class CountsOnFromBeforeTheDeath(BreakableStore):
    """A revived event is delivered as attempt 1, but a nack adds the attempts from before its death."""

    def revive(self, refs: Mapping[str, bytes], now: float) -> list[str]:
        before = {id(one.event): one.event.counters for many in self._dead._queues.values() for one in many.values()}
        missing = super().revive(refs, now)
        for _, event in living(self):
            if id(event) in before:
                vars(event)["earlier"] = before[id(event)].attempt
        return missing

    def _end(self, event: KeptEvent, outcome: Outcome, now: float) -> None:
        super()._end(event, outcome, now)
        earlier = vars(event).pop("earlier", 0)
        if event.counters.attempt > 1:
            event.counters = attrs.evolve(event.counters, attempt=event.counters.attempt + earlier)


@planted_pair(promise.NACK_RETURNS_LATER, patches=_forgets_lost_leases_after(Action.NACK))
class ForgetsLostLeasesAtANack(MemoryTransport):
    """A nack resets the number of lost leases."""


@planted_pair(promise.RELEASE_COUNTS_NOTHING, patches=_forgets_lost_leases_after(Action.POSTPONE))
class ForgetsLostLeasesAtAReleaseForLater(MemoryTransport):
    """A release with a delay resets the number of lost leases."""


@planted_pair(promise.LOST_LEASES_ARE_COUNTED, patches=_forgets_lost_leases_after(Action.CHECKPOINT))
class ForgetsLostLeasesAtACheckpoint(MemoryTransport):
    """A checkpoint resets the number of lost leases."""


@planted_pair(promise.LOST_LEASES_ARE_COUNTED, patches=_forgets_lost_leases_after(Action.EXTEND))
class ForgetsLostLeasesAtAnExtension(MemoryTransport):
    """An extension resets the number of lost leases."""


@planted_pair(promise.LOST_LEASES_ARE_COUNTED, patches=_counts(Action.EXTEND, attempt=1))
class CountsAnExtensionAsAnAttempt(MemoryTransport):
    """An extension counts as an attempt."""


@planted_pair(promise.CHECKPOINT_SURVIVES_A_LOST_LEASE, patches=_counts(Action.CHECKPOINT, attempt=1))
class CountsACheckpointAsAnAttempt(MemoryTransport):
    """A checkpoint counts as an attempt."""


@planted_pair(promise.LOST_LEASES_ARE_COUNTED, patches=_counts(Action.COME_DUE, attempt=1))
class CountsTheEndOfADelayAsAnAttempt(MemoryTransport):
    """The end of a delay counts as an attempt."""


def _no_lost_lease_after(action: Action, *, attempt: int) -> Patches:
    def spoil(queue: EventQueue, event: KeptEvent, did: Action) -> None:
        if did is action:
            vars(event)["marked"] = True
        elif did is Action.RECEIVE:
            vars(event)["marked"] = False
        elif did is Action.LOSE and vars(event).get("marked"):
            counters = event.counters
            event.counters = Counters(attempt=counters.attempt + attempt, lost_leases=counters.lost_leases - 1)

    return at_each_step(spoil)


@planted_pair(promise.LOST_LEASES_ARE_COUNTED, patches=_no_lost_lease_after(Action.EXTEND, attempt=0))
class CountsNoLostLeaseOfWhatWasExtended(MemoryTransport):
    """The lost lease of an extended delivery counts only as an attempt."""


@planted_pair(promise.CHECKPOINT_SURVIVES_A_LOST_LEASE, patches=_no_lost_lease_after(Action.CHECKPOINT, attempt=-1))
class CountsNoLostLeaseBesideACheckpoint(MemoryTransport):
    """The lost lease of a delivery with a checkpoint is not counted at all."""


def _no_lost_lease_if(condition: Any) -> Patches:
    def spoil(queue: EventQueue, event: KeptEvent, did: Action) -> None:
        if did is Action.LOSE and condition(event):
            event.counters = attrs.evolve(event.counters, lost_leases=event.counters.lost_leases - 1)

    return at_each_step(spoil)


@planted_pair(promise.LOST_LEASES_ARE_COUNTED, patches=_no_lost_lease_if(lambda event: event.is_urgent))
class CountsNoLostLeaseOfUrgentEvents(MemoryTransport):
    """The lost lease of an urgent event counts only as an attempt."""


@planted_pair(promise.LOST_LEASES_ARE_COUNTED, patches=_no_lost_lease_if(lambda event: event.line))
class CountsNoLostLeaseOfEventsWithAKey(MemoryTransport):
    """The lost lease of an event with an ordering key counts only as an attempt."""


@planted_pair(promise.LOST_LEASES_ARE_COUNTED, patches=_no_lost_lease_if(lambda event: event.due > 0.0))
class CountsNoLostLeaseOfWhatWasDelayed(MemoryTransport):
    """The lost lease of an event that was delayed counts only as an attempt."""


@planted_pair(promise.LOST_LEASES_ARE_COUNTED, patches=_no_lost_lease_if(lambda event: event.begun is not None))
class CountsNoLostLeaseBesideANote(MemoryTransport):
    """The lost lease of an event with a note counts only as an attempt."""


@planted_pair(promise.LOST_LEASES_ARE_COUNTED)
class CountsNoDeathThatWasSeenAsALostLease(AlteredStore):
    """A delivery that is reported lost with a death counts only as an attempt."""

    def ended(self, event: KeptEvent, outcome: Outcome, now: float) -> None:
        if isinstance(outcome, Lost) and outcome.death is not None:
            event.counters = attrs.evolve(event.counters, lost_leases=event.counters.lost_leases - 1)


@planted_pair(promise.BEGUN_IS_KEPT)
class NotesADeathAtEachOfABatch(MemoryTransport):
    """A death that is reported in a batch is noted at each lost delivery of the batch."""

    def _settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        outcomes = [outcome for _, outcome in settlements if isinstance(outcome, Lost)]
        deaths = [outcome.death for outcome in outcomes if outcome.death is not None]
        if deaths:
            settlements = [
                (one, attrs.evolve(outcome, death=deaths[0]) if isinstance(outcome, Lost) else outcome)
                for one, outcome in settlements
            ]
        return super()._settle(settlements)


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON)
class ListsTheDeadWithTheNextAttempt(Altered):
    """After a lost lease, a dead letter is listed with an attempt that is one too high."""

    def listed(self, entry: DeadLetterEntry) -> DeadLetterEntry:
        return attrs.evolve(entry, attempt=entry.attempt + 1) if entry.lost_leases else entry


@planted_pair(promise.DEAD_IS_KEPT_WITH_REASON)
class ListsTheDeadWithoutLostLeases(Altered):
    """A dead letter is listed without its lost leases."""

    def listed(self, entry: DeadLetterEntry) -> DeadLetterEntry:
        return attrs.evolve(entry, lost_leases=0)


@planted_pair(promise.FOUND_AS_IT_IS)
class FindsAHeldEventWithTheNextAttempt(Altered):
    """An event that is held after a nack is found with an attempt that is one too high."""

    def found(self, found: Found) -> Found:
        ahead = found.status == "leased" and found.attempt > 1
        return attrs.evolve(found, attempt=found.attempt + 1) if ahead else found


@planted_pair(promise.NACK_RETURNS_LATER)
class ForgetsTheCountersOfWhatIsSentAgain(AlteredStore):
    """An event that is sent again while it waits for a retry is delivered as attempt 1."""

    def repeated(self, event: KeptEvent, queue: EventQueue, posting: Posting) -> None:
        if event.status is not State.LEASED:
            event.counters = Counters()


@planted_pair(promise.LOST_LEASES_ARE_COUNTED)
class CountsANoteAsAnAttempt(BreakableStore):
    """A note counts as an attempt."""

    def begin(self, delivery: Delivery, note: Note, now: float) -> bool:
        event = self._held(delivery, now)
        if event is not None:
            event.counters = attrs.evolve(event.counters, attempt=event.counters.attempt + 1)
        return super().begin(delivery, note, now)


@planted_pair(promise.NACK_RETURNS_LATER)
class CountsOneAttemptForABatchOfNacks(MemoryTransport):
    """Only the first nack of a batch counts as an attempt."""

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        nacked = [one for one, outcome in settlements if isinstance(outcome, Nack)][1:]
        events = [event for one in nacked if (event := self.store._held(one, self._clock.now())) is not None]
        lost = super().settle(settlements)
        for event in events:
            event.counters = attrs.evolve(event.counters, attempt=event.counters.attempt - 1)
        return lost
