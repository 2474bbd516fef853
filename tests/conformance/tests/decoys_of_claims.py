"""Unusual but correct: transports that claim less than memory, or keep their claims in another way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import Any, ClassVar

import attrs

from relevo import (
    Action,
    DeadLetter,
    DeadLetterEntry,
    Delivery,
    Envelope,
    EventFilter,
    EventGroup,
    Found,
    Nack,
    Outcome,
    Release,
    Settlement,
    Stats,
    StuckKeys,
    Transport,
    WaitingEntry,
)
from relevo.errors import SendError, TransportUnavailableError
from relevo_memory import MemoryTransport
from relevo_memory._store import Posting

from .decoy import decoy
from .decoys import RoundsDelaysUp, up
from .memory import BreakableStore, MemoryHarness

# --- size ------------------------------------------------------------------------------------------


class Limited(MemoryTransport):
    """Refuses a batch with a body that is too large."""

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        largest = self.capabilities.max_body
        if not self._closed and largest is not None and any(len(one.body) > largest for one in envelopes):
            raise SendError(self.name, refused=range(len(envelopes)), why="a body is too large")
        super().send(envelopes, delay=delay)


@decoy
class TakesAThousandBytes(Limited):
    """The largest body is smaller than some that the suite sends to other transports."""

    capabilities = attrs.evolve(MemoryTransport.capabilities, max_body=1000)


@decoy
class TakesSixtyFourBytes(Limited):
    """The largest body is hardly larger than that of an ordinary event of the suite."""

    capabilities = attrs.evolve(MemoryTransport.capabilities, max_body=64)


# --- time ------------------------------------------------------------------------------------------


@decoy
class RoundsDelaysToTenSeconds(RoundsDelaysUp):
    """Delays are rounded up to ten seconds, and claimed with that resolution."""

    capabilities = attrs.evolve(MemoryTransport.capabilities, delay=10.0)
    step: ClassVar[float] = 10.0


@decoy
class ReleasesOnTheWholeSecond(MemoryTransport):
    """A delay ends at a whole second of the clock, and delays are claimed with that resolution."""

    capabilities = attrs.evolve(MemoryTransport.capabilities, delay=1.0)

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        super().send(envelopes, delay=self._until_the_whole_second(delay))

    def _settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        return super()._settle([(one, self._rounded(outcome)) for one, outcome in settlements])

    def _rounded(self, outcome: Outcome) -> Outcome:
        if isinstance(outcome, Nack | Release):
            return attrs.evolve(outcome, delay=self._until_the_whole_second(outcome.delay))
        return outcome

    def _until_the_whole_second(self, delay: float) -> float:
        now = self._clock.now()
        return up(now + delay) - now if delay > 0 else delay


class Remembering(BreakableStore):
    """Knows which events the last receive leased, even if its answer was lost."""

    claimed: Sequence[Delivery] = ()

    def _write(self, operation: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        @wraps(operation)
        def kept(*given: Any, **named: Any) -> Any:
            answer = operation(*given, **named)
            if operation.__name__ == "claim":
                self.claimed = answer
            return answer

        return super()._write(kept, *arguments, **options)


class Connected(MemoryTransport):
    """Holds its deliveries until its connection ends."""

    capabilities = attrs.evolve(MemoryTransport.capabilities, lease="connection", extend=False)
    store: Remembering

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.held: list[Delivery] = []

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        self.store.claimed = []
        try:
            came = super().receive(queues, limit=limit, lease=1e12, wait=wait)
        except TransportUnavailableError:
            self._lose(self.store.claimed)
            raise
        self.held += came
        return came

    def take(self, queue: str, event_id: str, *, lease: float) -> Sequence[Delivery]:
        came = super().take(queue, event_id, lease=1e12)
        self.held += came
        return came

    def waiting(
        self, queues: Sequence[str], *, where: EventFilter | None = None, after: str | None = None, limit: int = 100
    ) -> Sequence[WaitingEntry]:
        entries = super().waiting(queues, where=where, after=after, limit=limit)
        return [attrs.evolve(one, until=None) if one.status == "leased" else one for one in entries]

    def stuck_keys(self, queues: Sequence[str], *, longer: float = 60.0, limit: int = 10) -> StuckKeys:
        found = super().stuck_keys(queues, longer=longer, limit=limit)
        firsts = [one.first and attrs.evolve(one.first, until=None) for one in found.keys]
        keys = [attrs.evolve(one, first=first) for one, first in zip(found.keys, firsts, strict=True)]
        return attrs.evolve(found, keys=tuple(keys))

    def find(self, event_id: str) -> Sequence[Found]:
        found = super().find(event_id)
        return [attrs.evolve(one, until=None) if one.status == "leased" else one for one in found]

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Delivery]:
        raise self._unsupported("extend")

    def close(self) -> None:
        self.disconnect()
        super().close()

    def disconnect(self) -> None:
        """Give up all held deliveries, as a server does when a connection ends."""
        self._lose(self.held)
        self.held.clear()

    def _lose(self, deliveries: Sequence[Delivery]) -> None:
        with self.store.changed:
            for one in deliveries:
                event = self.store._held(one, self._clock.now())
                if event is not None:
                    self.store._queue(event.queue).step(event, Action.LOSE)
            self.store.changed.notify_all()


@decoy
class HoldsWhileItIsConnectedHarness(MemoryHarness):
    """Leases end with the connection, not by the clock."""

    transport: ClassVar[type[MemoryTransport]] = Connected
    store_type: ClassVar[type[BreakableStore]] = Remembering

    def kill(self, transport: Transport) -> None:
        assert isinstance(transport, Connected)
        transport.disconnect()


@decoy
class MovesBackWhatIsExtended(BreakableStore):
    """An extended event goes to the end of its queue, in case it is delivered again."""

    def extend(self, deliveries: Sequence[Delivery], *, lease: float, now: float) -> list[Delivery]:
        lost = super().extend(deliveries, lease=lease, now=now)
        for one in deliveries:
            if (event := self._held(one, now)) is not None:
                event.place = next(self._queue(event.queue)._places)
        return lost


# --- settling --------------------------------------------------------------------------------------


@decoy
class SettlesOneByOne(MemoryTransport):
    """A batch of settlements or extensions is carried out one by one."""

    def _settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        settle = super()._settle
        settle([])  # also an empty batch needs an open transport
        return [one for each in settlements for one in settle([each])]

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Delivery]:
        extend = super().extend
        extend([], lease=lease)
        return [one for each in deliveries for one in extend([each], lease=lease)]


# --- what is not claimed ---------------------------------------------------------------------------


@decoy
class KeepsNoDeadLetters(MemoryTransport):
    """Claims everything except dead letters."""

    capabilities = attrs.evolve(MemoryTransport.capabilities, dead_letters=False)

    def _settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        if not self._closed and any(isinstance(outcome, DeadLetter) for _, outcome in settlements):
            raise self._unsupported("dead_letters")
        return super()._settle(settlements)

    def dead_letters(
        self, queues: Sequence[str], *, after: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetterEntry]:
        raise self._unsupported("dead_letters")

    def matching_dead_letters(self, queues: Sequence[str], **options: Any) -> Sequence[DeadLetterEntry]:
        raise self._unsupported("dead_letters")

    def dead_letter_groups(self, queues: Sequence[str], **options: Any) -> Sequence[EventGroup]:
        raise self._unsupported("dead_letters")

    def _revive(self, refs: Mapping[str, bytes]) -> Sequence[str]:
        raise self._unsupported("dead_letters")

    def discard(self, refs: Iterable[str]) -> Sequence[str]:
        raise self._unsupported("dead_letters")


@decoy
class DelaysNothing(MemoryTransport):
    """Claims everything except delays."""

    capabilities = attrs.evolve(MemoryTransport.capabilities, delay=None)

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        if not self._closed and delay:
            raise self._unsupported("delay")
        super().send(envelopes)

    def _settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        if not self._closed and any(getattr(outcome, "delay", 0.0) for _, outcome in settlements):
            raise self._unsupported("delay")
        return super()._settle(settlements)


@decoy
class FindsAndTakesOutNothing(MemoryTransport):
    """Claims neither find, cancel, purge nor stats."""

    capabilities = attrs.evolve(MemoryTransport.capabilities, find=False, cancel=False, purge=False, stats="none")

    def find(self, event_id: str) -> Sequence[Found]:
        raise self._unsupported("find")

    def cancel(self, event_id: str) -> int:
        raise self._unsupported("cancel")

    def purge(self, queue: str) -> int:
        raise self._unsupported("purge")

    def stats(self, queue: str) -> Stats:
        raise self._unsupported("stats")


@decoy
class CountsWhatIsReadyAlone(MemoryTransport):
    """Statistics are exact, but contain only the number of ready events."""

    def stats(self, queue: str) -> Stats:
        return Stats(ready=super().stats(queue).ready)


@decoy
class SaysAtLeastAndCountsExactly(MemoryTransport):
    """Claims that lost leases are counted "at least", but counts exactly."""

    capabilities = attrs.evolve(MemoryTransport.capabilities, lost_leases="at least")


@decoy
class SaysNothingOfItsBatches(MemoryTransport):
    """Claims neither atomic batches nor wakeup, but has both."""

    capabilities = attrs.evolve(MemoryTransport.capabilities, atomic_batch=False, wakeup=False)


@decoy
class RefusesWhatWasNotSetUp(BreakableStore):
    """A send to a queue that was not set up is refused."""

    def add(self, postings: Sequence[Posting], now: float) -> None:
        missing = [place for place, one in enumerate(postings) if one.queue not in self._queues]
        if any(not postings[place].queue.startswith("outbox/") for place in missing):
            why = "a queue is missing; run `relevo setup`"
            raise SendError(self.teller, refused=range(len(postings)), why=why)
        super().add(postings, now)
