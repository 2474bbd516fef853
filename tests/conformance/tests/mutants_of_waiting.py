"""Bugs of receives that wait: on several queues, and for what other calls make ready."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import inf

from relevo import Ack, Delivery, Nack, Settlement
from relevo_conformance import promise
from relevo_memory import MemoryTransport

from .planting import AlteredStore, planted


class Silent(AlteredStore):
    """A store that can change without waking the receives that wait; it changes nothing."""

    @contextmanager
    def silence(self) -> Iterator[None]:
        """Wake no receive meanwhile."""
        with self.changed:
            vars(self.changed)["notify_all"] = lambda: None
            try:
                yield
            finally:
                del vars(self.changed)["notify_all"]


@planted(promise.WAIT_IS_KEPT, by_chance=False)
class LooksBeforeItWaits(MemoryTransport):
    """A receive begins to wait in a step after its look, so what is sent between the two does not end the wait."""

    def _watch(self, pause: float, glance: float) -> float:
        self.store.changed.release()
        try:
            with self._open():  # where another call may come first
                pass
        finally:
            self.store.changed.acquire()
        return super()._watch(pause, glance)


@planted(promise.WAIT_IS_KEPT, by_chance=False)
class WaitsForTheFirstQueueOnly(AlteredStore):
    """A receive that waits on several queues looks only at the first one for when something gets due."""

    def next_change(self, queues: Sequence[str]) -> float:
        return super().next_change(queues[:1])


@planted(promise.WAIT_IS_KEPT, by_chance=False)
class WaitsForNoLeaseBesideADelay(AlteredStore):
    """A receive that waits looks for the end of a lease only in queues in which no event is delayed."""

    def next_change(self, queues: Sequence[str]) -> float:
        with self.changed:
            known = [self._queues[name] for name in queues if name in self._queues]
            firsts = [queue._scheduled.first() or queue._leased.first() for queue in known]
            return min((first[0][0] for first in firsts if first), default=inf)


@planted(promise.WAIT_IS_KEPT, by_chance=False)
class WaitsForTheLastQueueOnly(AlteredStore):
    """A receive that waits on several queues looks only at the last one for when something gets due."""

    def next_change(self, queues: Sequence[str]) -> float:
        return super().next_change(queues[-1:])


@planted(promise.WAIT_IS_KEPT, by_chance=False)
class WaitsForTheFirstQueueThatIsNotEmpty(AlteredStore):
    """A receive that waits on several queues looks only at the first one in which anything is."""

    def next_change(self, queues: Sequence[str]) -> float:
        changes = (super(WaitsForTheFirstQueueThatIsNotEmpty, self).next_change([queue]) for queue in queues)
        return next((one for one in changes if one != inf), inf)


@planted(promise.WAIT_IS_KEPT, by_chance=False)
class WaitsForTheLatestOfSeveralQueues(AlteredStore):
    """A receive that waits on several queues sleeps until something got due in each queue that is not empty."""

    def next_change(self, queues: Sequence[str]) -> float:
        changes = (super(WaitsForTheLatestOfSeveralQueues, self).next_change([queue]) for queue in queues)
        return max((one for one in changes if one != inf), default=inf)


@planted(promise.WAIT_IS_KEPT, by_chance=False)
class WakesNobodyAtANack(Silent):
    """A nack without a delay wakes no receive that waits."""

    def settle(self, settlements: Sequence[Settlement], now: float) -> list[Delivery]:
        if all(isinstance(outcome, Nack) for _, outcome in settlements):
            with self.silence():
                return super().settle(settlements, now)
        return super().settle(settlements, now)


@planted(promise.WAIT_IS_KEPT, by_chance=False)
class WakesNobodyAtAnAck(Silent):
    """An ack wakes no receive that waits, although the next event of its key is ready now."""

    def settle(self, settlements: Sequence[Settlement], now: float) -> list[Delivery]:
        if all(isinstance(outcome, Ack) for _, outcome in settlements):
            with self.silence():
                return super().settle(settlements, now)
        return super().settle(settlements, now)


@planted(promise.WAIT_IS_KEPT, by_chance=False)
class WakesNobodyAtARevival(Silent):
    """A revival wakes no receive that waits."""

    def revive(self, refs: Mapping[str, bytes], now: float) -> list[str]:
        with self.silence():
            return super().revive(refs, now)


@planted(promise.WAIT_IS_KEPT, by_chance=False)
class WakesNobodyAtACancel(Silent):
    """A cancel wakes no receive that waits, although the next event of its key is ready now."""

    def cancel(self, event_id: str, now: float) -> int:
        with self.silence():
            return super().cancel(event_id, now)


@planted(promise.WAIT_IS_KEPT, by_chance=False)
class WaitsFromTheClockOfTheFirstLook(MemoryTransport):
    """A receive on more than two queues looks once, and again only when its wait is over."""

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        if len(queues) <= 2:
            return super().receive(queues, limit=limit, lease=lease, wait=wait)
        if came := super().receive(queues, limit=limit, lease=lease, wait=0.0):
            return came
        self._clock.sleep(wait)
        return super().receive(queues, limit=limit, lease=lease, wait=0.0)


@planted(promise.CLOSE_IS_IDEMPOTENT, by_chance=False)
class WakesOneReceiveAtAClose(MemoryTransport):
    """A close wakes one receive on the store, which may be another transport's."""

    def close(self) -> None:
        with self.store.changed:
            self._closed = True
            self.store.changed.notify()
