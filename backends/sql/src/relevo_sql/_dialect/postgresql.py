"""PostgreSQL, through psycopg 3."""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from time import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from relevo.errors import ConfigurationError, shown
from relevo_sql._dialect.dialect import SLICE, Dialect, Line, Stored, filled
from relevo_sql._dialect.error_kind import ErrorKind
from relevo_sql._dialect.notifications import Notifications
from relevo_sql._dialect.postgresql_send import Texts, insert_events
from relevo_sql._dialect.row_change import RowChange, Runnable
from relevo_sql._dialect.server import ServerLocation, error_kind_before_the_driver, has_input, number_of
from relevo_sql._row import Sent
from relevo_sql._schema import STRAY, STRAYS, event, lock, metadata, where_of

_OLDEST = 13

_LONGEST_NAME = 63
"""Bytes; the server cuts off the rest of a longer name, and lets it pass."""

_SETUP_LOCK = 0x72656C65766F
"""The advisory lock of a setup: the letters of relevo."""

_SETTINGS = (
    f"SELECT set_config('lock_timeout', '{int(SLICE * 1000)}', false) UNION ALL "  # milliseconds
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
)
"""A session of a database or a role with ``synchronous_commit = off`` would lose what was sent last in a crash."""

Home = tuple[str, int, str]
"""The start of the server, the database's number on it, and the schema of relevo's tables."""


