"""Shorten a recorded history: drop calls, and parts of them, while a replay still breaks the same promise."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import attrs

from relevo_conformance.checker import Judge
from relevo_conformance.history import (
    Discard,
    Extend,
    Invoked,
    ListDead,
    Make,
    Receive,
    Record,
    Remark,
    Send,
    SendBound,
    Settle,
)

Again = Callable[[Sequence[Record]], Sequence[Record] | None]
"""Runs a history again; returns the new one if it still breaks the promise, else ``None``."""

_PARTS = {
    Send: "envelopes",
    SendBound: "envelopes",
    Receive: "queues",
    Settle: "items",
    Discard: "refs",
    ListDead: "queues",
    Extend: "deliveries",
}
"""By call: the field whose members can be dropped one by one."""


def shorten(records: Sequence[Record], again: Again, *, is_over: Callable[[], bool]) -> Sequence[Record]:
    """
    Return a history with fewer or smaller calls that breaks the same promise, or *records* if none is found.

    Each result is a history that was recorded, not a part of one: without a call, the others may end differently.

    Args:
        records: A history that breaks the promise.

        again: Runs a history again.

        is_over: Returns whether no time is left.
    """
    before: Sequence[Record] | None = None
    while records is not before and not is_over():
        # Dropping a part can make another call unnecessary.
        before = records
        records = _with_smaller_calls(_with_fewer_calls(records, again, is_over), again, is_over)
    return records


def calls_of(records: Iterable[Record]) -> list[int]:
    """Return the numbers of the calls of *records*, in order, without those that a replay makes by itself."""
    calls = (record for record in records if isinstance(record, Invoked))
    return [record.op for record in calls if not isinstance(record.call, Make)]


def until_broken(records: Iterable[Record], judge: Judge, promise: str) -> Sequence[Record] | None:
    """Return *records* up to the one that breaks *promise*, without remarks; ``None`` if another breaks first."""
    seen: list[Record] = []
    remarks: set[int] = set()
    for record in records:
        if isinstance(record, Invoked) and isinstance(record.call, Remark):
            remarks.add(record.op)
        if record.op not in remarks:
            seen.append(record)
            judge.feed(record)
        if judge.violations:
            return seen if judge.violations[0].promise == promise else None
    return None


def _with_fewer_calls(records: Sequence[Record], again: Again, is_over: Callable[[], bool]) -> Sequence[Record]:
    size = len(calls_of(records)) // 2
    while size and not is_over():
        shorter = _without_chunks(records, size, again, is_over)
        # Dropping a call can make an earlier one unnecessary.
        size = size if size == 1 and shorter is not records else size // 2
        records = shorter
    return records


def _with_smaller_calls(records: Sequence[Record], again: Again, is_over: Callable[[], bool]) -> Sequence[Record]:
    """Return *records* without each envelope, queue or delivery that the violation does not need."""

    def is_smaller(found: Sequence[Record] | None) -> bool:
        return found is not None and _size(found) < _size(records)

    smaller: Sequence[Record] | None = records
    while smaller is not None:
        records = smaller
        candidates = itertools.takewhile(lambda _: not is_over(), _without_a_part(records))
        smaller = next(filter(is_smaller, map(again, candidates)), None)
    return records


def _without_a_part(records: Sequence[Record]) -> Iterator[Sequence[Record]]:
    for place, record in enumerate(records):
        if not isinstance(record, Invoked) or (field := _PARTS.get(type(record.call))) is None:
            continue
        parts = getattr(record.call, field)
        for index in range(len(parts) if len(parts) > 1 else 0):
            call = attrs.evolve(record.call, **{field: parts[:index] + parts[index + 1 :]})
            yield [*records[:place], attrs.evolve(record, call=call), *records[place + 1 :]]


def _size(records: Iterable[Record]) -> int:
    """Return the number of calls and of their parts."""
    calls = [record.call for record in records if isinstance(record, Invoked)]
    return len(calls) + sum(len(getattr(call, _PARTS[type(call)])) for call in calls if type(call) in _PARTS)


def _without_chunks(
    records: Sequence[Record], size: int, again: Again, is_over: Callable[[], bool]
) -> Sequence[Record]:
    """Return *records* without each chunk of *size* calls that the violation does not need, the last ones first."""
    end = len(calls_of(records))
    while end > 0 and not is_over():
        calls, start = calls_of(records), max(0, end - size)
        found = again(_without(records, calls[start:end]))
        if found is not None and len(calls_of(found)) < len(calls):
            records = found
        end = min(start, len(calls_of(records)))
    return records


def _without(records: Sequence[Record], dropped: Collection[int]) -> Sequence[Record]:
    return [record for record in records if record.op not in dropped]
