"""Create missing tables; never change existing ones."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex, CreateSchema, CreateTable

from relevo.errors import ConfigurationError, shown
from relevo_sql._database import Database
from relevo_sql._dialect import Dialect, Stored
from relevo_sql._schema import (
    BY_IDENTITY,
    DATABASE_KEY,
    IDENTITY,
    OLDEST,
    OLDEST_KEY,
    SCHEMA,
    SCHEMA_KEY,
    event,
    is_for,
    meta,
)
from relevo_sql._statement import statements_for

Thing = CreateSchema | sa.Table | sa.Index | str
"""What creates the schema, a table, one of its indexes, or a key of ``relevo_meta``."""


def set_up(database: Database, *, dry_run: bool, only_needed: bool = False) -> Sequence[str]:
    """
    Create the tables that are missing.

    Args:
        database: The database.

        dry_run: Only report what is missing.

        only_needed: Leave out what workers can do without.

    Returns:
        Descriptions of what was, or would be, created.

    Raises:
        ConfigurationError: Existing tables are of another version or not relevo's.
    """
    missing = missing_in(database)
    if only_needed:
        missing = _needed(database, missing)
    if missing and not dry_run:
        # Checked again, now that no other process can create anything.
        try:
            missing = database.create(lambda connection: create_alone(database, connection))
        except ConfigurationError:
            if _needed(database, missing):
                raise
            return []  # this user may create nothing, and an earlier release needed nothing more
    return list(map(description_of, missing))


def missing_in(database: Database) -> list[Thing]:
    """
    Return what *database* lacks.

    Raises:
        ConfigurationError: Existing tables are of another version or not relevo's.
    """
    missing = database.inspect(lambda connection: _missing(database, connection))
    return everything(database) if missing is None else missing


def is_incomplete(database: Database, connection: sa.Connection) -> bool:
    """
    Return whether the database behind *connection* lacks something.

    Raises:
        ConfigurationError: Existing tables are of another version or not relevo's.
    """
    return bool(_needed(database, _missing(database, connection)))


def create_within(database: Database, connection: sa.Connection) -> None:
    """
    Create what is missing in the transaction of *connection*, which is the application's.

    Raises:
        ConfigurationError: Existing tables are of another version or not relevo's.
    """
    database.dialect.begin_to_create(connection)
    create(database, connection)


def script_for(database: Database) -> str:
    """Return the SQL that creates everything in an empty database like *database*, without connecting to it."""
    title = f"relevo's tables, version {SCHEMA}, for {place_of(database)}"
    return script(title, texts_of(everything(database), database.dialect), database.dialect)


def place_of(database: Database) -> str:
    """Return where *database* is, as a comment can say it."""
    return "".join(each if each.isprintable() else "?" for each in database.place)


def script(title: str, texts: Sequence[str], dialect: Dialect, *, settings: Sequence[str] = ()) -> str:
    """Return *settings* and *texts* as a script; *texts* are one transaction if the database creates tables in one."""
    if dialect.creates_in_transaction:
        texts = ["BEGIN", *texts, "COMMIT"]
    lines = [f"-- {title}", *(f"{text};" for text in (*settings, *texts))]
    return "\n".join(line.rstrip() for text in lines for line in text.splitlines()) + "\n"


def completion(table: str, dialect: Dialect) -> Sequence[str]:
    """Return what the new *table* needs besides its columns, constraints and indexes of columns."""
    things: list[Thing] = [
        index
        for index in dialect.metadata.tables[table].indexes
        if is_for(index, dialect.name) and not all(isinstance(each, sa.Column) for each in index.expressions)
    ]
    return texts_of([*things, *([SCHEMA_KEY, *oldest_keys(), DATABASE_KEY] if table == meta.name else [])], dialect)


def _needed(database: Database, missing: Sequence[Thing]) -> list[Thing]:
    """Return *missing* without what an earlier release did not create and *database* may lack."""
    return [thing for thing in missing if getattr(thing, "name", "") not in database.dispensable]


def texts_of(things: Iterable[Thing], dialect: Dialect) -> list[str]:
    """Return the SQL that creates *things*, as a script has it."""
    # The database makes its id, since a script is run in several.
    statements = [_statement(thing, dialect, new_id=dialect.random_id) for thing in things]
    return as_script([str(each.compile(dialect=dialect.compiler)).strip() for each in statements], dialect)


def as_script(texts: Sequence[str], dialect: Dialect) -> list[str]:
    """Return *texts*, which *dialect* has compiled, as a program without parameters reads them."""
    if dialect.compiler.paramstyle == "format":  # it doubles them, since the driver would look for parameters
        return [text.replace("%%", "%") for text in texts]
    return list(texts)


def _statement(thing: Thing, dialect: Dialect, *, new_id: str) -> sa.ClauseElement:
    """Return what creates *thing*; *new_id* is an expression for the id of the database."""
    if isinstance(thing, CreateSchema):
        return thing
    if isinstance(thing, sa.Table):
        return CreateTable(thing)
    if isinstance(thing, sa.Index):
        return CreateIndex(thing)
    value = {SCHEMA_KEY: f"'{dialect.schema_version}'", OLDEST_KEY: f"'{OLDEST}'", DATABASE_KEY: new_id}[thing]
    row: dict[str, sa.ColumnClause[Any]] = {"key": sa.literal_column(f"'{thing}'"), "value": sa.literal_column(value)}
    return sa.insert(meta).values(row).inline()


def everything(database: Database) -> list[Thing]:
    """Return everything that *database* needs, in the order in which it can be created."""
    found: list[Thing] = []
    if database.dialect.schema:
        found.append(CreateSchema(database.dialect.schema, if_not_exists=True))
    # Last what workers can do without, so that an error is about what they need.
    for table in sorted(database.dialect.metadata.sorted_tables, key=lambda table: table.name in database.dispensable):
        found.append(table)
        fitting = (index for index in table.indexes if is_for(index, database.dialect.name))
        indexes: list[sa.Index] = sorted(fitting, key=lambda index: str(index.name))
        found.extend(indexes)
    return [*found, SCHEMA_KEY, *oldest_keys(), DATABASE_KEY]


def oldest_keys() -> Sequence[str]:
    """Return the key of :data:`OLDEST`, if that is recorded."""
    return [OLDEST_KEY] if OLDEST < SCHEMA else []


def _missing(database: Database, connection: sa.Connection) -> list[Thing]:
    catalog, tables = database.dialect.catalog(connection), database.dialect.metadata.sorted_tables
    there = set(catalog)
    keys: set[str] = set()
    require_tables(database, catalog)
    if meta.name in there:  # first, since the tables of a newer schema may differ in any way
        rows: Sequence[Any] = statements_for(database.dialect, connection).meta.run(connection).all()
        found = {str(key): str(value) for key, value in rows}
        keys = set(found)
        if SCHEMA_KEY in found:
            database.check_version(found)
        if database.is_newer(found):
            return []
    columns = database.dialect.columns(connection, [table.name for table in tables])
    for table in tables:
        if table.name in there:
            _require_columns(database, table, columns[table.name])
            _require_constraints(database, table, catalog)
    if event.name in there and BY_IDENTITY.name not in there:
        _require_one_each(database, connection)
    has_schema = not database.dialect.lacks_schema(connection)
    return [thing for thing in everything(database) if not is_there(thing, there, keys, has_schema=has_schema)]


def require_tables(database: Database, catalog: Mapping[str, Stored]) -> None:
    """Raise :class:`ConfigurationError` if something else than a table has the name of one of relevo's."""
    for table in database.dialect.metadata.sorted_tables:
        kind = catalog[table.name].kind if table.name in catalog else "table"
        if kind != "table":
            raise ConfigurationError(
                f'{database.place}: "{table.name}" is a {kind}; expected a table; drop or rename it, and run: '
                f"relevo setup"
            )


