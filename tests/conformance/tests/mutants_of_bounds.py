"""Bugs that show in one place beyond a bound, or while another call or the clock moves in between."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from typing import Any

from relevo import Action, BoundSender, DeadLetterEntry, DeadLetterFilter, Delivery, Envelope, State
from relevo.backend.session import JoinedObjects
from relevo_conformance import promise
from relevo_memory import MemoryTransport, _session as memory, _store
from relevo_memory._queue import EventQueue
from relevo_memory._store import _is_wanted

from .memory import BreakableStore
from .planting import planted_pair

_BOUND = 100


@planted_pair(promise.QUERIED_AS_IT_IS)
class LooksAtAHundredDeadLettersOnly(BreakableStore):
    """A page of chosen dead letters looks at a hundred of them, and can be empty before the end."""

    def dead_letters(
        self, queues: Sequence[str], *, after: str | None, limit: int, where: DeadLetterFilter | None = None
    ) -> list[DeadLetterEntry]:
        if where is None:
            return super().dead_letters(queues, after=after, limit=limit)
        looked_at = super().dead_letters(queues, after=after, limit=max(limit, _BOUND))
        return list(itertools.islice((one for one in looked_at if _is_wanted(one, where)), min(limit, sys.maxsize)))


class _EndsAHundredLeases(EventQueue):
    def pass_time(self, now: float) -> None:
        leased = self._leased
        for _ in range(_BOUND):
            if (first := leased.first()) and first[0][0] <= now:
                self.step(self.events[first[1]], Action.LOSE)
        if (first := leased.first()) is None or first[0][0] > now:
            super().pass_time(now)


@planted_pair(promise.STALE_SETTLE_IS_REFUSED, patches={(_store, "EventQueue"): _EndsAHundredLeases})
class EndsAHundredLeasesAtATime(MemoryTransport):
    """A call notices the end of a hundred leases of a queue; a settlement of another one whose lease is over counts."""


@planted_pair(promise.EXTEND_KEEPS_THE_LEASE)
class ExtendsWhatItSawAMomentAgo(MemoryTransport):
    """An extension checks the lease and is written later, so it can shorten the lease of the next holder."""

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Delivery]:
        with self._open() as now:
            held = [one for one in deliveries if self.store._held(one, now) is not None]
        with self._open() as now:
            for one in held:
                queue = self.store._queue(one.queue)
                for event in queue.events.values():
                    if event.status is State.LEASED and event.envelope == one.envelope:
                        event.until = now + lease
                        queue.step(event, Action.EXTEND)
        return [one for one in deliveries if one not in held]


@planted_pair(promise.WAIT_IS_KEPT)
class WaitsByTheWallClock(MemoryTransport):
    """The end of a wait is a time of the day, so that a receive waits for longer if the clock is set back."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        until = self._clock.now() + wait
        while True:
            left = until - self._clock.now()
            step = min(left, max(0.0, self.store.next_change(queues) - self._clock.now()))
            found = super().receive(queues, limit=limit, lease=lease, wait=max(0.0, step))
            if found or left <= 0:
                return found


class _StillCommitting(memory._JoinedSession):
    def on_end(self) -> None:
        pass


class _StillJoined(memory.JoinedSessions):
    def __init__(self, post: memory.Post) -> None:
        super().__init__(post)
        self._sessions = JoinedObjects(lambda session: _StillCommitting(session, post))


@planted_pair(promise.JOINS_THE_TRANSACTION, patches={(memory, "JoinedSessions"): _StillJoined})
class MakesAtOnceAfterACommit(MemoryTransport):
    """After the first commit of a session its further events are made too early, before its objects have their keys."""


class _OneDelay:
    def __init__(self, sender: BoundSender) -> None:
        self._sender = sender
        self._delay = 0.0

    def send(self, make: Callable[[], Sequence[Envelope]], *, delay: float = 0.0) -> None:
        self._delay = max(delay, self._delay)
        self._sender.send(make, delay=self._delay)


@planted_pair(promise.DELAY_IS_RESPECTED)
class KeepsTheLongestDelayOfASender(MemoryTransport):
    """A bound sender that sent something with a delay sends everything after it with that delay."""

    def bound_to(self, session: Any, *, relay_to: str | None = None) -> BoundSender:
        return _OneDelay(super().bound_to(session, relay_to=relay_to))
