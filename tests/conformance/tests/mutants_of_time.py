"""Bugs of delays and leases: long or fractional times, urgency, extensions, and events that are sent again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import attrs

from relevo import Action, Delivery, Envelope, Nack, Note, Outcome, Release, Settlement, State, Stats
from relevo_conformance import promise
from relevo_memory import MemoryTransport
from relevo_memory._queue import EventQueue, KeptEvent
from relevo_memory._store import Posting

from .memory import BreakableStore
from .planting import Altered, AlteredStore, at_each_step, living, planted_pair

WRAP = 2**32 / 1000
"""Seconds: the milliseconds that 32 bits count, almost 50 days."""


def make_ready(queue: EventQueue, event: KeptEvent) -> None:
    """Let a scheduled *event* be due now."""
    if event.status is State.SCHEDULED:
        queue.step(event, Action.COME_DUE)


def lease_until(queue: EventQueue, event: KeptEvent, until: float) -> None:
    """Let the lease of *event* end at *until*."""
    if event.status is State.LEASED:
        event.until = until
        queue._rank(event)


# --- delays ----------------------------------------------------------------------------------------


@planted_pair(promise.DELAY_IS_RESPECTED)
class DelaysNothingUrgent(AlteredStore):
    """The delay of an urgent event is ignored."""

    def posted(self, posting: Posting, now: float) -> Posting:
        return posting._replace(due=now) if posting.envelope.urgency == "high" else posting


@planted_pair(promise.DELAY_IS_RESPECTED)
class DelaysNothingWithAKey(AlteredStore):
    """The delay of an event with an ordering key is ignored."""

    def posted(self, posting: Posting, now: float) -> Posting:
        return posting._replace(due=now) if posting.envelope.ordering_key else posting


@planted_pair(promise.URGENT_OVERTAKES)
class ForgetsTheUrgencyOfWhatIsDelayed(AlteredStore):
    """A delayed urgent event does not overtake others when it is due."""

    def added(self, event: KeptEvent, queue: EventQueue) -> None:
        event.is_urgent &= event.status is not State.SCHEDULED


def _without_urgency_after(*actions: Action) -> Any:
    def spoil(queue: EventQueue, event: KeptEvent, action: Action) -> None:
        if action in actions and event.is_urgent:
            event.is_urgent = False
            queue._rank(event)

    return at_each_step(spoil)


@planted_pair(promise.URGENT_OVERTAKES, patches=_without_urgency_after(Action.NACK))
class RetriesUrgentEventsAsNormalOnes(MemoryTransport):
    """After a nack, an urgent event does not overtake others."""


@planted_pair(promise.URGENT_OVERTAKES, patches=_without_urgency_after(Action.LOSE))
class ForgetsTheUrgencyOfWhatWasLost(MemoryTransport):
    """After a lost lease, an urgent event does not overtake others."""


@planted_pair(promise.URGENT_OVERTAKES, patches=_without_urgency_after(Action.POSTPONE))
class ForgetsTheUrgencyOfWhatIsReleasedForLater(MemoryTransport):
    """After a release with a delay, an urgent event does not overtake others."""


@planted_pair(promise.URGENT_OVERTAKES)
class RevivesUrgentEventsAsNormalOnes(AlteredStore):
    """A revived urgent event does not overtake others."""

    def revived(self, event: KeptEvent, queue: EventQueue) -> None:
        event.is_urgent = False
        queue._rank(event)


@planted_pair(promise.DELAY_IS_RESPECTED)
class WrapsLongDelays(MemoryTransport):
    """A delay is stored as milliseconds in 32 bits, so that more than 49 days wrap around."""

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        super().send(envelopes, delay=delay % WRAP)


@planted_pair(promise.NACK_RETURNS_LATER)
class WrapsLongDelaysOfANack(Altered):
    """The delay of a nack is stored as milliseconds in 32 bits."""

    def settled(self, delivery: Delivery, outcome: Outcome) -> Outcome:
        return attrs.evolve(outcome, delay=outcome.delay % WRAP) if isinstance(outcome, Nack) else outcome


@planted_pair(promise.RELEASE_COUNTS_NOTHING)
class WrapsLongDelaysOfARelease(Altered):
    """The delay of a release is stored as milliseconds in 32 bits."""

    def settled(self, delivery: Delivery, outcome: Outcome) -> Outcome:
        return attrs.evolve(outcome, delay=outcome.delay % WRAP) if isinstance(outcome, Release) else outcome


@planted_pair(promise.RELEASE_COUNTS_NOTHING)
class CutsTheDelayOfAReleaseToWholeSeconds(Altered):
    """The delay of a release is truncated to whole seconds."""

    def settled(self, delivery: Delivery, outcome: Outcome) -> Outcome:
        whole = isinstance(outcome, Release) and outcome.delay >= 1.0
        return Release(delay=math.floor(outcome.delay)) if whole else outcome  # type: ignore[union-attr]


@planted_pair(promise.DELAY_IS_RESPECTED)
class DelaysOnlyTheFirstOfABatch(AlteredStore):
    """A delay applies only to the first event of a batch."""

    def add(self, postings: Sequence[Posting], now: float) -> None:
        super().add([*postings[:1], *(one._replace(due=now) for one in postings[1:])], now)


@planted_pair(promise.DELAY_IS_RESPECTED)
class DelaysOnlyInTheQueueOfTheFirst(AlteredStore):
    """A delay applies only to events for the queue of the first event in the batch."""

    def add(self, postings: Sequence[Posting], now: float) -> None:
        super().add([one if one.queue == postings[0].queue else one._replace(due=now) for one in postings], now)


@planted_pair(promise.RESENT_IS_ONE)
class MakesADelayedEventReadyThatIsSentAgain(AlteredStore):
    """Sending a delayed event again without a delay makes it ready."""

    def repeated(self, event: KeptEvent, queue: EventQueue, posting: Posting) -> None:
        if posting.due < event.due and event.counters.attempt == 1:
            make_ready(queue, event)


@planted_pair(promise.RESENT_IS_ONE)
class MakesARetryReadyThatIsSentAgain(AlteredStore):
    """Sending an event again while it waits for its retry makes it ready."""

    def repeated(self, event: KeptEvent, queue: EventQueue, posting: Posting) -> None:
        if event.counters.attempt > 1:
            make_ready(queue, event)


@planted_pair(promise.RESENT_IS_ONE)
class DelaysAReadyEventThatIsSentAgain(AlteredStore):
    """Sending a ready event again with a delay hides it."""

    def repeated(self, event: KeptEvent, queue: EventQueue, posting: Posting) -> None:
        if event.status is State.READY and posting.due > event.enqueued_at + 1.0:
            queue._ready.remove(event.number)
            event.status, event.due = State.SCHEDULED, posting.due
            queue._rank(event)


@planted_pair(promise.NACK_RETURNS_LATER)
class GivesABatchTheDelayOfItsFirst(MemoryTransport):
    """All nacks of a batch get the delay of the first one."""

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        delays = [outcome.delay for _, outcome in settlements if isinstance(outcome, Nack)]
        return super().settle(
            [
                (one, attrs.evolve(outcome, delay=delays[0]) if isinstance(outcome, Nack) else outcome)
                for one, outcome in settlements
            ]
        )


@planted_pair(promise.DELAY_IS_RESPECTED)
class LetsWhatIsDueTakeItsNeighboursAlong(BreakableStore):
    """When a delayed event is due, those that are due in the next ten seconds become ready, too."""

    def claim(self, queues: Sequence[str], *, limit: int, lease: float, now: float) -> list[Delivery]:
        ahead = [event.due for _, event in living(self) if event.status is State.SCHEDULED]
        if any(due <= now for due in ahead):
            for queue, event in living(self):
                if event.status is State.SCHEDULED and event.due <= now + 10.0:
                    make_ready(queue, event)
        return super().claim(queues, limit=limit, lease=lease, now=now)


# --- leases ----------------------------------------------------------------------------------------


@planted_pair(promise.LEASED_IS_HIDDEN)
class LeasesForAnHourAtMost(MemoryTransport):
    """A lease of more than an hour ends after an hour."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        return super().receive(queues, limit=limit, lease=min(lease, 3600.0), wait=wait)


