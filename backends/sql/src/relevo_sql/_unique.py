"""
The keys of unique events: a row for each key, which names the event that has it.

The event has its key for as long as one of its rows is stored, and until a time. So nothing has to be done when it is
settled. A row of a key is locked before it is read, and what lives is read by a statement of its own after that: a
statement that waits for a lock sees the row that it waited for as it is now, and all other rows as they were before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import NamedTuple

import attrs
import sqlalchemy as sa

from relevo import Clock
from relevo_sql._database import Database
from relevo_sql._row import Sent
from relevo_sql._statement import Statements
from relevo_sql._sweep import Sweep

_AGE = 3600.0
"""
Seconds since the end of its time after which a key is deleted.

A statement that waits for a lock may take an event for gone that was sent with the key meanwhile, but such a key is not
that old.
"""

_TRIES = 5
"""How often the row of a key is looked for: it may be deleted after it was found to exist."""


class _KeyRow(NamedTuple):
    """The row of a key: the event that has it."""

    source: str
    event_id: str
    until: int
    is_first: bool
    """Whether the row was written just now."""


@attrs.define(eq=False)
class SentClaim:
    """What the sender of an event asks for with a unique key."""

    key: str
    within: int
    """Microseconds from now until which the key stays taken."""

    decided: Callable[[str | None], object]
    """Called with the id of the event that has the key; with ``None`` if that is the event of the claim now."""

    living: str | None = attrs.field(default=None, init=False)
    """The id of the event that has the key, once it is decided."""

    _is_first: bool = attrs.field(default=False, init=False)
    """Whether :meth:`lock` has written the row of the key in the transaction in which it will be decided."""

    def is_granted(self, connection: sa.Connection, statements: Statements, row: Sent, now: int) -> bool:
        """
        Give the key to the event of *row*, unless another one has it; return whether it was given.

        Args:
            connection: Has begun the transaction in which the event is written.

            statements: The statements for it.

            row: The first row of the event.

            now: Microseconds since the epoch.
        """
        self.living = self._looked_up(connection, statements, row, now)
        return self.living is None

    def report(self) -> None:
        """Report the decision: what was written is committed, or cannot fail any more."""
        self.decided(self.living)

    def digest(self, source: str) -> str:
        """Return what stands for the key of the application *source*."""
        return _digest(source, self.key)

    def lock(self, connection: sa.Connection, statements: Statements, row: Sent, now: int) -> None:
        """Lock the row of the key before :meth:`is_granted` does, which takes the keys of other events too."""
        self._is_first = self._locked(connection, statements, row, now).is_first

    def _locked(self, connection: sa.Connection, statements: Statements, row: Sent, now: int) -> _KeyRow:
        """Lock the row of the key, which is inserted if it is missing, and return its values."""
        which = {"which": self.digest(row.source)}
        new = {"source": row.source, "event_id": row.event_id, "until": now + self.within}
        for _ in range(_TRIES):
            is_first = statements.has_inserted(statements.take_key_first.run(connection, **which, **new))
            for _, source, event_id, until in statements.lock_key.rows(connection, **which):
                return _KeyRow(str(source), str(event_id), int(until), is_first)
            # It was deleted in between.
        raise sa.exc.OperationalError(None, None, RuntimeError("the row of a unique key cannot be read; try again"))

    def _looked_up(self, connection: sa.Connection, statements: Statements, row: Sent, now: int) -> str | None:
        was_first, self._is_first = self._is_first, False
        holder = self._locked(connection, statements, row, now)
        if was_first or holder.is_first:
            return None
        event_id, of = holder.event_id, {"id": holder.event_id, "source": holder.source}
        # One that waits stays as it is until the commit: a worker that began it before would miss what commits with it.
        lives = bool(statements.waits.rows(connection, **of) or statements.is_held.rows(connection, **of))
        if lives or now < holder.until:
            return None if lives and event_id == row.event_id else event_id
        new = {"source": row.source, "event_id": row.event_id, "until": now + self.within}
        statements.take_key.run(connection, which=self.digest(row.source), **new)
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
    claim.report()


def key_sweep(database: Database, clock: Clock) -> Sweep:
    """Return what deletes the keys that no event has."""
    return Sweep(database, clock, database.statements.past_keys, age=_AGE, what="unique keys")


def _digest(source: str, key: str) -> str:
    """Return what stands for the *key* of an application: databases differ in which texts are equal."""
    digest = sha256()
    for text in (source, key):
        raw = text.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8) + raw)
    return digest.hexdigest()
