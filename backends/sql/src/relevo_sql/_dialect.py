"""
Dialects: everything in which databases differ. SQLite is the only one for now.

A dialect answers four questions: how a transaction begins and how durable its commit is, how a statement is written
where SQL has no common syntax, what a driver's error means, and what time it is.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum, auto
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler

from relevo import Clock
from relevo.errors import ConfigurationError
from relevo_sql._row import Undecodable, micros

SLICE = 0.2
"""Seconds that a driver waits for a lock before relevo checks whether to continue waiting."""

_OLDEST_SQLITE = (3, 35)  # RETURNING

_LATER = ("postgresql", "mariadb", "mysql")
"""Databases whose schemes the package registers only to report that it does not support them yet."""


class Trouble(Enum):
    """The meaning of a driver's error, independent of the driver."""

    BUSY = auto()
    STALE = auto()
    READ_ONLY = auto()
    FULL = auto()
    IO = auto()
    NOT_FOUND = auto()
    NOT_A_DATABASE = auto()
    MALFORMED = auto()
    NO_TABLE = auto()
    TOO_BIG = auto()
    UNDECODABLE = auto()
    THREAD = auto()
    OTHER = auto()


class Stored(NamedTuple):
    """A table, an index or another object, as the database itself describes it."""

    kind: str
    sql: str


class _Compiler(SQLiteCompiler):
    """SQLAlchemy's compiler for SQLite, with hints, which it lacks."""

    def get_from_hint_text(self, table: sa.FromClause, text: str | None) -> str | None:
        return text


