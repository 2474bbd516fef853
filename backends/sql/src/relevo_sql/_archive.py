"""The archive: the events that are done, for as long as the option ``keep`` says."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from relevo import Clock, DoneEntry
from relevo.errors import ConfigurationError
from relevo_sql._database import Database
from relevo_sql._row import Kept, done_of, micros, warn_if_unreadable
from relevo_sql._schema import done

_BOUND = 1000
"""
How many events one transaction deletes, so that other writers do not wait for long.

It is several times as many as a worker settles at once: whatever is due goes faster than more is stored.
"""


class DoneTable:
    """
    The rows of the archive; those of new events are written in the transaction of their acks, by ``_settle``.

    Args:
        database: The database.

        clock: The source of time.

        keep: Seconds for which a row is kept.
    """

    def __init__(self, database: Database, clock: Clock, *, keep: float):
        self._database = database
        self._statements = database.statements
        self._clock = clock
        self.keep = keep
        self._is_usable = False
        self._oldest: float = database.dialect.before_all
        """A time before which all have been deleted, while some are due."""

    def require(self) -> None:
        """
        Find out once whether the table can be written: otherwise each event would be handled, and not be done.

        Raises:
            ConfigurationError: The table is missing, or this user may not write to it.
        """
        if self._is_usable:
            return
        try:
            self._database.write(self._try)
        except ConfigurationError as error:
            raise ConfigurationError(f"keep: the table {done.name} cannot be used: {error}") from error.__cause__
        self._is_usable = True

    def _try(self, connection: sa.Connection) -> None:
        """Insert a row and delete it, which takes every right on the table."""
        self._statements.archive_nothing.run(connection, queue="", now=0)
        self._statements.forget_done.rows(connection, after=0, before=1, bound=_BOUND)

    def find(self, event_id: str) -> list[DoneEntry]:
        """Return the events of *event_id*, the oldest first."""
        if not self._database.dialect.can_hold(event_id):
            return []
        rows: Any = self._database.read(lambda c: self._statements.find_done.run(c, id=event_id).all())
        for row in rows:
            warn_if_unreadable(self._database.name, event_id, row[: len(Kept._fields)])
        return [entry for entry in map(done_of, rows) if entry is not None]

    def forget(self) -> bool:
        """Delete some of the events that were kept for long enough; return whether more may be left to delete now."""
        before = self._database.now(self._clock) - micros(self.keep)
        after = self._oldest
        oldest: Any = self._database.read(lambda c: self._statements.oldest_done.run(c, after=after).scalar())
        if oldest is None or oldest >= before:
            self._oldest = self._database.dialect.before_all  # a transaction may commit late
            return False
        self._oldest = oldest
        forget = self._statements.forget_done.count
        # Another transaction may have locked those that are left: it deletes them itself, or it may stay open for long.
        return self._database.write(lambda c: forget(c, after=oldest, before=before, bound=_BOUND), patience=0.0) > 0
