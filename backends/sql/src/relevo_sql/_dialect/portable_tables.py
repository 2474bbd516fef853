"""
The tables in the portable dialect: no partial index, no constraint but keys, nothing computed by the database.

Rows of a state share an index with those of all states. Two columns are relevo's own: ``identity``, a digest in place
of the texts that identify an event, since some databases ignore spaces at their ends, and no index of SQL Server can
hold all of them; and ``mark``, which tells what a transaction has changed.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from typing import Any

import sqlalchemy as sa

from relevo_sql._schema import (
    DONE_BY_ID,
    DONE_BY_TIME,
    IDENTITY,
    INBOX_BY_TIME,
    LINE,
    UNIQUE_BY_TIME,
    dead,
    event,
    metadata,
    put_index,
    unique,
)

IDENTITY_COLUMN, MARK = "identity", "mark"

LINES = "relevo_line"
"""The table of the rows that transactions lock while they choose the next event of an ordering key."""

STRAY = (
    "(relevo_event.state < 0 OR relevo_event.state > 3 OR relevo_event.state = 1 AND relevo_event.lease_until IS NULL "
    "OR relevo_event.state = 3 AND relevo_event.target IS NULL "
    "OR relevo_event.state = 3 AND relevo_event.ordering_key IS NULL)"
)
"""The condition of a row that no claim would find; each part of it is a range of an index."""

BINARY = frozenset({"sqlite", "postgresql", "cockroachdb", "oracle"})
"""The databases that compare texts byte for byte, as SQLAlchemy calls them."""

_COLLATION = {"mysql": "utf8mb4_bin", "mariadb": "utf8mb4_bin", "mssql": "Latin1_General_100_BIN2"}
"""Compares texts byte for byte but for spaces at their ends, see :meth:`Dialect.same`."""

_LONGEST_NOTE = 2000
"""Characters: Oracle compares no longer texts."""


def identity_of(*texts: object) -> str | None:
    """Return the identity of an event with *texts*; ``None``, which equals no other, if one of them is missing."""
    digest = sha256()
    for text in texts:
        if not isinstance(text, str):
            return None
        raw = text.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "big") + raw)
    return digest.hexdigest()


@cache
def tables_on(name: str) -> sa.MetaData:
    """Return the tables for a database that SQLAlchemy calls *name*."""
    made = sa.MetaData()
    options: dict[str, Any] = {}
    if name in ("mysql", "mariadb"):
        # SQLAlchemy calls the same engine mysql before it has connected, and mariadb afterwards.
        said = {"engine": "InnoDB", "charset": "utf8mb4", "collate": _COLLATION[name]}
        options = {f"{kind}_{option}": value for kind in ("mysql", "mariadb") for option, value in said.items()}
    for table in metadata.sorted_tables:
        sa.Table(table.name, made, *(_copied(column, name) for column in table.c), sqlite_autoincrement=True, **options)
    events, dying = made.tables[event.name], made.tables[dead.name]
    events.append_column(sa.Column(IDENTITY_COLUMN, sa.String(64)))
    for each in (events, dying, made.tables[unique.name]):
        each.append_column(sa.Column(MARK, sa.BigInteger))
    slot = sa.Column("slot", sa.SmallInteger, primary_key=True, autoincrement=False)
    sa.Table(LINES, made, slot, sa.Column("turns", sa.BigInteger, nullable=False), **options)
    sa.Index("relevo_event_ready", *(events.c[column] for column in ("state", "queue", "urgency", "ready_at", "seq")))
    sa.Index("relevo_event_leased", events.c.state, events.c.queue, events.c.lease_until)
    sa.Index("relevo_event_scheduled", events.c.state, events.c.queue, events.c.ready_at)
    sa.Index("relevo_event_waiting", events.c.state, *(events.c[column] for column in LINE))
    sa.Index("relevo_event_turn", *(events.c[column] for column in LINE), events.c.state, events.c.seq)
    sa.Index("relevo_event_identity", events.c[IDENTITY_COLUMN], unique=True)
    sa.Index("relevo_event_id", events.c[IDENTITY[0]])
    sa.Index("relevo_dead_identity", dying.c[IDENTITY[0]])
    sa.Index("relevo_dead_queue", dying.c.queue, dying.c.ref)
    for index in (INBOX_BY_TIME, UNIQUE_BY_TIME, DONE_BY_TIME, DONE_BY_ID):
        put_index(index, made)
    return made


def _copied(column: sa.Column[Any], name: str) -> sa.Column[Any]:
    numbered = column.primary_key and isinstance(column.type, sa.BigInteger)
    default: Any = column.server_default
    return sa.Column(
        column.name,
        _type_of(column, name),
        *([sa.Identity(start=1)] if numbered else ()),  # where a type does not imply it
        primary_key=column.primary_key,
        nullable=column.nullable,
        server_default=None if default is None else default.arg,
    )


def _type_of(column: sa.Column[Any], name: str) -> sa.types.TypeEngine[Any]:
    kind = column.type
    if name in ("mysql", "mariadb"):
        from sqlalchemy.dialects import mysql  # noqa: PLC0415 - takes some milliseconds

        if isinstance(kind, sa.Text):
            return mysql.LONGTEXT()
        return mysql.LONGBLOB() if isinstance(kind, sa.LargeBinary) else kind
    if name == "oracle" and column.name == "begun":
        return sa.Unicode(_LONGEST_NOTE)
    if isinstance(kind, sa.Text):
        return sa.UnicodeText(collation=_COLLATION.get(name))
    return sa.Unicode(kind.length, collation=_COLLATION.get(name)) if isinstance(kind, sa.String) else kind
