"""Asynchronous sessions on PostgreSQL, with each of its asynchronous drivers."""

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

from .on_postgresql import address, execute, ids, scalar

pytest.importorskip("greenlet")
asyncio_extension: Any = pytest.importorskip("sqlalchemy.ext.asyncio")

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]


@pytest.fixture(name="transport")
def _transport(opener: Opener, postgresql_database: str) -> SqlTransport:
    return opener(url=postgresql_database)


@pytest.fixture(name="driver", params=["psycopg", "asyncpg"])
def _driver(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param)
    return str(request.param)


@asynccontextmanager
async def a_session(database: str, driver: str, **options: Any) -> AsyncIterator[Any]:
    engine = asyncio_extension.create_async_engine(address(database, driver), **options)
    try:
        async with asyncio_extension.AsyncSession(engine) as session:
            yield session
    finally:
        await engine.dispose()


def test_an_event_commits_with_an_asynchronous_session(
    transport: SqlTransport, postgresql_database: str, driver: str, an_envelope: Maker
) -> None:
    async def upload() -> None:
        async with a_session(postgresql_database, driver) as session:
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
    transport: SqlTransport, postgresql_database: str, driver: str, an_envelope: Maker
) -> None:
    sent = [
        an_envelope(
            1, headers={"a": "\0ü"}, expires=2.0**40, urgency="high", ordering_key="42", body=bytes(range(256))
        ),
        an_envelope(2, name="ü" * 255, body=b""),
    ]

    async def upload() -> None:
        async with a_session(postgresql_database, driver) as session:
            transport.bound_to(session).send(lambda: sent)
            transport.bound_to(session).send(lambda: [an_envelope(3)], delay=3600)
            await session.commit()

    asyncio.run(upload())

    received = transport.receive(["default"], limit=10, lease=60, wait=0)
    assert [delivery.envelope for delivery in received] == sent
    assert transport.stats("default").scheduled == 1


def test_an_asynchronous_connection_is_joined_in_step(
    transport: SqlTransport, postgresql_database: str, driver: str, an_envelope: Maker
) -> None:
    async def upload() -> None:
        engine = asyncio_extension.create_async_engine(address(postgresql_database, driver))
        for number, end in enumerate(("rollback", "commit")):
            async with engine.connect() as connection:
                with pytest.raises(SessionError, match="run_sync"):
                    transport.bound_to(connection)
                await connection.run_sync(lambda own, n=number: transport.bound_to(own).send(lambda: [an_envelope(n)]))
                await getattr(connection, end)()
        await engine.dispose()

    asyncio.run(upload())

    assert ids(transport) == ["id-1"]


def test_an_asynchronous_session_that_commits_by_itself_cannot_commit_events(
    transport: SqlTransport, postgresql_database: str, driver: str, an_envelope: Maker
) -> None:
    async def upload() -> None:
        async with a_session(postgresql_database, driver, isolation_level="AUTOCOMMIT") as session:
            transport.bound_to(session).send(lambda: [an_envelope(1)])
            with pytest.raises(SessionError, match="AUTOCOMMIT"):
                await session.commit()

    asyncio.run(upload())

    assert ids(transport) == []


def test_an_event_that_the_database_cannot_hold_is_refused(
    transport: SqlTransport, postgresql_database: str, driver: str, an_envelope: Maker
) -> None:
    async def upload() -> None:
        async with a_session(postgresql_database, driver) as session:
            transport.bound_to(session).send(lambda: [an_envelope(1, name="a\0b")])
            with pytest.raises(SendError, match=r"the session's database cannot hold a value: .*0x00") as caught:
                await session.commit()
            assert caught.value.refused == (0,)
            await session.rollback()
            transport.bound_to(session).send(lambda: [an_envelope(2)])
            await session.commit()

    asyncio.run(upload())

    assert ids(transport) == ["id-2"]


def test_tables_that_are_gone_are_named(
    transport: SqlTransport, postgresql_database: str, driver: str, an_envelope: Maker
) -> None:
    async def upload() -> None:
        async with a_session(postgresql_database, driver) as session:
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
    postgresql_databases: DatabaseServer,
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

    with postgresql_databases.fresh_database() as other:
        if tables:
            opener(url=other).close()
        asyncio.run(upload())
        assert not tables or scalar(other, "SELECT count(*) FROM relevo_event") == 0

    assert ids(transport) == []


def test_the_first_dispatch_makes_the_tables_in_the_transaction_of_an_asynchronous_session(
    opener: Opener, postgresql_database: str, driver: str
) -> None:
    app = App(transports={"main": opener(url=postgresql_database, setup=False)}, routes={"*": "main"})
    execute(postgresql_database, "CREATE TABLE image (id INTEGER)")

    def there() -> int:
        return int(scalar(postgresql_database, "SELECT count(*) FROM pg_class WHERE relname LIKE 'relevo%%'"))

    async def upload() -> None:
        async with a_session(postgresql_database, driver) as session:
            await session.execute(sa.text("INSERT INTO image VALUES (1)"))
            app.dispatch(Event("image.dropped"), session=session)
            await session.rollback()
            assert there() == 0
            await session.execute(sa.text("INSERT INTO image VALUES (2)"))
            app.dispatch(Event("image.created"), session=session)
            assert there() == 0
            await session.commit()

    asyncio.run(upload())

    deliveries = app.transport().receive(["default"], limit=10, lease=60, wait=0)
    assert [d.envelope.name for d in deliveries if isinstance(d.envelope, Envelope)] == ["image.created"]
