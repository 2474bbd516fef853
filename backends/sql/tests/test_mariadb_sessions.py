"""Sessions and connections of an application on MariaDB."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from database_server import DatabaseServer
from relevo import App, Envelope, Event
from relevo.errors import SessionError
from relevo_sql import SqlTransport

from .on_mariadb import an_engine, execute, query
from .on_server import ids_of, received

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]


@pytest.mark.parametrize("scheme", ["mariadb+pymysql", "mysql+pymysql"])
def test_a_session_of_either_scheme_is_joined(
    opener: Opener, mariadb_database: str, an_envelope: Maker, scheme: str
) -> None:
    transport = opener(url=mariadb_database)

    with an_engine(sa.make_url(mariadb_database).set(drivername=scheme)) as engine, Session(engine) as session:
        transport.bound_to(session).send(lambda: [an_envelope(1)])
        session.commit()
        transport.bound_to(session).send(lambda: [an_envelope(2)])
        session.rollback()

    assert ids_of(received(transport)) == ["id-1"]


def test_a_session_of_another_database_of_the_same_server_is_refused(
    opener: Opener, mariadb_databases: DatabaseServer, mariadb_database: str, an_envelope: Maker
) -> None:
    transport = opener(url=mariadb_database)

    with mariadb_databases.fresh_database() as url, an_engine(url) as engine:
        opener(url=url)
        with engine.connect() as connection, pytest.raises(SessionError, match="uses another database"):
            transport.bound_to(connection)


def test_a_connection_that_commits_each_statement_is_refused(opener: Opener, mariadb_database: str) -> None:
    transport = opener(url=mariadb_database)

    with (
        an_engine(mariadb_database, isolation_level="AUTOCOMMIT") as engine,
        engine.connect() as connection,
        pytest.raises(SessionError, match="AUTOCOMMIT"),
    ):
        transport.bound_to(connection)


def test_the_first_dispatch_with_a_session_creates_the_tables_outside_its_transaction(
    opener: Opener, mariadb_database: str
) -> None:
    app = App(transports={"main": opener(url=mariadb_database, setup=False)}, routes={"*": "main"})
    execute(mariadb_database, "CREATE TABLE orders (id INT PRIMARY KEY) ENGINE=InnoDB")

    with app, an_engine(mariadb_database) as engine, Session(engine) as session:
        session.execute(sa.text("INSERT INTO orders VALUES (1)"))
        app.dispatch(Event("order.placed"), session=session)
        session.rollback()

    assert query(mariadb_database, "SELECT COUNT(*) FROM orders") == [(0,)]
    assert query(mariadb_database, "SELECT COUNT(*) FROM relevo_event") == [(0,)]
