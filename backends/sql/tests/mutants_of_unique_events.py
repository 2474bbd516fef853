"""Bugs of unique events: the row of a key, and when it is read and written."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from hashlib import sha256

import attrs
import sqlalchemy as sa

from relevo import Clock
from relevo_conformance import promise
from relevo_sql import _database, _session, _transport, _unique
from relevo_sql._database import Database
from relevo_sql._dialect.sqlite import SqliteDialect
from relevo_sql._row import Sent
from relevo_sql._session import JoinedSessions, SentRows
from relevo_sql._statement import Statements
from relevo_sql._unique import SentClaim

from .planting import Patches, planted, reworded


def keyed_by(*changes: tuple[str, str], names: Sequence[str] = ("waits", "is_held")) -> Patches:
    """Return patches of the statements of keys; see :func:`reworded`."""
    patches = reworded(names, *changes)
    (statements,) = patches.values()
    return {**patches, (_session, "statements_for"): statements}


@planted(
    promise.ONE_EVENT_OF_A_KEY_LIVES,
    "What lives is looked up in an earlier transaction.",
    by_chance=False,
)
def looks_before_the_transaction() -> Patches:
    def write(database: Database, clock: Clock, claim: SentClaim, rows: Sequence[Sent]) -> None:
        now = database.now(clock)
        is_granted = database.write(
            lambda connection: claim.is_granted(connection, database.statements, rows[0], now), durable=True
        )
        if is_granted:
            database.write(lambda connection: database.statements.write(connection, rows), durable=True)
        claim.report()

    return {(_transport, "write_unique"): write}


@planted(promise.ONE_EVENT_OF_A_KEY_LIVES, "Any event with the id, of any application, has the key.", by_chance=False)
def looks_for_the_key_alone() -> Patches:
    return {(_unique, "_digest"): lambda _source, key: sha256(key.encode()).hexdigest()}


@planted(promise.ONE_EVENT_OF_A_KEY_LIVES, "The source and the key are joined without a boundary.", by_chance=False)
def joins_source_and_key() -> Patches:
    return {(_unique, "_digest"): lambda source, key: sha256((source + key).encode()).hexdigest()}


@planted(promise.ONE_EVENT_OF_A_KEY_LIVES, "A leased event does not count as alive.", by_chance=False)
def takes_leased_for_gone() -> Patches:
    return keyed_by((" WHERE ", " WHERE relevo_event.state <> 1 AND "))


@planted(promise.ONE_EVENT_OF_A_KEY_LIVES, "A scheduled event does not count as alive.", by_chance=False)
def takes_scheduled_for_gone() -> Patches:
    return keyed_by((" WHERE ", " WHERE relevo_event.state <> 2 AND "))


@planted(
    promise.ONE_EVENT_OF_A_KEY_LIVES,
    "An event that waits for an earlier one with its ordering key does not count as alive.",
    by_chance=False,
)
def takes_waiting_for_gone() -> Patches:
    return keyed_by((" WHERE ", " WHERE relevo_event.state <> 3 AND "))


@planted(
    promise.ONE_EVENT_OF_A_KEY_LIVES,
    "The keys whose time is long over are deleted, although their events live.",
    by_chance=False,
)
def deletes_the_keys_of_living_events() -> Patches:
    statements = Statements(SqliteDialect())
    window = statements.past_keys
    delete = copy(window.delete)
    delete.sql = " ".join(delete.compile().split()).replace("NOT (EXISTS", "NOT (0 AND EXISTS")
    statements.past_keys = attrs.evolve(window, delete=delete)
    return {(_database, "statements_for"): lambda _dialect, _connection=None: statements}


@planted(
    promise.ONE_EVENT_OF_A_KEY_LIVES, "In a session the time for which a key is taken is dropped.", by_chance=False
)
def drops_the_time_in_a_session() -> Patches:
    return {(_session, "SentClaim"): lambda key, _within, decided: SentClaim(key, 0, decided)}


@planted(promise.ONE_EVENT_OF_A_KEY_LIVES, "A key that was taken once is not given to another event.", by_chance=False)
def keeps_the_first_event_of_a_key() -> Patches:
    return keyed_by((" WHERE ", " WHERE relevo_unique.until < 0 AND "), names=("take_key",))


@planted(promise.ONE_EVENT_OF_A_KEY_LIVES, "The next event of a key does not begin its time again.", by_chance=False)
def keeps_the_first_time_of_a_key() -> Patches:
    return keyed_by(("until=?", "until=relevo_unique.until + 0 * ?"), names=("take_key",))


@planted(
    promise.ONE_EVENT_OF_A_KEY_LIVES, "All of a transaction is written after its keys were looked up.", by_chance=False
)
def decides_all_of_a_transaction_first() -> Patches:
    write = JoinedSessions.write

    def decide_first(self: JoinedSessions, connection: sa.Connection, batches: Sequence[SentRows]) -> None:
        now = self._database.now(self._clock)
        statements: Statements = self._database.statements
        granted = [
            SentRows(batch.rows)
            for batch in batches
            if batch.claim is None or batch.claim.is_granted(connection, statements, batch.rows[0], now)
        ]
        write(self, connection, granted)

    return {(JoinedSessions, "write"): decide_first}


@planted(promise.ONE_EVENT_OF_A_KEY_LIVES, "The event of a duplicate is written all the same.", by_chance=False)
def writes_the_duplicate() -> Patches:
    granted = SentClaim.is_granted

    def grant(self: SentClaim, connection: sa.Connection, statements: Statements, row: Sent, now: int) -> bool:
        granted(self, connection, statements, row, now)
        return True

    return {(SentClaim, "is_granted"): grant}


@planted(
    promise.ONE_EVENT_OF_A_KEY_LIVES,
    "A row of a key that says what would be written counts as new, although it was there.",
    by_chance=False,
)
def takes_an_equal_row_for_a_new_one() -> Patches:
    locked = SentClaim._locked

    def lock(
        self: SentClaim, connection: sa.Connection, statements: Statements, row: Sent, now: int
    ) -> _unique._KeyRow:
        found = locked(self, connection, statements, row, now)
        is_equal = (found.event_id, found.until) == (row.event_id, now + self.within)
        return found._replace(is_first=found.is_first or is_equal)

    return {(SentClaim, "_locked"): lock}
