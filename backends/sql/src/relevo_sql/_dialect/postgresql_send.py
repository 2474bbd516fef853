"""Sends to PostgreSQL: one statement for all rows, which also wakes a worker that waits."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql.base import PGDialect

from relevo_sql._dialect.dialect import Runnable
from relevo_sql._dialect.notifications import CHANNEL, FLAG
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


def insert_events(connection: sa.Connection, statement: Runnable, rows: Sequence[Sent]) -> None:
    """
    Insert new events, and notify the workers that wait.

    Args:
        connection: Of any driver. It remembers when it looked last whether a worker waits.

        statement: Inserts one row, with any driver.

        rows: The rows.
    """
    asked, is_awaited = connection.info.get(_LOOKED, (float("-inf"), False))
    now = monotonic()
    asks = now - asked >= (_NOTIFYING if is_awaited else _ASKING)
    if connection.dialect.driver != _DRIVER:
        statement.run_many(connection, rows)
        found = connection.exec_driver_sql(_NOTIFY) if asks else None
    else:
        # Many rows are arrays in the binary format: a third of the time that executemany() takes.
        values = rows[0] if len(rows) == 1 else tuple(map(list, zip(*rows, strict=True)))
        way = _INSERT if len(rows) == 1 else _INSERT_MANY
        found = connection.exec_driver_sql(way.asking if asks else way.plain, values)
    if asks and found is not None:
        connection.info[_LOOKED] = now, found.first() is not None


_NOTIFY = (
    f"SELECT pg_notify('{CHANNEL}', '') WHERE EXISTS (SELECT 1 FROM relevo_lock WHERE name = '{FLAG}' "  # noqa: S608 - ours
    "AND until > (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)"
)
"""Notifies if a worker waits; it returns a row then."""


class _Insert:
    """An INSERT of the columns of :class:`Sent` from *source*, alone and with the notification."""

    def __init__(self, source: str):
        self.plain = f"INSERT INTO relevo_event ({', '.join(_TYPES)}) {source} ON CONFLICT ({_KEY}) DO NOTHING"
        self.asking = f"WITH sent AS ({self.plain}) {_NOTIFY}"


_TYPES = {
    name: event.c[name].type.compile(PGDialect())  # type: ignore[no-untyped-call]  # SQLAlchemy's
    for name in Sent._fields
}
_KEY = ", ".join(IDENTITY)
_ARRAYS = ", ".join(f"%b::{kind.partition('(')[0]}[]" for kind in _TYPES.values())
_INSERT = _Insert(f"VALUES ({', '.join('%b' for _ in _TYPES)})")
_INSERT_MANY = _Insert(f"SELECT * FROM unnest({_ARRAYS})")  # noqa: S608 - types of this module
