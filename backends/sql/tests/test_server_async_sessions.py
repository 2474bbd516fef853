"""Asynchronous sessions on a server, with each of its asynchronous drivers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from database_server import DatabaseServer
from relevo import App, Envelope, Event
from relevo.errors import SendError, SessionError
from relevo_sql import SqlTransport

from .on_server import ASYNC_ON_MARIADB, ASYNC_ON_POSTGRESQL, execute, ids, scalar, usable_async_driver

pytest.importorskip("greenlet")
asyncio_extension: Any = pytest.importorskip("sqlalchemy.ext.asyncio")

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]


@pytest.fixture(name="driver", params=[*ASYNC_ON_POSTGRESQL, *ASYNC_ON_MARIADB])
def _driver(request: pytest.FixtureRequest) -> str:
    return usable_async_driver(request.param)


@pytest.fixture(name="transport")
def _transport(opener: Opener, server_database: str) -> SqlTransport:
    return opener(url=server_database)


@asynccontextmanager
async def an_async_engine(database: str, driver: str, **options: Any) -> AsyncIterator[Any]:
    engine = asyncio_extension.create_async_engine(sa.make_url(database).set(drivername=driver), **options)
    try:
        yield engine
    finally:
        await engine.dispose()


@asynccontextmanager
async def a_session(database: str, driver: str, **options: Any) -> AsyncIterator[Any]:
    async with (
        an_async_engine(database, driver, **options) as engine,
        asyncio_extension.AsyncSession(engine) as session,
    ):
        yield session


def test_an_event_commits_with_an_asynchronous_session(
    transport: SqlTransport, server_database: str, driver: str, an_envelope: Maker
) -> None:
    async def upload() -> None:
        async with a_session(server_database, driver) as session:
            await session.execute(sa.text("CREATE TABLE image (id INTEGER)"))
            transport.bound_to(session).send(lambda: [an_envelope(1)])
            await session.rollback()
            transport.bound_to(session).send(lambda: [an_envelope(2)])
            async with session.begin_nested() as savepoint:
                transport.bound_to(session).send(lambda: [an_envelope(3)])
                await savepoint.rollback()
            transport.bound_to(session).send(lambda: [an_envelope(4)])
            assert ids(transport) == []
            await session.commit()
            transport.bound_to(session).send(lambda: [an_envelope(5)])
            await session.commit()

    asyncio.run(upload())

    assert ids(transport) == ["id-2", "id-4", "id-5"]


def test_every_field_of_an_envelope_comes_through(
    transport: SqlTransport, server_database: str, driver: str, an_envelope: Maker
) -> None:
    sent = [
        an_envelope(
            1, headers={"a": "\0ü"}, expires=2.0**40, urgency="high", ordering_key="42", body=bytes(range(256))
        ),
        an_envelope(2, name="ü" * 255, body=b""),
    ]

    async def upload() -> None:
        async with a_session(server_database, driver) as session:
            transport.bound_to(session).send(lambda: sent)
            transport.bound_to(session).send(lambda: [an_envelope(3)], delay=3600)
            await session.commit()

    asyncio.run(upload())

    received = transport.receive(["default"], limit=10, lease=60, wait=0)
    assert [delivery.envelope for delivery in received] == sent
    assert transport.stats("default").scheduled == 1


def test_an_asynchronous_connection_is_joined_in_step(
    transport: SqlTransport, server_database: str, driver: str, an_envelope: Maker
) -> None:
    async def upload() -> None:
        async with an_async_engine(server_database, driver) as engine:
            for number, end in enumerate(("rollback", "commit")):
                async with engine.connect() as connection:
                    with pytest.raises(SessionError, match="run_sync"):
                        transport.bound_to(connection)
                    await connection.run_sync(
                        lambda own, n=number: transport.bound_to(own).send(lambda: [an_envelope(n)])
                    )
                    assert ids(transport) == []
                    await getattr(connection, end)()

    asyncio.run(upload())

    assert ids(transport) == ["id-1"]


def test_an_asynchronous_session_that_commits_by_itself_cannot_commit_events(
    transport: SqlTransport, server_database: str, driver: str, an_envelope: Maker
) -> None:
    async def upload() -> None:
        async with a_session(server_database, driver, isolation_level="AUTOCOMMIT") as session:
            transport.bound_to(session).send(lambda: [an_envelope(1)])
            with pytest.raises(SessionError, match="AUTOCOMMIT"):
                await session.commit()

    asyncio.run(upload())

    assert ids(transport) == []


async def refused(session: Any, transport: SqlTransport, an_envelope: Maker, name: str) -> str:
    """Send an event of this *name*, which is refused, and then another one; return why."""
    transport.bound_to(session).send(lambda: [an_envelope(1, name=name)])
    with pytest.raises(SendError, match=r"cannot hold a value|is too long") as caught:
        await session.commit()
    assert caught.value.refused == (0,)
    await session.rollback()
    transport.bound_to(session).send(lambda: [an_envelope(2)])
    await session.commit()
    return str(caught.value)


def test_an_event_that_the_database_cannot_hold_is_refused_and_the_session_lives_on(
    transport: SqlTransport, server_database: str, driver: str, an_envelope: Maker
) -> None:
    async def upload() -> str:
        async with a_session(server_database, driver) as session:
            return await refused(session, transport, an_envelope, "a" * 256)

    assert "too long" in asyncio.run(upload())
    assert ids(transport) == ["id-2"]


@pytest.mark.parametrize("driver", ASYNC_ON_POSTGRESQL, indirect=True)
def test_a_nul_is_refused_on_postgresql(
    transport: SqlTransport, server_database: str, driver: str, an_envelope: Maker
) -> None:
    async def upload() -> str:
        async with a_session(server_database, driver) as session:
            return await refused(session, transport, an_envelope, "a\0b")

    assert "0x00" in asyncio.run(upload())
    assert ids(transport) == ["id-2"]


def test_a_connection_that_the_server_has_ended_sends_nothing_and_the_session_lives_on(
    transport: SqlTransport, server_database: str, driver: str, an_envelope: Maker
) -> None:
    if driver.startswith("postgresql"):
        who, end = "SELECT pg_backend_pid()", "SELECT pg_terminate_backend({})"
    else:
        who, end = "SELECT CONNECTION_ID()", "KILL {}"

    async def upload() -> None:
        async with a_session(server_database, driver) as session:
            number = await session.scalar(sa.text(who))
            transport.bound_to(session).send(lambda: [an_envelope(1)])
            execute(server_database, end.format(number))
            with pytest.raises(SendError, match="the session's database cannot be reached") as caught:
                await session.commit()
            assert caught.value.refused == (0,)
            await session.rollback()
            transport.bound_to(session).send(lambda: [an_envelope(2)])
            await session.commit()

    asyncio.run(upload())

    assert ids(transport) == ["id-2"]


def test_tables_that_are_gone_are_named(
    transport: SqlTransport, server_database: str, driver: str, an_envelope: Maker
) -> None:
    async def upload() -> None:
        async with a_session(server_database, driver) as session:
            transport.bound_to(session).send(lambda: [an_envelope(1)])
            await session.commit()
            transport.bound_to(session).send(lambda: [an_envelope(2)])
            await session.execute(sa.text("DROP TABLE relevo_event"))
            with pytest.raises(SessionError, match="lacks relevo's tables"):
                await session.commit()

    asyncio.run(upload())


@pytest.mark.parametrize("tables", [True, False])
def test_an_asynchronous_session_of_another_database_cannot_commit_events(
    transport: SqlTransport,
    opener: Opener,
    server: DatabaseServer,
    driver: str,
    an_envelope: Maker,
    *,
    tables: bool,
) -> None:
    async def upload() -> None:
        async with a_session(other, driver) as session:
            transport.bound_to(session).send(lambda: [an_envelope(1)])
            with pytest.raises(SessionError):
                await session.commit()
            await session.rollback()

    with server.fresh_database() as other:
        if tables:
            opener(url=other).close()
        asyncio.run(upload())
        assert not tables or scalar(other, "SELECT count(*) FROM relevo_event") == 0

    assert ids(transport) == []


def test_the_first_dispatch_creates_the_tables(opener: Opener, server_database: str, driver: str) -> None:
    app = App(transports={"main": opener(url=server_database, setup=False)}, routes={"*": "main"})
    execute(server_database, "CREATE TABLE image (id INTEGER)")
    in_transaction = driver.startswith("postgresql")

    def there() -> bool:
        query = "SELECT count(*) FROM information_schema.tables WHERE table_name = 'relevo_event' AND table_schema = "
        schema = "current_schema()" if in_transaction else "DATABASE()"
        return bool(scalar(server_database, query + schema))

    async def upload() -> None:
        async with a_session(server_database, driver) as session:
            await session.execute(sa.text("INSERT INTO image VALUES (1)"))
            app.dispatch(Event("image.dropped"), session=session)
            await session.rollback()
            assert there() is not in_transaction
            await session.execute(sa.text("INSERT INTO image VALUES (2)"))
            app.dispatch(Event("image.created"), session=session)
            assert there() is not in_transaction
            await session.commit()

    asyncio.run(upload())

    deliveries = app.transport().receive(["default"], limit=10, lease=60, wait=0)
    assert [d.envelope.name for d in deliveries if isinstance(d.envelope, Envelope)] == ["image.created"]
    assert scalar(server_database, "SELECT sum(id) FROM image") == 2
