"""Sessions and connections of an application on a server: one transaction with its events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from database_server import DatabaseServer
from relevo import Ack, Envelope
from relevo.errors import SendError, SessionError
from relevo_sql import SqlTransport

from .on_server import an_engine, execute, ids, ids_of, scalar

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]

SERVERS = [
    pytest.param("postgresql+psycopg", marks=pytest.mark.postgresql),
    pytest.param("postgresql+psycopg2", marks=pytest.mark.postgresql),
    pytest.param("mariadb+pymysql", marks=pytest.mark.mariadb),
    pytest.param("mysql+pymysql", marks=pytest.mark.mariadb),
]
"""Dialect and driver of the application's engine."""


@pytest.fixture(name="driver", params=SERVERS)
def _driver(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    pytest.importorskip(name.partition("+")[2])
    return name


@pytest.fixture(name="transport")
def _transport(server_database: str, opener: Opener) -> SqlTransport:
    return opener(url=server_database)


@pytest.fixture(name="shop")
def _shop(server_database: str, driver: str) -> Iterator[sa.Engine]:
    """Return the application's engine."""
    execute(server_database, "CREATE TABLE image (id INTEGER PRIMARY KEY)")
    with an_engine(sa.make_url(server_database).set(drivername=driver)) as engine:
        yield engine


@contextmanager
def joined(kind: str, engine: sa.Engine) -> Iterator[Any]:
    """Yield something that can be joined, with ``commit()``, ``rollback()`` and ``begin_nested()``."""
    if kind == "connection":
        with engine.connect() as connection:
            yield connection
    elif kind == "scoped session":
        scoped = scoped_session(sessionmaker(engine))
        yield scoped
        scoped.remove()
    else:
        with Session(engine) as session:
            yield session


@pytest.mark.parametrize("kind", ["session", "scoped session", "connection"])
def test_an_event_is_there_if_its_transaction_commits_and_not_before(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker, kind: str
) -> None:
    there = []
    with joined(kind, shop) as session:
        sender = transport.bound_to(session)
        for number, end in enumerate(("commit", "rollback", "commit")):
            session.execute(sa.text(f"INSERT INTO image VALUES ({number})"))  # noqa: S608 - a number
            sender.send(partial(lambda n: [an_envelope(n)], number))
            there.append(ids(transport))
            getattr(session, end)()
            there.append(ids(transport))

    assert there == [[], ["id-0"], [], [], [], ["id-2"]]


@pytest.mark.parametrize("kind", ["session", "connection"])
def test_a_savepoint_that_is_rolled_back_takes_its_events_along(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker, kind: str
) -> None:
    with joined(kind, shop) as session:
        sender = transport.bound_to(session)
        sender.send(lambda: [an_envelope(1)])
        savepoint = session.begin_nested()
        sender.send(lambda: [an_envelope(2)])
        savepoint.rollback()
        with session.begin_nested():
            sender.send(lambda: [an_envelope(3)])
        session.commit()

    assert ids(transport) == ["id-1", "id-3"]


def test_two_transactions_send_the_same_ordering_key_without_waiting_for_each_other(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker
) -> None:
    with shop.connect() as first, Session(shop) as second:
        transport.bound_to(first).send(lambda: [an_envelope(1, ordering_key="42")])
        transport.bound_to(second).send(lambda: [an_envelope(2, ordering_key="42")])
        second.commit()
        early = transport.receive(["default"], limit=10, lease=60, wait=0)
        first.commit()
    behind = transport.receive(["default"], limit=10, lease=60, wait=0)
    transport.settle([(delivery, Ack()) for delivery in early])

    assert [delivery.envelope for delivery in early] == [an_envelope(2, ordering_key="42")]
    assert not behind
    assert ids(transport) == ["id-1"]


def test_events_of_one_key_that_were_committed_together_are_handed_out_one_at_a_time(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker
) -> None:
    with ExitStack() as stack:
        sessions = [stack.enter_context(Session(shop)) for _ in range(3)]
        for number, session in enumerate(sessions):
            transport.bound_to(session).send(partial(lambda n: [an_envelope(n, ordering_key="42")], number))
        for session in sessions:
            session.commit()

    batches = []
    while deliveries := transport.receive(["default"], limit=10, lease=60, wait=0):
        batches.append(ids_of(list(deliveries)))
        transport.settle([(delivery, Ack()) for delivery in deliveries])
    assert batches == [["id-0"], ["id-1"], ["id-2"]]


def test_an_event_that_the_database_cannot_hold_is_refused_and_the_session_lives_on(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker
) -> None:
    with Session(shop) as session:
        transport.bound_to(session).send(lambda: [an_envelope(1, name="a" * 256), an_envelope(2)])
        with pytest.raises(SendError, match="too long") as caught:
            session.commit()
        session.rollback()
        transport.bound_to(session).send(lambda: [an_envelope(3)])
        session.commit()

    assert caught.value.refused == (0, 1)
    assert ids(transport) == ["id-3"]


def test_tables_that_are_gone_are_named(
    transport: SqlTransport, shop: sa.Engine, server_database: str, an_envelope: Maker
) -> None:
    with Session(shop) as session:
        transport.bound_to(session).send(lambda: [an_envelope(1)])
        session.commit()
        execute(server_database, "DROP TABLE relevo_event")
        transport.bound_to(session).send(lambda: [an_envelope(2)])
        with pytest.raises(SessionError, match="lacks relevo's tables"):
            session.commit()


@pytest.mark.parametrize("level", ["engine", "connection"])
def test_a_connection_that_commits_by_itself_is_refused(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker, level: str
) -> None:
    options = {"isolation_level": "AUTOCOMMIT"}
    engine = shop.execution_options(**options) if level == "engine" else shop
    with engine.connect() as connection:
        if level == "connection":
            connection.execution_options(**options)
        with pytest.raises(SessionError, match="AUTOCOMMIT"):
            transport.bound_to(connection).send(lambda: [an_envelope(1)])
    with Session(engine) as session:
        if level == "connection":
            session.connection(execution_options=options)
        with pytest.raises(SessionError, match="AUTOCOMMIT"):
            transport.bound_to(session).send(lambda: [an_envelope(1)])

    assert ids(transport) == []


@pytest.mark.parametrize("tables", [True, False])
def test_a_session_of_another_database_of_the_server_is_refused(
    transport: SqlTransport, opener: Opener, server: DatabaseServer, an_envelope: Maker, *, tables: bool
) -> None:
    with server.fresh_database() as other, an_engine(other) as engine:
        execute(other, "CREATE TABLE image (id INTEGER)")
        theirs = opener(url=other) if tables else None
        wrong = "uses another database" if tables else "lacks relevo's tables"
        with Session(engine) as session:
            session.execute(sa.text("INSERT INTO image VALUES (1)"))
            with pytest.raises(SessionError, match=f'{wrong}.*"main".*relevo_test_.*configure an outbox'):
                transport.bound_to(session).send(lambda: [an_envelope(1)])
            session.commit()
        with engine.connect() as connection, pytest.raises(SessionError, match=wrong):
            transport.bound_to(connection)  # at once, before another transport has written
        kept = scalar(other, "SELECT count(*) FROM image")
        assert theirs is None or ids(theirs) == []
        if theirs is not None:
            theirs.close()

    assert kept == 1
    assert ids(transport) == []


def test_a_session_of_sqlite_is_refused(
    transport: SqlTransport, opener: Opener, engine: sa.Engine, an_envelope: Maker
) -> None:
    on_file = opener()
    with Session(engine) as session:
        with pytest.raises(SessionError, match=r'uses another database.*"main"'):
            transport.bound_to(session).send(lambda: [an_envelope(1)])
        session.commit()

    assert ids(on_file) == ids(transport) == []
