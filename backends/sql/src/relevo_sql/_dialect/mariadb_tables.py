"""
The tables as MariaDB and MySQL have them.

They have no partial indexes, and a key of an index has at most 3072 bytes. So some columns are computed from others:
they put the rows of all states into one index, find stray rows, and stand for what is too long for a key.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from relevo_sql._schema import (
    DONE_BY_ID,
    DONE_BY_TIME,
    IDENTITY,
    INBOX_BY_TIME,
    LEASED,
    LINE,
    READY,
    STRAY,
    UNIQUE_BY_TIME,
    dead,
    event,
    is_for,
    metadata,
    put_index,
)

TURN, AT, STRAY_QUEUE = "turn", "at", "stray"
"""The columns of ``relevo_event`` that are computed; the third is the queue of a stray row, and null in others."""

OF_STATE = "relevo_event_state"
"""The index that finds the rows of a queue in each state; its columns are those of all indexes of one state."""

OF_LINE = "relevo_event_turn"

_HASHED = [f"UNHEX(SHA2({name}, 256))" for name in IDENTITY[1:]]

_COMPUTED: dict[str, tuple[sa.types.TypeEngine[Any], str]] = {
    TURN: (sa.SmallInteger(), f"CASE state WHEN {READY} THEN urgency ELSE 0 END"),
    AT: (sa.BigInteger(), f"CASE state WHEN {LEASED} THEN lease_until ELSE ready_at END"),
    STRAY_QUEUE: (sa.String(255), f"CASE WHEN {STRAY.replace('relevo_event.', '')} THEN queue END"),
    # Null if one of them is: two rows may lack the same.
    "identity": (sa.BINARY(32), f"UNHEX(SHA2(CONCAT({', '.join(_HASHED)}), 256))"),
}

LINES = "relevo_line"
"""The table of the rows that transactions lock while they choose the next event of an ordering key."""


@cache
def tables_with(collation: str) -> sa.MetaData:
    """Return the tables; their texts have *collation*, which compares them byte for byte."""
    made = sa.MetaData()
    settings = {"engine": "InnoDB", "charset": "utf8mb4", "collate": collation}
    # SQLAlchemy reads those with the name of the scheme; Alembic creates these tables on the application's connection.
    options: Any = {f"{scheme}_{name}": value for scheme in ("mysql", "mariadb") for name, value in settings.items()}
    for table in metadata.sorted_tables:
        checks = [each for each in table.constraints if isinstance(each, sa.CheckConstraint)]
        checks.sort(key=lambda each: str(each.name))  # table.constraints is a set
        sa.Table(
            table.name,
            made,
            *map(_copied, table.c),
            *(sa.CheckConstraint(str(each.sqltext), name=each.name) for each in checks if is_for(each, "mariadb")),
            **options,
        )
    sa.Table(LINES, made, sa.Column("slot", sa.SmallInteger, primary_key=True, autoincrement=False), **options)
    events, dying = made.tables[event.name], made.tables[dead.name]
    for name, (kind, expression) in _COMPUTED.items():
        # Stored: an index of virtual ones is maintained by evaluating them again.
        events.append_column(sa.Column(name, kind, sa.Computed(expression, persisted=True)))
    sa.Index(OF_STATE, *(events.c[name] for name in ("state", "queue", TURN, AT, "seq", "enqueued_at")))
    sa.Index(OF_LINE, *(events.c[name] for name in (*LINE, "state", "seq")))
    sa.Index("relevo_event_stray", events.c[STRAY_QUEUE])
    # The id comes first: it is found by this index, and new ones are added at one end.
    sa.Index("relevo_event_identity", events.c[IDENTITY[0]], events.c.identity, unique=True)
    sa.Index("relevo_dead_identity", *(dying.c[name] for name in IDENTITY[:2]))
    sa.Index("relevo_dead_queue", dying.c.queue, dying.c.ref)
    for index in (INBOX_BY_TIME, UNIQUE_BY_TIME, DONE_BY_TIME, DONE_BY_ID):
        put_index(index, made)
    return made


def _copied(column: sa.Column[Any]) -> sa.Column[Any]:
    kind = column.type
    if isinstance(kind, sa.Text):
        kind = mysql.LONGTEXT()
    elif isinstance(kind, sa.LargeBinary):
        kind = mysql.LONGBLOB()
    default: Any = column.server_default
    return sa.Column(
        column.name,
        kind,
        primary_key=column.primary_key,
        nullable=column.nullable,
        server_default=None if default is None else default.arg,
    )