class SqliteDialect:
    """
    SQLite: one file, one writer at a time, the library inside this process.

    Every transaction that writes begins with BEGIN IMMEDIATE. A deferred transaction that has read can fail at its
    first write because its snapshot is too old (SQLITE_BUSY_SNAPSHOT), and then no waiting helps:
    https://www.sqlite.org/rescode.html#busy_snapshot
    """

    name = "sqlite"

    def __init__(self) -> None:
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            wanted = ".".join(map(str, _OLDEST_SQLITE))
            raise ConfigurationError(f"SQLite is {sqlite3.sqlite_version}; relevo needs {wanted} or newer")
        # Only for compiling, and separate from SQLAlchemy's, since it has to write hints.
        self.compiler = sqlite.dialect(paramstyle="qmark")
        self.compiler.statement_compiler = _Compiler

    # --- connections ------------------------------------------------------------------------------

    def prepare(self, connection: sa.Connection, *, own: bool) -> str:
        """
        Prepare *connection*, which only relevo uses; return the file behind it.

        Args:
            connection: A new connection.

            own: Whether relevo opened the database itself, and may choose its journal mode.

        Raises:
            ConfigurationError: The database is in memory.
        """
        driver = self.driver(connection)
        # A listener of the application may have set or begun something for its own use. From here on relevo executes
        # BEGIN and COMMIT itself; to SQLAlchemy everything is one transaction.
        connection.begin()
        if _LEGACY is not None:
            driver.autocommit = _LEGACY
        driver.isolation_level = None
        driver.row_factory = None
        driver.text_factory = str
        # The constraints guard against other writers. A row that breaks one is handed out as unreadable; if updating
        # it were an error, it would hold up all rows that the same statement updates.
        connection.exec_driver_sql("PRAGMA ignore_check_constraints = 1")
        if driver.in_transaction:
            driver.rollback()
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {int(SLICE * 1000)}")
        path = self.file(connection)
        if not path:
            raise in_memory()
        mode = self._journal(connection, own=own)
        connection.info[_LEVELS] = (1, 2) if mode == "wal" else (2, 3)
        connection.info[_LEVEL] = None
        return path

    def _journal(self, connection: sa.Connection, *, own: bool) -> str:
        """Return the journal mode of *connection*, after changing it to one that survives a crash."""
        mode = str(connection.exec_driver_sql("PRAGMA journal_mode").scalar())
        better = "wal" if own else "delete" if mode in ("memory", "off") else mode
        if better != mode:
            try:
                mode = str(connection.exec_driver_sql(f"PRAGMA journal_mode = {better}").scalar())
            except sa.exc.DBAPIError as error:
                if self.trouble(error) is not Trouble.READ_ONLY:  # it can still be read
                    raise
        return mode

    def begin(self, connection: sa.Connection, *, durable: bool) -> None:
        """
        Begin a transaction that writes.

        With a write-ahead log NORMAL survives a crash of the process, and FULL a crash of the host. With a rollback
        journal a crash of the host can corrupt the database under NORMAL, and only EXTRA is as durable:
        https://www.sqlite.org/pragma.html#pragma_synchronous
        """
        level = connection.info[_LEVELS][durable]
        if connection.info[_LEVEL] != level:  # cannot be changed inside a transaction
            connection.exec_driver_sql(f"PRAGMA synchronous = {level}")
            connection.info[_LEVEL] = level
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    def begin_to_create(self, connection: sa.Connection) -> None:
        """
        Prepare to create tables in the transaction of *connection*, which is the application's; take the write lock.

        SQLite creates tables inside transactions, as PostgreSQL does. The driver begins one before it writes a row, but
        not before it creates a table. A transaction that has begun gets the lock by writing. It must do so before it
        reads: after a read it does not wait for other writers. There may be no table to write to yet.
        """
        if self.driver(connection).in_transaction:
            connection.exec_driver_sql("CREATE TABLE relevo_creation (id INTEGER)")
            connection.exec_driver_sql("DROP TABLE relevo_creation")
        else:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    def commit(self, connection: sa.Connection) -> None:
        """Commit the transaction."""
        connection.exec_driver_sql("COMMIT")

    def rollback(self, connection: sa.Connection) -> None:
        """Roll back the transaction, if there is one."""
        driver = self.driver(connection)
        if driver.in_transaction:
            driver.rollback()

    def joined(self, connection: sa.Connection) -> bool:
        """Return whether what is written on *connection*, the application's, waits for its commit."""
        driver = self.driver(connection)
        # The driver begins a transaction at the first write, but only with an isolation level.
        waits = driver.isolation_level is not None and getattr(driver, "autocommit", False) is not True
        return waits or bool(driver.in_transaction)

    @contextlib.contextmanager
    def any_text(self, connection: sa.Connection) -> Iterator[None]:
        """Return text that is not UTF-8 as :class:`Undecodable` during the block, instead of raising an error."""
        driver = self.driver(connection)
        driver.text_factory = _text_or_bytes
        try:
            yield
        finally:
            driver.text_factory = str

    @staticmethod
    def driver(connection: sa.Connection) -> Any:
        """Return the connection of the driver."""
        return connection.connection.driver_connection

    # --- time -------------------------------------------------------------------------------------

    @staticmethod
    def now(clock: Clock) -> int:
        """Return the database's time plus the clock's offset; SQLite runs in this process and has the same time."""
        return micros(clock.now())

    # --- the catalog ------------------------------------------------------------------------------

    @staticmethod
    def file(connection: sa.Connection) -> str:
        """Return the path of the file behind *connection*, empty if there is none; nothing in it is read."""
        files = connection.exec_driver_sql("PRAGMA database_list").all()
        return next((str(file) for _, schema, file in files if schema == "main" and file), "")

    @staticmethod
    def catalog(connection: sa.Connection) -> dict[str, Stored]:
        """
        Return every object in the database, by name.

        SQLAlchemy's inspector would need dozens of statements.
        """
        found = connection.exec_driver_sql("SELECT name, type, sql FROM sqlite_master").all()
        return {str(name): Stored(str(kind), str(sql)) for name, kind, sql in found}

    @staticmethod
    def columns(connection: sa.Connection, tables: Sequence[str]) -> Mapping[str, Mapping[str, bool]]:
        """Return the columns of each of *tables*, and whether each is nullable, with one statement."""
        found: defaultdict[str, dict[str, bool]] = defaultdict(dict)
        for table, column, is_required in connection.exec_driver_sql(
            'SELECT stored.name, info.name, info."notnull" FROM sqlite_master AS stored, '
            "pragma_table_info(stored.name) AS info WHERE stored.name IN (SELECT value FROM json_each(?))",
            (json.dumps(tables),),
        ):
            found[str(table)][str(column)] = not is_required
        return found

    # --- statements -------------------------------------------------------------------------------

    @staticmethod
    def next_key(key: sa.Column[Any], *, counted: bool = False) -> sa.ColumnElement[Any]:
        """
        Return the value of the integer primary key *key* for a new row; null if SQLite chooses it.

        SQLite adds one to the greatest key. If that is the greatest integer, it chooses a key at random, so that the
        order of the rows is lost; with AUTOINCREMENT it refuses every row and reports a full disk. In that case the new
        row gets the number after the greatest key whose next number is free: https://www.sqlite.org/autoinc.html

        Args:
            key: The column.

            counted: Whether its table has AUTOINCREMENT.
        """
        greatest: sa.ColumnClause[Any] = sa.literal_column(str(2**63 - 1))
        top, here, behind = (key.table.alias(name).c[key.name] for name in ("top", "here", "behind"))
        full = sa.select(sa.func.max(top)).scalar_subquery() == greatest
        if counted:
            sequence = sa.table("sqlite_sequence", sa.column("name"), sa.column("seq"))
            counter = sa.select(sa.func.max(sequence.c.seq)).where(
                sequence.c.name == sa.literal_column(f"'{key.table.description}'")
            )
            full = full | (counter.scalar_subquery() == greatest)
        one: sa.ColumnClause[Any] = sa.literal_column("1")
        taken = sa.select(one).where(behind == here + one).correlate(here.table).exists()
        free = sa.select(sa.func.max(here) + one).where(here < greatest, ~taken).scalar_subquery()
        return sa.case((full, sa.func.coalesce(free, one)), else_=sa.null())

    @staticmethod
    def by_index(select: sa.Select[Any], table: sa.FromClause, index: sa.Index) -> sa.Select[Any]:
        """
        Return *select* with the instruction to find its rows by *index*.

        If most rows have the same queue, ANALYZE rates an index that begins with the queue as poor, and SQLite then
        scans instead; only this instruction overrides that: https://www.sqlite.org/lang_indexedby.html
        """
        return select.with_hint(table, f"INDEXED BY {index.name}", "sqlite")

    @staticmethod
    def table_of(parameter: str) -> sa.TableValuedAlias:
        """Return a list that is one *parameter*, see :meth:`listed`, as a table of its members."""
        return sa.func.json_each(sa.bindparam(parameter)).table_valued("key", "value", name=f"{parameter}_")

    def members(self, parameter: str) -> sa.Select[Any]:
        """Return the members of a list that is one *parameter*, see :meth:`listed`."""
        return sa.select(self.table_of(parameter).c.value)

    @staticmethod
    def listed(values: Iterable[object]) -> object:
        """Return *values* in the form that :meth:`members` expects."""
        return json.dumps(list(values))

    @staticmethod
    def insert_new(
        table: sa.Table,
        values: Mapping[str, Any],
        key: Sequence[str],
        *,
        where: sa.ColumnElement[bool] | None = None,
    ) -> sa.Insert:
        """
        Return an INSERT that ignores rows that exist already.

        Args:
            table: The table of the row.

            values: An expression for each column.

            key: The columns that identify a row.

            where: The rows of other tables that the expressions refer to; by default they refer to no table.
        """
        insert = sqlite.insert(table)
        if where is None:
            insert = insert.values(values)
        else:
            insert = insert.from_select(list(values), sa.select(*values.values()).where(where))
        return insert.on_conflict_do_nothing(index_elements=list(key))

    # --- errors -----------------------------------------------------------------------------------

    @staticmethod
    def trouble(error: sa.exc.SQLAlchemyError) -> Trouble:
        """Return the meaning of *error*; ``OTHER`` unless it is an error of the driver."""
        if not isinstance(error, sa.exc.DBAPIError):
            return Trouble.OTHER
        text = str(error.orig)
        code = getattr(error.orig, "sqlite_errorcode", None)
        if code is None:
            return next((trouble for part, trouble in _BY_TEXT.items() if part in text), Trouble.OTHER)
        return (
            _BY_CODE.get(code)
            or _BY_CODE.get(code & 0xFF)
            or next((trouble for part, trouble in _BY_TEXT.items() if part in text), Trouble.OTHER)
        )


