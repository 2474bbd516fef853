"""The limit of a queue: how many of its events run at once, and how many begin in a time."""

from __future__ import annotations

import re
from typing import Any

import attrs

from relevo._clock import seconds
from relevo.errors import ConfigurationError, shown

MOST_EVENTS = 1_000_000
"""The highest number of a limit."""

LONGEST_WINDOW = 31 * 86_400.0
"""Seconds."""

_TEXT = re.compile(r"([1-9][0-9]{0,6})\s*/\s*([1-9][0-9]*(?:\.[0-9]+)?)?\s*(ms|s|m|h|d)")


@attrs.frozen
class Rate:
    """
    At most *events* in any *window* seconds.

    Args:
        events: How many.

        window: Seconds.
    """

    events: int
    window: float

    def __str__(self) -> str:
        for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
            number, rest = divmod(self.window, length)
            if number and not rest:
                return f"{self.events}/{'' if number == 1 else f'{number:g}'}{unit}"
        return f"{self.events}/{self.window * 1000:g}ms"


def rate_from(given: Any, *, what: str = "rate") -> Rate:
    """
    Return the rate that is *given*, as text such as ``"10/s"`` or ``"1000/h"``.

    Args:
        given: The text.

        what: The name of *given* in the error.

    Raises:
        ConfigurationError: It is not a rate, the number is more than :data:`MOST_EVENTS`, or the time is more than
            :data:`LONGEST_WINDOW` or less than 0.1 s.
    """
    match = _TEXT.fullmatch(given.strip()) if isinstance(given, str) else None
    if match is None:
        raise ConfigurationError(
            f'{what}: expected events in a time, as "10/s", "1000/h" or "5/10m"; got {shown(given)}'
        )
    events, window = int(match[1]), seconds(f"{match[2] or 1}{match[3]}", what=what)
    if events > MOST_EVENTS:
        raise ConfigurationError(f"{what}: expected at most {MOST_EVENTS} events; got {shown(given)}")
    if not 0.1 <= window <= LONGEST_WINDOW:
        raise ConfigurationError(f"{what}: expected a time from 100ms to 31d; got {shown(given)}")
    return Rate(events, window)


@attrs.frozen(kw_only=True)
class Limit:
    """The limit of a queue, which holds over all workers together; at least one of the two is given."""

    concurrency: int | None = None
    """How many events are handled at once."""

    rate: Rate | None = None
    """How many are begun in a time."""

    def __str__(self) -> str:
        at_once = None if self.concurrency is None else f"{self.concurrency} at once"
        return ", ".join(str(each) for each in (at_once, self.rate) if each is not None)
