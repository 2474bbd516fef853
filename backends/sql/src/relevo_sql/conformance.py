"""
The harness of the SQL transport for ``relevo-conformance``; needs ``relevo-sql[conformance]``.

The transactions of its random histories are sessions. A connection is written to at once, and SQLite then blocks every
other receive until it commits; these histories receive meanwhile.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from functools import cache, cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from relevo import Capabilities, Clock, Delivery, SystemClock, Transport, masked_url
from relevo.backend import HandlingTransaction
from relevo.errors import ConfigurationError
from relevo_conformance import Harness, Transaction, orm
from relevo_conformance.fault import Fault, engine
from relevo_conformance.orm import ConnectionTransaction, OrmTransaction
from relevo_conformance.verdict import claims_of
from relevo_sql._options import SqlOptions
from relevo_sql._schema import event as event_table
from relevo_sql._transport import SqlTransport

__all__ = [
    "MariadbHarness",
    "PortableHarness",
    "PortableMariadbHarness",
    "PortablePostgresqlHarness",
    "PostgresqlHarness",
    "SqlHarness",
]


_NO_STATE = 9

_SHARING = threading.Lock()
_USERS: Counter[sa.URL] = Counter()
"""How many harnesses of this process use the table of objects at an address: the last one drops it."""

_CONSTRAINTS = {
    "sqlite": ("PRAGMA ignore_check_constraints = 1", "PRAGMA ignore_check_constraints = 0"),
    "mariadb": ("SET check_constraint_checks = 0", "SET check_constraint_checks = 1"),
}
"""The statements that turn constraints off, and on again, where a writer can do that."""

_IN_TRANSACTION = 1
"""A bit of the status that MariaDB sends with each answer: SERVER_STATUS_IN_TRANS."""

_SHARED_MEMORY = "/dev/shm"  # noqa: S108 - mkdtemp makes a private folder in it

_LARGE = 2**30
"""Bytes; a container often has a small one."""


class SqlHarness(Harness):
    """Drives the SQL transport on a database, by default one of SQLite in a temporary folder."""

    slack: ClassVar[float] = 2e-6  # a time is stored in whole microseconds, and so is its distance to another one

    takes = MappingProxyType(
        {"url": "the database, as sqlite:////absolute/path.db or mariadb://…; a temporary one of SQLite by default"}
    )
    transport: ClassVar[type[Transport]] = SqlTransport
    dialect: ClassVar[str | None] = None
    """The option of that name."""

    def __init__(self) -> None:
        super().__init__()
        self._directory = Path(tempfile.mkdtemp(prefix="relevo-sql-", dir=_in_memory()))
        self.url = self.default_url() or f"sqlite:///{self._directory}/events.db"
        # One for all cases on a server: to connect takes longer there than most cases.
        self.engine = _server_engine(self.url, os.getpid()) if self.default_url() else application_engine(self.url)
        self._has_objects = False

    @classmethod
    def default_url(cls) -> str | None:
        """Return the URL of a database that is there; ``None`` to make one of SQLite."""
        return cls.options.get("url")

    @classmethod
    def may_run_beside(cls) -> bool:
        # What another author's subclass changes is not known here, and on a server the table of objects is shared.
        return cls.__module__ == __name__ and cls.default_url() is None

    @cached_property
    def capabilities(self) -> Capabilities:
        """What the transport claims on this database, with a clock that runs."""
        with self._open(SystemClock()) as transport:
            return claims_of(transport)

    def open(self) -> Transport:
        return self._open(self.clock)

    def _open(self, clock: Clock) -> Transport:
        return SqlTransport.open(SqlOptions(url=self.url, dialect=self.dialect), name="sql", clock=clock)

    def kill(self, transport: Transport) -> None:
        assert isinstance(transport, SqlTransport)  # noqa: S101 - it came from open()
        for database in transport._databases:  # noqa: SLF001 - the end of a process closes its files without notice
            database._close_connection()  # noqa: SLF001

    def put_raw(self, queue: str, raw: bytes, headers: Mapping[str, str]) -> None:
        # Every other row has an invalid state, as from a writer that turns the constraints off.
        state = len(raw) % 2 * _NO_STATE
        row = {"queue": queue, "state": state, "body": raw, "headers": json.dumps(dict(headers))}
        with self.engine.connect() as connection:
            off, on = _CONSTRAINTS.get(self.engine.dialect.name, ("", ""))
            if off:
                connection.exec_driver_sql(off)
            else:
                row["state"] = 0
            connection.execute(sa.insert(event_table).values(row))
            connection.commit()
            if on:
                connection.exec_driver_sql(on)

    def close(self) -> None:
        if not self.default_url():  # the folder of a temporary database goes as a whole
            self.engine.dispose()
        elif self._has_objects:
            with _SHARING:
                _USERS[self.engine.url] -= 1
                if not _USERS[self.engine.url]:
                    with self.engine.begin() as connection:
                        orm.clean_up(connection)
        shutil.rmtree(self._directory)

    def _prepare_objects(self) -> None:
        """Create the table of the objects that sessions flush, once it is needed."""
        if not self._has_objects:
            with _SHARING:
                with self.engine.begin() as connection:
                    orm.prepare(connection)
                _USERS[self.engine.url] += 1
            self._has_objects = True

    @contextmanager
    def session(self) -> Iterator[Transaction]:
        self._prepare_objects()
        with Session(self.engine) as session:
            yield OrmTransaction(session)

    @contextmanager
    def handling(
        self, transport: Transport, delivery: Delivery
    ) -> Iterator[tuple[HandlingTransaction, OrmTransaction]]:
        self._prepare_objects()
        assert isinstance(transport, SqlTransport)  # noqa: S101 - it came from open()
        with closing(transport.handling(delivery, sessions=sessionmaker(self.engine))) as transaction:
            yield transaction, OrmTransaction(transaction.session)

    @contextmanager
    def handling_once(
        self, transport: Transport, key: str, aliases: Sequence[str], noted: Mapping[str, bytes]
    ) -> Iterator[tuple[HandlingTransaction, OrmTransaction]]:
        self._prepare_objects()
        assert isinstance(transport, SqlTransport)  # noqa: S101 - it came from open()
        sessions = sessionmaker(self.engine)
        with closing(transport.handling_once(key, aliases=aliases, noted=noted, sessions=sessions)) as transaction:
            yield transaction, OrmTransaction(transaction.session)

    @contextmanager
    def connection(self) -> Iterator[Transaction]:
        self._prepare_objects()
        with self.engine.connect() as connection:
            yield ConnectionTransaction(connection)

    def broken(self, transport: Transport, fault: Fault) -> AbstractContextManager[None]:
        return engine.broken(_engine_of(transport), fault, commits_alone=_commits_alone)

    def turnstile(self, transport: Transport, stop: Callable[[], None]) -> AbstractContextManager[None]:
        return engine.stopping(_engine_of(transport), stop)


class PostgresqlHarness(SqlHarness):
    """Drives the SQL transport on PostgreSQL: on the server that ``RELEVO_TEST_POSTGRESQL`` names."""

    takes = MappingProxyType({"url": "the database, as postgresql://user@host/name; RELEVO_TEST_POSTGRESQL by default"})

    @classmethod
    def default_url(cls) -> str:
        url = cls.options.get("url") or os.environ.get("RELEVO_TEST_POSTGRESQL")
        if not url:
            raise ConfigurationError(
                "no PostgreSQL server is configured; set RELEVO_TEST_POSTGRESQL to its URL, or give --option url=…"
            )
        return url


class MariadbHarness(SqlHarness):
    """Drives the SQL transport on MariaDB: on the server that ``RELEVO_TEST_MARIADB`` names."""

    takes = MappingProxyType({"url": "the database, as mariadb://user@host/name; RELEVO_TEST_MARIADB by default"})

    @classmethod
    def default_url(cls) -> str:
        url = cls.options.get("url") or os.environ.get("RELEVO_TEST_MARIADB")
        if not url:
            raise ConfigurationError(
                "no MariaDB server is configured; set RELEVO_TEST_MARIADB to its URL, or give --option url=…"
            )
        return url


class PortableHarness(SqlHarness):
    """Drives the SQL transport in its portable dialect, by default on a database of SQLite in a temporary folder."""

    dialect = "portable"

    def put_raw(self, queue: str, raw: bytes, headers: Mapping[str, str]) -> None:
        # Its tables have no constraints.
        row = {"queue": queue, "state": len(raw) % 2 * _NO_STATE, "body": raw, "headers": json.dumps(dict(headers))}
        with self.engine.begin() as connection:
            connection.execute(sa.insert(event_table).values(row))

    def broken(self, transport: Transport, fault: Fault) -> AbstractContextManager[None]:
        return engine.broken(_engine_of(transport), fault)


class PortablePostgresqlHarness(PortableHarness, PostgresqlHarness):
    """Drives the SQL transport in its portable dialect on PostgreSQL, on the server of ``RELEVO_TEST_POSTGRESQL``."""


class PortableMariadbHarness(PortableHarness, MariadbHarness):
    """Drives the SQL transport in its portable dialect on MariaDB, on the server of ``RELEVO_TEST_MARIADB``."""


@cache
def _server_engine(url: str, _process: int) -> sa.Engine:
    """Return the application's engine for the server at *url*, another one in each process."""
    return application_engine(url)


