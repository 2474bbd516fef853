"""A private server of databases, which is killed and started again."""

from __future__ import annotations

import os
import pwd
import secrets
import shlex
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa

import mariadb_server
import postgresql_server
import server_starter
from database_server import DatabaseKind
from server_process import end, spawn
from waiting import eventually

_DRIVERS = {"postgresql": "postgresql+psycopg", "mariadb": "mariadb+pymysql", "mysql": "mysql+pymysql"}


def execute(url: sa.URL | str, *statements: str) -> Sequence[Any]:
    """Execute *statements*, each in a transaction of its own; return the first row of the last one, if it has rows."""
    parsed = sa.make_url(url)
    named = parsed.set(drivername=_DRIVERS.get(parsed.drivername, parsed.drivername))
    engine = sa.create_engine(named, isolation_level="AUTOCOMMIT", poolclass=sa.pool.NullPool)
    row: Sequence[Any] | None = ()
    with engine.connect() as connection:
        for statement in statements:
            result = connection.exec_driver_sql(statement)
            row = result.fetchone() if result.returns_rows else ()
    return tuple(row or ())


def scalar(url: sa.URL | str, query: str) -> Any:
    """Return the first value that *query* finds."""
    return execute(url, query)[0]


def wait_until(met: Callable[[], bool]) -> None:
    """Return when *met* returns true."""
    assert eventually(met, limit=60.0)


class Server(ABC):
    """A private server, at *url* as one of its administrators."""

    kind: ClassVar[server_starter.Kind]
    databases: ClassVar[DatabaseKind]
    crash: ClassVar[signal.Signals]
    """Ends it at once, and nothing of it runs on."""

    stop: ClassVar[signal.Signals]

    def __init__(self, url: str):
        self.url = url
        self.data = Path(self._data())
        self._command = self._started_with()
        self._again: subprocess.Popen[bytes] | None = None

    @property
    def owner(self) -> pwd.struct_passwd:
        """The user that runs it."""
        return pwd.getpwuid(self.data.stat().st_uid)

    @property
    def is_down(self) -> bool:
        return self.databases.refusal(self.url) != ""

    def kill(self) -> None:
        """End it at once, as a crash does."""
        os.kill(self._pid(), self.crash)
        if self._again is not None:
            self._again.wait()
        wait_until(lambda: "refused" in self.databases.refusal(self.url))

    def start(self) -> None:
        """Start it as it was started before."""
        account = self.owner if os.geteuid() == 0 else None
        log = self.data.parent / "again.log"
        self._again = spawn(self._command, os.environ, log, path=os.environ["PATH"], account=account, stop=self.stop)
        wait_until(lambda: not self.is_down)

    def restart(self) -> None:
        self.kill()
        self.start()

    def close(self) -> None:
        if self._again is not None:
            end(self._again, self.stop)

    def new_database(self) -> str:
        """Create a database, and return its URL."""
        name = f"relevo_test_{secrets.token_hex(8)}"
        execute(self.url, *(statement.format(name=name) for statement in self._create()))
        return sa.make_url(self.url).set(database=name).render_as_string(hide_password=False)

    def drop(self, url: str) -> None:
        execute(self.url, self.databases.drop.format(name=sa.make_url(url).database))

    def _create(self) -> Sequence[str]:
        return self.databases.create

    @abstractmethod
    def _data(self) -> str:
        """Return the folder of its data."""

    @abstractmethod
    def _pid(self) -> int:
        """Return the id of its process."""

    @abstractmethod
    def _started_with(self) -> Sequence[str]:
        """Return the command that started it."""


class PostgresqlServer(Server):
    kind = postgresql_server.KIND
    databases = postgresql_server.DATABASES
    crash = signal.SIGQUIT  # to the processes of its sessions too
    stop = signal.SIGINT  # SIGTERM would wait for clients

    def _create(self) -> Sequence[str]:
        return (*super()._create(), "ALTER DATABASE {name} SET synchronous_commit = on", "CHECKPOINT")

    def _data(self) -> str:
        return str(scalar(self.url, "SHOW data_directory"))

    def _pid(self) -> int:
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def _started_with(self) -> Sequence[str]:
        return shlex.split((self.data / "postmaster.opts").read_text())


class MariadbServer(Server):
    kind = mariadb_server.KIND
    databases = mariadb_server.DATABASES
    crash = signal.SIGKILL
    stop = signal.SIGTERM

    def __init__(self, url: str):
        super().__init__(url)
        self._keep()

    def start(self) -> None:
        super().start()
        self._keep()

    def _keep(self) -> None:
        """Let what is committed survive a crash of the server."""
        execute(self.url, "SET GLOBAL innodb_flush_log_at_trx_commit = 1")

    def _data(self) -> str:
        return str(scalar(self.url, "SELECT @@datadir"))

    def _pid(self) -> int:
        file = Path(scalar(self.url, "SELECT @@pid_file"))
        return int((self.data / file).read_text())

    def _started_with(self) -> Sequence[str]:
        line = Path(f"/proc/{self._pid()}/cmdline")
        if not line.exists():
            pytest.skip("the command of a running MariaDB is read from /proc, which this system does not have")
        return line.read_text().rstrip("\0").split("\0")


SERVERS: dict[str, type[Server]] = {"postgresql": PostgresqlServer, "mariadb": MariadbServer}


@contextmanager
def restarting(name: str) -> Iterator[Server]:
    """Yield a private server of this kind; without its programs the test is skipped, and fails in CI."""
    cls = SERVERS[name]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RELEVO_TEST_")}
    program = cls.kind.program(environ)
    if program is None:
        why = f"no {cls.kind.name} is installed from which a private one could be started"
        if server_starter.in_ci():
            pytest.fail(why, pytrace=False)
        pytest.skip(why)
    with cls.kind.private(program, environ) as url:
        server = cls(url)
        try:
            yield server
        finally:
            server.close()


@contextmanager
def a_database(server: Server) -> Iterator[str]:
    """Yield the URL of a new database on *server*, which an earlier test may have left down."""
    if server.is_down:
        server.start()
    url = server.new_database()
    yield url
    server.drop(url)
