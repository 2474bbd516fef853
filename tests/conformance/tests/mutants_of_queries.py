"""Bugs of lists of unfinished events, of filters, and of counts by groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import attrs

from relevo import DeadLetterEntry, DeadLetterFilter, Delivery, EventFilter, EventGroup, StuckKeys, WaitingEntry
from relevo.errors import ConfigurationError
from relevo_conformance import promise
from relevo_memory import MemoryTransport

from .planting import AlteredStore, living, planted

By = Literal["event", "queue", "state"]


class Listing(MemoryTransport):
    """A transport with a hook for what it lists; it changes nothing."""

    def listed(self, entry: WaitingEntry) -> WaitingEntry:
        """Return what is listed of an event."""
        return entry

    def waiting(
        self, queues: Sequence[str], *, where: EventFilter | None = None, after: str | None = None, limit: int = 100
    ) -> Sequence[WaitingEntry]:
        return [self.listed(one) for one in super().waiting(queues, where=where, after=after, limit=limit)]


@planted(promise.QUERIED_AS_IT_IS)
class ListsEveryState(MemoryTransport):
    """A list of waiting events ignores which states are wanted."""

    def waiting(
        self, queues: Sequence[str], *, where: EventFilter | None = None, after: str | None = None, limit: int = 100
    ) -> Sequence[WaitingEntry]:
        wanted = None if where is None else attrs.evolve(where, states=())
        return super().waiting(queues, where=wanted, after=after, limit=limit)


@planted(promise.QUERIED_AS_IT_IS, by_chance=False)
class PagesByNumber(MemoryTransport):
    """A page of waiting events begins behind as many events as were listed, whichever are left of them."""

    def waiting(
        self, queues: Sequence[str], *, where: EventFilter | None = None, after: str | None = None, limit: int = 100
    ) -> Sequence[WaitingEntry]:
        first = 0
        if after is not None:
            super().waiting(queues, where=where, after=after, limit=0)
            first = vars(self).setdefault("listed", {}).get(after, 0)
        whole = super().waiting(queues, where=where, limit=1_000_000)
        page = whole[first : first + limit]
        vars(self).setdefault("listed", {}).update({one.cursor: first + len(page) for one in page[-1:]})
        return page


@planted(promise.QUERIED_AS_IT_IS)
class EndsAtAShortPage(MemoryTransport):
    """A list of waiting events ends with its first page."""

    def waiting(
        self, queues: Sequence[str], *, where: EventFilter | None = None, after: str | None = None, limit: int = 100
    ) -> Sequence[WaitingEntry]:
        page = super().waiting(queues, where=where, after=after, limit=limit)
        return page if after is None else []


@planted(promise.QUERIED_AS_IT_IS)
class ListsTheHeldAsReady(Listing):
    """A held event is listed as ready."""

    def listed(self, entry: WaitingEntry) -> WaitingEntry:
        return attrs.evolve(entry, status="ready", until=None) if entry.status == "leased" else entry


@planted(promise.QUERIED_AS_IT_IS)
class ListsADelayFromItsSending(Listing):
    """A scheduled event is listed with its send time as its due time."""

    def listed(self, entry: WaitingEntry) -> WaitingEntry:
        return attrs.evolve(entry, until=entry.enqueued_at) if entry.status == "scheduled" else entry


@planted(promise.QUERIED_AS_IT_IS, by_chance=False)
class ListsWithoutLostLeases(Listing):
    """An event is listed without its lost leases."""

    def listed(self, entry: WaitingEntry) -> WaitingEntry:
        return attrs.evolve(entry, lost_leases=0)


@planted(promise.QUERIED_AS_IT_IS, by_chance=False)
class ListsAlikeQueues(MemoryTransport):
    """Queues whose names differ only in case are listed together."""

    def waiting(
        self, queues: Sequence[str], *, where: EventFilter | None = None, after: str | None = None, limit: int = 100
    ) -> Sequence[WaitingEntry]:
        alike = [name for queue in queues for name in self.store._queues if name.lower() == queue.lower()]
        return super().waiting([*queues, *alike], where=where, after=after, limit=limit)


@planted(promise.QUERIED_AS_IT_IS, by_chance=False)
class ChoosesNamesWithoutCase(MemoryTransport):
    """A filter by the name of the event ignores case."""

    def waiting(
        self, queues: Sequence[str], *, where: EventFilter | None = None, after: str | None = None, limit: int = 100
    ) -> Sequence[WaitingEntry]:
        if where is None or not where.names:
            return super().waiting(queues, where=where, after=after, limit=limit)
        names = {one.envelope.name for one in super().waiting(queues, limit=1_000_000)}
        lower = EventFilter(names=tuple(name.lower() for name in where.names))
        alike = tuple(name for name in names if lower.matches_name(name.lower())) or ("no name",)
        return super().waiting(queues, where=attrs.evolve(where, names=alike), after=after, limit=limit)


@planted(promise.QUERIED_AS_IT_IS, by_chance=False)
class IgnoresTheTimeOfSending(MemoryTransport):
    """A filter of waiting events ignores until when they were sent."""

    def waiting(
        self, queues: Sequence[str], *, where: EventFilter | None = None, after: str | None = None, limit: int = 100
    ) -> Sequence[WaitingEntry]:
        wanted = None if where is None else attrs.evolve(where, until=None)
        return super().waiting(queues, where=wanted, after=after, limit=limit)


@planted(promise.QUERIED_AS_IT_IS)
class CountsAGroupTwice(MemoryTransport):
    """The groups of waiting events count each held event twice."""

    def waiting_groups(
        self, queues: Sequence[str], *, by: By, where: EventFilter | None = None, limit: int = 100
    ) -> Sequence[EventGroup]:
        groups = super().waiting_groups(queues, by=by, where=where, limit=limit)
        return [attrs.evolve(one, count=2 * one.count) if one.key == "leased" else one for one in groups]


@planted(promise.QUERIED_AS_IT_IS, by_chance=False)
class GroupsWithoutTheFilter(MemoryTransport):
    """The groups of dead letters also count those that the filter does not choose."""

    def dead_letter_groups(
        self,
        queues: Sequence[str],
        *,
        by: Literal["event", "queue", "reason"],
        where: DeadLetterFilter | None = None,
        limit: int = 100,
    ) -> Sequence[EventGroup]:
        return super().dead_letter_groups(queues, by=by, limit=limit)


@planted(promise.QUERIED_AS_IT_IS, by_chance=False)
class ChoosesDeadLettersByTheirSending(MemoryTransport):
    """A filter of dead letters compares the time of sending instead of the time of death."""

    def matching_dead_letters(
        self, queues: Sequence[str], *, where: DeadLetterFilter, after: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetterEntry]:
        timeless = attrs.evolve(where, since=None, until=None)
        entries = super().matching_dead_letters(queues, where=timeless, after=after, limit=1_000_000)
        return [one for one in entries if where.matches_time(one.enqueued_at)][:limit]


@planted(promise.QUERIED_AS_IT_IS, by_chance=False)
class CallsEveryBacklogStuck(MemoryTransport):
    """An ordering key is shown as stuck as soon as its first event is held."""

    def stuck_keys(self, queues: Sequence[str], *, longer: float = 60.0, limit: int = 10) -> StuckKeys:
        return super().stuck_keys(queues, longer=0.0, limit=limit)


@planted(promise.QUERIED_AS_IT_IS, by_chance=False)
class CountsTheFirstOfAStuckKey(MemoryTransport):
    """The number of events that wait behind a stuck key includes the one that they wait for."""

    def stuck_keys(self, queues: Sequence[str], *, longer: float = 60.0, limit: int = 10) -> StuckKeys:
        stuck = super().stuck_keys(queues, longer=longer, limit=limit)
        return attrs.evolve(stuck, keys=tuple(attrs.evolve(one, waiting=one.waiting + 1) for one in stuck.keys))


@planted(promise.QUERIED_AS_IT_IS, by_chance=False)
class CutsGroupsBeforeItSortsThem(MemoryTransport):
    """A limit of groups leaves the first by their keys, which are then sorted by size."""

    def waiting_groups(
        self, queues: Sequence[str], *, by: By, where: EventFilter | None = None, limit: int = 100
    ) -> Sequence[EventGroup]:
        left = sorted(super().waiting_groups(queues, by=by, where=where), key=lambda one: one.key, reverse=True)[:limit]
        return sorted(left, key=lambda one: -one.count)


@planted(promise.QUERIED_AS_IT_IS, by_chance=False)
class TakesAnyNameForNoFilter(MemoryTransport):
    """A filter of dead letters by any name also chooses foreign bytes, which have none."""

    def matching_dead_letters(
        self, queues: Sequence[str], *, where: DeadLetterFilter, after: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetterEntry]:
        wanted = attrs.evolve(where, names=()) if "*" in where.names else where
        return super().matching_dead_letters(queues, where=wanted, after=after, limit=limit)


@planted(promise.QUERIED_AS_IT_IS, by_chance=False)
class BeginsALeaseAnewAtAnExtension(AlteredStore):
    """An extended lease is listed as begun at its extension."""

    def extend(self, deliveries: Sequence[Delivery], *, lease: float, now: float) -> list[Delivery]:
        lost = super().extend(deliveries, lease=lease, now=now)
        held = {id(one.receipt) for one in deliveries}
        for _, event in living(self):
            if id(event.receipt) in held:
                event.leased_at = now
        return lost


@planted(promise.QUERIED_AS_IT_IS, by_chance=False)
class DatesAStuckKeyFromTheSend(MemoryTransport):
    """A key is shown as stuck since the first event behind was sent, although it was due later."""

    def stuck_keys(self, queues: Sequence[str], *, longer: float = 60.0, limit: int = 10) -> StuckKeys:
        stuck = super().stuck_keys(queues, longer=longer, limit=limit)
        sent = {
            key: min(
                one.enqueued_at
                for one in self.waiting([key.queue], limit=1_000_000)
                if one.envelope.ordering_key == key.key and one.cursor != (key.first and key.first.cursor)
            )
            for key in stuck.keys
        }
        return attrs.evolve(stuck, keys=tuple(attrs.evolve(one, since=sent[one]) for one in stuck.keys))


@planted(promise.QUERIED_AS_IT_IS, by_chance=False)
class KeepsItsCursors(MemoryTransport):
    """A cursor means something only to the instance that returned it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.cursors: set[str] = set()

    def waiting(
        self, queues: Sequence[str], *, where: EventFilter | None = None, after: str | None = None, limit: int = 100
    ) -> Sequence[WaitingEntry]:
        page = super().waiting(queues, where=where, after=after if after in self.cursors else None, limit=limit)
        self.cursors |= {one.cursor for one in page}
        return page