class PostgresqlDialect(Dialect):
    """
    PostgreSQL: many writers at a time, each under READ COMMITTED.

    A statement takes only rows that no other transaction has locked (SKIP LOCKED), so claims never wait for one
    another. Its rows are an array of keys: the planner cannot evaluate that more than once, and so cannot lock more
    rows than the limit allows: https://www.postgresql.org/docs/current/sql-select.html#SQL-FOR-UPDATE-SHARE
    """

    name = "postgresql"
    max_autocommit_rows = sys.maxsize
    commits_statements = True
    leaves_deleted_rows = True
    holds_nul = False
    random_id = "replace(CAST(gen_random_uuid() AS text), '-', '')"
    stray, stray_index = STRAY, STRAYS

    def __init__(self) -> None:
        self.compiler = PGDialect_psycopg(paramstyle="format")  # type: ignore[no-untyped-call]  # SQLAlchemy's
        self._numbered = PGDialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]  # likewise
        self._located: dict[str, Dialect] = {}
        self._name_tables()
        for index in [index for table in metadata.sorted_tables for index in table.indexes]:
            where = where_of(index)
            if where is not None:
                index.dialect_kwargs["postgresql_where"] = sa.text(where)

    def use_schema(self, schema: str) -> None:
        if not schema or "\0" in schema or len(schema.encode()) > _LONGEST_NAME:
            raise ConfigurationError(f"schema: expected a name of 1 to {_LONGEST_NAME} bytes; got {shown(schema)}")
        self.schema = schema
        self._name_tables()

    def located(self, home: Any) -> Dialect:
        schema = self.schema if home is None else home[2]
        if schema not in self._located:
            self._located[schema] = other = PostgresqlDialect()
            if schema:
                other.use_schema(schema)
        return self._located[schema]

    def _name_tables(self) -> None:
        """Put :attr:`schema` before the names of tables in all statements: the search path of a session is its own."""
        schema: Any = self.schema or None

        def schema_of(thing: Any) -> Any:
            return schema if isinstance(thing, sa.Table) else None  # an alias has none

        for compiler in (self.compiler, self._numbered):
            compiler.identifier_preparer.schema_for_object = schema_of
        self._texts = {
            each.paramstyle: Texts(*map(each.identifier_preparer.format_table, (event, lock)))
            for each in (self.compiler, self._numbered)
        }
        self._namespace = "(SELECT oid FROM pg_namespace WHERE nspname = current_schema())"
        if self.schema:  # without a quote or a percent sign, since drivers differ in what they do to these
            name = f"convert_from(decode('{self.schema.encode().hex()}', 'hex'), 'UTF8')"
            self._namespace = f"(SELECT oid FROM pg_namespace WHERE nspname = {name})"  # noqa: S608 - digits

    def lacks_schema(self, connection: sa.Connection) -> bool:
        if not self.schema:
            return False
        return connection.exec_driver_sql(f"SELECT {self._namespace}").scalar() is None

    def compiler_for(self, connection: sa.Connection) -> sa.Dialect:
        # asyncpg numbers its parameters; the other drivers take those of psycopg.
        return self._numbered if connection.dialect.paramstyle == "numeric_dollar" else self.compiler

    # --- connections ------------------------------------------------------------------------------

    def location(self, url: sa.URL) -> ServerLocation:
        return ServerLocation(url, schema=self.schema)

    def prepare(self, connection: sa.Connection, *, own: bool) -> Home:
        if connection.dialect.driver != self.compiler.driver:  # another one returns rows of other types
            raise ConfigurationError(
                f"relevo's own connections use postgresql+{self.compiler.driver}, not the driver "
                f'"{connection.dialect.driver}"; give the transport the address postgresql://…, or an engine of '
                f"postgresql+{self.compiler.driver}; sessions with other drivers can still be joined"
            )
        # From here on relevo executes BEGIN and COMMIT itself; to SQLAlchemy everything is one transaction.
        driver = self.driver(connection)
        driver.rollback()
        driver.autocommit = True
        driver.cursor_factory = partial(_in_binary, driver.cursor_factory)
        version = driver.info.server_version // 10_000
        if version < _OLDEST:
            raise ConfigurationError(f"PostgreSQL is {version}; relevo needs {_OLDEST} or newer")
        connection.exec_driver_sql("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED")
        connection.exec_driver_sql(_SETTINGS)
        return self.home(connection)

    def is_alive(self, connection: sa.Connection) -> bool:
        driver = self.driver(connection)
        if driver.closed:
            return False
        # An idle session hears from the server that it is ended; rarely, that a setting of the server has changed.
        return not has_input(driver.fileno())

    def home(self, connection: sa.Connection) -> Home:
        # Without a privilege, before there is a table, and independent of the time zone.
        started, number, schema = connection.exec_driver_sql(
            "SELECT extract(epoch FROM pg_postmaster_start_time())::text, "
            "(SELECT oid::bigint FROM pg_database WHERE datname = current_database()), current_schema()"
        ).one()
        return str(started), int(number), self.schema or str(schema)

    def begin(self, connection: sa.Connection, *, durable: bool) -> None:
        connection.exec_driver_sql("BEGIN")

    def undurable(self, connection: sa.Connection) -> Sequence[str]:
        found = connection.exec_driver_sql(
            "SELECT name FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off' ORDER BY name"
        )
        return [f"{name} = off" for (name,) in found]

    def begin_to_create(self, connection: sa.Connection) -> None:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_SETUP_LOCK})")

    def rollback(self, connection: sa.Connection) -> None:
        driver = self.driver(connection)
        if not driver.closed and driver.info.transaction_status:  # 0 is idle
            connection.exec_driver_sql("ROLLBACK")

    def in_transaction(self, connection: sa.Connection) -> bool:
        return bool(self.driver(connection).info.transaction_status)  # 0 is idle

    def joined(self, connection: sa.Connection) -> bool:
        driver = connection.connection.dbapi_connection
        return getattr(driver, "autocommit", False) is not True

    def notifications(self, engine: sa.Engine, ring: Callable[[], None]) -> Notifications:
        return Notifications(engine, ring, locks=self.compiler.identifier_preparer.format_table(lock))

    # --- time -------------------------------------------------------------------------------------

    def ahead(self, connection: sa.Connection) -> int:
        before = time()
        there: Any = connection.exec_driver_sql(
            "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
        ).scalar()
        return int(there) - round((before + time()) * 500_000)

    # --- the catalog ------------------------------------------------------------------------------

    def catalog(self, connection: sa.Connection) -> Mapping[str, Stored]:
        # First, since another setup may be at work: a table that is seen has its constraints.
        found = connection.exec_driver_sql(
            # An index whose creation failed is there, but not used.
            "SELECT r.relname, r.relkind::text, coalesce(i.indisunique AND i.indisvalid, false) "  # noqa: S608 - as above
            "FROM pg_class r LEFT JOIN pg_index i ON i.indexrelid = r.oid "
            f"WHERE r.relnamespace = {self._namespace}"
        ).all()
        constraints: defaultdict[str, set[str]] = defaultdict(set)
        for table, constraint in connection.exec_driver_sql(
            "SELECT r.relname, c.conname FROM pg_constraint c JOIN pg_class r ON r.oid = c.conrelid "  # noqa: S608 - as above
            f"WHERE c.contype = 'c' AND r.relnamespace = {self._namespace}"
        ):
            constraints[str(table)].add(str(constraint))
        return {
            str(name): Stored(
                kind=_KINDS.get(kind, "relation"), constraints=frozenset(constraints[name]), unique=unique
            )
            for name, kind, unique in found
        }

    def columns(self, connection: sa.Connection, tables: Sequence[str]) -> Mapping[str, Mapping[str, bool]]:
        found: defaultdict[str, dict[str, bool]] = defaultdict(dict)
        names = ", ".join(f"'{table}'" for table in tables)  # no parameter: drivers differ in how they mark one
        for table, column, is_required in connection.exec_driver_sql(
            "SELECT r.relname, a.attname, a.attnotnull "  # noqa: S608 - our own names
            "FROM pg_attribute a JOIN pg_class r ON r.oid = a.attrelid "
            f"WHERE r.relnamespace = {self._namespace} AND r.relname IN ({names}) "
            "AND a.attnum > 0 AND NOT a.attisdropped"
        ):
            found[str(table)][str(column)] = not is_required
        return found

    # --- statements -------------------------------------------------------------------------------

    def steps(self, change: RowChange) -> Sequence[sa.ClauseElement]:
        def chosen(select: sa.Select[Any]) -> sa.ColumnElement[bool]:
            if not (change.skips_locked or change.locks):
                return change.key.in_(select)
            locked = select.with_for_update(skip_locked=change.skips_locked)
            return change.key == sa.func.any(sa.func.array(locked.scalar_subquery()))

        return change.at_once(chosen)

    def table_of(self, parameter: str) -> sa.TableValuedAlias:
        members = sa.cast(sa.bindparam(parameter), postgresql.ARRAY(sa.Text))
        listed = sa.func.unnest(members).table_valued("value", with_ordinality="key", name=f"{parameter}_")
        return listed.render_derived()

    def among(self, column: sa.ColumnElement[Any], parameter: str) -> sa.ColumnElement[bool]:
        return column == sa.func.any(sa.bindparam(parameter, type_=sa.types.NullType()))

    def listed(self, values: Iterable[object]) -> object:
        # As text that the server reads: from a list, the driver makes it ten times as slowly.
        return f"{{{','.join(map(_member, values))}}}"

    def lock_waiting(self, select: sa.Select[Any]) -> sa.Select[Any]:
        return select.with_for_update(read=True)

    def lock_held(self, select: sa.Select[Any]) -> sa.Select[Any]:
        return select.with_for_update(read=True, key_share=True)

    def insert_new(
        self,
        table: sa.Table,
        values: Mapping[str, Any],
        key: Sequence[str],
        *,
        where: sa.ColumnElement[bool] | None = None,
    ) -> sa.Insert:
        insert = filled(postgresql.insert(table), values, where)
        return insert.on_conflict_do_nothing(index_elements=list(key))

    def send(self, connection: sa.Connection, statement: Runnable, rows: Sequence[Sent]) -> None:
        if isinstance(connection.get_transaction(), sa.TwoPhaseTransaction):
            statement.run_many(connection, rows)  # a transaction that notifies cannot be prepared; polling finds them
        else:
            insert_events(connection, statement, rows, self._texts[self.compiler_for(connection).paramstyle])

    def likely(self, condition: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
        # It expects that few rows have one of several values, and would read and sort them all; of this form, half do.
        return sa.func.coalesce(condition, sa.false())

    def lock_lines(self, connection: sa.Connection, lines: Iterable[Line]) -> None:
        # In one order, so that no two transactions wait for each other.
        numbers = sorted({number_of(line) for line in lines})
        if numbers:
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(n) FROM unnest(%s::bigint[]) AS n", (numbers,))

    # --- errors -----------------------------------------------------------------------------------

    def error_kind(self, error: sa.exc.SQLAlchemyError) -> ErrorKind:
        if not isinstance(error, sa.exc.DBAPIError):
            return error_kind_before_the_driver(error)
        state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None) or ""  # psycopg2's name
        known = _BY_STATE.get(state) or _BY_STATE.get(state[:2])
        if known is not None:
            return known
        if isinstance(error, sa.exc.DataError):
            return ErrorKind.TOO_BIG  # of the driver, before it sent anything
        if not state and isinstance(error, sa.exc.OperationalError):
            text = str(error.orig)
            return next((kind for said, kind in _BY_TEXT if said.search(text)), ErrorKind.OTHER)
        return ErrorKind.LOST if error.connection_invalidated else ErrorKind.OTHER

    def engine_for_listeners(self, engine: sa.Engine) -> sa.Engine:
        # Under a stronger one it could not write to the row of its event once the lease was renewed.
        return engine.execution_options(isolation_level="READ COMMITTED")

    def is_refusal(self, error: sa.exc.SQLAlchemyError) -> bool:
        if isinstance(error, (sa.exc.DataError, sa.exc.ProgrammingError, sa.exc.NotSupportedError)):
            return True  # of the server, or of the driver before it sent anything
        state = getattr(getattr(error, "orig", None), "sqlstate", None)
        return bool(state) and self.error_kind(error) is not ErrorKind.LOST

    def reason(self, kind: ErrorKind) -> str | None:
        return _REASONS.get(kind)

    def right(self, error: sa.exc.DBAPIError) -> str | None:
        statement = (error.statement or "").lstrip()
        if getattr(error.orig, "sqlstate", None) != _NO_RIGHT or not statement:
            return None  # it was not about a statement
        if statement.startswith("CREATE SCHEMA"):
            return "grant this user CREATE on the database, or create the schema for it"
        if statement.startswith("CREATE"):
            return "grant this user USAGE and CREATE on the schema"
        found = _OF_RELEVO.search(str(error.orig))  # the rest of the text may be in any language
        if found is None:
            return "grant this user USAGE on the schema"
        name = found.group()
        if name.endswith("_seq"):
            return f"grant this user USAGE on the sequence {name}"
        place = _IN_STATEMENT.replace("relevo_", name)
        rights = {right for right, pattern in _RIGHTS.items() if re.search(pattern + place, statement)}
        if re.search(r" FOR (KEY )?(UPDATE|SHARE)", statement) and "SELECT" in rights:
            rights.add("UPDATE")  # every lock of a row needs it
        if "INSERT" in rights:
            rights.add("SELECT")  # of the columns that ON CONFLICT names
        return f"grant this user {', '.join(sorted(rights, key=list(_RIGHTS).index))} on {name}" if rights else None


