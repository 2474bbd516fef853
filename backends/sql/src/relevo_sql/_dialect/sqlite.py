"""SQLite: one file, one writer at a time, the library inside this process."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler

from relevo.errors import ConfigurationError
from relevo_sql._dialect.dialect import SLICE, Dialect, Stored, filled
from relevo_sql._dialect.error_kind import ErrorKind
from relevo_sql._dialect.location import Location
from relevo_sql._dialect.row_change import RowChange
from relevo_sql._dialect.sqlite_upgrade_step import with_constraints
from relevo_sql._dialect.upgrade_step import UpgradeStep
from relevo_sql._row import Undecodable
from relevo_sql._schema import BY_STRAY, SQLITE_STRAY, SQLITE_STRAY_QUEUE, dead

_OLDEST = (3, 35)  # RETURNING

_CONSTRAINT = re.compile(r'CONSTRAINT "?(\w+)"? CHECK')


class FileLocation(Location):
    """
    A file, which may be missing, be removed or be replaced at any time.

    Args:
        database: The path, or the URI, that the URL of the engine names.

        may_create: Whether a connection creates the file.
    """

    def __init__(self, database: str, *, may_create: bool = True):
        self._file = _file_of(database)
        self._new = self._file if may_create else None
        named = database and not database.startswith((":memory:", "file:"))
        self._named = Path(database).absolute() if named else None
        self._awaited = self._named or self._new
        self._opened = ""
        self._identity: tuple[int, int] | None = None

    @property
    def words(self) -> str:
        return f"the database {self._opened or self._awaited or 'behind the engine'}"

    @property
    def path(self) -> Path | None:
        return self._named

    @property
    def file(self) -> str:
        return self._opened or str(self._named or "")

    @property
    def is_named(self) -> bool:
        return bool(self.file)

    def is_at(self, database: str) -> bool:
        file = _file_of(database)
        return file is not None and self.identity is not None and _identity(str(file)) == self.identity

    @property
    def identity(self) -> tuple[int, int] | None:
        return _identity(self.file) if self.file else None

    def is_absent(self) -> bool:
        return self._awaited is not None and _identity(str(self._awaited)) is None

    def misfit(self) -> str:
        try:
            mode = self._file.stat().st_mode if self._file else None
        except OSError:  # SQLite reports why
            return ""
        if mode is None or stat.S_ISREG(mode):
            return ""
        kind = "a directory" if stat.S_ISDIR(mode) else "a pipe" if stat.S_ISFIFO(mode) else "a special file"
        return f"{self._file}: expected the file of a database; got {kind}; fix the address"

    def unfit(self) -> str:
        if self._awaited is None:
            return ""
        folder = self._awaited.parent
        if not os.path.lexists(folder):
            return f"there is no folder {folder}; create it, or fix the address"
        if not folder.is_dir():
            return f"{folder} is not a folder; fix the address"
        if not os.access(folder, os.W_OK | os.X_OK):
            return f"this user cannot write to the folder {folder}; grant access, or fix the address"
        return ""

    def create(self, mode: int | None) -> None:
        # SQLite would create it with 0644. The files beside it, such as the -wal, get the permissions of this one:
        # https://www.sqlite.org/src/file/src/os_unix.c (findCreateFileMode). An empty file is an empty database.
        if self._new is None:
            return
        try:
            target = os.path.realpath(self._new)  # a link may lead to where the file will be
            file = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        except OSError:  # it exists, or SQLite reports why it cannot be created
            return
        try:
            if mode is not None:
                os.fchmod(file, mode)
        finally:
            os.close(file)

    def opened(self, home: str) -> None:
        self._opened, self._identity = home, _identity(home)

    def was_replaced(self) -> bool:
        return self._identity != _identity(self._opened)

    def holds(self, home: str) -> bool:
        return bool(home) and _identity(home) is not None and _identity(home) == self.identity


def _file_of(database: str) -> Path | None:
    """Return the file that *database*, a path or a URI, names; ``None`` if it is not a file."""
    if not database or database.startswith((":memory:", "file::memory:")):
        return None
    path = unquote(database.removeprefix("file:")) if database.startswith("file:") else database
    return Path(re.sub("^//(localhost)?/", "/", path) if path is not database else path).absolute()


def _identity(path: str) -> tuple[int, int] | None:
    """Return what distinguishes the file at *path* from one that replaces it."""
    try:
        found = os.stat(path)  # noqa: PTH116 - part of every call, and a Path would cost more
    except OSError:
        return None
    return found.st_dev, found.st_ino


class _Compiler(SQLiteCompiler):
    """SQLAlchemy's compiler for SQLite, with hints, which it lacks."""

    def get_from_hint_text(self, table: sa.FromClause, text: str | None) -> str | None:
        return text


