"""A clock that is moved by hand."""

from __future__ import annotations

import threading

from relevo.errors import ConfigurationError, shown

_MICROSECOND = 1e-6
"""Seconds."""


class FakeClock:
    """
    A clock that stands still until it is moved; ``sleep`` moves it and returns at once.

    It counts whole microseconds: short steps reach the same time as a long one.

    Args:
        now: The start in seconds since the epoch; by default early in 2026. It is rounded to a
            microsecond.
    """

    def __init__(self, now: float = 1_767_225_600.0):
        self._now = _rounded(now)
        self._lock = threading.Lock()

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Move the clock *seconds* forward, rounded to microseconds; the shortest step is one."""
        given: object = seconds
        if isinstance(given, bool) or not isinstance(given, (int, float)):
            raise ConfigurationError(
                f"advance: expected seconds as a number; got {shown(given)}; a test of an application takes text and "
                f'timedeltas: t.travel("1h")'
            )
        if seconds < 0:
            raise ValueError("a clock cannot go backwards")
        with self._lock:
            self._now = _rounded(self._now + (max(seconds, _MICROSECOND) if seconds else 0.0))

    def __repr__(self) -> str:
        return f"FakeClock({self._now!r})"


class StandingClock(FakeClock):
    """A clock that ``sleep`` does not move, so that a run of a worker does not change the time."""

    def sleep(self, seconds: float) -> None:
        pass


def _rounded(seconds: float) -> float:
    """Return the float that is nearest to *seconds* in whole microseconds."""
    return round(seconds, 6)
