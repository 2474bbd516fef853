"""Execution settings as one validated value."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, get_args

import attrs
from attrs.converters import optional

from relevo._clock import seconds
from relevo._listener.listener import Listener
from relevo._size import memory_limit_from
from relevo.errors import ConfigurationError, did_you_mean, shown

Kind = Literal["inline", "threads", "process", "async"]

TIME_LIMIT = 900.0
"""Seconds for which a listener may run by default."""

_MOST, _MOST_ASYNC = 1000, 10_000


def _kind(value: Any) -> Kind:
    for each in get_args(Kind):
        if value == each:
            return each  # type: ignore[no-any-return]  # get_args() returns Any
    known = get_args(Kind)
    meant = did_you_mean(value, known) if isinstance(value, str) else ""
    raise ConfigurationError(f"execution: expected {', '.join(known[:-1])} or {known[-1]}; got {shown(value)}{meant}")


def _concurrency(value: Any) -> int:
    return _whole(value, "concurrency", most=_MOST_ASYNC)


def _recycle_after(value: Any) -> int:
    return _whole(value, "recycle_after", most=None)


def _whole(value: Any, what: str, *, most: int | None) -> int:
    if type(value) is not int or value < 1 or (most is not None and value > most):
        limits = "of at least 1" if most is None else f"from 1 to {most}"
        raise ConfigurationError(f"{what}: expected a whole number {limits}; got {shown(value)}")
    return value


def _time_limit(value: Any) -> float:
    return seconds(value, what="time_limit", least=0.001)


@attrs.frozen
class Execution:
    """
    Where listeners run, how many events are handled at once, and for how long at most.

    Args:
        kind: ``inline``, one after the other in the worker's own thread; ``threads``; ``process``, in child
            processes that may hang or die without harm; or ``async``, on an event loop. By default it is ``inline``,
            or where *concurrency* is more than 1 ``async`` if all listeners are async, else ``threads``.

        concurrency: How many events are handled at once, each in a thread or a child process of its own, or on one
            loop. A thread or a child process for each is possible up to 1000, and ``async`` up to 10,000.

        time_limit: How long a listener without a time limit of its own may run. A child process is killed then, and
            the listener has failed; with ``async``, an async listener is cancelled, and has failed; with threads the
            worker ends; ``inline`` logs a warning.

        memory_limit: Bytes, or text such as ``"512M"``, that a child process may occupy, without processes that it
            started. A child process that holds more while it handles an event is killed; one that has used up half of
            the rest is replaced between two events.

        recycle_after: Replace a child process after this number of events.

    Raises:
        ConfigurationError: One of them is invalid, or they conflict.
    """

    kind: Kind | None = attrs.field(default=None, converter=optional(_kind))
    concurrency: int = attrs.field(default=1, converter=_concurrency)
    time_limit: float = attrs.field(default=TIME_LIMIT, converter=_time_limit)
    memory_limit: int | None = attrs.field(default=None, converter=optional(memory_limit_from))
    recycle_after: int | None = attrs.field(default=None, converter=optional(_recycle_after))

    def __attrs_post_init__(self) -> None:
        if self.kind == "inline" and self.concurrency > 1:
            raise ConfigurationError(
                f'concurrency: expected 1, since execution = "inline" handles one event at a time; got '
                f'{self.concurrency}; set execution = "threads", "process" or "async"'
            )
        if self.concurrency > _MOST and self.kind not in (None, "async"):
            raise _too_many(self.concurrency)

    def resolved(self, listeners: Iterable[Listener]) -> Execution:
        """
        Return this execution with the kind that it has for *listeners*, if no kind was given.

        Raises:
            ConfigurationError: It is ``threads`` for them, and *concurrency* is more than there may be.
        """
        if self.kind is not None or self.concurrency == 1:
            return self
        found = {each.is_async for each in listeners}
        if found != {True} and self.concurrency > _MOST:
            raise _too_many(self.concurrency)
        return attrs.evolve(self, kind="async" if found == {True} else "threads")

    @property
    def chosen(self) -> Kind:
        """Where listeners run; for those of an application, see :meth:`resolved`."""
        return self.kind or ("threads" if self.concurrency > 1 else "inline")

    @property
    def in_words(self) -> str:
        """Where listeners run and how many at once, as in ``4 threads``; empty if inline."""
        number = self.concurrency
        match self.chosen:
            case "inline":
                return ""
            case "threads":
                return "1 thread" if number == 1 else f"{number} threads"
            case "process":
                return "1 child process" if number == 1 else f"{number} child processes"
            case "async":
                return f"{number} at once on an event loop"

    def longest(self, listeners: Iterable[Listener]) -> float:
        """Return the longest time limit in seconds, of *listeners* and of a listener that is added later."""
        return max([self.time_limit, *(each.mark.time_limit or 0.0 for each in listeners)])

    def overridden(self, kind: Kind | None, concurrency: int | None) -> Execution:
        """Return this execution with *kind* and *concurrency* if they are given; *inline* alone is one at a time."""
        if kind == "inline" and concurrency is None:
            concurrency = 1
        return attrs.evolve(self, kind=kind or self.kind, concurrency=concurrency or self.concurrency)


def _too_many(concurrency: int) -> ConfigurationError:
    return ConfigurationError(
        f"concurrency: expected a whole number from 1 to {_MOST}, since each event has a thread or a process of its "
        f'own; got {concurrency}; listeners that are all async take up to {_MOST_ASYNC} with execution = "async"'
    )
