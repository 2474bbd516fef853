"""Bugs of names that are alike: a call on one queue, or for one id, touches another."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence

import attrs

from relevo import (
    DeadLetterEntry,
    DeadLetterFilter,
    Delivery,
    Found,
    Stats,
    StuckKeys,
)
from relevo_conformance import promise
from relevo_memory import MemoryTransport

from .planting import AlteredStore, planted

Alike = Callable[[str, str], bool]


def begins(name: str, other: str) -> bool:
    """Return whether *other* begins with *name*."""
    return other.startswith(name)


def without_accents(name: str) -> str:
    """Return *name* without accents."""
    return "".join(one for one in unicodedata.normalize("NFD", name) if not unicodedata.combining(one))


class AlikeQueues(AlteredStore):
    """A store whose purge may take from other queues, of which it says nothing; by default it does not."""

    def is_alike(self, name: str, other: str) -> bool:
        """Return whether a purge of the queue *name* also takes from *other*."""
        return False

    def purge(self, name: str, now: float) -> int:
        number = super().purge(name, now)
        for other in tuple(self._queues):
            if other != name and self.is_alike(name, other):
                self._take_out(other, now)
        return number


@planted(promise.PURGED_IS_GONE, by_chance=False)
class PurgesWhatBeginsTheSame(AlikeQueues):
    """A purge also takes from each queue whose name begins with that of the queue."""

    def is_alike(self, name: str, other: str) -> bool:
        return begins(name, other)


@planted(promise.PURGED_IS_GONE, by_chance=False)
class PurgesOutboxesThatBeginTheSame(AlikeQueues):
    """A purge of an outbox also takes from each outbox whose name begins with that one."""

    def is_alike(self, name: str, other: str) -> bool:
        return name.startswith("outbox/") and begins(name, other)


@planted(promise.PURGED_IS_GONE, by_chance=False)
class PurgesTheOutboxOfTheSameName(AlikeQueues):
    """A purge of an outbox takes the name of its transport for a prefix of others, up to a separator."""

    def is_alike(self, name: str, other: str) -> bool:
        return name.startswith("outbox/") and other.startswith((f"{name}-", f"{name}."))


@planted(promise.PURGED_IS_GONE, by_chance=False)
class PurgesWithoutAccents(AlikeQueues):
    """A purge also takes from queues whose names differ only in accents."""

    def is_alike(self, name: str, other: str) -> bool:
        return without_accents(name) == without_accents(other)


@planted(promise.PURGED_IS_GONE, by_chance=False)
class PurgesByTheFirstCharacters(AlikeQueues):
    """A purge compares only the first 127 characters of the names of queues."""

    def is_alike(self, name: str, other: str) -> bool:
        return name[:127] == other[:127]


class AlikeIds(AlteredStore):
    """A store that may take one id for another; by default it does not."""

    def form(self, event_id: str) -> str:
        """Return what is compared of an id."""
        return event_id

    def alike(self, event_id: str) -> list[str]:
        """Return the ids of living events that are taken for *event_id*, apart from itself."""
        living = (event for queue in self._queues.values() for event in queue.events.values())
        ids = {getattr(event.envelope, "id", event_id) for event in living}
        return [each for each in ids if each != event_id and self.form(each) == self.form(event_id)]


class AlikeCancelled(AlikeIds):
    """A store whose cancel may take one id for another."""

    def cancel(self, event_id: str, now: float) -> int:
        number = super().cancel(event_id, now)
        for other in self.alike(event_id):
            super().cancel(other, now)
        return number


@planted(promise.CANCELLED_IS_GONE, by_chance=False)
class CancelsWithoutBlanksAtTheEnd(AlikeCancelled):
    """A cancel also takes events whose ids differ only in blanks at the end."""

    def form(self, event_id: str) -> str:
        return event_id.rstrip()


@planted(promise.CANCELLED_IS_GONE, by_chance=False)
class CancelsWithoutAccents(AlikeCancelled):
    """A cancel also takes events whose ids differ only in accents."""

    def form(self, event_id: str) -> str:
        return without_accents(event_id)


@planted(promise.CANCELLED_IS_GONE, by_chance=False)
class CancelsByTheFirstCharacters(AlikeCancelled):
    """A cancel compares only the first 254 characters of ids."""

    def form(self, event_id: str) -> str:
        return event_id[:254]


@planted(promise.FOUND_AS_IT_IS, by_chance=False)
class FindsByTheNormalForm(AlikeIds):
    """A search by id takes two forms of an accented letter for one."""

    def form(self, event_id: str) -> str:
        return unicodedata.normalize("NFC", event_id)

    def find(self, event_id: str, now: float) -> list[Found]:
        return [one for each in (event_id, *self.alike(event_id)) for one in super(AlikeIds, self).find(each, now)]


@planted(promise.FOUND_AS_IT_IS, by_chance=False)
class FindsWithoutControlCharactersAtTheEnd(AlikeIds):
    """A search by id ignores tabs and line ends at the end of ids."""

    def form(self, event_id: str) -> str:
        return event_id.rstrip("\t\n")

    def find(self, event_id: str, now: float) -> list[Found]:
        return [one for each in (event_id, *self.alike(event_id)) for one in super(AlikeIds, self).find(each, now)]


@planted(promise.TAKEN_BY_ITS_ID, by_chance=False)
class TakesByTheNormalForm(AlikeIds):
    """A take by id takes two forms of an accented letter for one."""

    def form(self, event_id: str) -> str:
        return unicodedata.normalize("NFC", event_id)

    def take(self, name: str, event_id: str, *, lease: float, now: float) -> list[Delivery]:
        ids = (event_id, *self.alike(event_id))
        return [one for each in ids for one in super(AlikeIds, self).take(name, each, lease=lease, now=now)]


@planted(promise.STATS_ARE_TRUE_AT_REST, by_chance=False)
class CountsDeadLettersOfQueuesWithoutCase(MemoryTransport):
    """The figures count dead letters of queues whose names differ only in case."""

    def stats(self, queue: str) -> Stats:
        stats = super().stats(queue)
        alike = [each for each in self.store._queues if each != queue and each.lower() == queue.lower()]
        return attrs.evolve(stats, dead=(stats.dead or 0) + sum(self.store._dead.count(each) for each in alike))


@planted(promise.QUERIED_AS_IT_IS, by_chance=False)
class FindsStuckKeysOfQueuesThatBeginTheSame(MemoryTransport):
    """Stuck keys are also returned of queues whose names begin with that of a queue."""

    def stuck_keys(self, queues: Sequence[str], *, longer: float = 60.0, limit: int = 10) -> StuckKeys:
        alike = [each for each in self.store._queues if each.startswith(tuple(queues))]
        return super().stuck_keys(alike, longer=longer, limit=limit)


@planted(promise.QUERIED_AS_IT_IS, by_chance=False)
class MatchesDeadLettersOfQueuesWithoutCase(MemoryTransport):
    """A filter of dead letters also chooses from queues whose names differ only in case."""

    def matching_dead_letters(
        self, queues: Sequence[str], *, where: DeadLetterFilter, after: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetterEntry]:
        lower = {each.lower() for each in queues}
        alike = [each for each in self.store._queues if each not in queues and each.lower() in lower]
        return super().matching_dead_letters([*queues, *alike], where=where, after=after, limit=limit)
