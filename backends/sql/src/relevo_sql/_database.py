"""
A connection of the transport, and the operations on it: reads, and writes in one transaction or one statement.

It is never a connection of the application. It comes from a separate pool of the same kind as the engine's, so relevo
can choose its settings without an effect on any other connection.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import TypeVar, cast

import attrs
import sqlalchemy as sa

from relevo import Clock, SystemClock
from relevo.backend import ForkAware
from relevo.errors import (
    CommitUnknownError,
    ConfigurationError,
    RelevoError,
    TransportClosedError,
    TransportUnavailableError,
)
from relevo_sql._dialect import Dialect, ErrorKind, separate_engine
from relevo_sql._errors import LockedError, UnreachableError, relevo_error
from relevo_sql._own_session import is_blocked_by_own_session
from relevo_sql._owned_lock import attempt
from relevo_sql._row import micros
from relevo_sql._schema import ARCHIVE, DATABASE_KEY, DISPENSABLE, OLDEST_KEY, SCHEMA, SCHEMA_KEY
from relevo_sql._statement import statements_for

T = TypeVar("T")

LOCKED = frozenset({ErrorKind.BUSY, ErrorKind.STALE, ErrorKind.CONFLICT})
"""What another writer causes; it passes when that writer's transaction ends."""

_PASSING = LOCKED | frozenset({ErrorKind.FULL, ErrorKind.UNDECODABLE, ErrorKind.TOO_BIG})
"""Errors after which the same connection can still be used."""

_SETTING_UP = 2.0
"""
Seconds that a setup waits for other writers at most. It happens at the first use, perhaps while a transaction of the
same thread has written and holds the lock: then no wait would be long enough.
"""

_FORKING = 5.0
"""Seconds that a fork waits at most for the call of another thread; it does not wait for other writers."""

_CLOSING = 5.0
"""Seconds that :meth:`Database.close` waits at most for the call of another thread: its server may be silent."""

_BREATH = 0.002
"""Seconds between two attempts where the driver does not wait by itself."""

_LONGEST_BREATH = 0.02
"""Seconds between two attempts of a compare-and-set for which many compete."""


_COMPARING = 60.0
"""Seconds between two comparisons of this host's time with the database's."""

_INEXACT = 1_000_000
"""Microseconds by which two comparisons may differ, since the answer of one of them came late."""

_STEP = 0.001
"""Seconds by which this host's time and its monotonic time may drift apart before the comparison is repeated."""

_READINGS = 20
"""How often both are read until no other thread ran in between for a part of that."""


_VERSION = re.compile("([0-9]{1,9})(?: (.*))?")
"""A recorded schema version: its number, and the dialect if it is not the usual one."""


_INTERRUPTED = (
    "this thread uses the connection, and was interrupted by a signal handler that uses the transport; let the handler "
    "set a flag, and use the transport where the flag is checked"
)


@attrs.frozen
class _Advice:
    """What to do about a lock of another writer."""

    own: str
    """If a session of the caller has it."""

    other: str = ""
    """If that is not known."""


_AFTER_WRITING = "or before it writes, or after it has committed"

_OWN = (
    "is locked by a session of this thread or task, which has written to it and cannot commit while this dispatch "
    "waits; pass it with session=…, or dispatch before it writes, or after it has committed"
)

_SENDING = _Advice(
    _OWN, f"if it is a session of this thread that has written: dispatch with session=…, {_AFTER_WRITING}"
)

# A dispatch does it too, at the first use.
_CREATING = _Advice(
    _OWN.replace("this dispatch", "this setup or dispatch"),
    "if it is a session of this thread that has written: end it before the setup, or dispatch with session=…, "
    f"{_AFTER_WRITING}",
)

_UPGRADING = _Advice(
    "is locked by a session of this thread or task, which has written to it and cannot commit while this upgrade "
    "waits; commit or close it first",
    "stop all programs that use the tables, and run again: relevo setup --upgrade",
)

_HANDLING = _Advice(
    "is locked by a session of this thread, which has written to it and has not committed; a listener has to commit or "
    "close its session, and a scoped_session has to be removed after each listener"
)


class _Deadline(threading.local):
    """The monotonic time at which the calling thread stops to wait for other writers."""

    at = float("inf")