_LEGACY = getattr(sqlite3, "LEGACY_TRANSACTION_CONTROL", None)
"""From Python 3.12 on, a connection of the driver can open transactions by itself; this value turns that off."""

_LEVELS = "relevo_sql.levels"
_LEVEL = "relevo_sql.level"

_BY_CODE = {
    sqlite3.SQLITE_BUSY_SNAPSHOT: Trouble.STALE,
    sqlite3.SQLITE_READONLY_DBMOVED: Trouble.NOT_FOUND,
    sqlite3.SQLITE_BUSY: Trouble.BUSY,
    sqlite3.SQLITE_LOCKED: Trouble.BUSY,
    sqlite3.SQLITE_READONLY: Trouble.READ_ONLY,
    sqlite3.SQLITE_PERM: Trouble.READ_ONLY,
    sqlite3.SQLITE_FULL: Trouble.FULL,
    sqlite3.SQLITE_IOERR: Trouble.IO,
    sqlite3.SQLITE_CANTOPEN: Trouble.NOT_FOUND,
    sqlite3.SQLITE_NOTADB: Trouble.NOT_A_DATABASE,
    sqlite3.SQLITE_CORRUPT: Trouble.MALFORMED,
    sqlite3.SQLITE_TOOBIG: Trouble.TOO_BIG,
}

