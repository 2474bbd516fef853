"""
The keys of unique events: a row for each key, which names the event that has it.

The event has its key for as long as one of its rows is stored, and until a time. So nothing has to be done when it is
settled. A row of a key is locked before it is read, and what lives is read by a statement of its own after that: a
statement that waits for a lock sees the row that it waited for as it is now, and all other rows as they were before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from logging import getLogger

import attrs
import sqlalchemy as sa

from relevo import Clock
from relevo.errors import ConfigurationError
from relevo_sql._database import Database
from relevo_sql._row import Sent, micros
from relevo_sql._statement import Statements

_log = getLogger("relevo.sql")

_SWEEPS_EVERY = 600.0
"""Seconds between the ends and beginnings of two sweeps."""

_WINDOW = 500
"""Keys that one step of a sweep looks at."""

_AGE = 3600.0
"""
Seconds since the end of its time after which a key is deleted.

A statement that waits for a lock may take an event for gone that was sent with the key meanwhile, but such a key is not
that old.
"""


@attrs.frozen(eq=False)
class SentClaim:
    """What the sender of an event asks for with a unique key."""

    key: str
    within: int
    """Microseconds from now until which the key stays taken."""

    decided: Callable[[str | None], object]
    """Called with the id of the event that has the key; with ``None`` if that is the event of the claim now."""

    def is_granted(self, connection: sa.Connection, statements: Statements, row: Sent, now: int) -> bool:
        """
        Give the key to the event of *row*, unless another one has it; report that, and return whether it was given.

        Args:
            connection: Has begun the transaction in which the event is written.

            statements: The statements for it.

            row: The first row of the event.

            now: Microseconds since the epoch.
        """
        living = self._living(connection, statements, row, now)
        self.decided(living)
        return living is None

    def _living(self, connection: sa.Connection, statements: Statements, row: Sent, now: int) -> str | None:
        which = {"which": _digest(row.source, self.key)}
        held = {"source": row.source, "event_id": row.event_id, "until": now + self.within}
        while True:
            statements.take_key_first.run(connection, **which, **held)
            found = statements.lock_key.rows(connection, **which)
            if not found:
                continue  # it was deleted in between
            _, source, event_id, until = found[0]
            if (event_id, until) == (row.event_id, held["until"]):
                return None  # it was written just now: not every database tells
            if now < until or statements.lives.rows(connection, id=event_id, source=source):
                return None if event_id == row.event_id else str(event_id)
            statements.take_key.run(connection, **which, **held)
            return None


def write_unique(database: Database, clock: Clock, claim: SentClaim, rows: Sequence[Sent]) -> None:
    """
    Write *rows*, those of one event, durably, if its *claim* is granted.

    Raises:
        TransportUnavailableError: Nothing was written.

        CommitUnknownError: It is not known whether anything was written.
    """

    def write(connection: sa.Connection) -> None:
        now = database.now(clock, connection)
        if claim.is_granted(connection, database.statements, rows[0], now):
            database.statements.write(connection, rows)

    database.write(write, durable=True, sends=True)


class KeySweep:
    """
    Deletes the keys that no event has, a few at a time.

    Args:
        database: The database.

        clock: The source of time.
    """

    def __init__(self, database: Database, clock: Clock):
        self._database = database
        self._statements = database.statements
        self._clock = clock
        self._at = float("-inf")
        self._cursor = 0

    def step(self) -> bool:
        """Look at the next keys whose time is over; return whether there may be more, and not soon after a sweep."""
        if self._clock.monotonic() < self._at:
            return False
        try:
            if self._delete():
                return True
        except ConfigurationError as error:  # a database of an earlier release, or a user without the right
            _log.debug("the transport %s: unique keys are not deleted: %s", self._database.name, error)
        self._cursor, self._at = 0, self._clock.monotonic() + _SWEEPS_EVERY
        return False

    def _delete(self) -> bool:
        """Delete those of the next keys that no event has; return whether there were any keys to look at."""
        past = {"cursor": self._cursor, "before": self._database.now(self._clock) - micros(_AGE)}
        run, forget, cursor = self._statements.keys_until.run, self._statements.forget_keys.rows, self._cursor
        end = self._database.read(lambda connection: run(connection, **past, bound=_WINDOW).scalar())
        if end is None:
            return False
        self._database.write(lambda connection: forget(connection, cursor=cursor, end=end), patience=0.0)
        self._cursor = end
        return True


def _digest(source: str, key: str) -> str:
    """Return what stands for the *key* of an application: databases differ in which texts are equal."""
    digest = sha256()
    for text in (source, key):
        raw = text.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8) + raw)
    return digest.hexdigest()
