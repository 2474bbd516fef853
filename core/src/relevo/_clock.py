"""Time by argument: clocks, moments and durations."""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta
from math import inf, isnan, nan
from typing import Protocol, runtime_checkable

from relevo.errors import ConfigurationError, shown

Duration = float | int | str | timedelta
"""Seconds as a number, a timedelta, or text such as ``"500ms"``, ``"2s"``, ``"5m"``, ``"1h"``, ``"7d"``."""

Moment = float | int | datetime | str | timedelta
"""Seconds since the epoch, a datetime with a zone, or the time from now as a timedelta or text such as ``"5m"``."""

_LONGEST = 100 * 366 * 86400.0
"""Seconds, 100 years; a longer duration is a mistake, and overflows the dates of some stores."""

FIRST_DATE, END_OF_DATES = -62135596800.0, 253402300800.0
"""Seconds since the epoch of the first date and after the last one; milliseconds are outside."""

_INEXACT = 0.5e-6
"""Seconds; those since the epoch are 0.24 microseconds apart as floats until the year 2038."""

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_TEXT = re.compile(r"(-?[0-9]+(?:\.[0-9]+)?) *(ms|s|m|h|d)")
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")


@runtime_checkable
class Clock(Protocol):
    """The source of time; tests pass one that they move by hand."""

    def now(self) -> float:
        """Return the seconds since the Unix epoch."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go backwards, for measuring how long something took."""
        ...

    def sleep(self, seconds: float) -> None:
        """Return after *seconds*."""
        ...


class SystemClock:
    """The machine's clock."""

    # Each function is looked up at its call, so that this clock follows what replaces it: freezegun, gevent, a test.
    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def __repr__(self) -> str:
        return "SystemClock()"


def moment(value: object, *, now: float, what: str) -> float:
    """
    Return *value* in seconds since the epoch.

    Args:
        value: Seconds since the epoch, a datetime with a zone, or the time from *now* as a timedelta or text with a
            unit.

        now: Seconds since the epoch.

        what: The name of *value* in the error.

    Raises:
        ConfigurationError: *value* has another type, no valid text, or no date.
    """
    if isinstance(value, (str, timedelta)):
        return now + seconds(value, what=what)
    found = nan
    if isinstance(value, datetime) and value.utcoffset() is not None:
        found = value.timestamp()
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        found = _as_float(value)
    if isnan(found):
        expected = 'a datetime with a zone, seconds since the epoch, or the time from now such as "5m"'
    elif not FIRST_DATE <= found < END_OF_DATES:
        expected = "a moment before the year 10000, in seconds since the epoch"
    else:
        return found
    raise ConfigurationError(f"{what}: expected {expected}; got {shown(value)}")


def seconds(value: object, *, what: str = "a duration", least: float = 0.0) -> float:
    """
    Return *value* in seconds.

    Args:
        value: A number of seconds, a timedelta, or text with a unit.

        what: The name of *value* in the error; empty if the error is shown after the name.

        least: The shortest duration allowed, in seconds.

    Raises:
        ConfigurationError: *value* is not a duration, is negative, too short, or longer than a century.
    """
    result, hint = nan, ""
    if isinstance(value, timedelta):
        result = value.total_seconds()
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        result = _as_float(value)
    elif isinstance(value, str) and (match := _TEXT.fullmatch(value)):
        result = float(match[1]) * _UNITS[match[2]]
    if least <= result <= _LONGEST:
        return result
    if isnan(result):
        expected = 'seconds as a number, or text such as "500ms", "2s", "5m", "1h", "7d"'
        if isinstance(value, str) and _NUMBER.fullmatch(value):
            hint = f'; add a unit, as in "{value}s", or leave the quotes out'
    else:
        expected = f"{least:g} s or more" if result < least else "100 years or less"
    raise ConfigurationError(f"{what and f'{what}: '}expected {expected}; got {shown(value)}{hint}")


def has_come(moment: float, now: float) -> bool:
    """
    Return whether it is *moment* already, both in seconds since the epoch.

    They count as equal within half a microsecond: a sum of floats such as ``now + delay`` may be that inexact.
    """
    return moment <= now + _INEXACT


def readable(seconds: float) -> str:
    """Return *seconds* as text in the largest unit that fits, such as ``2 s`` or ``8.5 min``."""
    number, unit = seconds, "s"
    for longer, size in (("d", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            number, unit = seconds / size, longer
            break
    return f"{number:.0f} {unit}" if number >= 10 else f"{number:.2g} {unit}"


def _as_float(number: float) -> float:
    """Return *number* as a float, infinite if an integer is too large for one."""
    try:
        return float(number)
    except OverflowError:
        return inf if number > 0 else -inf