@planted(promise.QUERIED_AS_IT_IS, by_chance=False)
class CountsTenGroups(MemoryTransport):
    """A count of waiting events returns ten groups, unless a limit is given."""

    def waiting_groups(
        self, queues: Sequence[str], *, by: By, where: EventFilter | None = None, limit: int = 10
    ) -> Sequence[EventGroup]:
        return super().waiting_groups(queues, by=by, where=where, limit=limit)


@planted(promise.QUERIED_AS_IT_IS, by_chance=False)
class CountsTheDeadAfterATime(MemoryTransport):
    """The groups of dead letters leave out what died exactly when they begin."""

    def dead_letter_groups(
        self,
        queues: Sequence[str],
        *,
        by: Literal["event", "queue", "reason"],
        where: DeadLetterFilter | None = None,
        limit: int = 100,
    ) -> Sequence[EventGroup]:
        if where is not None and where.since is not None:
            where = attrs.evolve(where, since=math.nextafter(where.since, math.inf))
        return super().dead_letter_groups(queues, by=by, where=where, limit=limit)


@planted(promise.QUERIED_AS_IT_IS, by_chance=False)
class ShowsAStuckEventWithoutItsNote(MemoryTransport):
    """The first event of a stuck key has no note, and no time at which it was leased."""

    def stuck_keys(self, queues: Sequence[str], *, longer: float = 60.0, limit: int = 10) -> StuckKeys:
        found = super().stuck_keys(queues, longer=longer, limit=limit)
        firsts = [one.first and attrs.evolve(one.first, begun=None, leased_at=None) for one in found.keys]
        keys = [attrs.evolve(one, first=first) for one, first in zip(found.keys, firsts, strict=True)]
        return attrs.evolve(found, keys=tuple(keys))


@planted(promise.QUERIED_AS_IT_IS, by_chance=False)
class ListsNoOutbox(MemoryTransport):
    """A list of waiting events leaves out those that wait for a relay."""

    def waiting(
        self, queues: Sequence[str], *, where: EventFilter | None = None, after: str | None = None, limit: int = 100
    ) -> Sequence[WaitingEntry]:
        own = [queue for queue in queues if not queue.startswith("outbox/")]
        return super().waiting(own, where=where, after=after, limit=limit)


@planted(promise.QUERIED_AS_IT_IS, by_chance=False)
class ReadsACursorFromItsEnd(MemoryTransport):
    """The second page of a queue with an @ in its name is refused."""

    def waiting(
        self, queues: Sequence[str], *, where: EventFilter | None = None, after: str | None = None, limit: int = 100
    ) -> Sequence[WaitingEntry]:
        if after is not None and after.rpartition("@")[2] not in queues:
            raise ConfigurationError(f"{after!r} is not a cursor of these queues")
        return super().waiting(queues, where=where, after=after, limit=limit)
