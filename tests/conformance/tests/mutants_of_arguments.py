"""Bugs of arguments and answers as values: whose they are, of what kind, and what is named twice."""

from __future__ import annotations

import math
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import attrs

from relevo import (
    MAX_LEASE,
    DeadLetterEntry,
    Delivery,
    EventFilter,
    EventGroup,
    Found,
    Presence,
    Settlement,
    StuckKeys,
)
from relevo.errors import ConfigurationError, TransportUnavailableError
from relevo_conformance import promise
from relevo_memory import MemoryTransport

from .memory import BreakableStore
from .planting import planted, planted_pair


def repeated(queues: Sequence[str]) -> list[str]:
    """Return those of *queues* that are named more than once."""
    return [name for name, times in Counter(queues).items() if times > 1]


# --- what is named twice ---------------------------------------------------------------------------


@planted(promise.LIMIT_IS_RESPECTED, by_chance=False)
class ReceivesTwiceFromAQueueThatIsNamedTwice(BreakableStore):
    """A receive applies its limit to each queue again if a queue is named twice."""

    def claim(self, queues: Sequence[str], *, limit: int, lease: float, now: float) -> list[Delivery]:
        taken = super().claim(queues, limit=limit, lease=lease, now=now)
        for name in repeated(queues):
            taken += super().claim([name], limit=limit, lease=lease, now=now)
        return taken


@planted(promise.DEAD_IS_KEPT_WITH_REASON, by_chance=False)
class ListsTheDeadLettersOfAQueueTwice(MemoryTransport):
    """The dead letters of a queue that is named twice are listed twice."""

    def dead_letters(
        self, queues: Sequence[str], *, after: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetterEntry]:
        entries = [*super().dead_letters(queues, after=after, limit=limit)]
        again = super().dead_letters(repeated(queues), limit=max(0, limit - len(entries))) if after is None else ()
        return [*entries, *again]


@planted(promise.QUERIED_AS_IT_IS, by_chance=False)
class CountsTheStuckKeysOfAQueueTwice(MemoryTransport):
    """The stuck keys of a queue that is named twice are counted twice."""

    def stuck_keys(self, queues: Sequence[str], *, longer: float = 60.0, limit: int = 10) -> StuckKeys:
        found = super().stuck_keys(queues, longer=longer, limit=limit)
        again = [queue for queue, times in Counter(queues).items() if times > 1]
        return attrs.evolve(found, total=found.total + super().stuck_keys(again, longer=longer).total)


@planted(promise.QUERIED_AS_IT_IS, by_chance=False)
class CountsTheEventsOfAQueueTwice(MemoryTransport):
    """The groups count the events of a queue as often as it is named."""

    def waiting_groups(
        self,
        queues: Sequence[str],
        *,
        by: Literal["event", "queue", "state"],
        where: EventFilter | None = None,
        limit: int = 100,
    ) -> Sequence[EventGroup]:
        groups = super().waiting_groups(queues, by=by, where=where, limit=limit)
        return [attrs.evolve(one, count=one.count * max(1, [*queues].count(one.key))) for one in groups]


@planted(promise.SETUP_IS_IDEMPOTENT, by_chance=False)
class SetsUpAQueueTwice(BreakableStore):
    """A set-up reports a missing queue as often as it is named."""

    def declare(self, queues: Iterable[str], *, dry_run: bool) -> list[str]:
        names = [*queues]
        missing = super().declare(names, dry_run=dry_run)
        return [name for name in names if name in missing]


@planted(promise.EXTEND_KEEPS_THE_LEASE, by_chance=False)
class LosesADeliveryThatIsExtendedTwice(MemoryTransport):
    """A delivery that is extended twice in one call is returned as lost."""

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Delivery]:
        lost = [*super().extend(deliveries, lease=lease)]
        again = [one for place, one in enumerate(deliveries) if one in deliveries[:place] and one not in lost]
        return [*lost, *again]


# --- arguments -------------------------------------------------------------------------------------


@planted(promise.SENT_IS_RECEIVED, by_chance=False)
class TurnsRoundTheQueuesOfItsCaller(MemoryTransport):
    """A receive reverses the list of queues that it gets."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        came = super().receive(queues, limit=limit, lease=lease, wait=wait)
        if isinstance(queues, list):
            queues.reverse()
        return came


@planted(promise.SENT_IS_RECEIVED, by_chance=False)
class EmptiesTheListThatItSettles(MemoryTransport):
    """A settlement takes what it settles out of the list that it gets."""

    def _settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        lost = super()._settle(settlements)
        if isinstance(settlements, list) and len(settlements) > 1:
            settlements[:] = [one for one in settlements if one[0] in lost]
        return lost


@planted(promise.DEAD_IS_KEPT_WITH_REASON, by_chance=False)
class TakesTheRevivedOutOfItsMapping(MemoryTransport):
    """A revival removes what it found from the mapping that it gets."""

    def _revive(self, refs: Mapping[str, bytes]) -> Sequence[str]:
        missing = super()._revive(dict(refs))
        if isinstance(refs, dict):
            for ref in {*refs} - {*missing}:
                del refs[ref]
        return missing


@planted_pair(promise.ACK_IS_FINAL)
class SettlesOnlyLists(MemoryTransport):
    """A settlement ignores what is not in a list."""

    def _settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        return super()._settle(settlements if isinstance(settlements, list) else [])


# --- answers ---------------------------------------------------------------------------------------


@planted(promise.ANSWERS_ARE_WELL_FORMED, by_chance=False)
class ReturnsTheListThatItKeeps(MemoryTransport):
    """What was found changes with each further look-up, since all return one list."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.events: list[Found] = []

    def find(self, event_id: str) -> Sequence[Found]:
        self.events[:] = super().find(event_id)
        return self.events