def _member(value: object) -> str:
    """Return *value* as it stands in the text of an array."""
    if type(value) is int:
        return str(value)
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _in_binary(factory: Callable[..., Any], connection: object, **options: object) -> Any:
    """Return a cursor of *factory* to which the server sends values in binary: twice as fast to read as text."""
    cursor = factory(connection, **options)
    cursor.format = type(cursor.format).BINARY
    return cursor


_KINDS = {
    "r": "table", "p": "table", "v": "view", "m": "materialized view", "f": "foreign table", "i": "index", "I": "index",
    "S": "sequence", "c": "composite type",
}  # fmt: skip

_BY_TEXT = [
    (re.compile(pattern, re.IGNORECASE), kind)
    for pattern, kind in (
        (r"FATAL: +database .* does not exist", ErrorKind.NOT_FOUND),
        (r"too many (clients|connections)|connection slots", ErrorKind.CROWDED),
        (
            r"FATAL: +role .* does not exist|authentication|no password|pg_hba\.conf|not permitted|permission denied",
            ErrorKind.DENIED,
        ),
        (r"connection|server closed|terminat|refused|timeout|SSL", ErrorKind.LOST),
    )
]
"""
What the driver reports without a state: the server refused the connection, or it is lost; the first that fits.

A server that speaks another language refused every connection for the last reason, with its own words.
"""

