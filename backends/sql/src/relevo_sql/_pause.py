"""Wait for events: short polls that become rarer, cut short by what this process sends."""

from __future__ import annotations

import threading

from relevo import Clock, SystemClock
from relevo.backend import ForkAware

_FIRST = 0.01
"""Seconds before the second look."""

_GROWTH = 1.5

_GLANCE = 0.001
"""Seconds in which a clock that runs has moved."""


class Doorbell(ForkAware):
    """Wakes who waits."""

    def __init__(self) -> None:
        self._rings = 0
        self.after_fork_in_child()
        super().__init__()

    def after_fork_in_child(self) -> None:
        # Re-entrant: a signal handler may ring in the very thread that waits.
        self._changed = threading.Condition(threading.RLock())

    @property
    def rings(self) -> int:
        """How often it rang."""
        return self._rings

    def ring(self) -> None:
        """Wake whoever waits."""
        with self._changed:
            self._rings += 1
            self._changed.notify_all()

    def wait(self, rings: int, seconds: float) -> bool:
        """Return after *seconds*, or as soon as it has rung more than *rings* times; tell whether it has."""
        with self._changed:
            return self._changed.wait_for(lambda: self._rings != rings, seconds)


class Patience:
    """
    One wait, of *wait* seconds of *clock* at most.

    A clock that stands still, such as :class:`relevo.testing.FakeClock`, is asked to sleep until the next
    thing happens: its time passes, nobody's else does.
    """

    def __init__(self, clock: Clock, doorbell: Doorbell, *, wait: float, longest: float):
        self._clock = clock
        self._doorbell = doorbell
        self._longest = longest
        self._pause = min(_FIRST, longest)
        self._deadline = clock.monotonic() + wait
        self._runs = True if isinstance(clock, SystemClock) else None

    @property
    def left(self) -> float:
        """Seconds until the wait is over."""
        return self._deadline - self._clock.monotonic()

    def pause(self, rings: int, change: float) -> bool:
        """
        Wait until another look may find something; return whether one is worth it.

        Args:
            rings: How often the doorbell had rung before the last look.

            change: Seconds until time alone will make something ready.
        """
        longest = max(0.0, min(self.left, change))
        before = self._clock.monotonic()
        if self._runs is None:
            if self._doorbell.wait(rings, _GLANCE):
                return True
            self._runs = self._clock.monotonic() > before
            return True
        if self._runs:
            if self._doorbell.wait(rings, min(longest, self._pause)):
                self._pause = min(_FIRST, self._longest)
            else:
                self._pause = min(self._pause * _GROWTH, self._longest)
            return True
        self._clock.sleep(longest)
        # One that neither runs nor sleeps: whoever moves it has to call again.
        return self._clock.monotonic() > before
