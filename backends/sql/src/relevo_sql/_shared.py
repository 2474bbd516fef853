"""
Commits that threads share.

A commit waits for the disk, whatever it writes. So the thread whose transaction is next writes with its own rows those
that other threads have brought meanwhile. Alone, a thread commits at once.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from enum import Enum, auto
from functools import partial
from itertools import chain

import attrs
import sqlalchemy as sa

from relevo.backend import ForkAware
from relevo.errors import RelevoError
from relevo_sql._database import Database
from relevo_sql._errors import CommitUnknownError, LockedError
from relevo_sql._row import Sent

_MOST = 500
"""Rows in a shared commit, roughly. More gain nothing, and all of them would wait for it."""


class _Fate(Enum):
    WAITING = auto()
    WRITTEN = auto()
    FAILED = auto()
    ALONE = auto()
    """Its own thread writes it, in a transaction of its own."""
    WITHDRAWN = auto()
    """Its thread was interrupted."""


def _held_lock() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


@attrs.define(eq=False)
class _Share:
    """The rows of one call."""

    rows: Sequence[Sent]
    state: _Fate = _Fate.WAITING
    error: Exception | None = None
    bell: threading.Lock = attrs.field(factory=_held_lock)
    """Its thread waits for it to be released."""

    def ring(self) -> None:
        """Wake its thread."""
        with suppress(RuntimeError):  # it was woken already
            self.bell.release()

    def end(self, state: _Fate, error: Exception | None = None) -> None:
        """Report the result to its thread."""
        self.state, self.error = state, error
        self.ring()


class SharedCommits(ForkAware):
    """
    Writes new events; threads that write at the same time share a commit.

    What fails for one call does not fail for the others: if a shared transaction fails before its commit, each call is
    repeated in a transaction of its own. If the commit fails and it is not known whether it took effect, that is the
    result of all.

    Args:
        database: The database.
    """

    def __init__(self, database: Database):
        self._database = database
        self.after_fork_in_child()
        super().__init__()

    def after_fork_in_child(self) -> None:
        self._turn = threading.RLock()  # re-entrant, as the lock of the database
        self._brought: deque[_Share] = deque()

    def write(self, rows: Sequence[Sent]) -> None:
        """
        Write *rows* durably.

        Raises:
            TransportUnavailableError: Nothing was written.

            CommitUnknownError: It is not known whether anything was written.

            UnicodeError: A row cannot be encoded.

            OverflowError: A number of a row is too great.
        """
        share = _Share(rows)
        if len(rows) < _MOST:
            self._share(share)
        else:
            share.state = _Fate.ALONE
        if share.error is not None:
            raise share.error
        if share.state is _Fate.ALONE:
            self._database.insert(partial(self._database.statements.write, rows=rows), rows=len(rows))

    def _share(self, share: _Share) -> None:
        self._brought.append(share)
        try:
            while share.state is _Fate.WAITING:
                if self._turn.acquire(blocking=False):
                    try:
                        self._write_what_was_brought()
                    finally:
                        self._turn.release()
                        self._ring_next()
                else:
                    share.bell.acquire()
        except BaseException:
            share.state = _Fate.WITHDRAWN
            self._ring_next()  # this thread may have been the next
            raise

    def _ring_next(self) -> None:
        """Wake the first thread that waits: it writes, unless another one does."""
        with suppress(IndexError):
            self._brought[0].ring()

    def _write_what_was_brought(self) -> None:
        """Write the rows of the first calls that wait."""
        shares: list[_Share] = []
        number = 0
        while self._brought and number < _MOST:
            share = self._brought.popleft()
            if share.state is _Fate.WAITING:
                shares.append(share)
                number += len(share.rows)
        attempt = _Attempt(self._database)
        try:
            attempt.write([*chain.from_iterable(share.rows for share in shares)])
        except LockedError:
            _end(shares, _Fate.ALONE)  # each waits by itself, while others take their turns
        except CommitUnknownError as error:
            self._end_unknown(shares, error.why, error.__cause__)
        except (RelevoError, UnicodeError, OverflowError) as error:
            if len(shares) == 1:
                shares[0].end(_Fate.FAILED, error)
            _end(shares, _Fate.ALONE)
        except BaseException:
            # An interrupt, for instance. It is this thread's own, and must not reach the others.
            if attempt.is_uncertain:
                self._end_unknown(shares, "the thread that committed it was interrupted")
            _end(shares, _Fate.ALONE)
            raise
        else:
            _end(shares, _Fate.WRITTEN)

    def _end_unknown(self, shares: Iterable[_Share], why: str, cause: BaseException | None = None) -> None:
        for share in shares:
            error = CommitUnknownError(self._database.name, why)
            error.__cause__ = cause
            share.end(_Fate.FAILED, error)


def _end(shares: Iterable[_Share], state: _Fate) -> None:
    """Report *state* for each of *shares* that has no result yet."""
    for share in shares:
        if share.state is _Fate.WAITING:
            share.end(state)


class _Attempt:
    """One attempt to write rows, without patience."""

    def __init__(self, database: Database):
        self._database = database
        self.is_uncertain = False
        """Whether the rows may be committed already."""

    def write(self, rows: Sequence[Sent]) -> None:
        """Write *rows* durably, unless another writer has a lock."""

        def work(connection: sa.Connection) -> None:
            self.is_uncertain = len(rows) <= self._database.dialect.commits_alone
            self._database.statements.write(connection, rows)
            self.is_uncertain = True

        self._database.insert(work, rows=len(rows), patience=0.0)
