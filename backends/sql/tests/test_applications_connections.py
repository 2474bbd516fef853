"""An application's own connections while it dispatches: idle for too long, or none left in its pool."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import attrs
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from relevo import App, Event
from relevo.errors import SendError, TransportUnavailableError
from relevo_sql import SqlTransport

from .on_server import an_engine, execute, query, wait_until

Opener = Callable[..., SqlTransport]

SERVERS = [
    pytest.param("postgresql", marks=pytest.mark.postgresql),
    pytest.param("mariadb", marks=pytest.mark.mariadb),
]


@pytest.fixture(name="database", params=["sqlite", *SERVERS])
def _database(request: pytest.FixtureRequest, path: object) -> str:
    """Give the URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{path}"
    url: str = request.getfixturevalue(f"{request.param}_database")
    return url


# --- idle -------------------------------------------------------------------------------------------------


@attrs.frozen
class Impatience:
    """How a server ends a session that is idle in its transaction."""

    setting: str
    who: str
    present: str


IMPATIENCE = {
    "postgresql": Impatience(
        "SET idle_in_transaction_session_timeout = 50",  # milliseconds
        "SELECT pg_backend_pid()",
        "SELECT pid FROM pg_stat_activity WHERE pid = {}",
    ),
    "mariadb": Impatience(
        "SET SESSION idle_transaction_timeout = 1",  # seconds
        "SELECT CONNECTION_ID()",
        "SELECT id FROM information_schema.processlist WHERE id = {}",
    ),
}


@pytest.mark.parametrize("server", SERVERS)
def test_a_session_that_was_idle_for_too_long_commits_nothing_and_says_so(
    opener: Opener, request: pytest.FixtureRequest, server: str
) -> None:
    database: str = request.getfixturevalue(f"{server}_database")
    impatience = IMPATIENCE[server]
    execute(database, "CREATE TABLE image (id INTEGER PRIMARY KEY)")
    app = App(transports={"main": opener(url=database)}, routes={"*": "main"})

    with an_engine(database) as engine, Session(engine) as session:
        me = session.execute(sa.text(impatience.who)).scalar()
        session.execute(sa.text("INSERT INTO image VALUES (1)"))
        app.dispatch(Event("image.created"), session=session)
        session.execute(sa.text(impatience.setting))
        wait_until(lambda: not query(database, impatience.present.format(me)))
        with pytest.raises(SendError, match="the session's database cannot be reached, or ended the conn") as caught:
            session.commit()
        session.rollback()
        session.execute(sa.text("INSERT INTO image VALUES (2)"))
        app.dispatch(Event("image.created"), session=session)
        session.commit()

    assert caught.value.refused == (0,)
    assert query(database, "SELECT id FROM image") == [(2,)]
    assert app.transport().stats("default").ready == 1


# --- pools ------------------------------------------------------------------------------------------------


@pytest.fixture(name="narrow")
def _narrow(database: str) -> Iterator[sa.Engine]:
    """Give an engine whose pool has one connection."""
    with an_engine(database, pool_size=1, max_overflow=0, pool_timeout=0.1) as engine:
        yield engine


@pytest.mark.parametrize("is_set_up", [True, False])
def test_dispatching_takes_no_connection_of_the_applications_pool(narrow: sa.Engine, *, is_set_up: bool) -> None:
    with App(transports={"main": SqlTransport(narrow)}, routes={"*": "main"}) as app:
        if is_set_up:
            app.setup()
        with Session(narrow) as session:
            session.execute(sa.text("SELECT 1"))  # the one connection is in use from here on
            app.dispatch(Event("image.created"))
            app.dispatch(Event("image.created"), session=session)
            session.commit()
            session.execute(sa.text("SELECT 1"))
            (delivery, _) = app.transport().receive(["default"], limit=2, lease=60, wait=0)
            app.transport().ack(delivery)
            left = app.transport().stats("default")

    assert (left.ready, left.leased) == (0, 1)


def test_a_session_that_gets_no_connection_from_its_pool_says_so_and_sends_nothing(narrow: sa.Engine) -> None:
    said = "the session's database: QueuePool limit of size 1 overflow 0 reached"
    with App(transports={"main": SqlTransport(narrow)}, routes={"*": "main"}) as app:
        app.setup()
        with Session(narrow) as session:
            with narrow.connect(), pytest.raises(TransportUnavailableError, match=said):
                app.dispatch(Event("image.created"), session=session)
            app.dispatch(Event("image.created"), session=session)
            session.commit()

        assert app.transport().stats("default").ready == 1


def test_an_asynchronous_session_that_gets_no_connection_says_so_at_its_commit(
    opener: Opener, postgresql_database: str
) -> None:
    app = App(transports={"main": opener(url=postgresql_database)}, routes={"*": "main"})
    url = sa.make_url(postgresql_database).set(drivername="postgresql+asyncpg")

    async def run() -> None:
        engine = create_async_engine(url, pool_size=1, max_overflow=0, pool_timeout=0.1)
        async with AsyncSession(engine) as session:
            app.dispatch(Event("image.created"), session=session)
            async with engine.connect():
                with pytest.raises(TransportUnavailableError, match="the session's database: QueuePool limit"):
                    await session.commit()
            await session.rollback()
            app.dispatch(Event("image.created"), session=session)
            await session.commit()
        await engine.dispose()

    asyncio.run(run())

    assert app.transport().stats("default").ready == 1
