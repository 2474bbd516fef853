"""
The tables, as one ``MetaData`` that both Alembic and the setup read.

Times are integer microseconds since the epoch; the one exception is ``expires``, which belongs to the envelope and must
be returned as exactly the float that was stored. Columns of the envelope that another writer may omit or fill with
invalid values are nullable on purpose: such a row is received as unreadable and becomes a dead letter, instead of being
refused here with an error that differs from database to database. Columns that decide when a row is handed out have
constraints: no index of a state would find a row that violates one.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

SCHEMA = 3
"""The version of the tables below; each database records its own in ``relevo_meta``."""

READY, LEASED, SCHEDULED, WAITING = 0, 1, 2, 3
"""
The states of a row in ``relevo_event``; indexes and statements name them as literals.

Of the events of one queue and ordering key, a line, only the oldest is in one of the first three states. Those behind
it wait, even if they are due; the next has its turn when the oldest is gone.
"""

HIGH, NORMAL = 0, 1
"""Urgencies, in the order in which they are claimed."""

SCHEMA_KEY = "schema"
DATABASE_KEY = "database"

metadata = sa.MetaData()

meta = sa.Table(
    "relevo_meta",
    metadata,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("value", sa.String(255), nullable=False),
)
"""The schema's version, and a random id that shows whether two connections reach the same database."""


