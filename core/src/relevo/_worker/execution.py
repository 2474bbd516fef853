"""Execution settings as one validated value."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal, get_args

import attrs
from attrs.converters import optional

from relevo._clock import seconds
from relevo._listener.listener import Listener
from relevo.errors import ConfigurationError, did_you_mean, shown

Kind = Literal["inline", "threads", "process"]

TIME_LIMIT = 900.0
"""Seconds for which a listener may run if nothing is said."""

_MOST = 1000
_SMALLEST = 16 << 20
_SIZE = re.compile(r"(\d+)\s*([KMG]?)(?:i?B)?", re.IGNORECASE)
_FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def _kind(value: Any) -> Kind:
    for each in get_args(Kind):
        if value == each:
            return each  # type: ignore[no-any-return]  # get_args() tells no type
    known = get_args(Kind)
    mend = did_you_mean(value, known) if isinstance(value, str) else ""
    raise ConfigurationError(f"execution is {', '.join(known[:-1])} or {known[-1]}, not {shown(value)}{mend}")


def _concurrency(value: Any) -> int:
    return _whole(value, "concurrency", most=_MOST)


def _recycle_after(value: Any) -> int:
    return _whole(value, "recycle_after", most=None)


def _whole(value: Any, what: str, *, most: int | None) -> int:
    if type(value) is not int or value < 1 or (most is not None and value > most):
        limits = "from 1 on" if most is None else f"from 1 to {most}"
        raise ConfigurationError(f"{what} is a whole number {limits}, not {shown(value)}")
    return value


def _time_limit(value: Any) -> float:
    return seconds(value, what="time_limit", least=0.001)


def size(value: object, *, what: str, least: int = 1) -> int:
    """
    Return *value* in bytes.

    Args:
        value: A number of bytes, or text with a unit.

        what: How the error names it.

        least: Bytes; what is smaller is refused.

    Raises:
        ConfigurationError: It is not a size, or it is too small.
    """
    found = value
    if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        found = int(match[1]) * _FACTORS[match[2].upper()]
    if type(found) is not int or found < least:
        smallest = f"{least >> 20}M" if least >> 20 else least
        raise ConfigurationError(
            f'{what}: expected a number of bytes or text such as "512M", at least {smallest}; got {shown(value)}'
        )
    return found


def _memory_limit(value: object) -> int:
    return size(value, what="memory_limit", least=_SMALLEST)


@attrs.frozen
class Execution:
    """
    Where listeners run, how many events are handled at once, and for how long at most.

    Args:
        kind: ``inline``, one after the other in the worker's own thread; ``threads``; or ``process``, in child
            processes that may hang or die without harm. By default it is ``inline``, or ``threads`` where
            *concurrency* is more than 1.

        concurrency: How many events are handled at once, each in a thread or a child process of its own.

        time_limit: For how long a listener may run that says nothing itself. In a child process it is killed then,
            and has failed; with threads the worker ends; ``inline`` nobody looks.

        memory_limit: Bytes, or text such as ``"512M"``, that a child process may occupy, without those that it started.
            One that holds more while it handles an event is killed; one that has used up half of what it had left is
            replaced between two events.

        recycle_after: Replace a child process after this number of events.

    Raises:
        ConfigurationError: One of them is invalid, or they conflict.
    """

    kind: Kind | None = attrs.field(default=None, converter=optional(_kind))
    concurrency: int = attrs.field(default=1, converter=_concurrency)
    time_limit: float = attrs.field(default=TIME_LIMIT, converter=_time_limit)
    memory_limit: int | None = attrs.field(default=None, converter=optional(_memory_limit))
    recycle_after: int | None = attrs.field(default=None, converter=optional(_recycle_after))

    def __attrs_post_init__(self) -> None:
        if self.kind == "inline" and self.concurrency > 1:
            raise ConfigurationError(
                f"concurrency is {self.concurrency}, and inline, events are handled one after the other; "
                f'say execution = "threads" or "process"'
            )

    @property
    def chosen(self) -> Kind:
        """Where listeners run."""
        return self.kind or ("threads" if self.concurrency > 1 else "inline")

    def longest(self, listeners: Iterable[Listener]) -> float:
        """Return the seconds for which a listener may run at most, whether one of *listeners* or one to come."""
        return max([self.time_limit, *(each.mark.time_limit or 0.0 for each in listeners)])

    def overridden(self, kind: Kind | None, concurrency: int | None) -> Execution:
        """Return what holds where *kind* and *concurrency* win if they are said; *inline* alone is one at a time."""
        if kind == "inline" and concurrency is None:
            concurrency = 1
        return attrs.evolve(self, kind=kind or self.kind, concurrency=concurrency or self.concurrency)