def _require_constraints(database: Database, table: sa.Table, catalog: Mapping[str, Stored]) -> None:
    checks = [each for each in table.constraints if isinstance(each, sa.CheckConstraint)]
    wanted = {str(each.name) for each in checks if is_for(each, database.dialect.name)}
    lacking = wanted - catalog[table.name].constraints
    if lacking:
        raise ConfigurationError(
            f'{database.place}: the table "{table.name}" lacks the constraints {", ".join(sorted(lacking))}; '
            f"something else created or changed it; rename it, run: relevo setup, and copy its rows"
        )
    for index in table.indexes:
        found = catalog.get(str(index.name))
        if found and index.unique and not found.unique:
            raise ConfigurationError(
                f'{database.place}: the index "{index.name}" is not unique, so an event could be stored twice; '
                f"drop it, and run: relevo setup"
            )


def _require_one_each(database: Database, connection: sa.Connection) -> None:
    """Raise :class:`ConfigurationError` if an event is stored twice: its unique index cannot be created."""
    same = [event.c[name] for name in IDENTITY]
    twice = sa.select(event.c.event_id, sa.func.count()).where(*(each.is_not(None) for each in same))
    twice = twice.group_by(*same).having(sa.func.count() > sa.literal_column("1"))
    found = connection.exec_driver_sql(str(twice.compile(dialect=database.dialect.compiler_for(connection)))).first()
    if found is not None:
        event_id, number = found
        raise ConfigurationError(
            f'{database.place}: the table "{event.name}" holds {number} rows of the event {shown(event_id)}; '
            f"delete all but one, and run: relevo setup"
        )