class SqliteDialect(Dialect):
    """
    SQLite: one file, one writer at a time, the library inside this process.

    Every transaction that writes begins with BEGIN IMMEDIATE. A deferred transaction that has read can fail at its
    first write because its snapshot is too old (SQLITE_BUSY_SNAPSHOT), and then no waiting helps:
    https://www.sqlite.org/rescode.html#busy_snapshot
    """

    name = "sqlite"
    is_file = True
    waits_to_commit = True  # with a rollback journal a reader can block the commit
    turns_at_send = True
    first_schema = 1
    # A step drops the table that it has copied; rows that refer to an event would be changed with it, or prevent that.
    upgrade_settings = ("PRAGMA foreign_keys = 0",)
    before_all = float("-inf")
    random_id = "lower(hex(randomblob(16)))"
    stray, stray_index = SQLITE_STRAY, BY_STRAY
    stray_queue = SQLITE_STRAY_QUEUE

    def __init__(self) -> None:
        if sqlite3.sqlite_version_info < _OLDEST:
            wanted = ".".join(map(str, _OLDEST))
            raise ConfigurationError(f"SQLite is {sqlite3.sqlite_version}; relevo needs {wanted} or newer")
        # Only for compiling, and separate from SQLAlchemy's, since it has to write hints.
        self.compiler = sqlite.dialect(paramstyle="qmark")
        self.compiler.statement_compiler = _Compiler

    # --- connections ------------------------------------------------------------------------------

    def location(self, url: sa.URL) -> FileLocation:
        # Another VFS may keep the database in memory, or under another name.
        may_create = url.query.get("mode", "rwc") == "rwc" and "vfs" not in url.query
        return FileLocation(url.database or "", may_create=may_create)

    def prepare(self, connection: sa.Connection, *, own: bool) -> str:
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
        path = self.home(connection)
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
                if self.error_kind(error) is not ErrorKind.READ_ONLY:  # it can still be read
                    raise
        return mode

    def begin(self, connection: sa.Connection, *, durable: bool) -> None:
        # With a write-ahead log NORMAL survives a crash of the process, and FULL a crash of the host. With a rollback
        # journal a crash of the host can corrupt the database under NORMAL, and only EXTRA is as durable:
        # https://www.sqlite.org/pragma.html#pragma_synchronous
        level = connection.info[_LEVELS][durable]
        if connection.info[_LEVEL] != level:  # cannot be changed inside a transaction
            connection.exec_driver_sql(f"PRAGMA synchronous = {level}")
            connection.info[_LEVEL] = level
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    def begin_for_listener(self, connection: sa.Connection, *, patience: float) -> None:
        # The driver begins no transaction before a savepoint, which would then commit by itself. One that begins with a
        # read could not write after a renewal of the lease: https://www.sqlite.org/lang_transaction.html
        if self.driver(connection).in_transaction:
            return
        before = int(connection.exec_driver_sql("PRAGMA busy_timeout").scalar() or 0)
        longer = max(before, int(patience * 1000))  # an engine of the application waits for 5 s by default
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {longer}")
        try:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        finally:
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {before}")

    def begin_to_create(self, connection: sa.Connection) -> None:
        # SQLite creates tables inside transactions, as PostgreSQL does. The driver begins one before it writes a row,
        # but not before it creates a table. A transaction that has begun gets the lock by writing. It must do so before
        # it reads: after a read it does not wait for other writers. There may be no table to write to yet.
        if self.driver(connection).in_transaction:
            connection.exec_driver_sql("CREATE TABLE relevo_creation (id INTEGER)")
            connection.exec_driver_sql("DROP TABLE relevo_creation")
        else:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    def begin_to_upgrade(self, connection: sa.Connection) -> None:
        # The setting has no effect inside a transaction. The connection is closed after the upgrade.
        connection.exec_driver_sql("ROLLBACK")
        for text in self.upgrade_settings:
            connection.exec_driver_sql(text)
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    def rollback(self, connection: sa.Connection) -> None:
        driver = self.driver(connection)
        if driver.in_transaction:
            driver.rollback()

    def joined(self, connection: sa.Connection) -> bool:
        driver = self.driver(connection)
        # The driver begins a transaction at the first write, but only with an isolation level.
        waits = driver.isolation_level is not None and getattr(driver, "autocommit", False) is not True
        return waits or bool(driver.in_transaction)

    def changes(self, connection: sa.Connection) -> int | None:
        # Read from the memory that all processes share: https://www.sqlite.org/pragma.html#pragma_data_version
        return int(self.driver(connection).execute("PRAGMA data_version").fetchone()[0])

    @contextlib.contextmanager
    def any_text(self, connection: sa.Connection) -> Iterator[None]:
        driver = self.driver(connection)
        driver.text_factory = _text_or_bytes
        try:
            yield
        finally:
            driver.text_factory = str

    # --- space ------------------------------------------------------------------------------------

    def let_shrink(self, connection: sa.Connection) -> None:
        # Before there is a page, which the journal mode writes. Not for every file: it makes the handling of events
        # slower, by a few per cent, and by a sixth if their bodies are longer than a page.
        execute = self.driver(connection).execute
        if execute("PRAGMA page_count").fetchone() == (0,):
            execute(f"PRAGMA auto_vacuum = {_INCREMENTAL}")

    def spare_pages(self, connection: sa.Connection) -> int:
        pages, free, vacuum = (
            int(connection.exec_driver_sql(f"PRAGMA {name}").scalar() or 0)
            for name in ("page_count", "freelist_count", "auto_vacuum")
        )
        # New rows use the free pages: as many as there are others are soon needed again.
        return max(0, free - max(_FEW_PAGES, pages - free)) if vacuum == _INCREMENTAL else 0

    def give_back(self, connection: sa.Connection, pages: int) -> None:
        # One at a time: Python's driver takes only the first step of a statement without columns, which is one page.
        execute = self.driver(connection).execute
        for _ in range(pages):
            execute("PRAGMA incremental_vacuum(1)")

    # --- the catalog ------------------------------------------------------------------------------

    def home(self, connection: sa.Connection) -> str:
        # The path of the file, empty if there is none. Nothing in it is read.
        files = connection.exec_driver_sql("PRAGMA database_list").all()
        return next((str(file) for _, schema, file in files if schema == "main" and file), "")

    def catalog(self, connection: sa.Connection) -> Mapping[str, Stored]:
        # SQLAlchemy's inspector would need dozens of statements.
        found = connection.exec_driver_sql("SELECT name, type, sql FROM sqlite_master").all()
        return {
            str(name): Stored(
                kind=str(kind),
                constraints=frozenset(_CONSTRAINT.findall(str(sql))),
                unique=str(sql).split()[1:2] == ["UNIQUE"],
            )
            for name, kind, sql in found
        }

    def columns(self, connection: sa.Connection, tables: Sequence[str]) -> Mapping[str, Mapping[str, bool]]:
        found: defaultdict[str, dict[str, bool]] = defaultdict(dict)
        for table, column, is_required in connection.exec_driver_sql(
            'SELECT stored.name, info.name, info."notnull" FROM sqlite_master AS stored, '
            "pragma_table_info(stored.name) AS info WHERE stored.name IN (SELECT value FROM json_each(?))",
            (json.dumps(tables),),
        ):
            found[str(table)][str(column)] = not is_required
        return found

    def step_from(self, connection: sa.Connection, version: int) -> UpgradeStep:
        if version >= 3:
            return super().step_from(connection, version)
        dead_letters = self.columns(connection, [dead.name])[dead.name]
        # Of the other query, a generated column is not a part.
        events = connection.exec_driver_sql("SELECT name FROM pragma_table_xinfo('relevo_event')").scalars().all()
        # Not those that SQLite makes for a constraint, which have no SQL.
        attached = connection.exec_driver_sql(
            "SELECT name, sql FROM sqlite_master WHERE tbl_name = 'relevo_event' AND type <> 'table' AND sql <> ''"
        )
        return with_constraints(list(map(str, events)), dead_letters, {str(name): str(sql) for name, sql in attached})

    # --- statements -------------------------------------------------------------------------------

    def next_key(self, key: sa.Column[Any], *, counted: bool = False) -> Mapping[str, sa.ColumnElement[Any]]:
        # SQLite adds one to the greatest key. If that is the greatest integer, it chooses a key at random, so that the
        # order of the rows is lost; with AUTOINCREMENT it refuses every row and reports a full disk. In that case the
        # new row gets the number after the greatest key whose next number is free: https://www.sqlite.org/autoinc.html
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
        return {key.name: sa.case((full, sa.func.coalesce(free, one)), else_=sa.null())}

    def by_index(self, select: sa.Select[Any], table: sa.FromClause, index: sa.Index) -> sa.Select[Any]:
        # If most rows have the same queue, ANALYZE rates an index that begins with the queue as poor, and SQLite then
        # scans instead; only this instruction overrides that: https://www.sqlite.org/lang_indexedby.html
        return select.with_hint(table, f"INDEXED BY {index.name}", "sqlite")

    def steps(self, change: RowChange) -> Sequence[sa.ClauseElement]:
        return change.at_once(change.key.in_)

    def table_of(self, parameter: str) -> sa.TableValuedAlias:
        return sa.func.json_each(sa.bindparam(parameter)).table_valued("key", "value", name=f"{parameter}_")

    def among(self, column: sa.ColumnElement[Any], parameter: str) -> sa.ColumnElement[bool]:
        return column.in_(sa.select(self.table_of(parameter).c.value))

    def listed(self, values: Iterable[object]) -> object:
        return json.dumps(list(values))

    def insert_new(
        self,
        table: sa.Table,
        values: Mapping[str, Any],
        key: Sequence[str],
        *,
        where: sa.ColumnElement[bool] | None = None,
    ) -> sa.Insert:
        insert = filled(sqlite.insert(table), values, where)
        return insert.on_conflict_do_nothing(index_elements=list(key))

    # --- errors -----------------------------------------------------------------------------------

    def error_kind(self, error: sa.exc.SQLAlchemyError) -> ErrorKind:
        if not isinstance(error, sa.exc.DBAPIError):
            return ErrorKind.OTHER
        text = str(error.orig)
        code = getattr(error.orig, "sqlite_errorcode", None)
        if code is None:
            return next((kind for part, kind in _BY_TEXT.items() if part in text), ErrorKind.OTHER)
        return (
            _BY_CODE.get(code)
            or _BY_CODE.get(code & 0xFF)
            or next((kind for part, kind in _BY_TEXT.items() if part in text), ErrorKind.OTHER)
        )


