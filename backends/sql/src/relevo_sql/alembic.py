"""relevo's tables for Alembic: add them to your migrations, or exclude them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from relevo.errors import ConfigurationError, did_you_mean, shown
from relevo_sql._dialect import dialect_named
from relevo_sql._dialect.mariadb_tables import LINES, tables_with
from relevo_sql._schema import is_for, metadata, where_of
from relevo_sql._setup import completion

if TYPE_CHECKING:
    from alembic.operations.ops import MigrationScript
    from alembic.runtime.migration import MigrationContext

__all__ = ["complete_migration", "metadata_for", "without_relevo"]

_TABLES = {*metadata.tables, LINES}


def metadata_for(database: str, *, schema: str | None = None) -> sa.MetaData:
    """
    Return relevo's tables for *database*, without what Alembic cannot compare: see :func:`complete_migration`.

    Args:
        database: ``sqlite``, ``postgresql``, ``mariadb`` or ``mysql``.

        schema: The option ``schema`` of the transport, on PostgreSQL.

    Raises:
        ConfigurationError: There is no such database, or it has no schemas.
    """
    known = ("sqlite", "postgresql", "mariadb", "mysql")
    if database not in known:
        raise ConfigurationError(
            f"database: expected one of {', '.join(known)}; got {shown(database)}{did_you_mean(database, known)}"
        )
    if schema is not None and database != "postgresql":
        raise ConfigurationError(f"schema: only PostgreSQL has schemas inside a database; omit it for {database}")
    if database in ("mariadb", "mysql"):
        from relevo_sql._dialect.mariadb import MARIADB, MYSQL  # noqa: PLC0415 - imports SQLAlchemy's dialect

        return tables_with.__wrapped__((MYSQL if database == "mysql" else MARIADB).collation)
    made = sa.MetaData()
    for table in metadata.sorted_tables:
        _copy(table, made, database, schema)
    return made


def _copy(table: sa.Table, made: sa.MetaData, database: str, schema: str | None) -> None:
    copy = table.to_metadata(made) if schema is None else table.to_metadata(made, schema=schema)
    checks = [each for each in copy.constraints if isinstance(each, sa.CheckConstraint)]
    copy.constraints.difference_update(each for each in checks if not is_for(each, database))
    copy.indexes.clear()
    for index in table.indexes:
        columns = [each.name for each in index.expressions if isinstance(each, sa.Column)]
        # Alembic warns of an index of an expression on SQLite, and leaves it out.
        if is_for(index, database) and columns:
            where = where_of(index)
            options: Any = {} if where is None else {f"{database}_where": sa.text(where)}
            sa.Index(index.name, *(copy.c[name] for name in columns), unique=index.unique, **options)


def without_relevo(name: str | None, type_: str, parent_names: Mapping[str, str | None]) -> bool:  # noqa: ARG001 - Alembic passes it
    """
    Exclude relevo's tables from a comparison, so that autogenerate does not drop them.

    Use it if ``relevo setup`` creates the tables: pass it as ``include_name``, or call it from your own function.

    Args:
        name: The name of an object in the database.

        type_: The type of the object, such as ``table``.

        parent_names: The names of its table and its schema.

    Returns:
        Whether Alembic compares it.
    """
    return not (type_ == "table" and name in _TABLES)


def complete_migration(context: MigrationContext, revision: object, directives: Iterable[MigrationScript]) -> None:  # noqa: ARG001 - Alembic passes it
    """
    Add what autogenerate omits to a generated migration that creates relevo's tables.

    These are the rows of ``relevo_meta``, which hold the schema's version and the database's id, and on SQLite an index
    of an expression. Pass it as ``process_revision_directives``, or call it from your own function; without it, run
    ``relevo setup`` after the migration.

    Args:
        context: As passed by Alembic.

        revision: As passed by Alembic.

        directives: The migrations, which are modified.
    """
    from alembic.operations.ops import CreateTableOp, ExecuteSQLOp  # noqa: PLC0415 - only Alembic calls this

    for upgrade in (each for script in directives for each in script.upgrade_ops_list):
        for operation in list(upgrade.ops):
            if isinstance(operation, CreateTableOp) and operation.table_name in metadata.tables:
                dialect = dialect_named(context.dialect.name)
                if operation.schema:
                    dialect.use_schema(operation.schema)
                # Alembic would parse a colon as the start of a parameter.
                texts = [text.replace(":", "\\:") for text in completion(operation.table_name, dialect)]
                upgrade.ops += map(ExecuteSQLOp, texts)
