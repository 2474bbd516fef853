"""Bugs that break one sentence of the transport interface each, which no scenario read before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import attrs

from relevo import (
    BoundSender,
    DeadLetterEntry,
    DeadLetterFilter,
    Delivery,
    Envelope,
    EventFilter,
    EventGroup,
    Found,
    State,
    StuckKeys,
    WaitingEntry,
)
from relevo.backend import QueueCatalog
from relevo.errors import SessionError
from relevo_conformance import promise
from relevo_memory import MemoryTransport
from relevo_memory._queue import EventQueue

from .mutants_of_queries import By
from .planting import AlteredStore, living, planted

DAY = 86_400.0

# --- taking ----------------------------------------------------------------------------------------


@planted(promise.TAKEN_BY_ITS_ID, by_chance=False)
class RemembersWhenTheTakenWasDue(AlteredStore):
    """An event that was taken before it was due is scheduled again if its holder gives it back or is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.dues: dict[int, float] = {}

    def take(self, name: str, event_id: str, *, lease: float, now: float) -> list[Delivery]:
        dues = {event.number: event.due for _, event in living(self) if event.status is State.SCHEDULED}
        taken = super().take(name, event_id, lease=lease, now=now)
        held = {id(one.receipt) for one in taken}
        ours = (event.number for _, event in living(self) if id(event.receipt) in held)
        self.dues |= {number: dues.get(number, 0.0) for number in ours}
        return taken

    def claim(self, queues: Sequence[str], *, limit: int, lease: float, now: float) -> list[Delivery]:
        late = [queue for queue in queues if queue in self._queues and self.is_early(self._at(queue, now), now)]
        return super().claim([one for one in queues if one not in late], limit=limit, lease=lease, now=now)

    def is_early(self, queue: EventQueue, now: float) -> bool:
        """Return whether an event of *queue* is ready that was due later when it was taken."""
        ready = (event for event in queue.events.values() if event.status is State.READY)
        return any(self.dues.get(event.number, 0.0) > now for event in ready)


@planted(promise.TAKEN_BY_ITS_ID, by_chance=False)
class TakesNothingIfOneIsHeld(AlteredStore):
    """Of two events with one id none is taken while one of them is held."""

    def take(self, name: str, event_id: str, *, lease: float, now: float) -> list[Delivery]:
        for queue, event in living(self):
            if queue.name == name and event.status is State.LEASED and getattr(event.envelope, "id", "") == event_id:
                return []
        return super().take(name, event_id, lease=lease, now=now)


@planted(promise.LEASED_IS_HIDDEN, by_chance=False)
class TakesForAMinute(AlteredStore):
    """A taken event is leased for a minute, whatever lease was asked for."""

    def take(self, name: str, event_id: str, *, lease: float, now: float) -> list[Delivery]:
        return super().take(name, event_id, lease=60.0, now=now)


@planted(promise.TAKEN_BY_ITS_ID, by_chance=False)
class RevivesLaterBesideALivingOne(AlteredStore):
    """A dead letter that is revived with a delay is deleted if its id is used again, also with other content."""

    def revive_later(self, refs: Mapping[str, bytes], now: float, *, due: float) -> list[str]:
        missing = super().revive_later(refs, now, due=due)
        if due <= now:
            return missing
        return [ref for ref in missing if self._dead.take(ref) is None]


@planted(promise.FOUND_AS_IT_IS, by_chance=False)
class ShowsWhatIsRevivedLaterAsReady(MemoryTransport):
    """An event that was revived with a delay is found as ready."""

    def find(self, event_id: str) -> Sequence[Found]:
        return [
            attrs.evolve(one, status="ready", until=None) if self.is_revived(one) else one
            for one in super().find(event_id)
        ]

    def is_revived(self, found: Found) -> bool:
        """Return whether *found* was dead before; the state of such an event says so."""
        return found.status == "scheduled" and found.attempt == 1 and bool(found.state)


# --- outboxes --------------------------------------------------------------------------------------


@planted(promise.FOUND_AS_IT_IS, by_chance=False)
class FindsNothingInOutboxes(MemoryTransport):
    """An event that waits for a relay is not found."""

    def find(self, event_id: str) -> Sequence[Found]:
        return [one for one in super().find(event_id) if not one.queue.startswith("outbox/")]


@planted(promise.CANCELLED_IS_GONE, by_chance=False)
class CancelsNothingInOutboxes(AlteredStore):
    """An event that waits for a relay is not cancelled."""

    def _take_out(self, name: str, now: float, event_id: str | None = None) -> int:
        return 0 if event_id and name.startswith("outbox/") else super()._take_out(name, now, event_id)


# --- queries ---------------------------------------------------------------------------------------


@planted(promise.QUERIED_AS_IT_IS, by_chance=False)
class ChoosesWhatMeetsAState(MemoryTransport):
    """A filter with states ignores its names."""

    def waiting(
        self, queues: Sequence[str], *, where: EventFilter | None = None, after: str | None = None, limit: int = 100
    ) -> Sequence[WaitingEntry]:
        wanted = attrs.evolve(where, names=()) if where is not None and where.states else where
        return super().waiting(queues, where=wanted, after=after, limit=limit)


