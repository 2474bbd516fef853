"""
Dead letters that were read beyond the requested page, kept for the next pages.

A queue has no index: to find what died first, all of it is looked through. If each page did so, a
thousand pages would be a thousand looks. So a look keeps the next few thousand, and the page that
goes on where the last one ended is taken from here. Nothing is held at the server for that: a process
that pages and dies costs nothing, and others see all dead letters meanwhile.
"""

from __future__ import annotations

import threading
import time
from bisect import insort
from collections.abc import Collection
from typing import NamedTuple

from relevo_amqp._mapping import Death, Record

MOST = 5000
"""Dead letters that are kept for further pages."""

MOST_BYTES = 16 * 1024 * 1024
"""Of their bodies together."""

FRESH = 30.0
"""Seconds without a further page after which the next one looks again."""


class Buried(NamedTuple):
    """A dead letter while it is looked at."""

    ref: str
    tag: int
    record: Record
    death: Death
    size: int


class Earliest:
    """
    Those that died first among all that are added.

    Args:
        limit: How many are wanted; more are kept as far as there is room for them.
    """

    def __init__(self, limit: int):
        self.letters: list[Buried] = []
        self.complete = True
        """Whether all that were added are there."""
        self._limit = limit
        self._size = 0
        self._ceiling: str | None = None

    def add(self, letter: Buried) -> None:
        """Take *letter* in, and drop the last ones if there is no room."""
        if self._ceiling is not None and letter.ref >= self._ceiling:  # no gap: one before it was dropped
            return
        letters = self.letters
        insort(letters, letter, key=lambda each: each.ref)
        self._size += letter.size
        while len(letters) > self._limit and (len(letters) > self._limit + MOST or self._size > MOST_BYTES):
            dropped = letters.pop()
            self._size -= dropped.size
            self._ceiling, self.complete = dropped.ref, False


class _Rest(NamedTuple):
    queue: str
    behind: str
    letters: list[Buried]
    complete: bool
    until: float


class Shelf:
    """Keeps the rest of the last look; for one reader who goes on, any other looks for himself."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rest: _Rest | None = None

    def take(self, queue: str, behind: str, limit: int) -> tuple[list[Buried], bool]:
        """Return up to *limit* of *queue* that come right behind the ref *behind*, and whether there are no others."""
        with self._lock:
            rest = self._rest
            if rest is None or (rest.queue, rest.behind) != (queue, behind) or time.monotonic() >= rest.until:
                return [], False
            letters, left = rest.letters[:limit], rest.letters[limit:]
            self._rest = None
            if left:
                self._put(queue, letters[-1].ref, left, complete=rest.complete)
            return letters, rest.complete

    def put(self, queue: str, behind: str, letters: list[Buried], *, complete: bool) -> None:
        """Keep *letters* of *queue*, which come right behind the ref *behind*; *complete* says that no others do."""
        with self._lock:
            self._put(queue, behind, letters, complete=complete)

    def drop(self, refs: Collection[str]) -> None:
        """Forget those of *refs*, which are no dead letters any more."""
        with self._lock:
            if self._rest is not None:
                letters = [letter for letter in self._rest.letters if letter.ref not in refs]
                self._rest = self._rest._replace(letters=letters) if letters else None

    def _put(self, queue: str, behind: str, letters: list[Buried], *, complete: bool) -> None:
        self._rest = _Rest(queue, behind, letters, complete, time.monotonic() + FRESH) if letters else None
