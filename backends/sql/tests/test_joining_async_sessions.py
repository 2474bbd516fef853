"""An AsyncSession, whatever drives it; skipped where no asynchronous driver of SQLite is installed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from relevo import Envelope
from relevo.errors import SessionError
from relevo_sql import SqlTransport

pytest.importorskip("aiosqlite")
pytest.importorskip("greenlet")
asyncio_extension: Any = pytest.importorskip("sqlalchemy.ext.asyncio")

Maker = Callable[..., Envelope]


@asynccontextmanager
async def an_engine(path: Path) -> AsyncIterator[Any]:
    engine = asyncio_extension.create_async_engine(f"sqlite+aiosqlite:///{path}")
    try:
        yield engine
    finally:
        await engine.dispose()


def ids(transport: SqlTransport) -> list[str]:
    deliveries = transport.receive(["default"], limit=100, lease=60, wait=0)
    return [d.envelope.id for d in deliveries if isinstance(d.envelope, Envelope)]


def test_an_event_commits_with_an_asynchronous_session(transport: SqlTransport, path: Path, an_envelope: Maker) -> None:
    async def upload() -> None:
        async with an_engine(path) as engine, asyncio_extension.AsyncSession(engine) as session:
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


def test_an_asynchronous_scoped_session_is_joined(transport: SqlTransport, path: Path, an_envelope: Maker) -> None:
    async def upload() -> None:
        async with an_engine(path) as engine:
            maker = asyncio_extension.async_sessionmaker(engine)
            session = asyncio_extension.async_scoped_session(maker, scopefunc=asyncio.current_task)
            transport.bound_to(session).send(lambda: [an_envelope(1)])
            await session.commit()
            await session.remove()

    asyncio.run(upload())

    assert ids(transport) == ["id-1"]


@pytest.mark.parametrize("tables", [True, False])
def test_an_asynchronous_session_of_another_database_cannot_commit_events(
    transport: SqlTransport, opener: Callable[..., SqlTransport], tmp_path: Path, an_envelope: Maker, *, tables: bool
) -> None:
    if tables:
        opener(url=f"sqlite:///{tmp_path}/other.db")

    async def upload() -> None:
        async with an_engine(tmp_path / "other.db") as engine, asyncio_extension.AsyncSession(engine) as session:
            transport.bound_to(session).send(lambda: [an_envelope(1)])
            with pytest.raises(SessionError):
                await session.commit()
            await session.rollback()

    asyncio.run(upload())

    assert ids(transport) == []


def test_an_asynchronous_session_that_commits_by_itself_cannot_commit_events(
    transport: SqlTransport, path: Path, an_envelope: Maker
) -> None:
    async def upload() -> None:
        async with an_engine(path) as engine:
            autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
            async with asyncio_extension.AsyncSession(autocommit) as session:
                transport.bound_to(session).send(lambda: [an_envelope(1)])
                with pytest.raises(SessionError, match="AUTOCOMMIT"):
                    await session.commit()

    asyncio.run(upload())

    assert ids(transport) == []


def test_an_asynchronous_connection_is_told_to_run_in_step(
    transport: SqlTransport, path: Path, an_envelope: Maker
) -> None:
    async def upload() -> None:
        async with an_engine(path) as engine, engine.begin() as connection:
            with pytest.raises(SessionError, match="run_sync"):
                transport.bound_to(connection)
            await connection.run_sync(lambda own: transport.bound_to(own).send(lambda: [an_envelope(1)]))

    asyncio.run(upload())

    assert ids(transport) == ["id-1"]


@pytest.mark.parametrize("moment", ["before_flush", "after_flush", "after_flush_postexec", "before_commit"])
def test_a_listener_of_an_asynchronous_session_sends_while_it_commits(
    transport: SqlTransport, path: Path, an_envelope: Maker, moment: str
) -> None:
    class Base(orm.DeclarativeBase):
        pass

    class Image(Base):
        __tablename__ = "image"
        id: orm.Mapped[int] = orm.mapped_column(primary_key=True)

    async def upload() -> None:
        async with an_engine(path) as engine:
            async with engine.begin() as connection:
                await connection.run_sync(Base.metadata.create_all)
            for end in ("rollback", "commit", "commit"):
                async with asyncio_extension.AsyncSession(engine) as session:
                    image = Image()

                    def send(session: orm.Session, *_: object, image: Image = image) -> None:
                        transport.bound_to(session).send(lambda: [an_envelope(image.id)])

                    sa.event.listen(session.sync_session, moment, send)
                    session.add(image)
                    if end == "rollback":
                        await session.flush()
                    await getattr(session, end)()

    asyncio.run(upload())

    assert ids(transport) == ["id-1", "id-2"]