class Database(ForkAware):
    """
    The database of one transport; any thread may use it, one at a time.

    No connection to it is open while the process is forked.

    Args:
        engine: Where its connections come from: no connection of the application does.

        dialect: The dialect of the database.

        name: The name of the transport in errors; an application that uses another name sets it.

        own: Whether relevo opened the database itself, and may choose its settings.

        patience: Seconds to wait for other writers.

        file_mode: The permissions of a file that relevo creates; ``None`` for the default.

        archives: Whether events that are done are moved to the archive.
    """

    def __init__(
        self,
        engine: sa.Engine,
        dialect: Dialect,
        *,
        name: str,
        own: bool,
        patience: float,
        file_mode: int | None = None,
        archives: bool = False,
    ):
        self.dialect = dialect
        self.statements = statements_for(dialect)
        self.engine = engine
        self.name = name
        self._own = self.is_own = own
        self.patience = patience
        self._file_mode = file_mode
        self.archives = archives
        self._deadline = _Deadline()
        self.location = dialect.location(engine.url)
        # Writers of one process wait here in turn; in SQLite each of them would sleep and try again.
        # Re-entrant, since a signal handler may close a transport in the thread that uses it. Between two
        # attempts it is free, so that forks and readers do not wait for the writer that this thread waits for.
        self._lock = threading.RLock()
        self._uses = 0
        self._closing = threading.Event()
        self._connection: sa.Connection | None = None
        self._id = ""
        self._ahead = 0
        self._compared = (0.0, 0.0)
        self._latest = 0
        self._halted = False
        self._inherited: list[object] = []
        super().__init__()

    def second_connection(self) -> Database:
        """Return a second Database with its own connection; both can be used at the same time."""
        # The pool of an application's engine may be limited to one connection; relevo's own engine has none.
        engine = self.engine if self._own else separate_engine(self.engine)
        return Database(
            engine,
            self.dialect,
            name=self.name,
            own=self._own,
            patience=self.patience,
            file_mode=self._file_mode,
            archives=self.archives,
        )

    # --- reads and writes ---------------------------------------------------------------------------

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        """Return the result of *work*, which only reads and may be called again."""
        return self._run(work)

    def write(
        self,
        work: Callable[[sa.Connection], T],
        *,
        durable: bool = False,
        sends: bool = False,
        patience: float | None = None,
    ) -> T:
        """
        Return the result of *work*, done in one transaction, which is committed.

        Args:
            work: Called again, after a rollback, if another writer interfered.

            durable: The commit survives a crash of the host, not only of this process.

            sends: It writes new events, which the caller could have written in a session.

            patience: Seconds to wait for other writers; ``None`` for the usual ones.

        Raises:
            TransportUnavailableError: The transaction failed; nothing was changed.

            CommitUnknownError: It is not known whether anything was changed.
        """
        return self._run(work, durable=durable, patience=patience, advice=_SENDING if sends else None)

    def insert(self, work: Callable[[sa.Connection], T], *, rows: int, patience: float | None = None) -> T:
        """
        As :meth:`write`, and durable; *work* inserts that number of *rows*, and does nothing else.

        Args:
            work: As for :meth:`write`.

            rows: If they fit into one statement, it is executed outside a transaction.

            patience: Seconds to wait for other writers; ``None`` for the usual ones.
        """
        if rows > self.dialect.max_autocommit_rows:
            return self._run(work, durable=True, patience=patience, advice=_SENDING)
        return self._run_alone(work, patience, advice=_SENDING)

    def _run_alone(
        self, work: Callable[[sa.Connection], T], patience: float | None = None, *, advice: _Advice | None = None
    ) -> T:
        """Return the result of *work*: one statement that is committed by itself, and not repeated if it is lost."""

        def commit(connection: sa.Connection) -> T:
            try:
                result = work(connection)
            except sa.exc.DBAPIError as error:
                if self.dialect.is_refusal(error):
                    raise
                raise self._unknown(error) from (error.orig or error)
            except self.engine.dialect.loaded_dbapi.Error as error:  # raised when rows are fetched
                raise self._unknown(self._as_seen(error)) from error
            self._require_same_file()
            return result

        return self._run(commit, patience=patience, alone=True, advice=advice)

    def update(self, work: Callable[[sa.Connection], T], *, repeatable: bool = False) -> T:
        """
        As :meth:`write`; *work* executes one statement.

        It is executed outside a transaction where the database commits it then, which saves two round trips.

        Args:
            work: As for :meth:`write`.

            repeatable: It has the same effect and the same result if it is repeated after it took effect.
        """
        if not self.dialect.commits_statements:
            return self.write(work)
        return self._run(work, alone=True) if repeatable else self._run_alone(work)

    def repeat(self, attempt: Callable[[], bool]) -> None:
        """
        Call *attempt*, a compare-and-set, until it returns ``True``: another writer is faster now and then.

        One of those that compete always succeeds. Each of the others pauses for a random time, so that all get a turn.

        Raises:
            TransportUnavailableError: Another one was faster each time, for as long as this thread waits for writers.
        """
        patience = self._left(self.patience)
        deadline, pause = time.monotonic() + patience, _BREATH
        while not attempt():
            if time.monotonic() >= deadline:
                raise LockedError(
                    self.name, f"{self.place} has other writers, which were faster each time for {patience:.3g} s"
                )
            self._back_off(random.uniform(0.0, pause))  # noqa: S311 - not a secret
            pause = min(2 * pause, _LONGEST_BREATH)

    def create(self, work: Callable[[sa.Connection], T]) -> T:
        """As :meth:`write`, on a database that may not exist yet."""
        return self._run(work, durable=True, create=True)

    def upgrade(self, work: Callable[[sa.Connection], T]) -> T:
        """As :meth:`write`, on a database whose tables may be of another version."""
        return self._run(work, durable=True, create=True, patience=self.patience, advice=_UPGRADING)

    def is_empty(self) -> bool:
        """Return whether the database exists and is empty."""
        return self.inspect(lambda connection: not self.dialect.catalog(connection)) is True

    def inspect(self, work: Callable[[sa.Connection], T], *, upgrades: bool = False) -> T | None:
        """
        Return the result of *work* on a database that may lack tables; ``None`` if the database does not exist.

        Args:
            work: As for :meth:`read`.

            upgrades: An upgrade needs the result.

        Raises:
            TransportUnavailableError: It could not be opened, or cannot be created at its path.
        """
        if self.location.is_absent():
            if unfit := self.location.unfit():
                raise TransportUnavailableError(self.name, unfit)
            return None
        return self._run(work, create=True, advice=_UPGRADING if upgrades else None)

    def now(self, clock: Clock, connection: sa.Connection | None = None) -> int:
        """
        Return the time in microseconds since the epoch.

        It is the database's: the clock's, plus the difference of the two hosts. A clock of a test is right by itself.

        Args:
            clock: The clock of this host.

            connection: The one that the caller's work was called with; ``None`` outside of any work.
        """
        now = clock.now()
        if self.dialect.is_file or not isinstance(clock, SystemClock):
            return micros(now)
        now, monotonic = _at_once(clock)
        then, difference = self._compared
        if monotonic - then > _COMPARING or abs(now - monotonic - difference) > _STEP:
            if connection is not None:
                self._ahead = self.dialect.ahead(connection)
            else:
                self._ahead = self._run(self.dialect.ahead, create=True)  # a first send may be what creates the tables
            self._compared = monotonic, now - monotonic
        found, latest = micros(now) + self._ahead, self._latest
        if latest - _INEXACT < found < latest:  # only the comparison was another one: what was over stays over
            return latest
        self._latest = found
        return found

    def changed_since(self, changes: int) -> bool:
        """Return whether another connection has committed since :meth:`Dialect.changes` returned *changes*."""
        return self.read(self.dialect.changes) != changes

    def check(self, connection: sa.Connection) -> str:
        """
        Return the random id of the database behind *connection*, which may be the application's.

        Raises:
            ConfigurationError: Its tables were created by another version of relevo, or are incomplete.
        """
        statements = statements_for(self.dialect, connection)
        found: dict[str, object] = dict(statements.meta.run(connection).all())  # type: ignore[arg-type]  # a row of two is a pair
        self.check_version(found)
        if DATABASE_KEY not in found:
            raise self._unfit("")
        return str(found[DATABASE_KEY])

    def check_version(self, recorded: Mapping[str, object]) -> None:
        """
        Check the version of the tables.

        Args:
            recorded: What ``relevo_meta`` holds.

        Raises:
            ConfigurationError: This release cannot use them.
        """
        version = str(recorded.get(SCHEMA_KEY, ""))
        if version != self.dialect.schema_version and not self.is_newer(recorded):
            raise self._unfit(version)

    def is_newer(self, recorded: Mapping[str, object]) -> bool:
        """Return whether the tables are of a newer release, which has left them usable for this one."""
        number, kind = _parts(recorded.get(SCHEMA_KEY))
        oldest, _ = _parts(recorded.get(OLDEST_KEY))
        return kind == _parts(self.dialect.schema_version)[1] and 0 < oldest <= SCHEMA < number

    def identity(self, *, fresh: bool = False) -> str:
        """Return the random id of the database; the last known one, unless *fresh* asks to read it again."""
        if fresh:
            return self.read(self.check)
        return self._id or self.read(lambda _: self._id)

    @property
    def dispensable(self) -> frozenset[str]:
        """The names of the tables and indexes that it may lack."""
        return DISPENSABLE - ARCHIVE if self.archives else DISPENSABLE

    @property
    def place(self) -> str:
        """The database in words, without secrets."""
        return self.location.words

    def hurry(self, seconds: float | None) -> None:
        """Limit the wait of this thread for other writers, and for a call while closing, to *seconds* from now."""
        self._deadline.at = float("inf") if seconds is None else time.monotonic() + seconds

    def close(self) -> None:
        """Close the connection, or let the call that uses it close it at its end if that takes longer than a moment."""
        self._closing.set()
        if self._lock.acquire(timeout=max(0.0, min(_CLOSING, self._deadline.at - time.monotonic()))):
            try:
                self.disconnect()
            finally:
                self._lock.release()

    def disconnect(self) -> None:
        """Close the connection until the next call, unless a call uses it now."""
        with self._lock:
            if not self._uses:
                self._close_connection()

    # --- forks --------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        self._halted = self._lock.acquire(timeout=_FORKING)
        if self._halted:
            self.disconnect()

    def after_fork_in_parent(self) -> None:
        if self._halted:
            self._lock.release()

    def after_fork_in_child(self) -> None:
        if self._connection is not None or self._uses:
            # Kept until the process ends, since closing it would use it.
            self._inherited.append((self.engine.pool, self._connection))
        closing = self._closing.is_set()
        self._lock, self._closing = threading.RLock(), threading.Event()
        if closing:
            self._closing.set()
        self._uses, self._connection, self._id = 0, None, ""
        self.engine.dispose(close=False)

    # --- one operation ------------------------------------------------------------------------------

    def _run(
        self,
        work: Callable[[sa.Connection], T],
        *,
        durable: bool | None = None,
        create: bool = False,
        patience: float | None = None,
        alone: bool = False,
        advice: _Advice | None = None,
    ) -> T:
        """
        Do *work*, and repeat it while other writers interfere, until the patience is used up.

        Args:
            work: Called with the connection.

            durable: Whether the commit is durable; ``None`` if there is no transaction.

            create: The database may not exist, or may lack tables.

            patience: Seconds to wait for other writers; ``None`` for the usual ones.

            alone: It commits by itself, outside a transaction.

            advice: What to do if another writer has the lock; by default that for a setup, or for a listener.
        """
        advice = advice or (_CREATING if create else _HANDLING)
        if patience is None:
            patience = min(_SETTING_UP, self.patience) if create else self.patience
        patience = self._left(patience)
        deadline = time.monotonic() + patience
        is_lenient = was_lost = False
        while True:
            try:
                with self._transaction(durable=durable, create=create, alone=alone) as connection:
                    return work(connection)
            except sa.exc.SQLAlchemyError as error:
                kind = self.dialect.error_kind(error)
                if kind is ErrorKind.UNDECODABLE and not is_lenient:
                    is_lenient, work = True, partial(self._with_any_text, work)
                    continue
                if kind is ErrorKind.LOST and not was_lost:
                    was_lost = True  # nothing was committed, or it may be repeated; and a new connection may do
                    continue
                if kind is ErrorKind.BUSY and (why := self._blocked(advice.own)):
                    raise LockedError(self.name, why) from getattr(error, "orig", None) or error
                if kind not in LOCKED or time.monotonic() >= deadline:
                    found = self._translated(error, patience, advice, create=create)
                    raise found from getattr(error, "orig", None) or error
            self._back_off()

    def blocked_send(self) -> str | None:
        """Return that a session of the caller keeps the write lock, which a send cannot wait for; else ``None``."""
        return self._blocked(_OWN)

    def _blocked(self, why: str) -> str | None:
        """Return *why* with the place if a session of the caller keeps the write lock; else ``None``."""
        is_blocked = self.dialect.is_file and is_blocked_by_own_session(self.location)
        return f"{self.place} {why}" if is_blocked else None

    def _with_any_text(self, work: Callable[[sa.Connection], T], connection: sa.Connection) -> T:
        """Do *work* with bytes in place of text where a row holds invalid text."""
        with self.dialect.any_text(connection):
            return work(connection)

    def _left(self, patience: float) -> float:
        return max(0.0, min(patience, self._deadline.at - time.monotonic()))

    def _back_off(self, seconds: float = _BREATH) -> None:
        if self._closing.wait(seconds):
            raise TransportClosedError(self.name)

    def _translated(
        self, error: sa.exc.SQLAlchemyError, patience: float, advice: _Advice, *, create: bool
    ) -> RelevoError:
        found = relevo_error(self.dialect, error, self.name, self.place, patience=patience, file=self.location.file)
        if not isinstance(found, LockedError) or self.dialect.error_kind(error) is not ErrorKind.BUSY:
            return found
        if create or (advice is _SENDING and self.dialect.is_file):
            kind = TransportUnavailableError if create else LockedError
            return kind(self.name, f"{found.why}; {advice.other}")
        return found

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Keep other threads from the connection; wait for them no longer than for other writers."""
        patience = min(self._left(self.patience), threading.TIMEOUT_MAX)
        with attempt(self._lock, timeout=patience) as acquired:
            if not acquired:
                raise UnreachableError(
                    self.name,
                    f"{self.place} is locked by another writer, or does not answer: another thread of this process "
                    f"is waiting for it, and this thread waited for longer than {patience:.3g} s",
                )
            yield

    @contextmanager
    def _transaction(self, *, durable: bool | None, create: bool, alone: bool) -> Iterator[sa.Connection]:
        """Yield the connection, to this thread alone, in a transaction unless *durable* is ``None``."""
        with self._exclusive():
            if self._uses:  # drivers of servers wait for themselves, or mix up the answers
                raise TransportUnavailableError(self.name, _INTERRUPTED)
            self._uses += 1
            try:
                if self._uses == 1 and self._connection is not None and self.dialect.in_transaction(self._connection):
                    self._close_connection()  # an interruption kept it from its rollback
                reads = durable is None and not alone
                connection = self._open_connection(create=True) if create else self._ready_connection(reads=reads)
                if durable is not None:
                    self.dialect.begin(connection, durable=durable)
                yield connection
                if durable is None:
                    self.dialect.end_read(connection)
                else:
                    self._commit(connection)
                    if durable and not create:
                        self._require_same_file()
            except (
                self.engine.dialect.loaded_dbapi.Error
            ) as error:  # of a method of the driver that SQLAlchemy does not see
                seen = self._as_seen(error)
                self._clean_up(seen)
                raise seen from error
            except BaseException as error:
                self._clean_up(error)
                raise
            finally:
                self._uses -= 1
                if self._closing.is_set() and not self._uses:
                    self._close_connection()

    def _as_seen(self, error: Exception) -> sa.exc.DBAPIError:
        """Return the error that SQLAlchemy would raise for *error*, which is the driver's."""
        return cast("sa.exc.DBAPIError", sa.exc.DBAPIError.instance("", (), error, type(error)))

    def _commit(self, connection: sa.Connection) -> None:
        deadline = time.monotonic() + self._left(self.patience)
        while True:
            try:
                return self.dialect.commit(connection)
            except sa.exc.DBAPIError as error:
                kind = self.dialect.error_kind(error)
                if kind is ErrorKind.CONFLICT:
                    raise  # nothing was committed
                if kind not in LOCKED or not self.dialect.waits_to_commit:
                    raise self._unknown(error) from (error.orig or error)
                if time.monotonic() >= deadline:
                    raise
            self._back_off()

    def _unknown(self, error: sa.exc.DBAPIError) -> CommitUnknownError:
        """Return the error for a commit that failed with *error*; the connection is not used again if it may be bad."""
        self._clean_up(error)
        known = relevo_error(self.dialect, error, self.name, self.place, file=self.location.file)
        why = known.why if isinstance(known, TransportUnavailableError) else str(known)
        return CommitUnknownError(self.name, f"the commit failed: {why}")

    def _require_same_file(self) -> None:
        if self.location.was_replaced():
            raise CommitUnknownError(self.name, f"{self.place} was removed or replaced while it was written")

    def _clean_up(self, error: BaseException) -> None:
        """Roll back; close the connection if it cannot be used again, or if *error* may be specific to it."""
        if self._connection is not None:
            try:
                self.dialect.rollback(self._connection)
            except BaseException as failure:
                self._close_connection()  # it is not used again
                if not isinstance(failure, Exception):
                    raise
        if isinstance(error, sa.exc.SQLAlchemyError) and self.dialect.error_kind(error) not in _PASSING:
            self._close_connection()

    # --- the connection -----------------------------------------------------------------------------

    def _ready_connection(self, *, reads: bool) -> sa.Connection:
        """Return the connection to a database whose schema version was checked."""
        # A connection of the application's engine creates a file too, which a write without tables reports.
        connection = self._open_connection(create=not (reads or self._own))
        if not self._id:
            self._id = self.check(connection)
        return connection

    def _open_connection(self, *, create: bool) -> sa.Connection:
        if self._closing.is_set():
            raise TransportClosedError(self.name)
        if self._inherited:
            why = "SQLite would lose what is written now" if self.dialect.is_file else "two processes cannot share it"
            raise ConfigurationError(
                f'the transport "{self.name}" had a connection open when this process was forked, and {why}; '
                f"send and receive only after the fork, or configure the server that forks "
                f"to call Python's fork hooks (uWSGI: py-call-uwsgi-fork-hooks), or to import the application in each "
                f"process (uWSGI: lazy-apps)"
            )
        if self._connection is not None and not self.dialect.is_alive(self._connection):
            self._close_connection()
        if self._connection is not None and self.location.was_replaced():
            self._close_connection()  # the file was replaced; no process would ever read what is written to the old one
        if self._connection is None:
            if not create and self.location.is_absent():
                raise TransportUnavailableError(self.name, f"there is no {self.place[4:]}; run: relevo setup")
            self._connection = self._connected()
            try:
                if self._own and self.archives:
                    self.dialect.let_shrink(self._connection)
                self.location.opened(self.dialect.prepare(self._connection, own=self._own))
            except BaseException:
                self._close_connection()
                raise
        return self._connection

    def _connected(self) -> sa.Connection:
        if misfit := self.location.misfit():
            raise ConfigurationError(f'the transport "{self.name}" cannot be used: {misfit}')
        if self._own:
            self.location.create(self._file_mode)
        try:
            return self.engine.connect()
        except sa.exc.DBAPIError as error:
            if self.dialect.error_kind(error) is not ErrorKind.LOST:
                raise
            # Translated here, so that it is not repeated: another attempt would wait for as long as this one.
            raise relevo_error(self.dialect, error, self.name, self.place) from (error.orig or error)

    def _unfit(self, version: str) -> ConfigurationError:
        start = f'the transport "{self.name}" cannot be used: {self.place}'
        if not version:
            return ConfigurationError(f"{start} does not record its schema version; run: relevo setup")
        number, kind = _parts(version)
        if number == SCHEMA:
            made = f'dialect = "{kind}"' if kind else 'no option "dialect"'
            return ConfigurationError(
                f"{start} has tables that were created with {made}; configure the transport with the same option, "
                f"or name another database"
            )
        if number > SCHEMA:
            return ConfigurationError(
                f"{start} has the tables of a newer relevo (schema {number}, this one knows {SCHEMA}); "
                f"install the newer relevo-sql"
            )
        known = self.dialect.first_schema <= number and version == str(number)
        remedy = "stop its workers, and run: relevo setup --upgrade"
        if not known:
            remedy = (
                "finish its events with that relevo-sql, drop the tables that begin with relevo_, and run: relevo setup"
            )
        return ConfigurationError(
            f"{start} has the tables of an older relevo (schema {version[:20]!a}, this one needs {SCHEMA}); {remedy}"
        )

    def _close_connection(self) -> None:
        connection, self._connection, self._id = self._connection, None, ""
        if connection is not None:
            with suppress(Exception):
                if not self.dialect.is_alive(connection):
                    connection.invalidate()  # a rollback on it would be one more error, in the log
                connection.close()
            with suppress(Exception):
                self.engine.dispose()


def _parts(version: object) -> tuple[int, str]:
    """Return the number of a recorded *version*, 0 if it has none, and the dialect that it names, usually none."""
    found = _VERSION.fullmatch(str(version))
    return (int(found[1]), found[2] or "") if found else (0, "")


def _at_once(clock: Clock) -> tuple[float, float]:
    """
    Return the time of *clock* and the monotonic time of one moment, in seconds.

    A thread that is interrupted between the two would see a step of the clock, and wait for the connection that another
    thread uses, to compare the times again.
    """
    left = _READINGS
    while True:
        before, now, monotonic = time.monotonic(), clock.now(), time.monotonic()
        left -= 1
        if not left or monotonic - before < _STEP / 2:
            return now, monotonic