_BY_STATE = {
    "40001": ErrorKind.CONFLICT,  # serialization_failure
    "40P01": ErrorKind.CONFLICT,  # deadlock_detected
    "42P07": ErrorKind.CONFLICT,  # duplicate_table: another program created it at the same time
    "55P03": ErrorKind.BUSY,  # lock_not_available
    "57014": ErrorKind.BUSY,  # query_canceled, as for a statement_timeout
    "25006": ErrorKind.READ_ONLY,  # read_only_sql_transaction
    "42501": ErrorKind.DENIED,  # insufficient_privilege
    "28": ErrorKind.DENIED,  # invalid authorization
    "3D": ErrorKind.NOT_FOUND,  # invalid catalog name
    "3F": ErrorKind.NO_SCHEMA,  # invalid_schema_name
    "42P01": ErrorKind.NO_TABLE,  # undefined_table
    "42703": ErrorKind.NO_TABLE,  # undefined_column
    "42P10": ErrorKind.NO_TABLE,  # no unique index matches the ON CONFLICT clause
    "42809": ErrorKind.NO_TABLE,  # wrong_object_type, as a view
    "55000": ErrorKind.NO_TABLE,  # object_not_in_prerequisite_state, as a view that takes no rows
    "53100": ErrorKind.FULL,  # disk_full
    "53300": ErrorKind.CROWDED,  # too_many_connections
    "53400": ErrorKind.CROWDED,  # configuration_limit_exceeded
    "54": ErrorKind.TOO_BIG,  # program limit exceeded
    "22": ErrorKind.TOO_BIG,  # data exception: a text that is too long or has NUL, a number out of range
    "58": ErrorKind.IO,  # system error
    "XX001": ErrorKind.MALFORMED,  # data_corrupted
    "XX002": ErrorKind.MALFORMED,  # index_corrupted
    "08": ErrorKind.LOST,  # connection exception
    "57P01": ErrorKind.LOST,  # the server shuts down, or an administrator has ended this connection
    "57P02": ErrorKind.LOST,  # the server crashed
    "57P03": ErrorKind.LOST,  # the server starts, or shuts down
    "57P04": ErrorKind.LOST,  # the database was dropped
    "57P05": ErrorKind.LOST,  # idle_session_timeout
    "25P03": ErrorKind.LOST,  # idle_in_transaction_session_timeout
}
"""By SQLSTATE, or its class: https://www.postgresql.org/docs/current/errcodes-appendix.html"""

