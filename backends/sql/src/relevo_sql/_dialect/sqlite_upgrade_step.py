"""The step from the first tables on SQLite to those of schema version 3; only SQLite had them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from relevo_sql._dialect.upgrade_step import UpgradeStep

_NEW = "relevo_event_upgraded"

_COLUMNS = {
    "seq": "INTEGER NOT NULL",
    "state": "SMALLINT DEFAULT 0 NOT NULL",
    "ready_at": "BIGINT DEFAULT 0 NOT NULL",
    "lease_until": "BIGINT",
    "token": "BIGINT",
    "begun": "TEXT",
    "deaths": "TEXT",
    "queue": "VARCHAR(255) NOT NULL",
    "target": "VARCHAR(255)",
    "event_id": "VARCHAR(255)",
    "source": "VARCHAR(255)",
    "name": "VARCHAR(255)",
    "urgency": "SMALLINT DEFAULT 1 NOT NULL",
    "ordering_key": "VARCHAR(255)",
    "expires": "DOUBLE",
    "attempt": "INTEGER DEFAULT 1 NOT NULL",
    "lost_leases": "INTEGER DEFAULT 0 NOT NULL",
    "enqueued_at": "BIGINT",
    "headers": "TEXT",
    "progress": "BLOB",
    "body": "BLOB",
}

_ADDED = {"begun", "deaths"}
"""The columns that version 1 does not have."""

_CONSTRAINTS = {
    "queue_is_text": "typeof(queue) = 'text'",
    "state_is_known": "state IN (0, 1, 2, 3)",
    "ready_at_is_integer": "typeof(ready_at) = 'integer'",
    "lease_is_whole": (
        "CASE state WHEN 1 THEN typeof(lease_until) = 'integer' AND typeof(token) = 'integer' "
        "ELSE lease_until IS NULL AND token IS NULL END"
    ),
    "waiting_has_line": "state <> 3 OR (ordering_key IS NOT NULL AND target IS NOT NULL)",
    "attempt_is_count": "typeof(attempt) = 'integer' AND attempt >= 1",
    "lost_leases_is_count": "typeof(lost_leases) = 'integer' AND lost_leases >= 0",
}


def with_constraints(
    events: Collection[str], dead_letters: Collection[str], attached: Mapping[str, str]
) -> UpgradeStep:
    """
    Return the step from version 1 or 2 to 3.

    Version 2 added what is noted about an event that kills its worker, and constraints. Version 3 renamed a column.

    Args:
        events: The columns of ``relevo_event``; none if it does not exist.

        dead_letters: The columns of ``relevo_dead``.

        attached: The SQL of the indexes and triggers of ``relevo_event``, by name.
    """
    renamed = [
        f"ALTER TABLE {table} RENAME COLUMN losses TO lost_leases"
        for table, columns in (("relevo_event", events), ("relevo_dead", dead_letters))
        if "losses" in columns
    ]
    if not events:
        return UpgradeStep(to=3, statements=renamed)
    there = {"lost_leases" if each == "losses" else each for each in events}
    # Other programs may have written a row without a time: it was never handed out.
    copied = ["coalesce(ready_at, 0)" if each == "ready_at" else each if each in there else "NULL" for each in _COLUMNS]
    own = frozenset(name for name in attached if name.startswith("relevo_event_"))
    return UpgradeStep(
        to=3,
        statements=(
            *renamed,
            # SQLite adds no constraint to a table; the order is that of its manual, and with this setting views are
            # not checked meanwhile: https://www.sqlite.org/lang_altertable.html#otheralter
            "PRAGMA legacy_alter_table = 1",
            # A row that no claim would find stays one: it is handed out as unreadable, and becomes a dead letter.
            "PRAGMA ignore_check_constraints = 1",
            _creation(),
            f"INSERT INTO {_NEW} ({', '.join(_COLUMNS)}) SELECT {', '.join(copied)} FROM relevo_event",  # noqa: S608 - our own names
            "DROP TABLE relevo_event",
            f"ALTER TABLE {_NEW} RENAME TO relevo_event",
            "PRAGMA legacy_alter_table = 0",
            *(sql for name, sql in attached.items() if name not in own),
        ),
        drops=own,
        lacking=frozenset(_COLUMNS.keys() - _ADDED - there),
        lost=frozenset(there - _COLUMNS.keys()),
    )


def _creation() -> str:
    columns = [f"{name} {kind}" for name, kind in _COLUMNS.items()]
    checks = [f"CONSTRAINT relevo_event_{name} CHECK ({check})" for name, check in _CONSTRAINTS.items()]
    return f"CREATE TABLE {_NEW} ({', '.join([*columns, 'PRIMARY KEY (seq)', *checks])})"