def _kept() -> list[sa.Column[Any]]:
    """Return the columns that an event keeps until it is done, living or dead."""
    return [
        sa.Column("queue", sa.String(255), nullable=False),
        sa.Column("target", sa.String(255)),  # the envelope's own queue; different in an outbox
        sa.Column("event_id", sa.String(255)),
        sa.Column("source", sa.String(255)),
        sa.Column("name", sa.String(255)),
        sa.Column("urgency", sa.SmallInteger, nullable=False, server_default=sa.text(str(NORMAL))),
        sa.Column("ordering_key", sa.String(255)),
        sa.Column("expires", sa.Double),
        sa.Column("attempt", sa.Integer, nullable=False, server_default=sa.text("1")),
        sa.Column("lost_leases", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("enqueued_at", sa.BigInteger),
        sa.Column("headers", sa.Text),
        sa.Column("progress", sa.LargeBinary),
        sa.Column("body", sa.LargeBinary),
    ]


KEPT = tuple(column.name for column in _kept())
"""Their names, in the order of the table."""

IDENTITY = ("event_id", "source", "target", "queue")
"""
The columns that identify an event.

They include the envelope's own queue, since an outbox holds the copies of a fan-out in one queue. The id comes first:
ids grow with time, so new keys are added at one end of the index, and the index also finds an id.
"""


_IS_NUMBER = f"<= {2**63 - 1}"
_IS_TEXT = "< x''"
"""
Faster than a call of typeof(): numbers sort before texts, and texts before blobs.

https://www.sqlite.org/datatype3.html#sort_order
"""

STRAY = (
    f"(relevo_event.queue {_IS_TEXT} AND CASE relevo_event.state "
    f"WHEN {READY} THEN relevo_event.ready_at {_IS_NUMBER} "
    f"WHEN {LEASED} THEN relevo_event.lease_until {_IS_NUMBER} "
    f"WHEN {SCHEDULED} THEN relevo_event.ready_at {_IS_NUMBER} "
    f"WHEN {WAITING} THEN relevo_event.ordering_key IS NOT NULL AND relevo_event.target IS NOT NULL END) IS NOT TRUE"
)
"""
The condition of a stray row, which no claim would find.

The constraints refuse such a row unless its writer turns them off. A separate index finds it. That index is usually
empty, so each claim can check it.
"""

STRAY_QUEUE = "CASE typeof(relevo_event.queue) WHEN 'text' THEN relevo_event.queue ELSE '' END"
"""The queue of a stray row; empty, which is not a valid name, if the row names none."""

BY_STRAY = sa.Index(
    "relevo_event_stray",
    sa.text(STRAY_QUEUE.replace("relevo_event.", "")),
    sqlite_where=sa.text(STRAY.replace("relevo_event.", "")),
)


def _check(name: str, condition: str) -> sa.CheckConstraint:
    # Only SQLite lets a column hold a value of another type, and only SQLite has typeof().
    return sa.CheckConstraint(condition, name=f"relevo_event_{name}").ddl_if(dialect="sqlite")


event = sa.Table(
    "relevo_event",
    metadata,
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("state", sa.SmallInteger, nullable=False, server_default=sa.text(str(READY))),
    # Ready since then, or due then if scheduled.
    sa.Column("ready_at", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("lease_until", sa.BigInteger),
    sa.Column("token", sa.BigInteger),  # the claim that holds it; null unless leased
    sa.Column("begun", sa.Text),  # the note of the process that began it last, unless it has given it back
    sa.Column("deaths", sa.Text),  # the processes that the event killed or is presumed to have killed, a JSON list
    *_kept(),
    _check("queue_is_text", "typeof(queue) = 'text'"),
    _check("state_is_known", f"state IN ({READY}, {LEASED}, {SCHEDULED}, {WAITING})"),
    _check("ready_at_is_integer", "typeof(ready_at) = 'integer'"),
    _check(
        "lease_is_whole",
        f"CASE state WHEN {LEASED} THEN typeof(lease_until) = 'integer' AND typeof(token) = 'integer' "
        "ELSE lease_until IS NULL AND token IS NULL END",
    ),
    _check("waiting_has_line", f"state <> {WAITING} OR (ordering_key IS NOT NULL AND target IS NOT NULL)"),
    _check("attempt_is_count", "typeof(attempt) = 'integer' AND attempt >= 1"),
    _check("lost_leases_is_count", "typeof(lost_leases) = 'integer' AND lost_leases >= 0"),
    BY_STRAY,
)


def _partial(name: str, where: str, *columns: str) -> sa.Index:
    # Only SQLite's: an option of another database would import its dialect, which takes 30 ms.
    return sa.Index(f"relevo_event_{name}", *(event.c[column] for column in columns), sqlite_where=sa.text(where))


# One index for each state, so that a million scheduled rows do not slow down a claim. The time of sending comes last
# in the first index, so that the oldest ready event is found without reading the rows.
BY_STATE = {
    READY: _partial("ready", f"state = {READY}", "queue", "urgency", "ready_at", "seq", "enqueued_at"),
    LEASED: _partial("leased", f"state = {LEASED}", "queue", "lease_until"),
    SCHEDULED: _partial("scheduled", f"state = {SCHEDULED}", "queue", "ready_at"),
    WAITING: _partial("waiting", f"state = {WAITING}", "queue", "ready_at", "enqueued_at"),
}

LINE = ("queue", "target", "ordering_key")
BY_LINE = _partial("line", "ordering_key IS NOT NULL", *LINE, "seq")

BY_IDENTITY = sa.Index("relevo_event_identity", *(event.c[name] for name in IDENTITY), unique=True)

dead = sa.Table(
    "relevo_dead",
    metadata,
    sa.Column("ref", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    *_kept(),
    sa.Column("reason", sa.Text),
    sa.Column("error", sa.Text),
    sa.Column("died_at", sa.BigInteger),
    sqlite_autoincrement=True,  # a ref is never used twice: another process may be about to discard it
)
DEAD_BY_QUEUE = sa.Index("relevo_dead_queue", dead.c.queue, dead.c.ref)
sa.Index("relevo_dead_identity", *(dead.c[name] for name in IDENTITY))

lock = sa.Table(
    "relevo_lock",
    metadata,
    sa.Column("name", sa.String(255), primary_key=True),
    sa.Column("holder", sa.String(255), nullable=False),
    sa.Column("receipt", sa.String(64), nullable=False),
    sa.Column("until", sa.BigInteger, nullable=False),
)
"""Locks by name: the holder of each, and the time until which no other holder can take it."""

worker = sa.Table(
    "relevo_worker",
    metadata,
    sa.Column("worker", sa.String(64), primary_key=True),
    sa.Column("beats", sa.BigInteger, nullable=False),
    sa.Column("seen_at", sa.BigInteger, nullable=False),  # only for deleting old rows; not compared otherwise
)
"""The heartbeats of workers that began an event with an earlier lost lease; each adds a beat."""
