"""Sessions and connections of an application on MariaDB."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.orm import Session

from relevo import App, Envelope, Event
from relevo_sql import SqlTransport

from .on_mariadb import an_engine, execute, query

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]


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
