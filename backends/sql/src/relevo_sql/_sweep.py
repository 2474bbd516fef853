"""Delete what is over, a few rows at a time, so that no statement grows with what has accumulated."""

from __future__ import annotations

from logging import getLogger

from relevo import Clock
from relevo.errors import ConfigurationError
from relevo_sql._database import Database
from relevo_sql._row import micros
from relevo_sql._statement import Window

_log = getLogger("relevo.sql")

_EVERY = 600.0
"""Seconds between the end of a sweep and the beginning of the next one."""

_WINDOW = 500
"""Rows that one step of a sweep looks at."""

_BEGINNING = -1
"""Before all times."""


class Sweep:
    """
    Deletes the rows of one table whose time is over.

    Several threads may call it. They may then look at the same rows, which does no harm.

    Args:
        database: The database.

        clock: The source of time.

        window: The statements.

        age: Seconds since their time after which rows are deleted.

        what: The rows, in words.
    """

    def __init__(self, database: Database, clock: Clock, window: Window, *, age: float, what: str):
        self._database = database
        self._clock = clock
        self._window = window
        self._age = age
        self._what = what
        self._at = float("-inf")
        self._cursor = _BEGINNING

    def step(self) -> bool:
        """Look at the next rows whose time is over; return whether there may be more, and not soon after a sweep."""
        if self._clock.monotonic() < self._at:
            return False
        try:
            if self._delete():
                return True
        except ConfigurationError as error:  # a database of an earlier release, or a user without the right
            _log.debug("the transport %s: %s are not deleted: %s", self._database.name, self._what, error)
        self._cursor, self._at = _BEGINNING, self._clock.monotonic() + _EVERY
        return False

    def _delete(self) -> bool:
        """Delete those of the next rows that are over; return whether there were any to look at."""
        past = {"cursor": self._cursor, "before": self._database.now(self._clock) - micros(self._age)}
        run, delete, cursor = self._window.end.run, self._window.delete.rows, self._cursor
        end = self._database.read(lambda connection: run(connection, **past, bound=_WINDOW).scalar())
        if end is None:
            return False
        self._database.write(lambda connection: delete(connection, cursor=cursor, end=end), patience=0.0)
        self._cursor = end
        return True
