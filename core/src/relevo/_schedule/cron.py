"""Cron expressions in a time zone, evaluated by cronsim; no other module imports it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from types import MappingProxyType

from relevo.errors import ConfigurationError, shown

_FIELDS = 5

_LONGEST = 255
"""Characters; Python refuses to read a number of thousands of digits."""

NICKNAMES: Mapping[str, str] = MappingProxyType(
    {
        "@hourly": "0 * * * *",
        "@daily": "0 0 * * *",
        "@midnight": "0 0 * * *",
        "@weekly": "0 0 * * 0",
        "@monthly": "0 0 1 * *",
        "@yearly": "0 0 1 1 *",
        "@annually": "0 0 1 1 *",
    }
)
"""The names that crontab has for some expressions; cronsim has none."""

_HOUR = 3600

_WINDOWS = (60, 3600, 86_400, 32 * 86_400, 367 * 86_400)
"""Seconds in which the latest tick is looked for, so that a long outage costs no walk through all of its ticks."""


class Cron:
    """
    The ticks of a cron expression: whole minutes, in seconds since the epoch.

    Ticks are strictly increasing, also when the clocks of the zone change.

    Args:
        expression: Minute, hour, day of the month, month, day of the week; or a nickname such as ``@daily``.

        timezone: The name of a time zone.

    Raises:
        ConfigurationError: One of them is invalid, or the expression has no tick.
    """

    __slots__ = ("_expression", "_is_interval", "_zone")

    def __init__(self, expression: str, timezone: str):
        checked = checked_cron(expression)
        self._expression = NICKNAMES.get(checked, checked)
        self._is_interval = any(field.startswith("*") for field in self._expression.split()[:2])
        self._zone = _zone(timezone)

    def after(self, moment: int) -> Iterator[int]:
        """Return an iterator over the ticks after *moment*, without an end as a rule."""
        last = moment
        for tick in self._walk(moment, self._zone):
            # If the clock is set back, a time of day comes twice. After the second one, the library returns ticks
            # before it; if the clock is set forward, it returns the same tick for several times that are left out.
            if tick <= last:
                continue
            if self._is_interval and (change := self._odd_change(last, tick)) is not None:
                for found in self._walk(change - 1, timezone(timedelta(seconds=self._offset(change)))):
                    if found >= tick:
                        break
                    yield found
            last = tick
            yield tick

    def _walk(self, moment: int, zone: tzinfo) -> Iterator[int]:
        """Return an iterator over the ticks after *moment* in *zone* as the library finds them."""
        from cronsim import CronSim  # noqa: PLC0415 - only a program with schedules needs it

        return (int(tick.timestamp()) for tick in CronSim(self._expression, datetime.fromtimestamp(moment, zone)))

    def _odd_change(self, start: int, end: int) -> int | None:
        """
        Return when the clock is changed between *start* and *end* by other than whole hours; ``None`` if it is not.

        The library goes on by whole hours, and so past ticks after the change. Lord Howe Island has such changes.
        """
        before = self._offset(start)
        if (before - self._offset(end)) % _HOUR == 0:
            return None
        while end - start > 1:
            middle = (start + end) // 2
            start, end = (middle, end) if self._offset(middle) == before else (start, middle)
        return end

    def _offset(self, moment: int) -> int:
        offset = datetime.fromtimestamp(moment, self._zone).utcoffset()
        return 0 if offset is None else int(offset.total_seconds())

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
    if isinstance(given, str) and given.startswith("@"):
        if given not in NICKNAMES:
            raise ConfigurationError(f"cron: expected {' or '.join(NICKNAMES)}; got {shown(given)}")
        return given
    if not isinstance(given, str) or len(given) > _LONGEST or len(given.split()) != _FIELDS:
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
