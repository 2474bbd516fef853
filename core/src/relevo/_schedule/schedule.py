"""A schedule: its event, its times, and what happens with ticks that were missed."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from itertools import islice, takewhile
from typing import Any, Literal, get_args

import attrs

from relevo._clock import Duration, seconds
from relevo._event.event import Event, name_of
from relevo._identity import made
from relevo._schedule.cron import Cron, checked_cron, checked_timezone
from relevo._transport.envelope import Urgency
from relevo.errors import ConfigurationError, shown

Missed = Literal["once", "all", "skip"]

MAX_NAME = 100
"""The longest name of a schedule."""

MAX_KEY = 255
"""The longest ordering key."""

GRACE = 60.0
"""Seconds; the default of the age up to which ``skip`` fires a tick."""

_MOST_TICKS = 100
"""Ticks of one schedule that are fired together as a rule; the next ones follow at once."""


@attrs.frozen
class Due:
    """What is to be done with a schedule now."""

    ticks: tuple[int, ...]
    """The ticks to be fired, in order, in seconds since the epoch."""

    until: int
    """The tick up to which the schedule has fired then; other ticks up to it are left out."""


def checked_event(given: object) -> object:
    """
    Return the event that a schedule dispatches; *given* may be its name.

    Raises:
        ConfigurationError: It is not an event, or has an id.
    """
    event = Event(given) if isinstance(given, str) else given
    name_of(event)  # raises for what is not an event
    if isinstance(event, Event) and event.id is not None:
        raise ConfigurationError("schedule: expected an event without an id, since the event of each tick has its own")
    return event


def checked_missed(given: Missed) -> Missed:
    """
    Return *given* if it says what happens with missed ticks.

    Raises:
        ConfigurationError: It does not.
    """
    if given not in get_args(Missed):
        raise ConfigurationError(f'missed: expected "once", "all" or "skip"; got {shown(given)}')
    return given


def checked_grace(given: Duration) -> float:
    """
    Return *given* in seconds.

    Raises:
        ConfigurationError: It is not a duration.
    """
    return seconds(given, what="grace")


def checked_expiry(given: Duration | None) -> float | None:
    """
    Return *given* in seconds.

    Raises:
        ConfigurationError: It is neither a duration of more than 0 s nor ``None``.
    """
    found = None if given is None else seconds(given, what="expires")
    if found == 0:
        raise ConfigurationError(f"expires: expected more than 0 s; got {shown(given)}")
    return found


def checked_urgency(given: Urgency) -> Urgency:
    """
    Return *given* if it is an urgency.

    Raises:
        ConfigurationError: It is not.
    """
    if given not in get_args(Urgency):
        raise ConfigurationError(f'urgency: expected "normal" or "high"; got {shown(given)}')
    return given


def checked_ordering_key(given: Any) -> str | None:
    """
    Return *given* if it can be an ordering key, or is ``None``.

    Raises:
        ConfigurationError: It cannot.
    """
    if given is None or (isinstance(given, str) and 0 < len(given) <= MAX_KEY and given.isprintable()):
        return given
    raise ConfigurationError(f"ordering_key: expected 1 to {MAX_KEY} printable characters; got {shown(given)}")


def checked_schedule_name(given: object) -> str:
    """
    Return *given* if it can be the name of a schedule.

    Raises:
        ConfigurationError: It cannot.
    """
    if not isinstance(given, str) or not 0 < len(given) <= MAX_NAME or not given.isprintable():
        raise ConfigurationError(
            f"schedule: expected a name of 1 to {MAX_NAME} printable characters; got {shown(given)}; pass name="
        )
    return given


@attrs.frozen(kw_only=True)
class Schedule:
    """
    A cron expression, and the event that is dispatched at each of its ticks.

    Args:
        name: Identifies it; the time up to which it has fired is stored under this name.

        cron: Minute, hour, day of the month, month and day of the week, or ``@hourly``, ``@daily`` and so on.

        event: An :class:`Event`, an instance of a declared class, or the name of an event.

        timezone: The name of the time zone in which the expression is read.

        missed: What happens with the ticks that passed while no worker ran: ``once`` fires the last of them, ``all``
            fires each, ``skip`` fires the last one if it is not older than *grace*, else none.

        grace: Seconds, a timedelta, or text such as ``"5m"``.

        urgency: As for :meth:`App.dispatch`.

        ordering_key: As for :meth:`App.dispatch`.

        expires: The time after which the event of a tick is dead-lettered instead of handled, from the moment at which
            it is fired: seconds, a timedelta, or text such as ``"5m"``.

    Raises:
        ConfigurationError: One of them is invalid.
    """

    name: str = attrs.field(converter=checked_schedule_name)
    cron: str = attrs.field(converter=checked_cron)
    event: object = attrs.field(converter=checked_event)
    timezone: str = attrs.field(default="UTC", converter=checked_timezone)
    missed: Missed = attrs.field(default="once", converter=checked_missed)
    grace: float = attrs.field(default=GRACE, converter=checked_grace)
    urgency: Urgency = attrs.field(default="normal", converter=checked_urgency)
    ordering_key: str | None = attrs.field(default=None, converter=checked_ordering_key)
    expires: float | None = attrs.field(default=None, converter=checked_expiry)
    _ticks: Cron = attrs.field(init=False, eq=False, repr=False)

    @_ticks.default
    def _parsed(self) -> Cron:
        return Cron(self.cron, self.timezone)

    @property
    def event_name(self) -> str:
        """The name of its event."""
        return name_of(self.event)

    def options(self, now: float) -> Mapping[str, Any]:
        """Return the options with which its event is dispatched at *now*, in seconds since the epoch."""
        found: dict[str, Any] = {"urgency": self.urgency, "ordering_key": self.ordering_key}
        return found if self.expires is None else {**found, "expires": now + self.expires}

    def next(self, moment: int) -> int | None:
        """Return the first tick after *moment*, both in seconds since the epoch; ``None`` if there is none."""
        return self._ticks.next(moment)

    def due(self, fired: int, now: int, *, most: int = _MOST_TICKS) -> Due | None:
        """
        Return what is to be done at *now* if the schedule has fired up to *fired*; ``None`` if no tick has passed.

        Both are seconds since the epoch. If ``all`` fires more than *most* ticks, it returns the first of them.
        """
        if self.missed == "all":
            ticks = tuple(islice(takewhile(lambda tick: tick <= now, self._ticks.after(fired)), most))
            return Due(ticks, ticks[-1]) if ticks else None
        last = self._ticks.latest(fired, now)
        if last is None:
            return None
        is_late = self.missed == "skip" and now - last > self.grace
        return Due(() if is_late else (last,), last)

    def event_id(self, source: str, tick: int) -> str:
        """
        Return the id of the event of *tick* in the application *source*.

        It is the same each time, so that an event that is sent again after a crash is a duplicate: a UUID of version 8
        (RFC 9562, section 5.8) with the time of the tick.
        """
        key = f"schedule {len(source)} {source} {len(self.name)} {self.name} {tick}"
        return made(tick * 1000, 8, sha256(key.encode("utf-8", "backslashreplace")).digest())
