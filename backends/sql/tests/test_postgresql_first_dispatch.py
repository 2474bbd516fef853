"""The first dispatch on PostgreSQL: the tables are made in the application's transaction, or not at all."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from database_server import DatabaseServer
from relevo import App, Envelope, Event
from relevo.errors import SendError, SessionError, TransportUnavailableError
from relevo_sql import SqlTransport

from .on_postgresql import address, an_engine, execute, scalar

Opener = Callable[..., SqlTransport]


@pytest.fixture(name="app", params=["an address", "an engine"])
def _app(request: pytest.FixtureRequest, opener: Opener, postgresql_database: str) -> Iterator[App]:
    """Return an application whose database has a table of its own, and none of relevo's."""
    execute(postgresql_database, "CREATE TABLE image (id INTEGER)")
    with an_engine(postgresql_database) as engine:
        if request.param == "an address":
            transport = opener(url=postgresql_database, setup=False)
        else:
            transport = SqlTransport(engine)
        with App(transports={"main": transport}, routes={"*": "main"}) as app:
            yield app


def tables(database: str) -> int:
    return int(scalar(database, "SELECT count(*) FROM pg_class WHERE relname LIKE 'relevo%%'"))


def names(app: App) -> list[str]:
    deliveries = app.transport().receive(["default"], limit=100, lease=60, wait=0)
    return sorted(d.envelope.name for d in deliveries if isinstance(d.envelope, Envelope))


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
@pytest.mark.parametrize("kind", ["session", "connection"])
def test_the_transaction_that_sends_makes_the_tables(
    app: App, postgresql_database: str, driver: str, kind: str
) -> None:
    pytest.importorskip(driver)
    there = []
    with an_engine(address(postgresql_database, driver)) as engine:
        for end in ("rollback", "commit"):
            with Session(engine) if kind == "session" else engine.connect() as session:
                session.execute(sa.text("INSERT INTO image VALUES (1)"))
                app.dispatch(Event(f"image.{end}"), session=session)
                app.dispatch(Event(f"other.{end}"), session=session)
                there.append(tables(postgresql_database))
                getattr(session, end)()
                there.append(tables(postgresql_database) > 0)
    app.dispatch(Event("image.later"))

    assert there == [0, False, 0, True]
    assert names(app) == ["image.commit", "image.later", "other.commit"]


@pytest.mark.parametrize("setting", [{"timezone": "Asia/Tokyo"}, {"datestyle": "German"}, {"extra_float_digits": "0"}])
def test_the_settings_of_a_session_do_not_hide_that_its_database_is_the_same(
    app: App, postgresql_database: str, setting: dict[str, str]
) -> None:
    with an_engine(address(postgresql_database, **setting)) as engine, Session(engine) as session:
        app.dispatch(Event("image.created"), session=session)
        session.commit()

    assert names(app) == ["image.created"]


def test_no_table_is_made_in_another_database(
    app: App, postgresql_database: str, postgresql_databases: DatabaseServer
) -> None:
    with postgresql_databases.fresh_database() as other, an_engine(other) as engine:
        with Session(engine) as session, pytest.raises(SessionError, match="lacks relevo's tables"):
            app.dispatch(Event("image.created"), session=session)

        assert tables(other) == 0
    assert tables(postgresql_database) == 0


def test_no_table_is_made_in_a_schema_that_a_transaction_has_chosen(app: App, postgresql_database: str) -> None:
    execute(postgresql_database, "CREATE SCHEMA tenant")
    with an_engine(postgresql_database) as engine, Session(engine) as session:
        session.execute(sa.text("SET LOCAL search_path TO tenant"))
        app.dispatch(Event("image.created"), session=session)
        with pytest.raises(SessionError, match="uses another database"):
            session.commit()
        session.rollback()
        app.dispatch(Event("image.kept"), session=session)
        session.commit()

    assert scalar(postgresql_database, "SELECT count(*) FROM pg_tables WHERE schemaname = 'tenant'") == 0
    assert names(app) == ["image.kept"]


def test_a_setup_beside_a_transaction_that_makes_the_tables_does_not_wait_for_ever(
    app: App, opener: Opener, postgresql_database: str
) -> None:
    with an_engine(postgresql_database) as engine, engine.connect() as connection:
        app.dispatch(Event("image.created"), session=connection)
        with pytest.raises(TransportUnavailableError, match=r"longer than 0\.3 s .*session=…, or before it writes"):
            opener(url=postgresql_database, setup=False, busy_timeout=0.3).setup([])
        connection.commit()

    assert opener(url=postgresql_database, setup=False).setup([]) == []
    assert names(app) == ["image.created"]


def test_a_snapshot_that_is_older_than_the_tables_refuses_and_the_next_one_works(
    app: App, opener: Opener, postgresql_database: str
) -> None:
    with an_engine(postgresql_database, isolation_level="REPEATABLE READ") as engine, Session(engine) as session:
        session.execute(sa.text("INSERT INTO image VALUES (1)"))
        app.dispatch(Event("image.lost"), session=session)
        opener(url=postgresql_database)
        with pytest.raises((SendError, TransportUnavailableError), match="already exists"):
            session.commit()
        session.rollback()
        app.dispatch(Event("image.kept"), session=session)
        session.commit()

    assert scalar(postgresql_database, "SELECT count(*) FROM image") == 0
    assert names(app) == ["image.kept"]


PROCESS = """
import sys
import sqlalchemy as sa
from relevo import App, Event, SystemClock
from relevo_sql import SqlOptions, SqlTransport
from sqlalchemy.orm import Session

url, number = sys.argv[1:]
engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
transport = SqlTransport.open(SqlOptions(url=url), name="main", clock=SystemClock())
app = App(transports={"main": transport}, routes={"*": "main"})
with Session(engine) as session:
    session.execute(sa.text(f"INSERT INTO image VALUES ({number})"))
    app.dispatch(Event(f"image.{'abcdef'[int(number)]}"), session=session)
    print("ready", flush=True)
    input()
    session.commit()
app.close()
"""


@pytest.mark.slow("starts processes")
@pytest.mark.parametrize("app", ["an address"], indirect=True)
def test_processes_that_dispatch_first_at_the_same_time_all_commit(app: App, postgresql_database: str) -> None:
    command = [sys.executable, "-c", PROCESS, postgresql_database]
    processes = [
        subprocess.Popen([*command, str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for number in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=300)

    assert [process.returncode for process in processes] == [0, 0, 0]
    assert names(app) == ["image.a", "image.b", "image.c"]
    assert scalar(postgresql_database, "SELECT count(*) FROM image") == 3
