"""A private server, which is killed and started again, and what the configuration of a server decides."""

from __future__ import annotations

import os
import pwd
import secrets
import shlex
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import postgresql_server
from database_server import DatabaseServer
from relevo import Ack, App, Envelope, Event
from relevo.errors import ConfigurationError, SessionError, TransportUnavailableError
from relevo_sql import SqlTransport
from server_process import end, spawn

from .on_postgresql import address, an_engine, execute, ids, scalar, wait_until
from .test_outages import _running

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]

pytestmark = pytest.mark.slow("starts a server")


class Server:
    """A private server, which can be killed and started again."""

    def __init__(self, url: str):
        self.url = url
        self.data = Path(scalar(url, "SHOW data_directory"))
        self._again: subprocess.Popen[bytes] | None = None

    def kill(self) -> None:
        """End it at once, as a crash does."""
        os.kill(int((self.data / "postmaster.pid").read_text().split()[0]), signal.SIGQUIT)
        if self._again is not None:
            self._again.wait()
        wait_until(lambda: "refused" in postgresql_server.DATABASES.refusal(self.url))

    def start(self) -> None:
        """Start it as it was started before."""
        command = shlex.split((self.data / "postmaster.opts").read_text())
        owner = pwd.getpwuid(self.data.stat().st_uid) if os.geteuid() == 0 else None
        log = self.data.parent / "again.log"
        self._again = spawn(command, os.environ, log, path=os.environ["PATH"], account=owner, stop=signal.SIGQUIT)
        wait_until(lambda: postgresql_server.DATABASES.refusal(self.url) == "")

    def close(self) -> None:
        if self._again is not None:
            end(self._again, signal.SIGQUIT)


@pytest.fixture(name="server", scope="module")
def _server() -> Iterator[Server]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RELEVO_TEST_POSTGRESQL")}
    program = postgresql_server.KIND.program(environ)
    if program is None:
        pytest.skip("no PostgreSQL is installed from which a private one could be started")
    with postgresql_server.KIND.private(program, environ) as url:
        server = Server(url)
        try:
            yield server
        finally:
            server.close()


@pytest.fixture(name="private")
def _private(server: Server) -> Iterator[str]:
    """Give the URL of a new database on the private server, which a failed test may have left dead."""
    if postgresql_server.DATABASES.refusal(server.url):
        server.start()
    name = f"relevo_test_{secrets.token_hex(8)}"
    # What is committed survives the server, and so does this.
    execute(server.url, f"CREATE DATABASE {name}", f"ALTER DATABASE {name} SET synchronous_commit = on", "CHECKPOINT")
    yield sa.make_url(server.url).set(database=name).render_as_string(hide_password=False)
    execute(server.url, f"DROP DATABASE {name} WITH (FORCE)")