_BY_TEXT = {
    "no such table": Trouble.NO_TABLE,
    "no such index": Trouble.NO_TABLE,
    "no such column": Trouble.NO_TABLE,
    "no query solution": Trouble.NO_TABLE,  # an index of another kind has the name of one of relevo's
    "ON CONFLICT clause does not match": Trouble.NO_TABLE,
    "because it is a view": Trouble.NO_TABLE,
    "has no column named": Trouble.NO_TABLE,
    "Could not decode to UTF-8": Trouble.UNDECODABLE,
    "SQLite objects created in a thread": Trouble.THREAD,
    "string or blob too big": Trouble.TOO_BIG,
    "database is locked": Trouble.BUSY,
    "readonly database": Trouble.READ_ONLY,
    "disk is full": Trouble.FULL,
    "disk I/O error": Trouble.IO,
    "unable to open database": Trouble.NOT_FOUND,
}


def dialect_of(engine: sa.Engine) -> SqliteDialect:
    """
    Return the dialect of the database behind *engine*.

    Raises:
        ConfigurationError: The database is not supported.
    """
    if engine.dialect.name != SqliteDialect.name:
        raise unsupported(engine.dialect.name)
    if engine.dialect.is_async:
        raise ConfigurationError(
            f'the SQL transport works on plain engines, not on the asynchronous driver "{engine.dialect.driver}"; '
            f"give it create_engine(…) of the same database: an AsyncSession can be joined nevertheless"
        )
    return SqliteDialect()


def beside(engine: sa.Engine) -> sa.Engine:
    """Return an engine on the same database with separate connections, which listeners of *engine* do not get."""
    return sa.create_engine(engine.url, pool=engine.pool.recreate(), hide_parameters=True)


def unsupported(name: str) -> ConfigurationError:
    """Return the error for a database that is not supported."""
    others = " (PostgreSQL, MariaDB and MySQL come in a later one)" if name in _LATER else ""
    return ConfigurationError(
        f"this release of relevo-sql works on SQLite only, not on {name}{others}; "
        f"keep the events in a file of their own, as in sqlite:///shop.db"
    )


def in_memory() -> ConfigurationError:
    """Return the error for a database that other connections cannot see."""
    return ConfigurationError(
        "an SQLite database in memory ends with its connection, and no worker would see it; "
        "name a file, as in sqlite:///shop.db, or use the transport memory://"
    )


def _text_or_bytes(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return Undecodable(data)
