"""A replica in the place of the primary: errors name it and the remedy, and a worker goes on once it is promoted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from private_server import private_server
from relevo import App, Envelope, Event
from relevo.errors import SendError, TransportUnavailableError
from relevo_sql import SqlTransport
from restarting import Server, a_database, restarting
from server_process import free_ports

from .command import UNAVAILABLE, configure, relevo
from .on_server import an_engine, execute, scalar
from .test_outages import _running

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]

pytestmark = pytest.mark.slow("starts a server or two")

SAID = "is read-only: it is a replica, or .*; name the primary server"


@attrs.frozen
class Replica:
    """A server that is still read-only."""

    url: str
    promote: Callable[[], None]


@contextmanager
def standby(server: Server, primary: str) -> Iterator[Replica]:
    """Yield a hot standby of a PostgreSQL, a second server."""
    program = server.kind.program(os.environ)
    assert program is not None
    given = sa.make_url(primary)
    (port,) = free_ports(1)
    url = given.set(port=port)
    with private_server("standby", os.environ, programs=[str(program.parent)], account="postgres") as private:
        data = str(private.folder / "data")
        source = ("-h", str(given.host), "-p", str(given.port), "-U", str(given.username))
        private.prepare(private.program("pg_basebackup"), *source, "-D", data, "-R", "-c", "fast", "--no-sync")
        settings = ("--unix_socket_directories=", "--fsync=off", "--max_connections=200", f"--port={port}")
        more = ("--max_prepared_transactions=20", "--listen_addresses=127.0.0.1")  # at least those of the primary
        with private.running(str(program), "-D", data, *settings, *more, ready=lambda: answers(url), stop=server.stop):
            yield Replica(url.render_as_string(hide_password=False), lambda: execute(url, "SELECT pg_promote()"))


@contextmanager
def read_only(server: Server, primary: str) -> Iterator[Replica]:
    """Yield a MariaDB as a replica is usually set up; a user with all privileges is not stopped by it."""
    given = sa.make_url(primary)
    execute(
        server.url,
        "CREATE USER shop IDENTIFIED BY 'not-to-be-shown'",
        f"GRANT ALL ON {given.database}.* TO shop",
        "SET GLOBAL read_only = 1",
    )
    try:
        url = given.set(username="shop", password="not-to-be-shown").render_as_string(hide_password=False)
        yield Replica(url, lambda: execute(server.url, "SET GLOBAL read_only = 0"))
    finally:
        execute(server.url, "SET GLOBAL read_only = 0", "DROP USER shop")


def answers(url: sa.URL) -> bool:
    try:
        return bool(scalar(url, "SELECT pg_is_in_recovery()"))
    except sa.exc.OperationalError:
        return False


@pytest.fixture(
    name="server",
    scope="module",
    params=[
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ],
)
def _server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with restarting(request.param) as server:
        yield server


@pytest.fixture(name="replica")
def _replica(server: Server, opener: Opener, an_envelope: Maker) -> Iterator[Replica]:
    """Give the replica of a database with one event."""
    with ExitStack() as stack:
        primary = stack.enter_context(a_database(server))
        with opener(url=primary) as transport:
            transport.send([an_envelope(1)])
        make = standby if primary.startswith("postgresql") else read_only
        yield stack.enter_context(make(server, primary))


def test_a_replica_in_the_place_of_the_primary_is_named_with_the_remedy(
    opener: Opener, replica: Replica, an_envelope: Maker
) -> None:
    transport = opener(url=replica.url)
    app = App(transports={"main": transport}, routes={"*": "main"})

    with pytest.raises(TransportUnavailableError, match=SAID) as sent:
        transport.send([an_envelope(2)])
    with pytest.raises(TransportUnavailableError, match=SAID):
        transport.receive(["default"], limit=1, lease=60, wait=0)
    with pytest.raises(TransportUnavailableError, match=SAID):
        transport.appear("worker")
    with an_engine(replica.url) as engine, Session(engine) as session:
        app.dispatch(Event("image.created"), session=session)
        with pytest.raises(SendError, match=SAID) as committed:
            session.commit()
    ready = transport.stats("default").ready

    assert not isinstance(sent.value, SendError), "nothing is unknown"
    assert committed.value.refused == (0,)
    assert ready == 1
    assert "not-to-be-shown" not in f"{sent.value!r}{committed.value!r}"


@pytest.mark.parametrize("words", [("drain",), ("dispatch", "image.created", "{}")])
def test_a_command_on_a_replica_ends_with_the_remedy(replica: Replica, tmp_path: Path, words: tuple[str, ...]) -> None:
    configure(tmp_path, f'"{replica.url}"')

    done = relevo(tmp_path, *words)

    assert done.returncode == UNAVAILABLE
    assert "is read-only" in done.stderr
    assert "name the primary server" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_worker_on_a_replica_waits_until_it_is_promoted(
    opener: Opener, replica: Replica, an_envelope: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    with _running(opener(url=replica.url)) as running:
        running.wait_until(lambda: "is read-only" in caplog.text)
        nothing = list(running.handled)

        replica.promote()
        running.wait_until(lambda: running.handled == ["id-1"])
        opener(url=replica.url).send([an_envelope(2)])
        running.wait_until(lambda: running.handled == ["id-1", "id-2"])

    assert nothing == []
    assert "name the primary server; waiting until it is back" in caplog.text
