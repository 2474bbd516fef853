"""
The tables, as one ``MetaData`` that both Alembic and the setup read.

Times are integer microseconds since the epoch; the one exception is ``expires``, which belongs to the envelope and must
be returned as exactly the float that was stored. Columns of the envelope that another writer may omit or fill with
invalid values are nullable on purpose: such a row is received as unreadable and becomes a dead letter, instead of being
refused here with an error that differs from database to database. Columns that decide when a row is handed out have
constraints: no index of a state would find a row that violates one.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import sqlalchemy as sa

SCHEMA = 4
"""The version of the tables below; each database records its own in ``relevo_meta``."""

OLDEST = 4
"""
The version of the oldest release that can use the tables below; a database records it if it is not :data:`SCHEMA`.

Releases of both then work on them side by side. That is possible if the new version only adds what may be missing or
null: a table, an index, a column that can be null. After any other change it is :data:`SCHEMA`.
"""

READY, LEASED, SCHEDULED, WAITING = 0, 1, 2, 3
"""
The states of a row in ``relevo_event``; indexes and statements name them as literals.

Of the events of one queue and ordering key, a line, one at most is ready or leased. Those behind it wait, even if they
are due; the oldest has its turn when that one is gone.
"""

AT_ONCE = 0
"""
The time since when an event without a delay is due: always, also if the clock is set back afterwards.

A time below it means the same, while the event waits for its turn; its amount is the time since when it waits. A
revived event has it, whose time of sending says nothing of its delay.
"""

FARTHEST_TIME = 2**62
"""The greatest amount of such a time; another one was written by hand."""

HIGH, NORMAL = 0, 1
"""Urgencies, in the order in which they are claimed."""

SCHEMA_KEY = "schema"
OLDEST_KEY = "oldest"
DATABASE_KEY = "database"

metadata = sa.MetaData()

meta = sa.Table(
    "relevo_meta",
    metadata,
    sa.Column("key", sa.Unicode(64), primary_key=True),
    sa.Column("value", sa.Unicode(255), nullable=False),
)
"""The schema's version, and a random id that shows whether two connections reach the same database."""


