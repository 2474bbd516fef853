"""
Dead letters that were read beyond the requested page, kept for the next pages.

A queue has no index, so finding the first dead letters takes a scan of the whole queue. With a scan for each page, a
thousand pages would take a thousand scans. So a scan keeps the next few thousand letters here, and a page that goes on
where the last one ended takes them. The server holds nothing for that: a process that dies between two pages costs
nothing, and other processes see all dead letters meanwhile.

So a walk through n dead letters takes a scan for each :data:`MOST` of them, and one more only if the last page was not
kept whole.
"""

from __future__ import annotations

import threading
import time
from bisect import insort
from collections.abc import Collection
from typing import NamedTuple

from relevo_amqp._mapping import DeadLetterDetails, MessageRecord

MOST = 5000
"""The most dead letters that are kept for further pages."""

MOST_BYTES = 16 * 1024 * 1024
"""The most bytes of their bodies together."""

FRESH = 30.0
"""Seconds without a further page after which the next one scans again."""


class FoundDeadLetter(NamedTuple):
    """A dead letter that a scan found."""

    ref: str
    tag: int
    record: MessageRecord
    details: DeadLetterDetails
    size: int


class Earliest:
    """
    The earliest dead letters among all that are added.

    Args:
        limit: How many the caller wants; more are kept as far as there is room.
    """

    def __init__(self, limit: int):
        self.letters: list[FoundDeadLetter] = []
        self.complete = True
        """Whether no letter was dropped."""
        self._limit = limit
        self._size = 0
        self._ceiling: str | None = None

    def add(self, letter: FoundDeadLetter) -> None:
        """Add *letter*, and drop the last ones if there is no room."""
        if self._ceiling is not None and letter.ref >= self._ceiling:  # leave no gap: an earlier one was dropped
            return
        letters = self.letters
        insort(letters, letter, key=lambda each: each.ref)
        self._size += letter.size
        while len(letters) > self._limit and (len(letters) > self._limit + MOST or self._size > MOST_BYTES):
            dropped = letters.pop()
            self._size -= dropped.size
            self._ceiling, self.complete = dropped.ref, False


class _Remainder(NamedTuple):
    queue: str
    behind: str
    letters: list[FoundDeadLetter]
    complete: bool
    until: float

    def continues(self, queue: str, behind: str, now: float) -> bool:
        """Return whether these letters come right behind the ref *behind*, and are fresh."""
        return (self.queue, self.behind) == (queue, behind) and now < self.until


class PageCache:
    """The letters that the last scan found beyond its page; for one reader, since any other scan replaces them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._remainder: _Remainder | None = None

    def take(self, queue: str, behind: str, limit: int) -> tuple[list[FoundDeadLetter], bool]:
        """Return up to *limit* letters of *queue* right behind the ref *behind*, and whether there are no others."""
        with self._lock:
            remainder = self._remainder
            if remainder is None or not remainder.continues(queue, behind, time.monotonic()):
                return [], False
            letters, left = remainder.letters[:limit], remainder.letters[limit:]
            self._remainder = None
            if left or (letters and remainder.complete):  # that no letter follows is believed once
                self._put(queue, letters[-1].ref, left, complete=remainder.complete)
            return letters, remainder.complete

    def put(self, queue: str, behind: str, letters: list[FoundDeadLetter], *, complete: bool) -> None:
        """Keep *letters* of *queue*, which may be none, right behind *behind*; *complete* if there are no others."""
        with self._lock:
            self._put(queue, behind, letters, complete=complete)

    def drop(self, refs: Collection[str]) -> None:
        """Forget the letters with *refs*, which were revived or discarded."""
        with self._lock:
            if self._remainder is not None:
                letters = [letter for letter in self._remainder.letters if letter.ref not in refs]
                self._remainder = self._remainder._replace(letters=letters) if letters else None

    def _put(self, queue: str, behind: str, letters: list[FoundDeadLetter], *, complete: bool) -> None:
        self._remainder = _Remainder(queue, behind, letters, complete, time.monotonic() + FRESH)