@planted(promise.QUERIED_AS_IT_IS, by_chance=False)
class GroupsWithoutTheTimes(MemoryTransport):
    """The groups of waiting events ignore when they were sent."""

    def waiting_groups(
        self, queues: Sequence[str], *, by: By, where: EventFilter | None = None, limit: int = 100
    ) -> Sequence[EventGroup]:
        wanted = None if where is None else attrs.evolve(where, since=None, until=None)
        return super().waiting_groups(queues, by=by, where=wanted, limit=limit)


@planted(promise.QUERIED_AS_IT_IS, by_chance=False)
class GroupsTheDeadWithoutTheTimes(MemoryTransport):
    """The groups of dead letters ignore when they died."""

    def dead_letter_groups(
        self,
        queues: Sequence[str],
        *,
        by: Literal["event", "queue", "reason"],
        where: DeadLetterFilter | None = None,
        limit: int = 100,
    ) -> Sequence[EventGroup]:
        wanted = None if where is None else attrs.evolve(where, since=None, until=None)
        return super().dead_letter_groups(queues, by=by, where=wanted, limit=limit)


@planted(promise.QUERIED_AS_IT_IS, by_chance=False)
class ChoosesReasonsThatBeginTheSame(MemoryTransport):
    """A filter by a reason also chooses reasons that begin with it."""

    def matching_dead_letters(
        self, queues: Sequence[str], *, where: DeadLetterFilter, after: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetterEntry]:
        known = {one.reason for one in self.dead_letters(queues, limit=1_000_000)}
        alike = {one for one in known if where.reasons and one.startswith(where.reasons)}
        wanted = attrs.evolve(where, reasons=(*where.reasons, *alike))
        return super().matching_dead_letters(queues, where=wanted, after=after, limit=limit)


@planted(promise.QUERIED_AS_IT_IS, by_chance=False)
class SortsStuckKeysByName(MemoryTransport):
    """Stuck keys are sorted by name, so a limit may leave out the one that is stuck the longest."""

    def stuck_keys(self, queues: Sequence[str], *, longer: float = 60.0, limit: int = 10) -> StuckKeys:
        stuck = super().stuck_keys(queues, longer=longer, limit=1_000_000)
        return attrs.evolve(stuck, keys=tuple(sorted(stuck.keys, key=lambda one: one.key)[:limit]))


@planted(promise.QUERIED_AS_IT_IS, by_chance=False)
class JoinsStuckKeysOfQueues(MemoryTransport):
    """A key that is stuck in two queues is returned once."""

    def stuck_keys(self, queues: Sequence[str], *, longer: float = 60.0, limit: int = 10) -> StuckKeys:
        stuck = super().stuck_keys(queues, longer=longer, limit=1_000_000)
        first = {one.key: one for one in reversed(stuck.keys)}
        keys = sorted(first.values(), key=lambda one: one.since)
        return attrs.evolve(stuck, keys=tuple(keys[: max(0, limit)]), total=len(keys))


@planted(promise.QUERIED_AS_IT_IS, by_chance=False)
class CountsWhatIsNotDueBehindAStuckKey(MemoryTransport):
    """The number of events that wait behind a stuck key includes those that are not due."""

    def stuck_keys(self, queues: Sequence[str], *, longer: float = 60.0, limit: int = 10) -> StuckKeys:
        stuck = super().stuck_keys(queues, longer=longer, limit=limit)
        behind = {
            one: sum(
                each.envelope.ordering_key == one.key and each.status == "scheduled" and each.attempt == 1
                for each in self.waiting([one.queue], limit=1_000_000)
            )
            for one in stuck.keys
        }
        return attrs.evolve(stuck, keys=tuple(attrs.evolve(one, waiting=one.waiting + behind[one]) for one in behind))


# --- leases and setup ------------------------------------------------------------------------------


@planted(promise.LEASED_IS_HIDDEN, by_chance=False)
class LeasesForADayAtMost(AlteredStore):
    """A lease that is longer than a day ends after a day."""

    def claim(self, queues: Sequence[str], *, limit: int, lease: float, now: float) -> list[Delivery]:
        return super().claim(queues, limit=limit, lease=min(lease, DAY), now=now)


@planted(promise.EXTEND_KEEPS_THE_LEASE, by_chance=False)
class ExtendsForADayAtMost(AlteredStore):
    """An extension by more than a day is one by a day."""

    def extend(self, deliveries: Sequence[Delivery], *, lease: float, now: float) -> list[Delivery]:
        return super().extend(deliveries, lease=min(lease, DAY), now=now)


@planted(promise.SETUP_IS_IDEMPOTENT, by_chance=False)
class CreatesWhatIsLacking(MemoryTransport):
    """To ask what is lacking creates it."""

    def lacking(self, queues: Sequence[str]) -> Sequence[str]:
        return self.setup(queues)


# --- notes, sessions, limits and queues ------------------------------------------------------------


