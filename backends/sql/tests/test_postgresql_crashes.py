"""What only a private server shows: its configuration, and transactions in two phases through a crash."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import postgresql_server
from database_server import DatabaseServer
from relevo import App, Envelope, Event
from relevo.errors import ConfigurationError, SessionError
from relevo_sql import SqlTransport
from restarting import Server, a_database, restarting

from .on_postgresql import address, an_engine, execute, ids, scalar, wait_until

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]

pytestmark = pytest.mark.slow("starts a server")


@pytest.fixture(name="server", scope="module")
def _server() -> Iterator[Server]:
    with restarting("postgresql") as server:
        yield server


@pytest.fixture(name="private")
def _private(server: Server) -> Iterator[str]:
    """Give the URL of a new database on the private server."""
    with a_database(server) as url:
        yield url


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
        server.restart()
        session.invalidate()
    before = ids(transport)
    execute(private, f"COMMIT PREPARED '{name}'")

    assert before == []
    assert ids(transport) == ["id-1"]
