"""
The statement with which a program without relevo inserts an event: a CloudEvent in JSON, read by the database.

The columns of a row hold what a claim looks for; the body is the document itself. So a document that is not an event
becomes a row that is not one, and a worker makes a dead letter of it.

A row with an ordering key is put in line by the claim that finds it due. On SQLite, where one writes at a time, the
statement puts it in line.

An urgency that is neither high nor normal is ``NULL``, which the column refuses. MariaDB and MySQL do so in strict
mode; in any other mode they store zero, which is high. On MariaDB the statement is in strict mode, whatever the
session's mode is; MySQL ignores the comment.
"""

from __future__ import annotations

from relevo_sql._dialect.notifications import CHANNEL
from relevo_sql._schema import AT_ONCE, HIGH, IDENTITY, NORMAL, READY, SCHEDULED, WAITING

_COLUMNS = "queue, target, event_id, source, name, urgency, ordering_key, expires, state, ready_at, enqueued_at, body"
_IDENTITY = ", ".join(IDENTITY)

_SQLITE = f"""\
INSERT INTO relevo_event ({_COLUMNS})
SELECT queue, queue,
  json_extract(event, '$.id'), json_extract(event, '$.source'), json_extract(event, '$.type'),
  CASE coalesce(json_extract(event, '$.relevourgency'), 'normal')
    WHEN 'high' THEN {HIGH} WHEN 'normal' THEN {NORMAL} END,
  NULLIF(json_extract(event, '$.partitionkey'), ''),
  (julianday(json_extract(event, '$.expirytime')) - 2440587.5) * 86400,
  CASE WHEN EXISTS (
    SELECT 1 FROM relevo_event AS e
    WHERE e.queue = given.queue AND e.target = given.queue
      AND e.ordering_key = json_extract(given.event, '$.partitionkey')
  ) THEN {WAITING} ELSE {READY} END,
  now, now, CAST(event AS BLOB)
FROM (
  SELECT :queue AS queue, :event AS event, CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER) AS now
) AS given
WHERE true
ON CONFLICT ({_IDENTITY}) DO NOTHING;
"""  # noqa: S608 - names of this package

_POSTGRESQL = f"""\
INSERT INTO relevo_event ({_COLUMNS})
SELECT queue, queue,
  event ->> 'id', event ->> 'source', event ->> 'type',
  CASE coalesce(event ->> 'relevourgency', 'normal')
    WHEN 'high' THEN {HIGH} WHEN 'normal' THEN {NORMAL} END,
  NULLIF(event ->> 'partitionkey', ''),
  extract(epoch FROM CAST(event ->> 'expirytime' AS timestamptz)),
  CASE WHEN NULLIF(event ->> 'partitionkey', '') IS NULL THEN {READY} ELSE {SCHEDULED} END,
  CASE WHEN NULLIF(event ->> 'partitionkey', '') IS NULL THEN now ELSE {AT_ONCE} END,
  now, convert_to(CAST(event AS text), 'UTF8')
FROM (
  SELECT CAST(:queue AS text) AS queue, CAST(:event AS json) AS event,
    CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint) AS now
) AS given, pg_notify('{CHANNEL}', '')
ON CONFLICT ({_IDENTITY}) DO NOTHING;
"""  # noqa: S608 - as above

_MARIADB = f"""\
/*M!100600 SET STATEMENT sql_mode = 'STRICT_ALL_TABLES' FOR */
INSERT INTO relevo_event ({_COLUMNS})
SELECT queue, queue,
  JSON_VALUE(event, '$.id'), JSON_VALUE(event, '$.source'), JSON_VALUE(event, '$.type'),
  CASE CAST(coalesce(JSON_VALUE(event, '$.relevourgency'), 'normal') AS BINARY)
    WHEN 'high' THEN {HIGH} WHEN 'normal' THEN {NORMAL} END,
  NULLIF(JSON_VALUE(event, '$.partitionkey'), ''),
  TIMESTAMPDIFF(SECOND, '1970-01-01', STR_TO_DATE(JSON_VALUE(event, '$.expirytime'), '%Y-%m-%dT%H:%i:%sZ')),
  CASE WHEN NULLIF(JSON_VALUE(event, '$.partitionkey'), '') IS NULL THEN {READY} ELSE {SCHEDULED} END,
  CASE WHEN NULLIF(JSON_VALUE(event, '$.partitionkey'), '') IS NULL THEN now ELSE {AT_ONCE} END,
  now, CAST(CONVERT(event USING utf8mb4) AS BINARY)
FROM (
  SELECT :queue AS queue, :event AS event, CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED) AS now
) AS given
ON DUPLICATE KEY UPDATE event_id = relevo_event.event_id;
"""  # noqa: S608 - as above

_STATEMENTS = {"sqlite": _SQLITE, "postgresql": _POSTGRESQL, "mariadb": _MARIADB, "mysql": _MARIADB}


def insert_statement(database: str, *, table: str) -> str | None:
    """
    Return the SQL that inserts a CloudEvent; ``None`` if it is not known for this database.

    Its parameters are ``:queue`` and ``:event``, the event in JSON as text.

    Args:
        database: The name of the database, as SQLAlchemy has it.

        table: The name of ``relevo_event`` in a statement, with its schema.
    """
    found = _STATEMENTS.get(database)
    return found and found.replace("relevo_event", table)