@planted(promise.FOUND_AS_IT_IS, by_chance=False)
class FindsWithoutTheNote(MemoryTransport):
    """An event is found without the note of the process that began it."""

    def find(self, event_id: str) -> Sequence[Found]:
        return [attrs.evolve(one, begun=None) for one in super().find(event_id)]


@planted(promise.QUERIED_AS_IT_IS, by_chance=False)
class ListsWithoutTheNote(MemoryTransport):
    """An event is listed without the note of the process that began it."""

    def waiting(
        self, queues: Sequence[str], *, where: EventFilter | None = None, after: str | None = None, limit: int = 100
    ) -> Sequence[WaitingEntry]:
        entries = super().waiting(queues, where=where, after=after, limit=limit)
        return [attrs.evolve(one, begun=None) for one in entries]


@planted(promise.JOINS_THE_TRANSACTION, by_chance=False)
class JoinsWhatIsNoSession(MemoryTransport):
    """Anything is taken for a session until something is sent in it."""

    def bound_to(self, session: Any, *, relay_to: str | None = None) -> BoundSender:
        try:
            return super().bound_to(session, relay_to=relay_to)
        except SessionError as error:
            return Refusing(error)


@attrs.frozen
class Refusing:
    """A sender of something that is no session."""

    error: SessionError

    def send(self, make: Callable[[], Sequence[Envelope]], *, delay: float = 0.0) -> None:
        """Refuse to send."""
        raise self.error


@planted(promise.LIMIT_IS_RESPECTED, by_chance=False)
class ReceivesOneAtLeast(MemoryTransport):
    """A receive with a limit of zero hands out one event."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        return super().receive(queues, limit=max(1, limit), lease=lease, wait=wait)


@planted(promise.LIMIT_IS_RESPECTED, by_chance=False)
class LeasesForALimitOfZero(AlteredStore):
    """A receive with a limit of zero hands out nothing, and leases one event."""

    def claim(self, queues: Sequence[str], *, limit: int, lease: float, now: float) -> list[Delivery]:
        return super().claim(queues, limit=max(1, limit), lease=lease, now=now)[:limit]


@planted(promise.QUEUES_ARE_ISOLATED, by_chance=False)
class ReceivesFromAnyQueueForNone(AlteredStore):
    """A receive of no queue hands out events of any."""

    def claim(self, queues: Sequence[str], *, limit: int, lease: float, now: float) -> list[Delivery]:
        return super().claim(queues or tuple(self._queues), limit=limit, lease=lease, now=now)


@planted(promise.QUERIED_AS_IT_IS, by_chance=False)
class TakesNoLimitForZero(MemoryTransport):
    """A list of waiting events with a limit of zero is taken for one with the usual limit."""

    def waiting(
        self, queues: Sequence[str], *, where: EventFilter | None = None, after: str | None = None, limit: int = 100
    ) -> Sequence[WaitingEntry]:
        return super().waiting(queues, where=where, after=after, limit=limit or 100)


@planted(promise.QUERIED_AS_IT_IS, by_chance=False)
class GroupsAllForALimitOfZero(MemoryTransport):
    """Groups of dead letters with a limit of zero are all of them."""

    def dead_letter_groups(
        self,
        queues: Sequence[str],
        *,
        by: Literal["event", "queue", "reason"],
        where: DeadLetterFilter | None = None,
        limit: int = 100,
    ) -> Sequence[EventGroup]:
        return super().dead_letter_groups(queues, by=by, where=where, limit=limit or 100)


@planted(promise.QUERIED_AS_IT_IS, by_chance=False)
class MatchesDeadLettersOfAnyQueueForNone(MemoryTransport):
    """A filter of dead letters of no queue chooses from all."""

    def matching_dead_letters(
        self, queues: Sequence[str], *, where: DeadLetterFilter, after: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetterEntry]:
        return super().matching_dead_letters(queues or tuple(self.store._queues), where=where, after=after, limit=limit)


class Catalog(MemoryTransport, QueueCatalog):
    """A transport that knows its queues."""

    def store_id(self) -> str:
        return str(id(self.store))

    def held_queues(self) -> Sequence[str]:
        return [name for name, queue in self.store._queues.items() if queue.events or self.store._dead.count(name)]


@planted(promise.QUERIED_AS_IT_IS, by_chance=False)
class KnowsNoQueueOfDeadLetters(Catalog):
    """A queue that holds only dead letters is not among those that hold events."""

    def held_queues(self) -> Sequence[str]:
        return [name for name in super().held_queues() if self.store._queues[name].events]


@planted(promise.QUERIED_AS_IT_IS, by_chance=False)
class KnowsOnlyQueuesThatAreReady(Catalog):
    """A queue in which nothing is ready and nothing is dead is not among those that hold events."""

    def held_queues(self) -> Sequence[str]:
        return [name for name in super().held_queues() if self.stats(name).ready or self.stats(name).dead]


@planted(promise.QUERIED_AS_IT_IS, by_chance=False)
class KnowsEveryQueueItEverHad(Catalog):
    """All queues that were set up are among those that hold events."""

    def held_queues(self) -> Sequence[str]:
        return list(self.store._queues)
