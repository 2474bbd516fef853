"""
The front of a queue: where its ready rows begin.

A server database keeps a deleted row in its indexes until no snapshot needs it and it is vacuumed or purged. A claim
passes all of these rows, since they were at the front: after 500,000 events beside a session that holds a snapshot,
that takes a second. So while it takes long, most claims begin where an earlier claim ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from relevo_sql._row import Row, place_of
from relevo_sql._schema import HIGH, NORMAL

URGENCIES = (HIGH, NORMAL)
"""In the order in which they are claimed."""

_FAR = 10_000
"""The number of claimed events from which a front may be far from the beginning of the index."""

_SLOW = 0.02
"""Seconds from which a look and the claim after it take long."""

_TIMES_AS_LONG, _LONGEST = 10.0, 10.0
"""How many times as long as it took the next look may be late, and for how many seconds at most."""

_WORTH, _CHANCES = 1.5, 3
"""How many times as fast one of that number of claims has to be; otherwise the server is far away, or busy."""

_RETRIED = 5.0
"""Seconds until it is tried again if it was not."""

_SLACK = 100_000
"""Microseconds by which another process may be behind with the time of what it sends."""

_FIRST = -(2**63)


class Front:
    """Where the ready rows of a queue begin, as far as this process has claimed them."""

    def __init__(self) -> None:
        self._claimed = 0
        self._last: dict[int, int] = {}

    def note(self, rows: Sequence[Row], now: int) -> None:
        """Note that *rows*, which are in order, were claimed at *now*, in microseconds since the epoch."""
        self._claimed += len(rows)
        is_one = bool(rows) and place_of(rows[0])[0] == place_of(rows[-1])[0]
        for row in rows[-1:] if is_one else rows:
            urgency, ready_at, _ = place_of(row)
            self._last[urgency] = max(self._last.get(urgency, _FIRST), min(ready_at, now))

    def since(self, urgency: int) -> int:
        """Return the ``ready_at`` from which to claim rows of *urgency*."""
        last = self._last.get(urgency, _FIRST)
        return last if last == _FIRST else last - _SLACK

    @property
    def is_far(self) -> bool:
        """Whether many rows may be left before it."""
        return self._claimed >= _FAR


class Fronts:
    """
    The fronts of all queues, and whether to claim from there now.

    What is ready before the front, such as an event that was released, and what is due, is found by the next look: ten
    times as long after the last one as that took, and ten seconds at most. High urgency still comes first.

    Args:
        monotonic: Returns seconds.
    """

    def __init__(self, monotonic: Callable[[], float]):
        self._monotonic = monotonic
        self._fronts: dict[str, Front] = {}
        self._queues: tuple[str, ...] = ()
        self._took, self._in_vain = 0.0, 0
        self._until = self._not_before = float("-inf")

    def of(self, queue: str) -> Front:
        """Return the front of *queue*."""
        return self._fronts.setdefault(queue, Front())

    def note_look(self, queues: Sequence[str], took: float) -> None:
        """Note that a look at *queues*, with a claim, *took* that number of seconds."""
        now = self._monotonic()
        is_far = any(self._fronts[queue].is_far for queue in queues if queue in self._fronts)
        if took >= _SLOW and is_far and now >= self._not_before:
            self._queues, self._took = tuple(queues), took
            self._until = now + min(_LONGEST, _TIMES_AS_LONG * took)
        else:
            self._until = float("-inf")

    def left(self, queues: Sequence[str]) -> float:
        """Return for how many seconds to claim *queues* from their fronts."""
        return self._until - self._monotonic() if self._queues == tuple(queues) else 0.0

    def note_claim(self, took: float) -> None:
        """Note that a claim from the fronts *took* that number of seconds."""
        self._in_vain = self._in_vain + 1 if took * _WORTH > self._took else 0
        if self._in_vain >= _CHANCES:
            self._in_vain, self._until, self._not_before = 0, float("-inf"), self._monotonic() + _RETRIED
