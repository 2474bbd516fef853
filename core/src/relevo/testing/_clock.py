"""A clock that is moved by hand."""

from __future__ import annotations

import threading


class FakeClock:
    """
    A clock that stands still until it is moved; ``sleep`` moves it and returns at once.

    Args:
        now: The start in seconds since the epoch; by default early in 2026.
    """

    def __init__(self, now: float = 1_767_225_600.0):
        self._now = now
        self._lock = threading.Lock()

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Move the clock *seconds* forward."""
        if seconds < 0:
            raise ValueError("a clock cannot go backwards")
        with self._lock:
            self._now += seconds

    def __repr__(self) -> str:
        return f"FakeClock({self._now!r})"


class StandingClock(FakeClock):
    """A clock that ``sleep`` does not move, so that a run of a worker does not change the time."""

    def sleep(self, seconds: float) -> None:
        pass