@planted_pair(promise.EXTEND_KEEPS_THE_LEASE)
class ExtendsForAnHourAtMost(MemoryTransport):
    """An extension of more than an hour ends after an hour."""

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Delivery]:
        return super().extend(deliveries, lease=min(lease, 3600.0))


@planted_pair(promise.LEASED_IS_HIDDEN)
class CutsLeasesToWholeSeconds(MemoryTransport):
    """A lease is truncated to whole seconds."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        return super().receive(queues, limit=limit, lease=float(int(lease)), wait=wait)


@planted_pair(promise.EXTEND_KEEPS_THE_LEASE)
class CutsExtensionsToWholeSeconds(MemoryTransport):
    """An extension is truncated to whole seconds."""

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Delivery]:
        return super().extend(deliveries, lease=float(int(lease)))


@planted_pair(promise.EXTEND_KEEPS_THE_LEASE)
class ExtendsADeliveryOnce(BreakableStore):
    """The second extension of a delivery changes nothing, but is reported as done."""

    def extend(self, deliveries: Sequence[Delivery], *, lease: float, now: float) -> list[Delivery]:
        seen = vars(self).setdefault("seen", set())
        fresh = [one for one in deliveries if id(one.receipt) not in seen or self._held(one, now) is None]
        lost = super().extend(fresh, lease=lease, now=now)
        seen |= {id(one.receipt) for one in fresh}
        vars(self).setdefault("kept", []).extend(fresh)
        return lost


@planted_pair(promise.EXTEND_KEEPS_THE_LEASE)
class ExtendsFromTheReceive(BreakableStore):
    """An extension counts from the time of the receive, not from now."""

    def claim(self, queues: Sequence[str], *, limit: int, lease: float, now: float) -> list[Delivery]:
        taken = super().claim(queues, limit=limit, lease=lease, now=now)
        vars(self).setdefault("began", {}).update({id(one.receipt): (now, one) for one in taken})
        return taken

    def extend(self, deliveries: Sequence[Delivery], *, lease: float, now: float) -> list[Delivery]:
        lost = super().extend(deliveries, lease=lease, now=now)
        for queue, event in living(self):
            if event.status is State.LEASED and id(event.receipt) in {id(one.receipt) for one in deliveries}:
                lease_until(queue, event, vars(self)["began"][id(event.receipt)][0] + lease)
        return lost


@planted_pair(promise.LOST_LEASE_RETURNS)
class AddsExtensionsUp(BreakableStore):
    """An extension is added to the end of the lease, so the events of a lost worker are hidden too long."""

    def extend(self, deliveries: Sequence[Delivery], *, lease: float, now: float) -> list[Delivery]:
        ends = {id(event.receipt): event.until for _, event in living(self) if event.status is State.LEASED}
        lost = super().extend(deliveries, lease=lease, now=now)
        extended = {id(one.receipt) for one in deliveries}
        for queue, event in living(self):
            if event.status is State.LEASED and id(event.receipt) in extended:
                lease_until(queue, event, ends[id(event.receipt)] + lease)
        return lost


@planted_pair(promise.EXTEND_KEEPS_THE_LEASE)
class StopsExtendingAtALostOne(MemoryTransport):
    """An extension of several deliveries stops at the first one that was lost."""

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Delivery]:
        for one in deliveries:
            if lost := super().extend([one], lease=lease):
                return lost
        return []


@planted_pair(promise.EXTEND_KEEPS_THE_LEASE)
class ExtendsNothingBesideALostOne(BreakableStore):
    """If one of several deliveries was lost, none is extended."""

    def extend(self, deliveries: Sequence[Delivery], *, lease: float, now: float) -> list[Delivery]:
        lost = [one for one in deliveries if self._held(one, now) is None]
        return lost or super().extend(deliveries, lease=lease, now=now)


@planted_pair(promise.EXTEND_KEEPS_THE_LEASE)
class ReportsAllAsLostBesideALostOne(MemoryTransport):
    """If one of several deliveries was lost, an extension reports all of them as lost."""

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Delivery]:
        return list(deliveries) if super().extend(deliveries, lease=lease) else []


@planted_pair(promise.EXTEND_KEEPS_THE_LEASE)
class ExtendsOneOfEachQueue(MemoryTransport):
    """Of several deliveries from one queue, only the first is extended."""

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Delivery]:
        firsts = {one.queue: one for one in reversed(deliveries)}
        return super().extend(list(firsts.values()), lease=lease)


@planted_pair(promise.STALE_SETTLE_IS_REFUSED)
class ExtendsALeaseThatIsOver(BreakableStore):
    """An extension is accepted after the lease has ended, until the next receive."""

    def extend(self, deliveries: Sequence[Delivery], *, lease: float, now: float) -> list[Delivery]:
        for one in deliveries:
            event = self._held(one, 0.0)
            if event is not None:
                lease_until(self._queue(event.queue), event, now + 0.001)
        return super().extend(deliveries, lease=lease, now=now)


@planted_pair(promise.STALE_SETTLE_IS_REFUSED)
class CheckpointsAfterTheLease(BreakableStore):
    """A checkpoint is accepted after the lease has ended, until the next receive."""

    def checkpoint(self, delivery: Delivery, state: bytes, now: float) -> bool:
        event = self._held(delivery, 0.0)
        if event is None:
            return super().checkpoint(delivery, state, now)
        event.state = state
        return True


@planted_pair(promise.LOST_LEASE_RETURNS)
class LeasesForEverAfterACheckpoint(BreakableStore):
    """After a checkpoint the lease never ends, even if the worker is lost."""

    def checkpoint(self, delivery: Delivery, state: bytes, now: float) -> bool:
        is_held = super().checkpoint(delivery, state, now)
        event = self._held(delivery, now)
        if event is not None:
            lease_until(self._queue(event.queue), event, now + 1e9)
        return is_held


@planted_pair(promise.BEGUN_IS_KEPT)
class LeasesForEverAfterANote(BreakableStore):
    """After a note the lease never ends, even if the worker is lost."""

    def begin(self, delivery: Delivery, note: Note, now: float) -> bool:
        is_held = super().begin(delivery, note, now)
        event = self._held(delivery, now)
        if event is not None:
            lease_until(self._queue(event.queue), event, now + 1e9)
        return is_held


@planted_pair(promise.LEASED_IS_HIDDEN)
class EndsTheLeaseAtACheckpoint(BreakableStore):
    """A checkpoint resets the end of an extended lease to that of the first lease."""

    def claim(self, queues: Sequence[str], *, limit: int, lease: float, now: float) -> list[Delivery]:
        taken = super().claim(queues, limit=limit, lease=lease, now=now)
        vars(self).setdefault("ends", {}).update({id(one.receipt): (now + lease, one) for one in taken})
        return taken

    def checkpoint(self, delivery: Delivery, state: bytes, now: float) -> bool:
        is_held = super().checkpoint(delivery, state, now)
        event = self._held(delivery, now)
        if event is not None:
            lease_until(self._queue(event.queue), event, vars(self)["ends"][id(event.receipt)][0])
        return is_held


@planted_pair(promise.LOST_LEASE_RETURNS)
class RenewsAllLeasesAtEachReceive(BreakableStore):
    """Each receive renews all leases of the queue, including those of lost workers."""

    def claim(self, queues: Sequence[str], *, limit: int, lease: float, now: float) -> list[Delivery]:
        taken = super().claim(queues, limit=limit, lease=lease, now=now)
        for queue, event in living(self):
            if queue.name in queues:
                lease_until(queue, event, max(event.until, now + lease))
        return taken


@planted_pair(promise.LEASED_IS_HIDDEN)
class GivesAllTheShortestLease(BreakableStore):
    """A receive with a short lease also shortens the other leases of the queue."""

    def claim(self, queues: Sequence[str], *, limit: int, lease: float, now: float) -> list[Delivery]:
        taken = super().claim(queues, limit=limit, lease=lease, now=now)
        for queue, event in living(self):
            if queue.name in queues and taken:
                lease_until(queue, event, min(event.until, now + lease))
        return taken


@planted_pair(promise.RESENT_IS_ONE)
class EndsALeaseWhenItsEventIsSentAgain(AlteredStore):
    """Sending a held event again ends its lease."""

    def repeated(self, event: KeptEvent, queue: EventQueue, posting: Posting) -> None:
        if event.status is State.LEASED:
            queue.step(event, Action.LOSE)


@planted_pair(promise.LEASED_IS_HIDDEN)
class EndsLeasesOfUrgentEventsEarly(AlteredStore):
    """The lease of an urgent event ends after half of its duration."""

    def claim(self, queues: Sequence[str], *, limit: int, lease: float, now: float) -> list[Delivery]:
        taken = super().claim(queues, limit=limit, lease=lease, now=now)
        held = {id(one.receipt) for one in taken}
        for queue, event in living(self):
            if event.is_urgent and id(event.receipt) in held:
                lease_until(queue, event, now + lease / 2)
        return taken


@planted_pair(promise.ANSWERS_ARE_WELL_FORMED)
class TellsANegativeAge(Altered):
    """After the clock was set back, the oldest event is sent in the future, and has a negative age."""

    def counted(self, stats: Stats, queue: EventQueue) -> Stats:
        sent = [event.enqueued_at for event in queue.events.values() if event.status is State.READY]
        return attrs.evolve(stats, oldest_age=self._clock.now() - min(sent)) if sent else stats
