"""Count the events that use the limit of a queue, as a value, and decide which others may begin."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor

import attrs
import msgspec

from relevo._transport.limit import Limit, Rate

_VERSION = 1

_BUCKETS = 200
"""Parts of a window; each event of a part counts as begun at the end of the part."""

_PART_OF_WINDOW = 50
_LONGEST = 1.0

_MOST_WORKERS = 400
"""Workers that have places of a queue at the same time."""

_CROWDED = 1.0
"""Seconds after which to ask again if as many have."""

SOON = 0.05
"""Seconds after which to ask again for a place that another worker has; no worker is notified when it becomes free."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What is stored for a queue; a later release may add fields."""

    v: int = _VERSION
    held: dict[str, tuple[int, float]] = msgspec.field(default_factory=dict)
    """How many events each worker may handle now, and until when, in seconds since the epoch."""

    begun: list[tuple[float, int]] = msgspec.field(default_factory=list)
    """How many events were allowed to begin, and at which time, the earliest first."""


@attrs.frozen(kw_only=True)
class Grant:
    """What a worker may begin."""

    number: int
    """How many events."""

    part: float = 0.0
    """The time at which they count as begun, in seconds since the epoch; see :class:`Usage`."""

    free: int = 0
    """How many more could have been allowed."""

    again: float = 0.0
    """Seconds after which to ask again, if none could."""


def validity(rate: Rate) -> float:
    """Return the seconds for which a worker may begin what it was allowed to."""
    return min(rate.window / _PART_OF_WINDOW, _LONGEST)


def requested(
    usage: Usage,
    limit: Limit,
    *,
    worker: str,
    now: float,
    wanted: int,
    keeps: int,
    lease: float,
    unused: Sequence[float] = (),
    valid_for: float = 0.0,
) -> tuple[Usage, Grant]:
    """
    Return *usage* after the request of a worker, and what it may begin.

    No window of a rate gets more than its events. What is allowed at one moment may begin up to :func:`validity` later,
    so events that are further apart than the window and that time together are never in the same window. All others
    count.

    Args:
        usage: What counts.

        limit: The limit that the worker knows.

        worker: Its name.

        now: The time of the store in seconds since the epoch.

        wanted: How many events it would begin.

        keeps: How many that it was allowed are not settled.

        lease: Seconds for which what it handles counts, unless it asks again.

        unused: The times of what it was allowed and did not begin.

        valid_for: Seconds for which it may begin what it is allowed, if that is more than :func:`validity`: then it
            counts as begun later.
    """
    held = {each: entry for each, entry in usage.held.items() if each != worker and entry[0] > 0 and entry[1] > now}
    begun, free, again = usage.begun, wanted, 0.0
    part = 0.0
    if limit.rate is not None:
        begun = _kept(usage.begun, limit.rate, now, unused)
        part = _end_of_part(now + max(0.0, valid_for - validity(limit.rate)), limit.rate)
        free = limit.rate.events - sum(number for _, number in begun)
        if free <= 0:
            again = _until_free(begun, limit.rate, now)
    if limit.concurrency is not None:
        places = limit.concurrency - keeps - sum(number for number, _ in held.values())
        if places <= 0:
            again = max(again, SOON)
        free = places if limit.rate is None else min(free, places)
    if len(held) >= _MOST_WORKERS and not keeps:  # so that what is stored has a bound
        free, again = 0, max(again, _CROWDED)
    number = max(0, min(wanted, free))
    if number and limit.rate is not None:
        begun = _added(begun, part, number)
    if limit.concurrency is not None and keeps + number:
        held[worker] = (keeps + number, now + lease)
    grant = Grant(number=number, part=part, free=max(0, free - number), again=again if free <= 0 else 0.0)
    return Usage(held=held, begun=begun), grant


def _end_of_part(now: float, rate: Rate) -> float:
    length = rate.window / _BUCKETS
    return (floor(now / length) + 1) * length


def _kept(
    begun: Sequence[tuple[float, int]], rate: Rate, now: float, unused: Sequence[float]
) -> list[tuple[float, int]]:
    """Return what still counts; not what is so far ahead that the clock must have been set back since."""
    reach = rate.window + validity(rate)
    kept = []
    for part, number in begun:
        left = number - unused.count(part)
        if now - reach < part <= now + 2 * reach and left > 0:
            kept.append((part, left))
    return kept


def _added(begun: Sequence[tuple[float, int]], part: float, number: int) -> list[tuple[float, int]]:
    found = dict(begun)
    found[part] = found.get(part, 0) + number
    return sorted(found.items())


def _until_free(begun: Sequence[tuple[float, int]], rate: Rate, now: float) -> float:
    """Return the seconds until one more event may begin."""
    surplus = sum(number for _, number in begun) - rate.events
    for part, number in begun:
        surplus -= number
        if surplus < 0:
            return max(0.0, part + rate.window + validity(rate) - now)
    return rate.window


def packed(usage: Usage) -> bytes:
    """Return *usage* as bytes; empty if nothing counts."""
    return _encode(usage) if usage.held or usage.begun else b""


def unpacked(stored: bytes) -> Usage:
    """
    Return the stored usage.

    Raises:
        msgspec.DecodeError: It cannot be read.
    """
    return _decode(stored) if stored else Usage()


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Usage).decode