def test_a_worker_goes_on_after_a_crash_of_the_server_and_nothing_is_lost(
    opener: Opener, server: Server, private: str, an_envelope: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    sender = opener(url=private)
    with _running(opener(url=private)) as running:
        for crash in range(2):
            sender.send([an_envelope(10 * crash)])
            running.wait_until(lambda: running.handled[-1:] == [f"id-{10 * crash}"])  # noqa: B023 - called here
            server.kill()
            with pytest.raises(TransportUnavailableError, match="cannot be reached, or ended the connection"):
                sender.send([an_envelope(10 * crash + 1)])
            running.wait_until(lambda: "cannot be reached" in caplog.text)  # it reminds seldom, so of the first alone

            server.start()
            sender.send([an_envelope(10 * crash + 1)])
            running.wait_until(lambda: running.handled[-1:] == [f"id-{10 * crash + 1}"])  # noqa: B023 - likewise

    assert running.handled == ["id-0", "id-1", "id-10", "id-11"]


def test_what_was_sent_and_what_was_held_is_there_after_a_crash(
    opener: Opener, server: Server, private: str, an_envelope: Maker
) -> None:
    transport = opener(url=private)
    transport.send([an_envelope(number) for number in range(3)])
    held, *_ = transport.receive(["default"], limit=1, lease=600, wait=0)

    server.kill()
    server.start()

    assert not transport.settle([(held, Ack())])
    assert ids(opener(url=private, setup=False)) == ["id-1", "id-2"]


def test_a_session_makes_the_tables_after_the_server_was_started_again(
    opener: Opener, server: Server, private: str
) -> None:
    app = App(transports={"main": opener(url=private, setup=False)}, routes={"*": "main"})
    with an_engine(private) as engine:
        for end_of in ("rollback", "commit", "commit"):
            with Session(engine) as session:
                app.dispatch(Event("image.created"), session=session)
                getattr(session, end_of)()
            engine.dispose()
            server.kill()
            server.start()

    assert app.transport().stats("default").ready == 2


@pytest.mark.parametrize("tables", [True, False])
def test_a_database_of_the_same_name_on_another_server_is_another_one(
    opener: Opener, private: str, postgresql_databases: DatabaseServer, an_envelope: Maker, *, tables: bool
) -> None:
    with postgresql_databases.fresh_database() as ours:
        name = sa.make_url(ours).database
        theirs = sa.make_url(private).set(database=name).render_as_string(hide_password=False)
        execute(private, f"CREATE DATABASE {name}")
        try:
            transport = opener(url=ours, setup=tables)
            app = App(transports={"main": transport}, routes={"*": "main"})
            if tables:
                opener(url=theirs).close()
            with an_engine(theirs) as engine, Session(engine) as session, pytest.raises(SessionError):
                app.dispatch(Event("image.created"), session=session)
            made = scalar(theirs, "SELECT count(*) FROM pg_class WHERE relname = 'relevo_event'")
            assert made == (1 if tables else 0)
            assert not tables or ids(transport) == []
            transport.close()
        finally:
            execute(private, f"DROP DATABASE {name} WITH (FORCE)")


def test_a_wrong_password_is_an_error_of_the_configuration_and_not_shown(
    opener: Opener, server: Server, private: str, an_envelope: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    rules = server.data / "pg_hba.conf"
    before = rules.read_text()
    rules.write_text(f"host all guarded 127.0.0.1/32 scram-sha-256\n{before}")
    execute(private, "CREATE ROLE guarded LOGIN PASSWORD 'the-right-one' SUPERUSER", "SELECT pg_reload_conf()")
    url = sa.make_url(private).set(username="guarded")
    shown = []
    try:
        wait_until(lambda: "password" in postgresql_server.DATABASES.refusal(url.render_as_string(hide_password=False)))
        for password in (None, "the-wrong-one"):
            given = url.set(password=password).render_as_string(hide_password=False)
            with pytest.raises(ConfigurationError, match=r"password.*; .*fix the user and the password") as caught:
                opener(url=given)
            shown.append(f"{caught.value!r}{caught.value.__cause__!r}")
        right = opener(url=url.set(password="the-right-one").render_as_string(hide_password=False))
        right.send([an_envelope(1)])
        right.close()
    finally:
        rules.write_text(before)
        execute(private, "SELECT pg_reload_conf()", "DROP OWNED BY guarded", "DROP ROLE guarded")

    assert "the-wrong-one" not in "".join(shown) + caplog.text


def test_a_worker_waits_for_a_server_that_is_away_when_it_starts(
    opener: Opener, server: Server, private: str, an_envelope: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    opener(url=private).send([an_envelope(1)])
    server.kill()
    with _running(opener(url=private, setup=False)) as running:
        running.wait_until(lambda: "cannot be reached" in caplog.text)
        server.start()

        running.wait_until(lambda: running.handled == ["id-1"])


# --- two phases -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
@pytest.mark.parametrize("waited_for", [False, True])
@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_an_event_of_a_transaction_in_two_phases_is_there_after_the_second(
    opener: Opener, private: str, an_envelope: Maker, ending: str, driver: str, *, waited_for: bool
) -> None:
    pytest.importorskip(driver)
    execute(private, "CREATE TABLE image (id INTEGER)")
    transport, waiting = opener(url=private), opener(url=private)
    thread = threading.Thread(target=lambda: waiting.receive(["other"], limit=1, lease=60, wait=60))
    if waited_for:  # a send would wake it by a notification
        thread.start()
        wait_until(lambda: bool(scalar(private, "SELECT count(*) FROM relevo_lock")))
    with an_engine(address(private, driver)) as engine, Session(engine, twophase=True) as session:
        session.execute(sa.text("INSERT INTO image VALUES (1)"))
        transport.bound_to(session).send(lambda: [an_envelope(1)])
        session.prepare()
        prepared = scalar(private, "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()")
        before = ids(transport)
        getattr(session, ending)()
    if waited_for:
        waiting.send([an_envelope(2, queue="other")])
        thread.join(60)

    assert (prepared, before) == (1, [])
    assert ids(transport) == (["id-1"] if ending == "commit" else [])


def test_a_prepared_transaction_survives_a_crash_of_the_server(
    opener: Opener, server: Server, private: str, an_envelope: Maker
) -> None:
    transport = opener(url=private)
    with an_engine(private) as engine, Session(engine, twophase=True) as session:
        transport.bound_to(session).send(lambda: [an_envelope(1)])
        session.prepare()
        name = scalar(private, "SELECT gid FROM pg_prepared_xacts")
        server.kill()
        server.start()
        session.invalidate()
    before = ids(transport)
    execute(private, f"COMMIT PREPARED '{name}'")

    assert before == []
    assert ids(transport) == ["id-1"]