def _kept() -> list[sa.Column[Any]]:
    """Return the columns that an event keeps, living, dead or done."""
    return [
        sa.Column("queue", sa.Unicode(255), nullable=False),
        sa.Column("target", sa.Unicode(255)),  # the envelope's own queue; different in an outbox
        sa.Column("event_id", sa.Unicode(255)),
        sa.Column("source", sa.Unicode(255)),
        sa.Column("name", sa.Unicode(255)),
        sa.Column("urgency", sa.SmallInteger, nullable=False, server_default=sa.text(str(NORMAL))),
        sa.Column("ordering_key", sa.Unicode(255)),
        sa.Column("expires", sa.Double),
        sa.Column("attempt", sa.Integer, nullable=False, server_default=sa.text("1")),
        sa.Column("lost_leases", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("enqueued_at", sa.BigInteger),
        sa.Column("headers", sa.UnicodeText),
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

CONTENT = ("name", "urgency", "ordering_key", "expires", "headers", "body")
"""The other columns of the envelope; two rows with equal ones, and the same identity, are copies of one event."""


_IS_NUMBER = f"<= {2**63 - 1}"
_IS_TEXT = "< x''"
"""
Faster than a call of typeof(): numbers sort before texts, and texts before blobs.

https://www.sqlite.org/datatype3.html#sort_order
"""

SQLITE_STRAY = (
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

SQLITE_STRAY_QUEUE = "CASE typeof(relevo_event.queue) WHEN 'text' THEN relevo_event.queue ELSE '' END"
"""The queue of a stray row; empty, which is not a valid name, if the row names none."""

STRAY = (
    f"(CASE WHEN relevo_event.state IN ({READY}, {SCHEDULED}) THEN 0 "
    f"WHEN relevo_event.state = {LEASED} AND relevo_event.lease_until IS NOT NULL THEN 0 "
    f"WHEN relevo_event.state = {WAITING} AND relevo_event.ordering_key IS NOT NULL "
    "AND relevo_event.target IS NOT NULL THEN 0 ELSE 1 END) = 1"
)
"""
The same where a column holds only values of its type.

It is a comparison of numbers: PostgreSQL expects that half of all rows fulfil a condition that it knows nothing of, and
would walk through the table instead of using the index; of an equality it expects few.
"""


Engines = Literal["all", "sqlite", "servers"]

_ENGINES = "relevo_sql.engines"
_WHERE = "relevo_sql.where"


def is_for(thing: sa.Index | sa.CheckConstraint, dialect: str) -> bool:
    """Return whether *thing* belongs into a database that SQLAlchemy calls *dialect*."""
    return _engines_of(thing) in ("all", "sqlite" if dialect == "sqlite" else "servers")


def where_of(index: sa.Index) -> str | None:
    """Return the condition of the rows that *index* has where a database knows partial indexes."""
    where: str | None = index.info.get(_WHERE)
    return where


def _engines_of(thing: sa.Index | sa.CheckConstraint) -> Engines:
    engines: Engines = thing.info.get(_ENGINES, "all")
    return engines


_Thing = TypeVar("_Thing", sa.Index, sa.CheckConstraint)


def _only_on(thing: _Thing, engines: Engines) -> _Thing:
    names: Any = {"all": None, "sqlite": "sqlite", "servers": ("postgresql", "mariadb", "mysql")}[engines]
    return thing.ddl_if(dialect=names)


def _check(name: str, condition: str, *, engines: Engines = "all") -> sa.CheckConstraint:
    check = sa.CheckConstraint(condition, name=f"relevo_event_{name}", info={_ENGINES: engines})
    return _only_on(check, engines)


def _index(name: str, *columns: Any, where: str, engines: Engines = "all") -> sa.Index:
    # The condition is an option of SQLite's; a dialect that knows partial indexes adds its own, since naming one here
    # would import its module, which takes 30 ms.
    info = {_ENGINES: engines, _WHERE: where}
    index = sa.Index(f"relevo_event_{name}", *columns, sqlite_where=sa.text(where), info=info)
    return _only_on(index, engines)


def put_index(index: sa.Index, tables: sa.MetaData) -> None:
    """Put *index*, which is one of columns, on the table of *tables* with the name of its own table."""
    sa.Index(index.name, *(tables.tables[str(column.table.description)].c[column.name] for column in index.columns))


BY_STRAY = _index(
    "stray",
    sa.text(SQLITE_STRAY_QUEUE.replace("relevo_event.", "")),
    where=SQLITE_STRAY.replace("relevo_event.", ""),
    engines="sqlite",
)


event = sa.Table(
    "relevo_event",
    metadata,
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("state", sa.SmallInteger, nullable=False, server_default=sa.text(str(READY))),
    # Ready since then, or due then if scheduled; see AT_ONCE.
    sa.Column("ready_at", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("lease_until", sa.BigInteger),
    sa.Column("leased_at", sa.BigInteger),  # when the last lease began
    sa.Column("token", sa.BigInteger),  # the claim that holds it; null unless leased
    sa.Column("begun", sa.UnicodeText),  # the note of the process that began it last, unless it has given it back
    sa.Column(
        "deaths", sa.UnicodeText
    ),  # the processes that the event killed or is presumed to have killed, a JSON list
    *_kept(),
    # Only SQLite lets a column hold a value of another type, and only SQLite has typeof().
    _check("queue_is_text", "typeof(queue) = 'text'", engines="sqlite"),
    _check("state_is_known", f"state IN ({READY}, {LEASED}, {SCHEDULED}, {WAITING})"),
    _check("ready_at_is_integer", "typeof(ready_at) = 'integer'", engines="sqlite"),
    _check(
        "lease_is_whole",
        f"CASE state WHEN {LEASED} THEN typeof(lease_until) = 'integer' AND typeof(token) = 'integer' "
        "ELSE lease_until IS NULL AND token IS NULL END",
        engines="sqlite",
    ),
    _check(
        "lease_is_whole",
        f"CASE state WHEN {LEASED} THEN lease_until IS NOT NULL AND token IS NOT NULL "
        "ELSE lease_until IS NULL AND token IS NULL END",
        engines="servers",
    ),
    _check("waiting_has_line", f"state <> {WAITING} OR (ordering_key IS NOT NULL AND target IS NOT NULL)"),
    _check("attempt_is_count", "typeof(attempt) = 'integer' AND attempt >= 1", engines="sqlite"),
    _check("attempt_is_count", "attempt IS NOT NULL AND attempt >= 1", engines="servers"),
    _check("lost_leases_is_count", "typeof(lost_leases) = 'integer' AND lost_leases >= 0", engines="sqlite"),
    _check("lost_leases_is_count", "lost_leases IS NOT NULL AND lost_leases >= 0", engines="servers"),
    BY_STRAY,
)


def _partial(name: str, where: str, *columns: str, engines: Engines = "all") -> sa.Index:
    return _index(name, *(event.c[column] for column in columns), where=where, engines=engines)


# One index for each state, so that a million scheduled rows do not slow down a claim. The time of sending comes last
# in the first index, so that the oldest ready event is found without reading the rows.
BY_STATE = {
    READY: _partial("ready", f"state = {READY}", "queue", "urgency", "ready_at", "seq", "enqueued_at"),
    LEASED: _partial("leased", f"state = {LEASED}", "queue", "lease_until"),
    SCHEDULED: _partial("scheduled", f"state = {SCHEDULED}", "queue", "ready_at"),
    WAITING: _partial("waiting", f"state = {WAITING}", "queue", "ready_at", "enqueued_at"),
}

LINE = ("queue", "target", "ordering_key")
BY_LINE = _partial("line", "ordering_key IS NOT NULL", *LINE, "seq", engines="sqlite")
BY_TURN = _partial("turn", "ordering_key IS NOT NULL", *LINE, "state", "seq", engines="servers")
"""The rows of a line in each state: where several write at a time, the oldest row is not always the next one."""

STRAYS = _partial("stray", STRAY.replace("relevo_event.", ""), "queue", engines="servers")

BY_IDENTITY = sa.Index("relevo_event_identity", *(event.c[name] for name in IDENTITY), unique=True)

dead = sa.Table(
    "relevo_dead",
    metadata,
    sa.Column("ref", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    *_kept(),
    sa.Column("reason", sa.UnicodeText),
    sa.Column("error", sa.UnicodeText),
    sa.Column("died_at", sa.BigInteger),
    sqlite_autoincrement=True,  # a ref is never used twice: another process may be about to discard it
)
DEAD_BY_QUEUE = sa.Index("relevo_dead_queue", dead.c.queue, dead.c.ref)
DEAD_BY_IDENTITY = sa.Index("relevo_dead_identity", *(dead.c[name] for name in IDENTITY))

lock = sa.Table(
    "relevo_lock",
    metadata,
    sa.Column("name", sa.Unicode(255), primary_key=True),
    sa.Column("holder", sa.Unicode(255), nullable=False),
    sa.Column("receipt", sa.String(64), nullable=False),
    sa.Column("until", sa.BigInteger, nullable=False),
)
"""
Locks by name: the holder of each, and the time until which no other holder can take it.

A schedule is one of the rows, whose time is the tick up to which it has fired; so rows are kept after their time.
"""

worker = sa.Table(
    "relevo_worker",
    metadata,
    sa.Column("worker", sa.String(64), primary_key=True),
    sa.Column("beats", sa.BigInteger, nullable=False),
    sa.Column("seen_at", sa.BigInteger, nullable=False),  # only for deleting old rows; not compared otherwise
)
"""The heartbeats of workers that began an event with an earlier lost lease; each adds a beat."""

announcement = sa.Table(
    "relevo_announcement",
    metadata,
    sa.Column("worker", sa.String(64), primary_key=True),
    sa.Column("about", sa.LargeBinary, nullable=False),
    sa.Column("until", sa.BigInteger, nullable=False),
)
"""
What workers announce about themselves, and when that expires. Rows whose key begins with :data:`CONTROL` are not of
workers: they are what operators ask of all workers, such as to pause a queue. Those whose key begins with :data:`LIMIT`
are what counts against the limits of queues.

An earlier release did not create it, and workers do without it: it tells people who holds an event.
"""
CONTROL = "control/"
LIMIT = "limit/"

inbox = sa.Table(
    "relevo_inbox",
    metadata,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("state", sa.LargeBinary, nullable=False),
    sa.Column("handled_at", sa.BigInteger, nullable=False),
)
"""
Which transactional listeners are done with the events of another transport, by a digest of the event and the listener.

An earlier release did not create it; only such listeners need it.
"""
INBOX_BY_TIME = sa.Index("relevo_inbox_time", inbox.c.handled_at)

unique = sa.Table(
    "relevo_unique",
    metadata,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("source", sa.Unicode(255), nullable=False),
    sa.Column("event_id", sa.Unicode(255), nullable=False),
    sa.Column("until", sa.BigInteger, nullable=False),
)
"""
The event that has a unique key, by a digest of its application and the key; it has it until then, and while it lives.

An earlier release did not create it; only unique events need it.
"""
UNIQUE_BY_TIME = sa.Index("relevo_unique_time", unique.c.until)

done = sa.Table(
    "relevo_done",
    metadata,
    sa.Column("ref", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    *_kept(),
    sa.Column("done_at", sa.BigInteger, nullable=False),
)
"""
The archive: the events that are done, which the option ``keep`` keeps for a time.

An earlier release did not create it; only a transport with that option needs it.
"""
DONE_BY_TIME = sa.Index("relevo_done_time", done.c.done_at)
DONE_BY_ID = sa.Index("relevo_done_id", done.c.event_id)

ARCHIVE = frozenset({done.name, str(DONE_BY_TIME.name), str(DONE_BY_ID.name)})
"""What only a transport needs that keeps what is done."""

DISPENSABLE = frozenset(
    {announcement.name, inbox.name, str(INBOX_BY_TIME.name), unique.name, str(UNIQUE_BY_TIME.name), *ARCHIVE}
)
"""What an earlier release did not create, and most workers can do without."""
