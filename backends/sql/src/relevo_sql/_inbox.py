"""The inbox: which transactional listeners are done with the events of another transport."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import sqlalchemy as sa

from relevo import Clock
from relevo_sql._database import Database
from relevo_sql._sweep import Sweep
from relevo_sql._upkeep import EVERY, Upkeep


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
        self._sweep = Sweep(database, clock, database.statements.past_handled, age=keep, what="records of the inbox")
        self._upkeep = Upkeep([self._sweep.step], clock, place=lambda: database.place, every=EVERY)

    def state_of(self, key: str) -> bytes | None:
        """Return the state of *key*, if there is one; delete a few of those that are too old, now and then."""
        self._upkeep.run()
        run = self._statements.remembered.run
        found: Any = self._database.read(lambda connection: run(connection, which=key).scalar())
        if found is None:
            return None
        # By hand a value of any type can be stored on SQLite; a number is not as many bytes.
        return bytes(found) if isinstance(found, (bytes, bytearray, memoryview)) else str(found).encode()

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

    def has_state(self, key: str, state: bytes) -> bool:
        """Return whether *key* is there with *state*; wait for a transaction that is about to write it."""
        now = self._database.now(self._clock)
        run = self._statements.note_again.run
        if not self.has(key):
            return False
        changed: int = self._database.write(
            lambda connection: run(connection, which=key, before=state, kept=state, now=now).rowcount
        )
        return changed > 0


def notes_key(key: str) -> str:
    """Return the key of the steps that the listener of *key* has finished, as long as it is not done."""
    return sha256(f"steps {key}".encode()).hexdigest()
