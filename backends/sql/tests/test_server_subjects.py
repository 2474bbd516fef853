"""Rows on a server as subjects: an id finds its own row or none."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from relevo_sql import orm_subject

ON_SERVERS = [
    pytest.param("postgresql+psycopg", marks=pytest.mark.postgresql),
    pytest.param("postgresql+psycopg2", marks=pytest.mark.postgresql),
    pytest.param("mariadb+pymysql", marks=pytest.mark.mariadb),
]
"""Dialect and driver of the application's engine."""


@pytest.fixture(name="driver", params=ON_SERVERS)
def _driver(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    pytest.importorskip(name.partition("+")[2])
    return name


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


@pytest.fixture(name="sessions")
def _sessions(server_database: str, driver: str) -> Iterator[orm.sessionmaker[orm.Session]]:
    engine = sa.create_engine(sa.make_url(server_database).set(drivername=driver))
    Base.metadata.create_all(engine)
    yield orm.sessionmaker(engine, expire_on_commit=False)
    engine.dispose()


Sessions = orm.sessionmaker[orm.Session]


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
def test_a_row_comes_back_by_its_id(sessions: Sessions, row: Any) -> None:
    kind = orm_subject(type(row), sessions)
    with sessions() as session:
        row = session.merge(row)
        session.commit()
        name = kind.name(row)

    assert name is not None
    found = kind.load(name)
    assert type(found) is type(row)
    assert kind.load(kind.name(found) or "") is not None


@pytest.mark.parametrize("text", ["SEA", "sea ", "séa", "sea\0", "\ud800", "𝄞", "sea' OR '1'='1", "s" * 10_000])
def test_text_that_is_not_the_key_finds_no_row(sessions: Sessions, text: str) -> None:
    with sessions() as session:
        session.add_all([Word(word="sea"), Code(code="sea")])
        session.commit()

    assert orm_subject(Word, sessions).load(text) is None
    assert text == "sea " or orm_subject(Code, sessions).load(text) is None


@pytest.mark.parametrize("text", ["1a", "0", "1" + "0" * 5, "1" + "0" * 15, "9" * 19, "9" * 40, "-" + "9" * 40, "1e0"])
def test_a_number_that_is_not_the_key_finds_no_row(sessions: Sessions, text: str) -> None:
    with sessions() as session:
        session.add(Small(id=1))
        session.commit()

    assert orm_subject(Small, sessions).load(text) is None
    assert orm_subject(Token, sessions).load(text) is None