def _in_memory() -> str | None:
    """Return a folder in memory, if there is a large one: the suite ends processes, but no host."""
    with suppress(OSError):
        if "TMPDIR" not in os.environ and shutil.disk_usage(_SHARED_MEMORY).free > _LARGE:
            return _SHARED_MEMORY
    return None


def _commits_alone(connection: sa.Connection) -> bool:
    """Return whether a statement on *connection* commits by itself; relevo sends so on a server."""
    driver: Any = connection.connection.driver_connection
    if hasattr(driver, "server_status"):  # PyMySQL's
        return not driver.server_status & _IN_TRANSACTION
    info = getattr(driver, "info", None)  # psycopg's
    return info is not None and not info.transaction_status


def _engine_of(transport: Transport) -> sa.Engine:
    assert isinstance(transport, SqlTransport)  # noqa: S101 - it came from open()
    return transport._database.engine  # noqa: SLF001 - deliberately below the public interface


def application_engine(url: str) -> sa.Engine:
    """
    Return an engine whose savepoints work, as SQLAlchemy's page on SQLite describes.

    Raises:
        ConfigurationError: SQLAlchemy does not know *url*.
    """
    try:
        named = sa.make_url(url)
        driver = {"postgresql": "psycopg", "mariadb": "pymysql", "mysql": "pymysql"}.get(named.drivername)
        if driver:
            named = named.set(drivername=f"{named.drivername}+{driver}")
        engine = sa.create_engine(named)
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, ImportError, ValueError):
        raise ConfigurationError(f"{masked_url(url)} is not the URL of a database; write sqlite:///shop.db") from None

    if engine.dialect.name != "sqlite":
        return engine

    @sa.event.listens_for(engine, "connect")
    def _(driver: Any, _: Any) -> None:
        driver.isolation_level = None

    @sa.event.listens_for(engine, "begin")
    def _(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine
