"""Dead letters, kept until they are revived or discarded."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import attrs

from relevo import DeadLetter, DeadLetterEntry
from relevo.errors import ConfigurationError, shown
from relevo_memory._queue import Content, KeptEvent


@attrs.frozen(kw_only=True, eq=False)
class _StoredDeadLetter:
    event: KeptEvent
    entry: DeadLetterEntry


MANY_DIGITS = 20
"""More than any number of a dead letter has."""


class DeadLetters:
    """
    The dead letters of all queues; one per event and queue, a later one replaces it.

    Events with the same identity but other contents are different events, with a dead letter each.

    A ref consists of an increasing number and the queue, so that paging can continue after a dead letter that was
    removed meanwhile.
    """

    def __init__(self) -> None:
        self._queues: dict[str, dict[int, _StoredDeadLetter]] = {}
        self._by_content: dict[tuple[str, Content], int] = {}
        self._numbers = itertools.count(1)

    def count(self, queue: str) -> int:
        """Return the number of dead letters of *queue*."""
        return len(self._queues.get(queue, ()))

    def keep(self, event: KeptEvent, outcome: DeadLetter, now: float) -> None:
        """Store *event* with the reason of its death."""
        number = next(self._numbers)
        entry = DeadLetterEntry(
            ref=f"{number}@{event.queue}",
            queue=event.queue,
            envelope=event.envelope,
            reason=outcome.reason,
            error=outcome.error,
            state=event.state,
            attempt=event.counters.attempt,
            lost_leases=event.counters.lost_leases,
            enqueued_at=event.enqueued_at,
            died_at=now,
        )
        kept = self._queues.setdefault(event.queue, {})
        if event.content is not None:
            kept.pop(self._by_content.get((event.queue, event.content), 0), None)
            self._by_content[event.queue, event.content] = number
        kept[number] = _StoredDeadLetter(event=event, entry=entry)

    def take(self, ref: str) -> KeptEvent | None:
        """Remove the dead letter *ref*; return its event, or ``None`` if there is no such dead letter."""
        event = self.find(ref)
        if event is not None:
            number, queue = _parsed(ref)
            del self._queues[queue][number]
            if event.content is not None:
                del self._by_content[queue, event.content]
        return event

    def find(self, ref: str) -> KeptEvent | None:
        """Return the event of the dead letter *ref*, or ``None`` if there is no such dead letter."""
        number, queue = _parsed(ref)
        kept = self._queues.get(queue, {}).get(number)
        return None if kept is None else kept.event

    def entries(self, queues: Sequence[str], *, after: str | None) -> Iterator[DeadLetterEntry]:
        """
        Return those of *queues*, queue by queue, the oldest first, starting after the ref *after*.

        Raises:
            ConfigurationError: *after* is not a ref of one of *queues*.
        """
        wanted = list(dict.fromkeys(queues))
        seen = 0
        if after is not None:
            seen, queue = _parsed(after)
            if not seen or queue not in wanted:
                known = ", ".join(f'"{name}"' for name in wanted)
                message = f"{shown(after)} is not the ref of a dead letter of {known}; give one that was listed"
                raise ConfigurationError(message)
            wanted = wanted[wanted.index(queue) :]
        for name in wanted:
            yield from (kept.entry for number, kept in self._queues.get(name, {}).items() if number > seen)
            seen = 0


def _parsed(ref: str) -> tuple[int, str]:
    """Return the number and the queue of *ref*; the number is 0 if *ref* is invalid."""
    digits, _, queue = ref.partition("@")
    # int() reads other texts as the same number, and refuses one that is very long.
    number = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < MANY_DIGITS else 0
    return (number if str(number) == digits else 0), queue
