"""Presence and announcements: a row for each worker that others may ask about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from relevo import Clock, Presence
from relevo_sql._database import Database
from relevo_sql._row import micros
from relevo_sql._schema import CONTROL, LIMIT

_DAY = 86400.0
"""Seconds after its last heartbeat until a worker is deleted."""


class Heartbeats:
    """The heartbeats of workers, counters since the clocks of two hosts cannot be compared, and what they announce."""

    def __init__(self, database: Database, clock: Clock):
        self._database = database
        self._statements = database.statements
        self._clock = clock

    def appear(self, worker: str) -> None:
        """Count a heartbeat of *worker*, and delete workers that sent none for a day."""

        def count(connection: sa.Connection) -> None:
            now = self._database.now(self._clock, connection)
            if not self._statements.appear.run(connection, which=worker, now=now).rowcount:
                self._statements.appear_first.run(connection, worker=worker, now=now)
            self._statements.forget_workers.rows(connection, before=now - micros(_DAY))

        self._database.write(count)

    def announce(self, worker: str, about: bytes, *, ttl: float) -> None:
        """Keep what *worker* announces for *ttl* seconds, and delete what has expired."""

        def keep(connection: sa.Connection) -> None:
            now = self._database.now(self._clock, connection)
            self._statements.announce_for(connection, worker, about, until=now + micros(ttl), now=now)

        self._database.write(keep)

    def workers(self) -> dict[str, bytes]:
        """Return the announcements that have not expired."""
        now, rows = self._database.now(self._clock), self._statements.announcements.rows
        others = {"control": f"{CONTROL}%", "limit": f"{LIMIT}%"}
        found: Any = self._database.read(lambda connection: rows(connection, now=now, **others))
        return {worker: bytes(about) for worker, about in found if isinstance(about, (bytes, memoryview))}

    def presence(self, workers: Sequence[str]) -> dict[str, Presence]:
        """Return the heartbeats of *workers*, without those that sent none."""
        asked = self._database.dialect.listed(dict.fromkeys(workers))
        rows = self._statements.beats.rows
        found: Any = self._database.read(lambda connection: rows(connection, workers=asked))
        return {worker: Presence(beats=beats) for worker, beats in found if type(beats) is int}
