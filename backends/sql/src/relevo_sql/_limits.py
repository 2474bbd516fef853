"""What counts against limits, in rows among the announcements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from relevo import Clock
from relevo_sql._database import Database
from relevo_sql._row import micros
from relevo_sql._schema import LIMIT


class LimitRows:
    """
    The limits of a database, each changed by compare-and-set.

    No lock is held between the statements: a process that stands still would hold up all others.

    Args:
        database: The database.

        clock: The source of time where the database has none.
    """

    def __init__(self, database: Database, clock: Clock):
        self._database = database
        self._statements = database.statements
        self._clock = clock

    def change(self, key: str, change: Callable[[bytes, float], bytes], *, ttl: float) -> None:
        """Replace what is stored under *key* by what *change* returns, for *ttl* seconds."""
        which, lasting = f"{LIMIT}{key}", micros(ttl)
        self._database.repeat(lambda: self._changes(which, change, lasting))

    def _changes(self, which: str, change: Callable[[bytes, float], bytes], lasting: int) -> bool:
        """Change the row *which*, unless another caller was faster; return whether none was."""
        run = self._statements.limit.run
        row: Any = self._database.read(lambda connection: run(connection, which=which).first())
        now = self._database.now(self._clock)  # after the read, so that it is not before the time of an earlier change
        after = change(b"" if row is None else _alive(row[0], row[1], now), now / 1_000_000)
        kept = {"about": after, "until": now + lasting}
        if row is None:
            return not after or self._inserts(which, kept)
        return self._replaces(which, kept, before=row[0], ended=row[1])

    def _inserts(self, which: str, kept: dict[str, Any]) -> bool:
        """Store *kept* in the row *which* if there is none; return whether there was none."""
        run, has_inserted = self._statements.limit_first.run, self._statements.has_inserted
        return self._database.update(lambda connection: has_inserted(run(connection, worker=which, **kept)))

    def _replaces(self, which: str, kept: dict[str, Any], *, before: object, ended: object) -> bool:
        """Store *kept* in the row *which*, or delete it for nothing, if it is as it was; return whether it was."""
        statements, was = self._statements, {"which": which, "before": before, "ended": ended}

        def replace(connection: sa.Connection) -> bool:
            if kept["about"]:
                return statements.change_limit.run(connection, **was, **kept).rowcount > 0
            return statements.forget_limit.run(connection, **was).rowcount > 0

        return self._database.update(replace)


def _alive(about: object, until: object, now: int) -> bytes:
    """Return the value of a row; nothing if it has expired, or is of a type that SQLite stores as well."""
    if not isinstance(about, (bytes, memoryview)) or not isinstance(until, int) or until <= now:
        return b""
    return bytes(about)
