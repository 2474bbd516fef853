"""The inbox: which transactional listeners are done with the events of another transport."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from relevo import Clock
from relevo_sql._database import Database
from relevo_sql._row import micros

_FORGETS_EVERY = 60.0
"""Seconds between two deletions of what was kept for long enough."""


class _IsNewError(Exception):
    """Raised to roll a transaction back in which a key could be inserted."""


class InboxTable:
    """
    The rows of the inbox; those of a listener are written in its own transaction, by ``_session``.

    Args:
        database: The database.

        clock: The source of time.

        keep: Seconds for which a row is kept.
    """

    def __init__(self, database: Database, clock: Clock, *, keep: float):
        self._database = database
        self._statements = database.statements
        self._clock = clock
        self._keep = keep
        self._forgets_at = float("-inf")

    def state_of(self, key: str) -> bytes | None:
        """Return the state of *key*, if there is one; delete what is too old, now and then."""
        self._forget()
        run = self._statements.remembered.run
        found: Any = self._database.read(lambda connection: run(connection, which=key).scalar())
        return None if found is None else bytes(found)

    def has(self, key: str) -> bool:
        """Return whether *key* is there; wait for a transaction that is about to write it."""
        now = self._database.now(self._clock)

        def insert(connection: sa.Connection) -> None:
            try:
                self._statements.remember.run(connection, which=key, kept=b"", now=now)
            except sa.exc.IntegrityError:
                return
            raise _IsNewError

        try:
            self._database.write(insert)
        except _IsNewError:
            return False
        return True

    def _forget(self) -> None:
        now = self._clock.monotonic()
        if now < self._forgets_at:
            return
        self._forgets_at = now + _FORGETS_EVERY
        before = self._database.now(self._clock) - micros(self._keep)
        self._database.write(lambda connection: self._statements.forget_handled.rows(connection, before=before))
