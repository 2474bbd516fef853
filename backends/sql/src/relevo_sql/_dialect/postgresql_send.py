"""Sends to PostgreSQL: one statement for all rows, which also wakes a worker that waits."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql.base import PGDialect

from relevo_sql._dialect.notifications import CHANNEL, FLAG
from relevo_sql._dialect.row_change import Runnable
from relevo_sql._row import Sent
from relevo_sql._schema import IDENTITY, event

_ASKING = 0.25
"""Seconds between two looks whether a worker waits, while none does."""

_NOTIFYING = 0.01
"""
Seconds between two notifications of this process: a worker that was woken polls after this time.

A notification locks out all other commits of the server for a moment:
https://www.postgresql.org/docs/current/sql-notify.html
"""

_DRIVER = "psycopg"

_LOOKED = "relevo_sql.looked"


class Texts:
    """
    The statements of sends.

    Args:
        events: The name of ``relevo_event`` in a statement.

        locks: That of ``relevo_lock``.
    """

    def __init__(self, events: str, locks: str):
        self.notify = _NOTIFY.format(channel=CHANNEL, locks=locks, flag=FLAG)
        """Notifies if a worker waits; it returns a row then."""
        self.insert = _Insert(f"INSERT INTO {events} {_ONE}", self.notify)
        self.insert_many = _Insert(f"INSERT INTO {events} {_MANY}", self.notify)


def insert_events(connection: sa.Connection, statement: Runnable, rows: Sequence[Sent], texts: Texts) -> None:
    """
    Insert new events, and notify the workers that wait.

    Args:
        connection: Of any driver. It remembers for each schema when it looked last whether a worker waits.

        statement: Inserts one row, with any driver.

        rows: The rows.

        texts: The statements for the driver of the connection.
    """
    looked = _LOOKED, texts.notify
    asked, is_awaited = connection.info.get(looked, (float("-inf"), False))
    now = monotonic()
    asks = now - asked >= (_NOTIFYING if is_awaited else _ASKING)
    if connection.dialect.driver != _DRIVER:
        statement.run_many(connection, rows)
        found = connection.exec_driver_sql(texts.notify) if asks else None
    else:
        # Many rows are arrays in the binary format: a third of the time that executemany() takes.
        values = rows[0] if len(rows) == 1 else tuple(map(list, zip(*rows, strict=True)))
        way = texts.insert if len(rows) == 1 else texts.insert_many
        found = connection.exec_driver_sql(way.asking if asks else way.plain, values)
    if asks and found is not None:
        connection.info[looked] = now, found.first() is not None


_NOTIFY = (
    "SELECT pg_notify('{channel}', '') WHERE EXISTS (SELECT 1 FROM {locks} WHERE name = '{flag}' "
    "AND until > (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)"
)


class _Insert:
    """The statement *insert*, alone and with the notification *notify*."""

    def __init__(self, insert: str, notify: str):
        self.plain = insert
        self.asking = f"WITH sent AS ({insert}) {notify}"


_TYPES = {
    name: event.c[name].type.compile(PGDialect())  # type: ignore[no-untyped-call]  # SQLAlchemy's
    for name in Sent._fields
}
_COLUMNS = f"({', '.join(_TYPES)})"
_AS_BEFORE = f"ON CONFLICT ({', '.join(IDENTITY)}) DO NOTHING"
_ARRAYS = ", ".join(f"%b::{kind.partition('(')[0]}[]" for kind in _TYPES.values())
_ONE = f"{_COLUMNS} VALUES ({', '.join('%b' for _ in _TYPES)}) {_AS_BEFORE}"
_MANY = f"{_COLUMNS} SELECT * FROM unnest({_ARRAYS}) {_AS_BEFORE}"  # noqa: S608 - types of this module
