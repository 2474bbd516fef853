"""The primary keys of rows as the ids of subjects: each comes back, and no other row does."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime
from enum import Enum
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import example, given, strategies as st
from sqlalchemy import orm

from relevo import ConfigurationError, Subject, SubjectError, SubjectType
from relevo_sql import orm_subject


class Base(orm.DeclarativeBase):
    pass


class Number(Base):
    __tablename__ = "number"
    id: orm.Mapped[int] = orm.mapped_column(sa.BigInteger, primary_key=True)


class Word(Base):
    __tablename__ = "word"
    word: orm.Mapped[str] = orm.mapped_column(primary_key=True)


class Folded(Base):
    """Its key is compared without case, as MariaDB and MySQL do by default."""

    __tablename__ = "folded"
    word: orm.Mapped[str] = orm.mapped_column(sa.String(collation="NOCASE"), primary_key=True)


class Coerced(Base):
    """The mapping says text, the table has numbers; as in MySQL, a query compares the two after a conversion."""

    __tablename__ = "coerced"
    id: orm.Mapped[str] = orm.mapped_column(sa.Text, primary_key=True)


class Token(Base):
    __tablename__ = "token"
    token: orm.Mapped[str] = orm.mapped_column(sa.Uuid(as_uuid=False), primary_key=True)


class Code(Base):
    __tablename__ = "code"
    code: orm.Mapped[str] = orm.mapped_column(sa.CHAR(4), primary_key=True)


class Reading(Base):
    __tablename__ = "reading"
    sensor: orm.Mapped[str] = orm.mapped_column(primary_key=True)
    channel: orm.Mapped[str] = orm.mapped_column(primary_key=True)
    number: orm.Mapped[int] = orm.mapped_column(sa.BigInteger, primary_key=True, autoincrement=False)
    batch: orm.Mapped[uuid.UUID] = orm.mapped_column(primary_key=True)
    day: orm.Mapped[date] = orm.mapped_column(primary_key=True)


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
big = st.integers(-(1 << 63), (1 << 63) - 1)


@pytest.fixture(name="sessions", scope="module")
def _sessions() -> Iterator[orm.sessionmaker[orm.Session]]:
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    Base.metadata.create_all(engine)
    yield orm.sessionmaker(engine)
    engine.dispose()


Sessions = orm.sessionmaker[orm.Session]


def reloaded(kind: SubjectType, row: Any, sessions: Sessions) -> bool:
    """Return whether *row* comes back by its id, through the text in an event; the row is deleted afterwards."""
    with sessions(expire_on_commit=False) as session:
        session.add(row)
        session.commit()
        name = kind.name(row)
        assert name is not None
        text = Subject.parsed(str(Subject(kind.type, name)))
        assert text is not None
        found = kind.load(text.id)
        same = found is not None and sa.inspect(found).identity == sa.inspect(row).identity
        if found is not None and kind.release is not None:
            kind.release(found)
        session.delete(row)
        session.commit()
    return same


class Day(Base):
    __tablename__ = "day"
    day: orm.Mapped[date] = orm.mapped_column(primary_key=True)


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        (Day(day=datetime(2026, 1, 3, tzinfo=UTC)), r"day\.day of its key was set to datetime.*2026, 1, 3"),
        (Number(id=True), r"number\.id of its key was set to True"),
        (Number(id=7.0), r"number\.id of its key was set to 7\.0"),
    ],
)
def test_a_value_that_the_database_converts_is_refused_until_it_was_read_again(
    sessions: Sessions, row: Any, shown: str
) -> None:
    """The event would wait for its subject, and become a dead letter."""
    kind = orm_subject(type(row), sessions)
    with sessions() as session:
        session.add(row)
        session.flush()

        with pytest.raises(SubjectError, match=rf"{shown}.*refresh the object"):
            kind.name(row)

        session.commit()
        session.expunge_all()
        again = session.scalars(sa.select(type(row))).one()
        assert kind.name(again) in ("2026-01-03", "1", "7")
        session.delete(again)
        session.commit()


@given(number=big)
@example(number=(1 << 63) - 1)
@example(number=-7)
def test_a_number_comes_back(sessions: Sessions, number: int) -> None:
    assert reloaded(orm_subject(Number, sessions), Number(id=number), sessions)


@given(word=texts.filter(bool))
@example(word="a,b/c%2C")
def test_text_comes_back(sessions: Sessions, word: str) -> None:
    assert reloaded(orm_subject(Word, sessions), Word(word=word), sessions)


@given(sensor=texts, channel=texts, number=big, batch=st.uuids(), day=st.dates())
@example(sensor="a,b", channel="", number=0, batch=uuid.UUID(int=0), day=date.min)
@example(sensor="", channel="a,b", number=-1, batch=uuid.UUID(int=1), day=date.max)
@example(sensor="%2C", channel="/%", number=1, batch=uuid.UUID(int=2), day=date(2026, 1, 1))
def test_a_key_of_several_columns_comes_back(sessions: Sessions, **parts: Any) -> None:
    assert reloaded(orm_subject(Reading, sessions), Reading(**parts), sessions)


@given(first=st.tuples(texts, texts), second=st.tuples(texts, texts))
@example(first=("a,", "b"), second=("a", ",b"))
@example(first=("a%2C", "b"), second=("a,", "b"))
@example(first=("", ","), second=(",", ""))
def test_two_keys_of_several_columns_have_two_names(
    sessions: Sessions, first: tuple[str, str], second: tuple[str, str]
) -> None:
    kind = orm_subject(Reading, sessions)
    rest = {"number": 1, "batch": uuid.UUID(int=0), "day": date.min}

    names = [_named(kind, Reading(sensor=one, channel=two, **rest)) for one, two in (first, second)]

    assert (names[0] == names[1]) == (first == second)


def _named(kind: SubjectType, row: Any) -> str | None:
    """Return the name of *row* as if it was written."""
    orm.make_transient_to_detached(row)
    return kind.name(row)


@given(text=st.text())
@example(text="\0")
@example(text="\ud800")
@example(text="9" * 5000)
@example(text=str(1 << 63))
@example(text=str(-(1 << 63) - 1))
@example(text="%FF,%FF,1,00000000-0000-0000-0000-000000000000,2026-01-01")
@example(text=",,1,00000000-0000-0000-0000-000000000000")
@example(text=",,1,00000000-0000-0000-0000-000000000000,2026-01-01,")
def test_any_other_id_is_missing(sessions: Sessions, text: str) -> None:
    for cls in (Number, Word, Reading, Token, Code, Folded):
        assert orm_subject(cls, sessions).load(text) is None


ARABIC = "\N{ARABIC-INDIC DIGIT SEVEN}"


@pytest.mark.parametrize("text", ["007", "+7", " 7", "7 ", "7_0", "7.0", "7a", ARABIC, "0x7", "7\n", "-0"])
def test_a_number_in_another_form_is_missing(sessions: Sessions, text: str) -> None:
    with sessions() as session:
        session.merge(Number(id=7))
        session.merge(Number(id=70))
        session.merge(Number(id=0))
        session.commit()

    assert orm_subject(Number, sessions).load(text) is None


def test_text_that_is_not_utf_8_is_not_the_key_of_another_row(sessions: Sessions) -> None:
    row = Reading(sensor="\ufffd", channel="", number=1, batch=uuid.UUID(int=0), day=date.min)
    kind = orm_subject(Reading, sessions)
    with sessions(expire_on_commit=False) as session:
        session.add(row)
        session.commit()
    name = kind.name(row)

    assert name is not None
    assert kind.load(name) is not None
    assert kind.load(name.replace("%EF%BF%BD", "%FF")) is None


def test_a_row_that_the_database_takes_for_the_same_is_missing(sessions: Sessions) -> None:
    kind = orm_subject(Folded, sessions)
    with sessions() as session:
        session.merge(Folded(word="sea"))
        session.commit()
        assert session.get(Folded, "SEA") is not None, "the database must find the row"

    assert kind.load("SEA") is None
    assert kind.load("sea") is not None
    scoped = orm.scoped_session(sessions)
    assert orm_subject(Folded, scoped).load("SEA") is None
    scoped.remove()


def test_a_number_that_the_database_finds_for_text_is_missing(sessions: Sessions) -> None:
    other = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    with other.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE coerced (id INTEGER PRIMARY KEY)")
        connection.exec_driver_sql("INSERT INTO coerced VALUES (1)")
    kind = orm_subject(Coerced, orm.sessionmaker(other))

    assert kind.load("1") is not None
    assert kind.load("01") is kind.load("1.0") is None
    other.dispose()


@pytest.mark.parametrize("text", ["0190a5d4-0000-7000-8000-000000000001", "0190A5D4-0000-7000-8000-000000000001"])
def test_a_uuid_that_is_kept_as_text_comes_back_in_the_case_of_the_program(sessions: Sessions, text: str) -> None:
    kind = orm_subject(Token, sessions)
    with sessions(expire_on_commit=False) as session:
        session.add(token := Token(token=text))
        session.commit()

        assert kind.name(token) == text
        assert kind.load(text) is not None
        assert kind.load("0190a5d4") is None
        session.delete(token)
        session.commit()


def test_a_row_with_a_key_that_is_partly_null_is_not_taken_for_one_with_the_text_none(sessions: Sessions) -> None:
    row = Reading(sensor=None, channel="", number=1, batch=uuid.UUID(int=0), day=date.min)

    with pytest.raises(SubjectError, match=r"an instance of Reading .* its key has no value in reading\.sensor"):
        _named(orm_subject(Reading, sessions), row)


class Size(Enum):
    SMALL = 1


@pytest.mark.parametrize(
    "column, got",
    [
        (sa.DateTime(), "datetime"),
        (sa.Numeric(10, 2), "Decimal"),
        (sa.Float(), "float"),
        (sa.LargeBinary(16), "bytes"),
        (sa.Boolean(), "bool"),
        (sa.Enum(Size), "Size"),
        (sa.types.NullType(), "object"),
    ],
)
def test_a_key_without_one_form_as_text_is_refused_when_it_is_registered(
    sessions: Sessions, column: Any, got: str
) -> None:
    registry = orm.registry()
    row = type("Row", (), {"__tablename__": "row", "key": sa.Column(column, primary_key=True)})
    registry.mapped(row)

    with pytest.raises(ConfigurationError, match=rf"the key row\.key of Row is {got}; expected .*relevo\.SubjectType"):
        orm_subject(row, sessions)