_NO_RIGHT = "42501"

_OF_RELEVO = re.compile(r"relevo_\w+")

_IN_STATEMENT = r'(?:(?:"(?:[^"]|"")+"|\w+)\.)?relevo_\b'
"""A table's name in a statement, with or without a schema."""

_RIGHTS = {
    "SELECT": r"\b(?:FROM|JOIN|UPDATE) ",  # an UPDATE and a DELETE read the rows that they look for
    "INSERT": r"\bINTO ",
    "UPDATE": r"\bUPDATE ",
    "DELETE": r"\bDELETE FROM ",
}
"""What is before the name of a table for which a right is needed."""

_REASONS = {
    ErrorKind.READ_ONLY: "{place} is read-only: it is a replica, or default_transaction_read_only is on; name the "
    "primary server",
    ErrorKind.NOT_FOUND: "{place} does not exist; create it with CREATE DATABASE, or fix the address",
    ErrorKind.TOO_BIG: "{place} cannot hold a value: {error}",
    ErrorKind.FULL: "{place} cannot grow, since the disk of the server is full; free space",
    ErrorKind.IO: "{place} cannot be read or written: {error}; see the log of the server",
    ErrorKind.BUSY: "{place}: a row or a table is locked by another transaction{waited} ({error}); look for a "
    "transaction that is left open",
}
