"""Rows on a server as subjects: an id finds its own row or none."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from relevo_sql import orm_subject

SYNCHRONOUS = [
    pytest.param("postgresql+psycopg", marks=pytest.mark.postgresql),
    pytest.param("postgresql+psycopg2", marks=pytest.mark.postgresql),
    pytest.param("mariadb+pymysql", marks=pytest.mark.mariadb),
]
ASYNCHRONOUS = [
    pytest.param("postgresql+psycopg_async", marks=pytest.mark.postgresql),
    pytest.param("postgresql+asyncpg", marks=pytest.mark.postgresql),
    pytest.param("mariadb+asyncmy", marks=pytest.mark.mariadb),
    pytest.param("mysql+aiomysql", marks=pytest.mark.mariadb),
]
"""Dialect and driver of the application's engine."""


@pytest.fixture(name="driver", params=[*SYNCHRONOUS, *ASYNCHRONOUS])
def _driver(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    pytest.importorskip(name.partition("+")[2].removesuffix("_async"))
    return name


Sessions = orm.sessionmaker[orm.Session]


class Base(orm.DeclarativeBase):
    pass


class Small(Base):
    __tablename__ = "small"
    id: orm.Mapped[int] = orm.mapped_column(sa.SmallInteger, primary_key=True)


class Word(Base):
    __tablename__ = "word"
    word: orm.Mapped[str] = orm.mapped_column(sa.String(40), primary_key=True)


class Code(Base):
    __tablename__ = "code"
    code: orm.Mapped[str] = orm.mapped_column(sa.CHAR(4), primary_key=True)


class Token(Base):
    __tablename__ = "token"
    token: orm.Mapped[str] = orm.mapped_column(sa.Uuid(as_uuid=False), primary_key=True)


class Order(Base):
    __tablename__ = "orders"
    id: orm.Mapped[uuid.UUID] = orm.mapped_column(primary_key=True)
    line: orm.Mapped[str] = orm.mapped_column(sa.String(40), primary_key=True)


def synchronous(address: str) -> sa.Engine:
    """Return an engine with the driver that relevo uses by default."""
    url = sa.make_url(address)
    return sa.create_engine(
        url.set(drivername={"postgresql": "postgresql+psycopg"}.get(url.drivername, "mariadb+pymysql"))
    )


@pytest.fixture(name="address")
def _address(server_database: str, driver: str) -> sa.URL:
    """Return the address of a database that has the tables, with *driver*."""
    engine = synchronous(server_database)
    Base.metadata.create_all(engine)
    engine.dispose()
    return sa.make_url(server_database).set(drivername=driver)


@pytest.fixture(name="rows")
def _rows(address: sa.URL, server_database: str) -> Iterator[Sessions]:
    """Return what makes sessions for the rows, with a synchronous driver."""
    engine = synchronous(server_database)
    yield orm.sessionmaker(engine, expire_on_commit=False)
    engine.dispose()


@pytest.fixture(name="sessions")
def _sessions(address: sa.URL) -> Iterator[Any]:
    """Return what makes sessions with *driver*, synchronous or not."""
    if not address.get_dialect().is_async:
        engine = sa.create_engine(address)
        yield orm.sessionmaker(engine)
        engine.dispose()
        return
    asynchronous = create_async_engine(address)
    yield async_sessionmaker(asynchronous)
    asyncio.run(asynchronous.dispose())


@pytest.mark.parametrize(
    "row",
    [
        Small(id=-7),
        Word(word="a,b/ä𝄞"),
        Code(code="ab"),
        Token(token="0190a5d4-0000-7000-8000-000000000001"),
        Order(id=uuid.uuid4(), line="a,b/ä𝄞"),
    ],
    ids=lambda row: type(row).__name__,
)
def test_a_row_comes_back_by_its_id(sessions: Any, rows: Sessions, row: Any) -> None:
    kind = orm_subject(type(row), sessions)
    with rows() as session:
        row = session.merge(row)
        session.commit()
        name = kind.name(row)

    assert name is not None
    found = kind.load(name)
    assert type(found) is type(row)
    assert kind.load(kind.name(found) or "") is not None


@pytest.mark.parametrize("text", ["SEA", "sea ", "séa", "sea\0", "\ud800", "𝄞", "sea' OR '1'='1", "s" * 10_000])
def test_text_that_is_not_the_key_finds_no_row(sessions: Any, rows: Sessions, text: str) -> None:
    with rows() as session:
        session.add_all([Word(word="sea"), Code(code="sea")])
        session.commit()

    assert orm_subject(Word, sessions).load(text) is None
    assert text == "sea " or orm_subject(Code, sessions).load(text) is None


@pytest.mark.parametrize("text", ["1a", "0", "1" + "0" * 5, "1" + "0" * 15, "9" * 19, "9" * 40, "-" + "9" * 40, "1e0"])
def test_a_number_that_is_not_the_key_finds_no_row(sessions: Any, rows: Sessions, text: str) -> None:
    with rows() as session:
        session.add(Small(id=1))
        session.commit()

    assert orm_subject(Small, sessions).load(text) is None
    assert orm_subject(Token, sessions).load(text) is None


@pytest.mark.parametrize("driver", ASYNCHRONOUS, indirect=True)
def test_connections_of_an_event_loop_are_neither_used_in_another_nor_left_open(
    address: sa.URL, rows: Sessions
) -> None:
    with rows() as session:
        session.add(Small(id=1))
        session.commit()
    engine = create_async_engine(address, pool_size=1, max_overflow=0)
    opened, closed = [], []
    sa.event.listen(engine.sync_engine, "connect", lambda *_: opened.append(1))
    sa.event.listen(engine.sync_engine, "close", lambda *_: closed.append(1))
    kind = orm_subject(Small, async_sessionmaker(engine))

    async def request() -> None:
        async with engine.connect() as connection:
            await connection.execute(sa.text("SELECT 1"))
        found = [await asyncio.to_thread(kind.load, "1"), kind.load("1")]
        assert [type(each) for each in found] == [Small] * 2
        async with engine.connect() as connection:
            await connection.execute(sa.text("SELECT 1"))
        assert (len(opened), len(closed)) == (3, 2)
        await engine.dispose()

    asyncio.run(request())