_LEGACY = getattr(sqlite3, "LEGACY_TRANSACTION_CONTROL", None)
"""From Python 3.12 on, a connection of the driver can open transactions by itself; this value turns that off."""

_INCREMENTAL = 2
"""
The mode of ``auto_vacuum`` in which a file becomes smaller when it is asked to, by as much as is asked for.

https://www.sqlite.org/pragma.html#pragma_auto_vacuum
"""

_FEW_PAGES = 1000
"""Free pages that a file keeps in any case: 4 MB."""

_LEVELS = "relevo_sql.levels"
_LEVEL = "relevo_sql.level"

_BY_CODE = {
    sqlite3.SQLITE_BUSY_SNAPSHOT: ErrorKind.STALE,
    sqlite3.SQLITE_READONLY_DBMOVED: ErrorKind.NOT_FOUND,
    sqlite3.SQLITE_BUSY: ErrorKind.BUSY,
    sqlite3.SQLITE_LOCKED: ErrorKind.BUSY,
    sqlite3.SQLITE_READONLY: ErrorKind.READ_ONLY,
    sqlite3.SQLITE_PERM: ErrorKind.READ_ONLY,
    sqlite3.SQLITE_FULL: ErrorKind.FULL,
    sqlite3.SQLITE_IOERR: ErrorKind.IO,
    sqlite3.SQLITE_CANTOPEN: ErrorKind.NOT_FOUND,
    sqlite3.SQLITE_NOTADB: ErrorKind.NOT_A_DATABASE,
    sqlite3.SQLITE_CORRUPT: ErrorKind.MALFORMED,
    sqlite3.SQLITE_TOOBIG: ErrorKind.TOO_BIG,
}

_BY_TEXT = {
    "no such table": ErrorKind.NO_TABLE,
    "no such index": ErrorKind.NO_TABLE,
    "no such column": ErrorKind.NO_TABLE,
    "no query solution": ErrorKind.NO_TABLE,  # an index of another kind has the name of one of relevo's
    "ON CONFLICT clause does not match": ErrorKind.NO_TABLE,
    "because it is a view": ErrorKind.NO_TABLE,
    "has no column named": ErrorKind.NO_TABLE,
    "Could not decode to UTF-8": ErrorKind.UNDECODABLE,
    "SQLite objects created in a thread": ErrorKind.THREAD,
    "string or blob too big": ErrorKind.TOO_BIG,
    "database is locked": ErrorKind.BUSY,
    "readonly database": ErrorKind.READ_ONLY,
    "disk is full": ErrorKind.FULL,
    "disk I/O error": ErrorKind.IO,
    "unable to open database": ErrorKind.NOT_FOUND,
}


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
