"""
The transport's one connection, and the operations on it: reads, and writes in one transaction.

It is never one of the application's own: it comes out of a pool of the same kind beside the engine's, so
that its settings are ours to choose, and nobody else ever meets them.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import sqlalchemy as sa

from relevo.backend import ForkAware
from relevo.errors import ConfigurationError, RelevoError, TransportClosedError, TransportUnavailableError
from relevo_sql._dialect import SqliteDialect, Trouble, beside
from relevo_sql._errors import CommitUnknownError, LockedError, relevo_error
from relevo_sql._schema import DATABASE_KEY, SCHEMA, SCHEMA_KEY
from relevo_sql._statement import statements_for

T = TypeVar("T")

_LOCKED = frozenset({Trouble.BUSY, Trouble.STALE})
"""What another writer causes, and its end mends."""

_PASSING = _LOCKED | frozenset({Trouble.FULL, Trouble.UNDECODABLE, Trouble.TOO_BIG})
"""What says nothing against the connection that it was met on."""

_SETTING_UP = 2.0
"""
Seconds that setting up waits for other writers at most. It happens at the first use, which may be beside a
transaction that has written: the lock is then this very thread's, and no patience would outlast it.
"""

_FORKING = 5.0
"""Seconds that a fork waits at most for what a thread is about; it waits for no other writer."""

_BREATH = 0.002
"""Seconds between two tries where the driver does not wait by itself."""


class _File(NamedTuple):
    """The file behind a connection, as it was when that was opened."""

    path: str
    identity: tuple[int, int] | None


class Database(ForkAware):
    """
    A database as one transport uses it, from any thread, one at a time.

    No connection of it is open while the process is forked.

    Args:
        engine: Where it is.

        dialect: What knows it.

        name: The transport's, for errors; an application that knows it by another changes it.

        own: relevo made the engine itself.

        patience: Seconds to wait for other writers.
    """

    def __init__(self, engine: sa.Engine, dialect: SqliteDialect, *, name: str, own: bool, patience: float):
        self.dialect = dialect
        self.statements = statements_for(dialect)
        self._engine = engine if own else beside(engine)
        self.name = name
        self._own = own
        self._patience = patience
        self._deadline = float("inf")
        database = engine.url.database or ""
        named = database and not database.startswith((":memory:", "file:"))
        self.path = Path(database).absolute() if named else None
        # Writers of one process wait here in turn; SQLite would let each of them sleep and try again.
        # Re-entrant, since a signal handler may close a transport in the thread that uses it. Between two
        # tries it is free, so that neither a fork nor a reader has to wait for what this thread waits for.
        self._lock = threading.RLock()
        self._uses = 0
        self._closing = threading.Event()
        self._connection: sa.Connection | None = None
        self._id = ""
        self._file = _File("", None)
        self._halted = False
        self._inherited: list[object] = []
        super().__init__()

    # --- what is done -------------------------------------------------------------------------------

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        """Return what *work* finds; it only looks, and may be called again."""
        return self._run(work)

    def write(self, work: Callable[[sa.Connection], T], *, durable: bool = False) -> T:
        """
        Return what *work* did in one transaction, which is committed.

        Args:
            work: Called again, after a roll-back, if another writer was in the way.

            durable: The commit survives a crash of the host, not only of this process.

        Raises:
            TransportUnavailableError: It could not be done; nothing was changed.

            CommitUnknownError: It is not known whether anything was changed.
        """
        return self._run(work, durable=durable)

    def create(self, work: Callable[[sa.Connection], T]) -> T:
        """As :meth:`write`, on a database that may not be there yet."""
        return self._run(work, durable=True, create=True)

    def is_empty(self) -> bool:
        """Return whether the database exists and is empty."""
        return self.inspect(lambda connection: not self.dialect.catalog(connection)) is True

    def inspect(self, work: Callable[[sa.Connection], T]) -> T | None:
        """
        Return what *work* finds in a database that may lack tables; None if it is not there at all.

        Raises:
            TransportUnavailableError: It could not be opened, or not be made where it should be.
        """
        if self.path and _identity(str(self.path)) is None:
            self._require_folder(self.path.parent)
            return None
        return self._run(work, create=True)

    def _require_folder(self, folder: Path) -> None:
        if not os.path.lexists(folder):
            why = f"there is no folder {folder}; make it, or mend the address"
        elif not folder.is_dir():
            why = f"{folder} is no folder; mend the address"
        elif not os.access(folder, os.W_OK | os.X_OK):
            why = f"this user cannot write into the folder {folder}; let it, or mend the address"
        else:
            return
        raise TransportUnavailableError(self.name, why)

    def check(self, connection: sa.Connection) -> str:
        """
        Return the random id of the database that *connection*, anybody's, reaches.

        Raises:
            ConfigurationError: Its tables were made by another version of relevo, or are incomplete.
        """
        found: dict[str, object] = dict(self.statements.meta.run(connection).all())  # type: ignore[arg-type]  # a row of two is a pair
        self.check_version(str(found.get(SCHEMA_KEY, "")))
        if DATABASE_KEY not in found:
            raise self._unfit("")
        return str(found[DATABASE_KEY])

    def check_version(self, version: str) -> None:
        """Raise :class:`ConfigurationError` unless *version* is what this package works on."""
        if version != str(SCHEMA):
            raise self._unfit(version)

    def identity(self, *, fresh: bool = False) -> str:
        """Return the random id of the database, looked up *fresh* or as it was last seen."""
        if fresh:
            return self.read(self.check)
        return self._id or self.read(lambda _: self._id)

    def file(self) -> tuple[int, int] | None:
        """Return what tells the file from every other one; ``None`` if there is none, or it is not known which."""
        path = self._file.path or self.path
        return _identity(str(path)) if path else None

    def holds(self, path: str) -> bool:
        """Return whether the file at *path* is this database, by whatever name."""
        return bool(path) and _identity(path) is not None and _identity(path) == self.file()

    @property
    def named(self) -> bool:
        """Whether it is known which file it is before it is opened."""
        return bool(self._file.path or self.path)

    @property
    def _path(self) -> str:
        return self._file.path or str(self.path or "")

    @property
    def place(self) -> str:
        """The database in words, without secrets."""
        return f"the database {self._file.path or self.path or 'behind the engine'}"

    def hurry(self, seconds: float | None) -> None:
        """Limit the wait for other writers to *seconds* from now, whatever the patience is."""
        self._deadline = float("inf") if seconds is None else time.monotonic() + seconds

    def close(self) -> None:
        """Let go of the connection, after the call that uses it."""
        self._closing.set()
        self.rest()

    def rest(self) -> None:
        """Let go of the connection until the next call, unless one uses it."""
        with self._lock:
            if not self._uses:
                self._let_go()

    # --- forks --------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        self._halted = self._lock.acquire(timeout=_FORKING)
        if self._halted:
            self.rest()

    def after_fork_in_parent(self) -> None:
        if self._halted:
            self._lock.release()

    def after_fork_in_child(self) -> None:
        if self._connection is not None or self._uses:
            # Kept for ever: to close it is to use it.
            self._inherited.append((self._engine.pool, self._connection))
        closing = self._closing.is_set()
        self._lock, self._closing = threading.RLock(), threading.Event()
        if closing:
            self._closing.set()
        self._uses, self._connection, self._id = 0, None, ""
        self._engine.dispose(close=False)

    # --- one operation ------------------------------------------------------------------------------

    def _run(self, work: Callable[[sa.Connection], T], *, durable: bool | None = None, create: bool = False) -> T:
        """
        Do *work*, and again as long as other writers are in the way and patience lasts.

        Args:
            work: What to do on the connection.

            durable: How the transaction commits; ``None`` if there is none.

            create: The database may not exist, or may lack tables.
        """
        patience = self._left(min(_SETTING_UP, self._patience) if create else self._patience)
        deadline = time.monotonic() + patience
        is_lenient = False
        while True:
            try:
                with self._transaction(durable=durable, create=create) as connection:
                    return work(connection)
            except sa.exc.SQLAlchemyError as error:
                trouble = self.dialect.trouble(error)
                if trouble is Trouble.UNDECODABLE and not is_lenient:
                    is_lenient, work = True, partial(self._with_any_text, work)
                    continue
                if trouble not in _LOCKED or time.monotonic() >= deadline:
                    raise self._translated(error, patience, create=create) from getattr(error, "orig", None) or error
            self._breathe()

    def _with_any_text(self, work: Callable[[sa.Connection], T], connection: sa.Connection) -> T:
        """Do *work* with bytes in place of text where a row holds invalid text."""
        with self.dialect.any_text(connection):
            return work(connection)

    def _left(self, patience: float) -> float:
        return max(0.0, min(patience, self._deadline - time.monotonic()))

    def _breathe(self) -> None:
        if self._closing.wait(_BREATH):
            raise TransportClosedError(self.name)

    def _translated(self, error: sa.exc.SQLAlchemyError, patience: float, *, create: bool) -> RelevoError:
        found = relevo_error(self.dialect, error, self.name, self.place, patience=patience, file=self._path)
        if create and isinstance(found, LockedError):
            return TransportUnavailableError(
                self.name,
                f"{found.why}; if it is that of a session of this very thread, which has written: dispatch with "
                f"session=…, or before it writes, or after it has committed",
            )
        return found

    @contextmanager
    def _transaction(self, *, durable: bool | None, create: bool) -> Iterator[sa.Connection]:
        """Give the connection to this thread alone, in a transaction unless *durable* is ``None``."""
        with self._lock:
            self._uses += 1
            try:
                connection = self._open_connection(create=True) if create else self._ready_connection()
                if durable is not None:
                    self.dialect.begin(connection, durable=durable)
                yield connection
                if durable is not None:
                    self._commit(connection)
                    if durable and not create:
                        self._require_same_file()
            except BaseException as error:
                self._clean_up(error)
                raise
            finally:
                self._uses -= 1
                if self._closing.is_set() and not self._uses:
                    self._let_go()

    def _commit(self, connection: sa.Connection) -> None:
        # With a rollback journal a reader can be in the way here; the transaction waits meanwhile.
        deadline = time.monotonic() + self._left(self._patience)
        while True:
            try:
                return self.dialect.commit(connection)
            except sa.exc.DBAPIError as error:
                if self.dialect.trouble(error) not in _LOCKED:
                    self._clean_up(error)
                    known = relevo_error(self.dialect, error, self.name, self.place, file=self._path)
                    why = known.why if isinstance(known, TransportUnavailableError) else str(known)
                    raise CommitUnknownError(self.name, f"the commit failed: {why}") from (error.orig or error)
                if time.monotonic() >= deadline:
                    raise
            self._breathe()

    def _require_same_file(self) -> None:
        if self._file.identity != _identity(self._file.path):
            raise CommitUnknownError(self.name, f"{self.place} was removed or replaced while it was written")

    def _clean_up(self, error: BaseException) -> None:
        """Roll back, and let go of the connection if it cannot be used again or *error* may be of it alone."""
        if self._connection is not None:
            try:
                self.dialect.rollback(self._connection)
            except Exception:  # noqa: BLE001 - it is not used again
                self._let_go()
        if isinstance(error, sa.exc.SQLAlchemyError) and self.dialect.trouble(error) not in _PASSING:
            self._let_go()

    # --- the connection -----------------------------------------------------------------------------

    def _ready_connection(self) -> sa.Connection:
        """Return the connection to a database whose tables are known to fit."""
        connection = self._open_connection(create=False)
        if not self._id:
            self._id = self.check(connection)
        return connection

    def _open_connection(self, *, create: bool) -> sa.Connection:
        if self._closing.is_set():
            raise TransportClosedError(self.name)
        if self._inherited:
            raise ConfigurationError(
                f'the transport "{self.name}" had a connection open when this process was forked, and SQLite would '
                f"lose what is written now; send and receive only after the fork, or let the server that forks tell "
                f"Python (uWSGI: py-call-uwsgi-fork-hooks), or let it import the application in each process "
                f"(uWSGI: lazy-apps)"
            )
        if self._connection is not None and self._file.identity != _identity(self._file.path):
            self._let_go()  # the file was replaced; what is written to the old one nobody would ever see
        if self._connection is None:
            if self._own and not create and self.path and not self.path.exists():
                raise TransportUnavailableError(self.name, f"there is no {self.place[4:]}; run: relevo setup")
            self._connection = self._engine.connect()
            try:
                path = self.dialect.prepare(self._connection, own=self._own)
            except BaseException:
                self._let_go()
                raise
            self._file = _File(path, _identity(path))
        return self._connection

    def _unfit(self, version: str) -> ConfigurationError:
        start = f'the transport "{self.name}" cannot be used: {self.place}'
        if not version:
            return ConfigurationError(f"{start} does not say which tables it has; run: relevo setup")
        if version.isdecimal() and int(version) > SCHEMA:
            return ConfigurationError(
                f"{start} has the tables of a newer relevo (schema {version}, this one knows {SCHEMA}); "
                f"install the newer relevo-sql"
            )
        return ConfigurationError(
            f"{start} has the tables of an older relevo (schema {version[:20]!a}, this one needs {SCHEMA}); finish its "
            f"events with that relevo-sql, drop the tables that begin with relevo_, and run: relevo setup"
        )

    def _let_go(self) -> None:
        connection, self._connection, self._id = self._connection, None, ""
        if connection is not None:
            with suppress(Exception):
                connection.close()
            with suppress(Exception):
                self._engine.dispose()


def _identity(path: str) -> tuple[int, int] | None:
    """Return what tells the file at *path* from one that replaces it."""
    try:
        found = os.stat(path)  # noqa: PTH116 - on the way of every call, and a Path is made first
    except OSError:
        return None
    return found.st_dev, found.st_ino
