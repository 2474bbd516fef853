"""Creating the tables: whatever is missing, and never a change to what is there."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex, CreateTable

from relevo.errors import ConfigurationError
from relevo_sql._database import Database
from relevo_sql._schema import DATABASE_KEY, SCHEMA, SCHEMA_KEY, meta, metadata

_Thing = sa.Table | sa.Index | str
"""A table, one of its indexes, or the key of what a database says of itself."""


def set_up(database: Database, *, dry_run: bool) -> Sequence[str]:
    """
    Create the tables that are missing.

    Args:
        database: Where.

        dry_run: Only tell.

    Returns:
        What was, or would be, created, in words.

    Raises:
        ConfigurationError: What is there is of another version, or not relevo's.
    """
    missing = database.inspect(lambda connection: _missing(database, connection))
    if missing is None:
        missing = _everything()
    if missing and not dry_run:
        # Looked at again, now that nobody else can create anything.
        missing = database.create(lambda connection: _create(database, connection))
    return [_told(thing) for thing in missing]


def is_incomplete(database: Database, connection: sa.Connection) -> bool:
    """
    Return whether the database that *connection*, anybody's, reaches lacks something.

    Raises:
        ConfigurationError: What is there is of another version, or not relevo's.
    """
    return bool(_missing(database, connection))


def create_within(database: Database, connection: sa.Connection) -> None:
    """
    Create what is missing in the transaction of *connection*, which is somebody else's.

    Raises:
        ConfigurationError: What is there is of another version, or not relevo's.
    """
    database.dialect.begin_to_create(connection)
    _create(database, connection)


def _everything() -> list[_Thing]:
    """Return all that there should be, in the order in which it can be made."""
    found: list[_Thing] = []
    for table in metadata.sorted_tables:
        found.append(table)
        indexes: list[sa.Index] = sorted(table.indexes, key=lambda index: str(index.name))
        found.extend(indexes)
    return [*found, SCHEMA_KEY, DATABASE_KEY]


def _missing(database: Database, connection: sa.Connection) -> list[_Thing]:
    there = database.dialect.names(connection)
    if meta.name in there:  # first, since a newer schema may look like anything
        rows: Sequence[Any] = database.statements.meta.run(connection).all()
        found = {str(key): str(value) for key, value in rows}
        there |= found.keys()
        if SCHEMA_KEY in found:
            database.check_version(found[SCHEMA_KEY])
    for table in metadata.sorted_tables:
        if table.name in there:
            _require_columns(database, connection, table)
    return [thing for thing in _everything() if _name(thing) not in there]


def _require_columns(database: Database, connection: sa.Connection, table: sa.Table) -> None:
    there = {column["name"] for column in sa.inspect(connection).get_columns(table.name)}
    lacking = set(table.c.keys()) - there
    if lacking:
        raise ConfigurationError(
            f'{database.place} has a table "{table.name}" without the columns {", ".join(sorted(lacking))}; '
            f"it is not relevo's, or somebody changed it: rename it or migrate it"
        )


def _create(database: Database, connection: sa.Connection) -> list[_Thing]:
    missing = _missing(database, connection)
    for thing in missing:
        if isinstance(thing, str):
            value = str(SCHEMA) if thing == SCHEMA_KEY else uuid.uuid4().hex
            database.statements.say.run(connection, key=thing, value=value)
        else:
            creation = CreateTable(thing) if isinstance(thing, sa.Table) else CreateIndex(thing)
            # As text: the connection may be the application's, and translate the names of schemas.
            connection.exec_driver_sql(str(creation.compile(dialect=database.dialect.compiler)))
    return missing


def _name(thing: _Thing) -> str:
    return thing if isinstance(thing, str) else str(thing.name)


def _told(thing: _Thing) -> str:
    if isinstance(thing, sa.Table):
        return f"table {thing.name}"
    if isinstance(thing, sa.Index):
        return f"index {thing.name}"
    return {SCHEMA_KEY: f"the schema's version, {SCHEMA}", DATABASE_KEY: "an id of this database"}[thing]