def _require_columns(database: Database, table: sa.Table, there: Mapping[str, bool]) -> None:
    """Raise :class:`ConfigurationError` if *there*, columns and whether each is nullable, lacks one of *table*."""
    lacking = set(table.c.keys()) - there.keys()
    if not lacking:
        lacking = {name for name, column in table.c.items() if there[name] and not column.nullable}
        if lacking:
            raise ConfigurationError(
                f'{database.place}: the table "{table.name}" lacks NOT NULL for the columns '
                f"{', '.join(sorted(lacking))}; something else created or changed it; rename it, run: relevo setup, "
                f"and copy its rows"
            )
    if lacking:
        raise without_columns(database, table, lacking)


def without_columns(database: Database, table: sa.Table, lacking: Iterable[str]) -> ConfigurationError:
    """Return the error that *table* lacks the columns *lacking*."""
    return ConfigurationError(
        f'{database.place}: the table "{table.name}" lacks the columns {", ".join(sorted(lacking))}; '
        f"something else created or changed it; rename it or migrate it"
    )


def create_alone(database: Database, connection: sa.Connection) -> list[Thing]:
    """Create what is missing, in a transaction of relevo in which no other process can create anything."""
    begin_alone(database, connection)
    return create(database, connection)


def begin_alone(database: Database, connection: sa.Connection) -> None:
    """Keep other setups out of *database* until the transaction of *connection*, relevo's own, ends."""
    if not database.dialect.is_file:  # the transaction of a file holds its lock already
        database.dialect.begin_to_create(connection)


def create(database: Database, connection: sa.Connection) -> list[Thing]:
    """Create what is missing in the transaction of *connection*, and return it."""
    missing, compiler = _missing(database, connection), database.dialect.compiler_for(connection)
    for thing in missing:
        # As text: the connection may be the application's and have a schema translation map.
        creation = _statement(thing, database.dialect, new_id=f"'{uuid.uuid4().hex}'")
        connection.exec_driver_sql(str(creation.compile(dialect=compiler)))
    return missing


def is_there(thing: Thing, there: Collection[str], keys: Collection[str], *, has_schema: bool) -> bool:
    """
    Return whether *thing* exists.

    Args:
        thing: What a database needs.

        there: The names of the tables and indexes in it.

        keys: Those of ``relevo_meta``.

        has_schema: Whether the schema of the tables exists.
    """
    if isinstance(thing, CreateSchema):
        return has_schema
    return thing in keys if isinstance(thing, str) else str(thing.name) in there


def description_of(thing: Thing) -> str:
    """Return *thing* in words."""
    if isinstance(thing, CreateSchema):
        return f'schema "{thing.element}"'
    if isinstance(thing, sa.Table):
        return f"table {thing.name}"
    if isinstance(thing, sa.Index):
        return f"index {thing.name}"
    return {
        SCHEMA_KEY: f"the schema's version, {SCHEMA}",
        OLDEST_KEY: f"the oldest version that can use it, {OLDEST}",
        DATABASE_KEY: "an id of this database",
    }[thing]
