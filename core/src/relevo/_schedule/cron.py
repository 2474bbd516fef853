"""Cron expressions in a time zone, evaluated by cronsim; no other module imports it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo

from relevo.errors import ConfigurationError, shown

_FIELDS = 5

_WINDOWS = (60, 3600, 86_400, 32 * 86_400, 367 * 86_400)
"""Seconds in which the latest tick is looked for, so that a long outage costs no walk through all of its ticks."""


class Cron:
    """
    The ticks of a cron expression: whole minutes, in seconds since the epoch.

    Ticks are strictly increasing, also when the clocks of the zone change.

    Args:
        expression: Minute, hour, day of the month, month, day of the week.

        timezone: The name of a time zone.

    Raises:
        ConfigurationError: One of them is invalid, or the expression has no tick.
    """

    __slots__ = ("_expression", "_zone")

    def __init__(self, expression: str, timezone: str):
        self._expression = checked_cron(expression)
        self._zone = _zone(timezone)

    def after(self, moment: int) -> Iterator[int]:
        """Return an iterator over the ticks after *moment*, without an end as a rule."""
        from cronsim import CronSim  # noqa: PLC0415 - only a program with schedules needs it

        last = moment
        for tick in CronSim(self._expression, datetime.fromtimestamp(moment, self._zone)):
            # If the clock is set back, a time of day comes twice. After the second one, the library returns ticks
            # before it; if the clock is set forward, it returns the same tick for several times that are left out.
            if (seconds := int(tick.timestamp())) > last:
                last = seconds
                yield seconds

    def next(self, moment: int) -> int | None:
        """Return the first tick after *moment*; ``None`` if there is none within 50 years."""
        return next(self.after(moment), None)

    def latest(self, moment: int, until: int) -> int | None:
        """Return the last tick after *moment* and up to *until*; ``None`` if there is none."""
        for window in _WINDOWS:
            start = max(moment, until - window)
            found = None
            for tick in self.after(start):
                if tick > until:
                    break
                found = tick
            if found is not None or start == moment:
                return found
        return self._latest(moment, until)

    def _latest(self, moment: int, until: int) -> int | None:
        found = None
        for tick in self.after(moment):  # rarer than once a year
            if tick > until:
                break
            found = tick
        return found


def checked_cron(given: object) -> str:
    """
    Return *given* if it is a cron expression.

    Raises:
        ConfigurationError: It is not, or it has no tick.
    """
    from cronsim import CronSim, CronSimError  # noqa: PLC0415 - as above

    expected = "expected minute, hour, day of the month, month and day of the week, as in */5 * * * *"
    if not isinstance(given, str) or len(given.split()) != _FIELDS:
        raise ConfigurationError(f"cron: {expected}; got {shown(given)}")
    try:
        next(CronSim(given, datetime(2000, 1, 1, tzinfo=UTC)))
    except CronSimError as error:
        why = str(error).removeprefix("Bad ")
        raise ConfigurationError(f"cron: {expected}; got {shown(given)}, with an invalid {why}") from None
    except StopIteration:
        raise ConfigurationError(f"cron: expected a time that comes; got {shown(given)}") from None
    return given


def checked_timezone(given: str) -> str:
    """
    Return *given* if it is the name of a time zone.

    Raises:
        ConfigurationError: It is not, or this host does not know it.
    """
    _zone(given)
    return given


def _zone(name: object) -> tzinfo:
    if name == "UTC":
        return UTC
    from zoneinfo import ZoneInfo  # noqa: PLC0415 - as above

    try:
        if isinstance(name, str):
            return ZoneInfo(name)
    except (OSError, ValueError, LookupError):
        pass
    raise ConfigurationError(
        f"timezone: expected a name such as Europe/Madrid or UTC; got {shown(name)}; if this host has no time zones, "
        f"pip install tzdata"
    )
