"""
Group commit: threads that send at the same time share a transaction.

A commit waits for the disk, whatever it writes. So the thread whose transaction is next, the leader, writes with its
own rows those that other threads have queued meanwhile. Alone, a thread commits at once.
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
from relevo.errors import CommitUnknownError, RelevoError
from relevo_sql._database import Database
from relevo_sql._errors import LockedError, UnreachableError
from relevo_sql._owned_lock import attempt
from relevo_sql._row import Sent

_MOST_ROWS = 500
"""Rows in a group, roughly. More gain nothing, and all threads would wait for them."""

_MOST_BYTES = 1 << 20
"""Bytes of the events in a group, roughly."""


_LOOK_AGAIN = 1.0
"""Seconds after which a thread that waits looks whether there is a leader at all."""

_INTERRUPTED = "the thread that committed it was interrupted"


class _Status(Enum):
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
class _Request:
    """The rows of one call."""

    rows: Sequence[Sent]
    size: int
    status: _Status = _Status.WAITING
    is_taken: bool = False
    """Whether a leader has begun to write it."""
    error: Exception | None = None
    waiting: threading.Lock = attrs.field(factory=_held_lock)
    """Its thread waits for it to be released."""

    def wake(self) -> None:
        """Wake its thread."""
        with suppress(RuntimeError):  # it was woken already
            self.waiting.release()

    def end(self, status: _Status, error: Exception | None = None) -> None:
        """Report the result to its thread, unless it has one."""
        if self.status is _Status.WAITING:
            self.status, self.error = status, error
            self.wake()


class GroupCommit(ForkAware):
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
        self._leading = threading.RLock()  # re-entrant, as the lock of the database
        self._queue: deque[_Request] = deque()

    def write(self, rows: Sequence[Sent]) -> None:
        """
        Write *rows* durably.

        Raises:
            TransportUnavailableError: Nothing was written.

            CommitUnknownError: It is not known whether anything was written.

            UnicodeError: A row cannot be encoded.

            OverflowError: A number of a row is too great.
        """
        request = _Request(rows, sum([len(row.body or b"") for row in rows]))
        if len(rows) < _MOST_ROWS and request.size < _MOST_BYTES:
            self._join(request)
        else:
            request.status = _Status.ALONE
        if request.error is not None:
            raise request.error
        if request.status is _Status.ALONE:
            self._database.insert(partial(self._database.statements.write, rows=rows), rows=len(rows))

    def _join(self, request: _Request) -> None:
        """Lead a group, or wait for the thread that leads one, until *request* has a result."""
        try:
            self._queue.append(request)
            while request.status is _Status.WAITING:
                with attempt(self._leading, timeout=0.0) as is_leading:
                    if is_leading:
                        if request.is_taken:  # its leader was interrupted again, while it reported an interrupt
                            self._fail([request], CommitUnknownError, _INTERRUPTED)
                        self._lead()
                if is_leading:
                    self._wake_next()
                else:
                    request.waiting.acquire(timeout=_LOOK_AGAIN)
        except BaseException:
            request.status = _Status.WITHDRAWN
            with suppress(ValueError):  # a leader has taken it
                self._queue.remove(request)
            self._wake_next()  # this thread may have been the next
            raise

    def _wake_next(self) -> None:
        """Wake the first thread that waits: it leads, unless another one does."""
        with suppress(IndexError):
            self._queue[0].wake()

    def _lead(self) -> None:
        """Write the rows of the first calls in the queue."""
        group: list[_Request] = []
        attempt = _Attempt(self._database)
        try:
            self._take(group)
            if group:
                attempt.write([*chain.from_iterable(request.rows for request in group)])
        except LockedError:
            _end(group, _Status.ALONE)  # each waits by itself, while others lead
        except (CommitUnknownError, UnreachableError) as error:
            self._fail(group, type(error), error.why, error.__cause__)
        except (RelevoError, UnicodeError, OverflowError) as error:
            if len(group) == 1:
                group[0].end(_Status.FAILED, error)
            _end(group, _Status.ALONE)
        finally:
            # Also after an interrupt, which is this thread's own, and must not reach the others.
            if attempt.is_uncertain and not attempt.is_done:
                self._fail(group, CommitUnknownError, _INTERRUPTED)
            _end(group, _Status.WRITTEN if attempt.is_done else _Status.ALONE)

    def _take(self, group: list[_Request]) -> None:
        """Move the first requests of the queue to *group*."""
        rows = size = 0
        while self._queue and rows < _MOST_ROWS and size < _MOST_BYTES:
            request = self._queue[0]
            group.append(request)  # before it leaves the queue, so that no interrupt can lose it
            request.is_taken = True
            self._queue.popleft()
            rows += len(request.rows)
            size += request.size

    def _fail(
        self,
        group: Iterable[_Request],
        kind: type[CommitUnknownError | UnreachableError],
        why: str,
        cause: BaseException | None = None,
    ) -> None:
        for request in group:
            error = kind(self._database.name, why)
            error.__cause__ = cause
            request.end(_Status.FAILED, error)


def _end(group: Iterable[_Request], status: _Status) -> None:
    for request in group:
        request.end(status)


class _Attempt:
    """One attempt to write rows, without patience."""

    def __init__(self, database: Database):
        self._database = database
        self.is_uncertain = False
        """Whether the rows may be committed already."""
        self.is_done = False
        """Whether they are."""

    def write(self, rows: Sequence[Sent]) -> None:
        """Write *rows* durably, unless another writer has a lock."""

        def work(connection: sa.Connection) -> None:
            self.is_uncertain = len(rows) <= self._database.dialect.max_autocommit_rows
            self._database.statements.write(connection, rows)
            self.is_uncertain = True

        self._database.insert(work, rows=len(rows), patience=0.0)
        self.is_done = True
