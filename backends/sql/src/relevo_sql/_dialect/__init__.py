"""Dialects: one for each database, and the choice of one for an engine."""

from __future__ import annotations

import sqlalchemy as sa

from relevo.errors import ConfigurationError, shown
from relevo_sql._dialect.dialect import Dialect, Line, Stored
from relevo_sql._dialect.error_kind import ErrorKind
from relevo_sql._dialect.location import Location
from relevo_sql._dialect.row_change import RowChange
from relevo_sql._dialect.upgrade_step import UpgradeStep

__all__ = [
    "Dialect",
    "ErrorKind",
    "Line",
    "Location",
    "RowChange",
    "UpgradeStep",
    "Stored",
    "dialect_named",
    "dialect_of",
    "require_dialect",
    "separate_engine",
    "unsupported",
]


def dialect_of(engine: sa.Engine, chosen: str | None = None, *, schema: str | None = None) -> Dialect:
    """
    Return the dialect of the database behind *engine*.

    Args:
        engine: The engine of the database.

        chosen: ``portable`` for the dialect of that name; by default the one that relevo has for the database.

        schema: The schema of relevo's tables, if it is to be another than the one that the database chooses.

    Raises:
        ConfigurationError: The database is not supported, or has no schemas.
    """
    if engine.dialect.is_async:
        raise ConfigurationError(
            f'the SQL transport works on plain engines, not on the asynchronous driver "{engine.dialect.driver}"; '
            f"give it create_engine(…) of the same database; an AsyncSession can still be joined"
        )
    dialect = dialect_named(engine.dialect.name) if chosen is None else _portable(engine, chosen)
    if schema is not None:
        dialect.use_schema(schema)
    return dialect


def _portable(engine: sa.Engine, chosen: str) -> Dialect:
    require_dialect(chosen)
    from relevo_sql._dialect.portable import PortableDialect  # noqa: PLC0415 - rarely needed

    like = _LIKE.get(engine.dialect.name)
    return PortableDialect(engine.dialect, None if like is None else dialect_named(like))


_LIKE = {name: name for name in ("sqlite", "postgresql", "mysql", "mariadb")} | {"cockroachdb": "postgresql"}
"""The databases whose drivers a dialect of relevo knows, as SQLAlchemy calls them."""


def require_dialect(chosen: str | None) -> None:
    """Raise :class:`ConfigurationError` unless *chosen* is a value of the option ``dialect``."""
    if chosen not in (None, "portable"):
        raise ConfigurationError(
            f'dialect: expected "portable", or nothing for the dialect that relevo has for the database; '
            f"got {shown(chosen)}"
        )


def dialect_named(name: str) -> Dialect:
    """
    Return the dialect of databases that SQLAlchemy calls *name*.

    Raises:
        ConfigurationError: The database is not supported.
    """
    match name:  # each imports SQLAlchemy's dialect, which takes up to 30 ms
        case "sqlite":
            from relevo_sql._dialect.sqlite import SqliteDialect  # noqa: PLC0415

            return SqliteDialect()
        case "postgresql":
            from relevo_sql._dialect.postgresql import PostgresqlDialect  # noqa: PLC0415

            return PostgresqlDialect()
        case "mariadb" | "mysql":  # the server tells which it is
            from relevo_sql._dialect.mariadb import MariadbDialect  # noqa: PLC0415

            return MariadbDialect()
    raise unsupported(name)


def separate_engine(engine: sa.Engine) -> sa.Engine:
    """Return an engine on the same database with separate connections, which listeners of *engine* do not get."""
    return sa.create_engine(engine.url, pool=engine.pool.recreate(), hide_parameters=True, enable_from_linting=False)


def unsupported(name: str) -> ConfigurationError:
    """Return the error for a database that is not supported."""
    return ConfigurationError(
        f"relevo-sql has dialects for SQLite, PostgreSQL, MariaDB and MySQL, and none for {name}; "
        f'use the portable one, which is not tested on {name}: {{ url = "…", dialect = "portable" }}; '
        f"or keep the events in a file of their own, as in sqlite:///shop.db"
    )
