"""Controls: what operators ask of workers, in rows among the announcements."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from relevo import Clock
from relevo_sql._database import Database
from relevo_sql._row import micros
from relevo_sql._schema import CONTROL


class ControlRows:
    """
    The controls of a database.

    An earlier release takes their rows for announcements that it cannot read, and ignores them.

    Args:
        database: The database.

        clock: The source of time where the database has none.
    """

    def __init__(self, database: Database, clock: Clock):
        self._database = database
        self._statements = database.statements
        self._clock = clock

    def set(self, key: str, what: bytes, *, ttl: float) -> None:
        """Store the control *key* for *ttl* seconds in place of the earlier one."""

        def store(connection: sa.Connection) -> None:
            now = self._database.now(self._clock, connection)
            self._statements.announce_for(connection, f"{CONTROL}{key}", what, until=now + micros(ttl), now=now)

        self._database.write(store, durable=True)

    def all(self) -> dict[str, bytes]:
        """Return the controls that have not expired, by key."""
        now, rows = self._database.now(self._clock), self._statements.controls.rows
        found: Any = self._database.read(lambda connection: rows(connection, now=now, control=f"{CONTROL}%"))
        return {key.removeprefix(CONTROL): bytes(what) for key, what in found if isinstance(what, (bytes, memoryview))}
