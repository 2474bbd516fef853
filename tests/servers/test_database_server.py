"""The starters recognise PostgreSQL and MariaDB, private ones leave nothing behind, and a test has its own database."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType

import attrs
import pytest
import sqlalchemy as sa

import mariadb_server
import postgresql_server
import server_starter
from database_server import DatabaseKind
from waiting import eventually


@attrs.frozen
class Subject:
    """One of the starters, and what its server is asked."""

    module: ModuleType
    kind: server_starter.Kind
    databases: DatabaseKind
    folder: str
    addresses: str
    create_user: str

    @property
    def nowhere(self) -> str:
        """The URL of a server that does not answer."""
        return self.kind.standard.replace(f":{self.kind.port}/", ":1/")

    def server(self, **variables: str) -> AbstractContextManager[str]:
        """Find a server with these variables alone; ``standard=`` names another standard place."""
        return self.kind.server(environ=self.variables(**variables))

    def variables(self, *, named: str = "", standard: str = "", path: str = "") -> Mapping[str, str]:
        """Return the variables of the environment."""
        return {self.kind.variable: named, f"{self.kind.variable}_STANDARD": standard, "PATH": path}

    @contextmanager
    def private(self) -> Iterator[str]:
        """Start a private server, where one is installed."""
        elsewhere = self.variables(standard=self.nowhere, path=os.environ["PATH"])
        if self.kind.program(elsewhere) is None:
            pytest.skip(f"no {self.kind.name} is installed from which a private one could be started")
        with self.kind.server(environ=elsewhere) as url:
            yield url

    @contextmanager
    def connected(self, url: str) -> Iterator[sa.Connection]:
        """Connect to the server."""
        engine = sa.create_engine(sa.make_url(url).set(drivername=self.databases.driver), poolclass=sa.NullPool)
        with engine.connect() as connection:
            yield connection


POSTGRESQL = Subject(
    postgresql_server,
    postgresql_server.KIND,
    postgresql_server.DATABASES,
    folder="SHOW data_directory",
    addresses="SHOW listen_addresses",
    create_user="CREATE ROLE clerk LOGIN",
)
MARIADB = Subject(
    mariadb_server,
    mariadb_server.KIND,
    mariadb_server.DATABASES,
    folder="SELECT @@datadir",
    addresses="SELECT @@bind_address",
    create_user="CREATE USER clerk",
)


@pytest.fixture(
    name="subject",
    params=[
        pytest.param(POSTGRESQL, marks=pytest.mark.postgresql, id="postgresql"),
        pytest.param(MARIADB, marks=pytest.mark.mariadb, id="mariadb"),
    ],
)
def _subject(request: pytest.FixtureRequest) -> Subject:
    subject: Subject = request.param
    return subject


@pytest.fixture(name="url")
def _url(subject: Subject, request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue("postgresql_url" if subject is POSTGRESQL else "mariadb_url")
    return url


# --- finding --------------------------------------------------------------------------------------


def test_a_named_server_is_used(subject: Subject, url: str) -> None:
    with subject.server(named=url) as found:
        assert found == url


def test_the_standard_place_is_looked_at_next(subject: Subject, url: str) -> None:
    with subject.server(standard=url) as found:
        assert found == url


def test_a_named_server_that_does_not_answer_is_an_error_and_nothing_else_is_tried(subject: Subject, url: str) -> None:
    refused = pytest.raises(server_starter.NotAnsweringError, match=r"127\.0\.0\.1:1/")

    with refused, subject.server(named=subject.nowhere, standard=url):
        pass


def test_without_any_server_the_error_says_what_to_type(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_FOLDERS", "_INSTALLED"):
        monkeypatch.setattr(subject.module, name, (), raising=False)
    missing = pytest.raises(server_starter.NotFoundError, match=f"apt-get install -y {subject.kind.package}")

    with missing, subject.server(standard=subject.nowhere, path=str(tmp_path)):
        pass


def test_the_newest_installed_postgresql_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql_server, "_INSTALLED", (f"{tmp_path}/pgsql-*/bin",))
    for version in ("9.6", "17", "15"):
        program = tmp_path / f"pgsql-{version}" / "bin" / "postgres"
        program.parent.mkdir(parents=True)
        program.touch(0o755)

    assert POSTGRESQL.kind.program({"PATH": ""}) == tmp_path / "pgsql-17" / "bin" / "postgres"


# --- refusing -------------------------------------------------------------------------------------


def test_an_open_port_that_speaks_something_else_is_no_server(subject: Subject) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            line, _ = other.accept()
            with line:
                line.sendall(b"no\r\n")
                line.recv(100)

        answering = threading.Thread(target=answer)
        answering.start()

        assert subject.kind.refusal(subject.nowhere.replace(":1/", f":{other.getsockname()[1]}/"))

        answering.join()


def test_an_old_server_is_not_used(subject: Subject, url: str) -> None:
    newer = attrs.evolve(subject.databases, oldest=(99, 1))

    assert newer.refusal(url).endswith("and 99.1 is needed")
    assert not subject.kind.refusal(url)


@pytest.mark.slow("starts a server")
def test_a_user_who_may_not_create_a_database_is_refused(subject: Subject) -> None:
    with subject.private() as url:
        with subject.connected(url) as connection:
            connection.exec_driver_sql(subject.create_user)
            connection.commit()

        why = subject.kind.refusal(url.replace("postgres@", "clerk@").replace("root@", "clerk@"))

    assert "denied" in why
    assert "CREATE" not in why


# --- the private server ---------------------------------------------------------------------------


@pytest.mark.slow("starts a server")
def test_a_private_server_answers_on_loopback_alone_and_leaves_nothing_behind(subject: Subject) -> None:
    with subject.private() as url, subject.connected(url) as connection:
        folder, processes = _running(subject, connection)
        addresses = connection.exec_driver_sql(subject.addresses).scalar_one()
        owners = {Path(f"/proc/{process}").stat().st_uid for process in processes}

    assert addresses == "127.0.0.1"
    assert 0 not in owners  # root, who may run the tests
    assert subject.kind.refusal(url)
    assert not folder.exists()
    assert not any(Path(f"/proc/{process}").exists() for process in processes)


@pytest.mark.slow("starts a server")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="only util-linux ties a process to its parent")
def test_a_private_server_ends_with_a_starter_that_is_killed(subject: Subject, tmp_path: Path) -> None:
    there = tmp_path / "url"
    variables = subject.variables(standard=subject.nowhere, path=os.environ["PATH"])
    command = ["sh", "-c", f'echo "${subject.kind.variable}" > {there}.new; mv {there}.new {there}; exec sleep 60']
    starter = subprocess.Popen(
        [sys.executable, subject.module.__file__ or "", "run", "--", *command], env={**os.environ, **variables}
    )
    assert eventually(there.exists)
    if not (url := there.read_text().strip()):
        pytest.skip(f"no {subject.kind.name} is installed from which a private one could be started")
    with subject.connected(url) as connection:
        folder, processes = _running(subject, connection)

        starter.send_signal(signal.SIGKILL)

        starter.wait()
        assert eventually(lambda: not any(Path(f"/proc/{process}").exists() for process in processes))
        connection.invalidate()
    shutil.rmtree(folder)


def _running(subject: Subject, connection: sa.Connection) -> tuple[Path, list[int]]:
    """Return the folder of the private server, and its processes."""
    data = Path(connection.exec_driver_sql(subject.folder).scalar_one())
    found = []
    for entry in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if entry.readlink() == data:
                found.append(int(entry.parent.name))
        except OSError:
            continue  # it ended, or is not ours
    assert found
    return data.parent, found


# --- a database for a test ------------------------------------------------------------------------


def test_a_test_has_a_new_database_of_its_own(postgresql_database: str, mariadb_database: str) -> None:
    for subject, url in ((POSTGRESQL, postgresql_database), (MARIADB, mariadb_database)):
        assert sa.make_url(url).database
        with subject.connected(url) as connection:
            assert sa.inspect(connection).get_table_names() == []


def test_a_database_is_dropped_although_a_transaction_uses_it(subject: Subject, url: str) -> None:
    with subject.databases.fresh_database(url) as database:
        engine = sa.create_engine(sa.make_url(database).set(drivername=subject.databases.driver), poolclass=sa.NullPool)
        using = engine.connect()
        using.exec_driver_sql("CREATE TABLE note (id INTEGER PRIMARY KEY)")
        using.exec_driver_sql("INSERT INTO note VALUES (1)")

    with pytest.raises(sa.exc.OperationalError):
        using.exec_driver_sql("SELECT * FROM note")
    using.close()
    with pytest.raises(sa.exc.OperationalError, match=sa.make_url(database).database):
        engine.connect()


def test_the_url_of_a_new_database_differs_from_that_of_the_server_in_its_name_alone(
    subject: Subject, url: str
) -> None:
    with_password = sa.make_url(url).set(password="any")  # neither server asks for it

    with subject.databases.fresh_database(url) as database:
        assert sa.make_url(database).set(database=sa.make_url(url).database) == sa.make_url(url)
    assert "any" not in subject.kind.shown(with_password.render_as_string(hide_password=False))
