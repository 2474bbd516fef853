"""Deliveries that nothing works on although they were submitted, as when the thread of a listener is gone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from relevo._clock import Clock
from relevo._transport.delivery import Delivery
from relevo.errors import RelevoError

_STALLED_AFTER = 30.0
"""Seconds after which a stalled delivery, one that nothing works on, ends the worker."""

_LOOK_EVERY, _LONGEST_LOOK = 1.0, 2.0
"""
Seconds between two checks for stalled deliveries, and the most that one check adds.

Time in which the process was suspended or the server was down does not count.
"""


class StalledError(RelevoError):
    """Raised by a worker that holds a delivery that nothing works on; the process should end and be restarted."""

    def __init__(self, delivery: Delivery, seconds: float):
        self.delivery = delivery
        self.seconds = seconds
        super().__init__(
            f"{delivery}: no listener has been running for {seconds:.0f} s after it was submitted; "
            f"the worker ends, and the event is delivered again"
        )


class StallWatch:
    """Counts for how long each delivery has been stalled, and gives up those for which that is too long."""

    def __init__(self, clock: Clock, stalled: Callable[[], Iterable[Delivery]]):
        self._clock, self._stalled = clock, stalled
        self._looked = clock.monotonic()
        self._still: dict[Delivery, float] = {}
        """The seconds for which each stalled delivery has been stalled."""
        self._given_up: set[Delivery] = set()
        self.fault: StalledError | None = None
        """The first one that was given up; the worker ends for it."""

    def start(self) -> None:
        """Begin a run, in which nothing was given up."""
        self.fault = None
        self._given_up.clear()

    def given_up(self) -> int:
        """Return how many deliveries are given up, and still submitted."""
        return len(self._given_up)

    def forget(self, delivery: Delivery) -> bool:
        """Return whether *delivery*, which is finished, was given up; its outcome counts no more."""
        if delivery not in self._given_up:
            return False
        self._given_up.remove(delivery)
        return True

    def look(self) -> Iterator[tuple[Delivery, StalledError]]:
        """Check which deliveries are stalled, if it is time for that, and yield those that are given up now."""
        now = self._clock.monotonic()
        passed = now - self._looked
        if passed < _LOOK_EVERY:
            return
        self._looked = now
        still = [delivery for delivery in self._stalled() if delivery not in self._given_up]
        counted = min(passed, _LONGEST_LOOK)
        self._still = {each: self._still[each] + counted if each in self._still else 0.0 for each in still}
        for delivery, seconds in self._still.items():
            if seconds >= _STALLED_AFTER:
                fault = StalledError(delivery, seconds)
                self.fault = self.fault or fault
                self._given_up.add(delivery)
                yield delivery, fault
