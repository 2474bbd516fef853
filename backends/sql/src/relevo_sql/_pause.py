"""Wait for events: polls at growing intervals, which a send of this process cuts short."""

from __future__ import annotations

import threading
from collections.abc import Callable

from relevo import Clock, SystemClock
from relevo.backend import ForkAware

_FIRST = 0.01
"""Seconds before the second poll."""

_GROWTH = 1.5

_GLANCES = (0.001, 0.05)
"""Seconds between two glances at the database, when a wait begins and when it has lasted long."""

_SLOWER = 1.1

SELDOM = 1.0
"""Seconds between two polls of a wait that something cheaper ends too: glances, or notifications."""

_GLANCE = 0.001
"""Seconds after which a running clock has moved."""


class Doorbell(ForkAware):
    """Wakes threads that wait."""

    def __init__(self) -> None:
        self.rings = self.sends = 0
        """How often it has rung, and how often because something was sent."""
        self.is_heard = False
        """Whether a thread has ever listened: a process that only sends need not ring."""
        self.after_fork_in_child()
        super().__init__()

    def after_fork_in_child(self) -> None:
        # Re-entrant: a signal handler may ring in the thread that waits.
        self._changed = threading.Condition(threading.RLock())

    def listen(self) -> int:
        """Return how often it has rung; called before a poll, so that no ring after the poll is missed."""
        self.is_heard = True
        return self.rings

    def ring(self, *, sent: bool = True) -> None:
        """Wake all threads that wait, since something was *sent*, or may have become ready otherwise."""
        with self._changed:
            self.rings += 1
            self.sends += sent
            self._changed.notify_all()

    def wait(self, rings: int, seconds: float) -> bool:
        """Return after *seconds*, or as soon as it has rung more than *rings* times; return whether it has."""
        with self._changed:
            return self._changed.wait_for(lambda: self.rings != rings, seconds)


class Patience:
    """
    One wait, of *wait* seconds of *clock* at most.

    A clock that stands still, such as :class:`relevo.testing.FakeClock`, has to sleep until the next change: its time
    passes, and no real time.

    Args:
        clock: The clock.

        doorbell: What ends a pause.

        wait: Seconds.

        longest: Seconds between two polls, when it has waited for long.

        before: The last wait, if it found nothing: this one goes on with its pauses.
    """

    def __init__(
        self, clock: Clock, doorbell: Doorbell, *, wait: float, longest: float, before: Patience | None = None
    ):
        self._clock = clock
        self._doorbell = doorbell
        self.longest = longest
        """Seconds between two polls, when it has waited for long."""
        self._pause = min(_FIRST, longest)
        self._glance, self._rarest = _GLANCES[0], min(_GLANCES[1], longest)
        if before is not None:
            self._pause, self._glance = before._pause, before._glance  # noqa: SLF001 - of the same class
        self._deadline = clock.monotonic() + wait
        self._runs = True if isinstance(clock, SystemClock) else None

    @property
    def left(self) -> float:
        """Seconds until the wait ends."""
        return self._deadline - self._clock.monotonic()

    def pause(self, rings: int, change: float, changed: Callable[[], bool] | None = None) -> bool:
        """
        Wait until another poll may find something; return whether it is worthwhile.

        Args:
            rings: How often the doorbell had rung before the last poll.

            change: Seconds until the next delay or lease ends.

            changed: Returns whether another process has changed the database since the last poll, and is much cheaper
                than a poll; ``None`` if nothing is.
        """
        longest = max(0.0, min(self.left, change))
        before = self._clock.monotonic()
        if self._runs is None:
            if self._doorbell.wait(rings, _GLANCE):
                return True
            self._runs = self._clock.monotonic() > before
            return True
        if self._runs:
            if changed is not None:
                self._wait(rings, min(longest, max(self.longest, SELDOM)), changed)
            elif self._doorbell.wait(rings, min(longest, self._pause)):
                self._pause = min(_FIRST, self.longest)
            else:
                self._pause = min(self._pause * _GROWTH, self.longest)
            return True
        self._clock.sleep(longest)
        # If the clock neither runs nor sleeps, the code that moves it has to call again.
        return self._clock.monotonic() > before

    def _wait(self, rings: int, seconds: float, changed: Callable[[], bool]) -> None:
        """Return after *seconds*, or when it has rung or *changed* returns true."""
        end = self._clock.monotonic() + seconds
        while (left := end - self._clock.monotonic()) > 0:
            if self._doorbell.wait(rings, min(left, self._glance)) or changed():
                return
            self._glance = min(self._glance * _SLOWER, self._rarest)