@planted(promise.ANSWERS_ARE_WELL_FORMED, by_chance=False)
class ReturnsTheHeartbeatsThatItKeeps(MemoryTransport):
    """The heartbeats that were returned rise with those of the workers."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.seen: dict[str, Presence] = {}

    def presence(self, workers: Sequence[str]) -> Mapping[str, Presence]:
        self.seen.update(super().presence(workers))
        for worker in {*self.seen} - {*workers}:
            del self.seen[worker]
        return self.seen


@planted(promise.ANSWERS_ARE_WELL_FORMED, by_chance=False)
class TellsOneRisk(MemoryTransport):
    """The risks are one text instead of a sequence of texts."""

    def risks(self) -> Sequence[str]:
        return "all is lost when the process ends"


@planted_pair(promise.ANSWERS_ARE_WELL_FORMED)
class LeasesWhatItExamines(MemoryTransport):
    """To look for problems leases the first event of each queue."""

    def problems(self, queues: Sequence[str]) -> Sequence[str]:
        for queue in queues:
            self.receive([queue], limit=1, lease=60.0, wait=0.0)
        return ()


# --- calls that are made again ---------------------------------------------------------------------


@planted(promise.DISCARDED_IS_GONE, by_chance=False)
class DiscardsAgain(BreakableStore):
    """A dead letter that was discarded before is found by a second discard."""

    def __init__(self) -> None:
        super().__init__()
        self.discarded: set[str] = set()

    def discard(self, refs: Iterable[str]) -> list[str]:
        asked = [*refs]
        missing = [ref for ref in super().discard(asked) if ref not in self.discarded]
        self.discarded |= {*asked} - {*missing}
        return missing


# --- time limits -----------------------------------------------------------------------------------


class Hurried(MemoryTransport):
    """A transport whose receives keep to a limit of time."""

    ends = math.inf

    def hurry(self, seconds: float | None) -> None:
        self.ends = math.inf if seconds is None else time.monotonic() + seconds

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        if time.monotonic() > self.ends:
            raise TransportUnavailableError(self.name, "no answer in time")
        return super().receive(queues, limit=limit, lease=lease, wait=wait)


@planted_pair(promise.CALLS_COME_BACK)
class HurriesEveryThread(Hurried):
    """A limit of time holds for the calls of all threads, and not only for those of the thread that set it."""


@planted_pair(promise.CALLS_COME_BACK)
class StaysInAHurry(Hurried):
    """A limit of time is not lifted."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.limits = threading.local()

    @property
    def ends(self) -> float:  # type: ignore[override]
        return getattr(self.limits, "ends", math.inf)

    def hurry(self, seconds: float | None) -> None:
        if seconds is not None:
            self.limits.ends = time.monotonic() + seconds


# --- numbers ---------------------------------------------------------------------------------------


@planted(promise.ERRORS_ARE_TRANSLATED, by_chance=False)
class CannotCountSoFar(MemoryTransport):
    """A receive fails with a limit that four bytes do not hold."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        struct.pack("i", limit)
        return super().receive(queues, limit=limit, lease=lease, wait=wait)


@planted(promise.ERRORS_ARE_TRANSLATED, by_chance=False)
class CannotWaitSoLong(MemoryTransport):
    """A receive fails with a wait that no thread can wait for."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        if wait > threading.TIMEOUT_MAX:
            raise OverflowError("timeout value is too large")
        return super().receive(queues, limit=limit, lease=lease, wait=wait)


@planted(promise.DEAD_IS_KEPT_WITH_REASON, by_chance=False)
class ListsNothingForALargeLimit(MemoryTransport):
    """A list of dead letters is empty if its limit does not fit into eight bytes."""

    def dead_letters(
        self, queues: Sequence[str], *, after: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetterEntry]:
        return super().dead_letters(queues, after=after, limit=limit if limit < 2**63 else -1)


@planted(promise.LEASED_IS_HIDDEN, by_chance=False)
class RefusesLongLeases(MemoryTransport):
    """A receive fails if its lease is longer than the longest one."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        if lease > MAX_LEASE:
            raise ConfigurationError(f"a lease of {lease} s is too long")
        return super().receive(queues, limit=limit, lease=lease, wait=wait)
