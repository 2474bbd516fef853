"""Rows that are loaded with one query for all events of a batch."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from relevo import App, Call, ConfigurationError, Event, RunOptions, Subject, SubjectMissingError
from relevo._listener.process_loop import process_loop
from relevo.testing import FakeClock
from relevo_memory import MemoryTransport
from relevo_sql import orm_subject


class Base(orm.DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "author"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str]


class Book(Base):
    __tablename__ = "book"
    shelf: orm.Mapped[str] = orm.mapped_column(primary_key=True)
    number: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    title: orm.Mapped[str]
    author_id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("author.id"))
    author: orm.Mapped[Author] = orm.relationship(lazy="joined")
    pages: orm.Mapped[list[Page]] = orm.relationship()


class Page(Base):
    __tablename__ = "page"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    shelf: orm.Mapped[str]
    number: orm.Mapped[int]
    __table_args__ = (sa.ForeignKeyConstraint(["shelf", "number"], ["book.shelf", "book.number"]),)


MANY = 12


@pytest.fixture(name="engine")
def _engine(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'shop.db'}")
    Base.metadata.create_all(engine)
    with orm.Session(engine) as session:
        jane = Author(id=1, name="Jane")
        session.add_all(Book(shelf="a,b", number=each, title=f"Emma {each}", author=jane) for each in range(MANY))
        session.add_all(Page(shelf="a,b", number=each) for each in range(MANY))
        session.commit()
    yield engine
    engine.dispose()


@pytest.fixture(name="queries")
def _queries(engine: sa.Engine) -> list[str]:
    """Return the queries for books so far."""
    found: list[str] = []

    @sa.event.listens_for(engine, "before_cursor_execute")
    def note(connection: Any, cursor: Any, statement: str, *others: Any) -> None:
        if "FROM book" in statement:
            found.append(statement)

    return found


@pytest.fixture(name="app")
def _app(engine: sa.Engine) -> Iterator[App]:
    books = orm_subject(Book, orm.sessionmaker(engine), batch=True)
    clock = FakeClock()  # it stands: how much a batch takes follows from how long the last one took
    with App(transports={"main": MemoryTransport(clock=clock)}, subjects=[books], clock=clock) as app:
        yield app


def lend(app: App, *others: str) -> None:
    names = [*(f"a%2Cb,{each}" for each in range(MANY)), *others]
    app.dispatch_many([Event("book.lent", subject=Subject("book", name)) for name in names])


def test_a_batch_costs_one_query(app: App, queries: list[str]) -> None:
    found: list[str] = []
    app.add_listener("book.lent", lambda event, call: found.append(call.subject.title), id="lend")

    lend(app)
    app.drain()

    assert found == [f"Emma {each}" for each in range(MANY)]
    assert len(queries) <= 6, "batches of 1, 1, 2, 4 and 4"
    assert "IN (" in queries[-1] or " OR " in queries[-1]


def test_each_object_has_a_session_of_its_own_until_its_listener_has_ended(app: App, engine: sa.Engine) -> None:
    books: list[Book] = []
    pages: list[int] = []
    states: list[bool] = []

    @app.listener("book.lent")
    def count(event: Event, call: Call) -> None:
        session = orm.object_session(call.subject)
        assert session is not None
        states.append(session.in_transaction())
        books.append(call.subject)
        pages.append(len(call.subject.pages))

    lend(app)
    app.drain()

    assert pages == [1] * MANY
    assert states == [False] * MANY
    assert all(sa.inspect(each).detached for each in books)
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]  # of the class of pools for files


def test_a_query_for_a_key_of_several_columns_finds_no_other_row(engine: sa.Engine) -> None:
    kind = orm_subject(Book, orm.sessionmaker(engine), batch=True)
    assert kind.load_many is not None
    titles: set[str] = set()
    note = lambda book, _: titles.add(book.title)  # noqa: E731
    sa.event.listen(Book, "load", note)

    try:
        kind.load_many(["a%2Cb,0", "a%2Cb,1"])
    finally:
        sa.event.remove(Book, "load", note)

    assert titles == {"Emma 0", "Emma 1"}


def test_a_collection_that_is_joined_to_its_object_needs_no_second_query(engine: sa.Engine, queries: list[str]) -> None:
    class Binder(Base):
        __table__ = Book.__table__
        pages: orm.Mapped[list[Page]] = orm.relationship(lazy="joined", viewonly=True)

    with orm.Session(engine) as session:
        session.add(Page(shelf="a,b", number=0))
        session.commit()
    kind = orm_subject(Binder, orm.sessionmaker(engine), batch=True)
    assert kind.load_many is not None

    found = kind.load_many(["a%2Cb,0", "a%2Cb,1"])

    assert [len(each.pages) for each in found.values()] == [2, 1]
    assert len(queries) == 1


def test_objects_of_a_batch_share_nothing_that_was_loaded_with_them(app: App, caplog: pytest.LogCaptureFixture) -> None:
    names: list[str] = []
    authors: list[Author] = []

    @app.listener("book.lent")
    def rename(event: Event, call: Call) -> None:
        names.append(call.subject.author.name)
        call.subject.author.name = "Charlotte"
        authors.append(call.subject.author)

    lend(app)
    app.drain()

    assert names == ["Jane"] * MANY
    assert len({id(each) for each in authors}) == MANY
    assert ["changed what call.subject had loaded (Author)" in each for each in caplog.messages] == [True] * MANY


def test_an_id_that_no_row_has_does_not_end_the_others(app: App) -> None:
    found: list[object] = []

    @app.listener("book.lent", missing="skip")
    def look(event: Event, call: Call) -> None:
        try:
            found.append(call.subject.title)
        except SubjectMissingError:
            found.append(None)

    lend(app, "a%2Cb,99", f"a%2Cb,{1 << 70}", "a", "%FF,1", "a%2Cb,01")
    app.drain()

    assert found == [*(f"Emma {each}" for each in range(MANY)), None, None, None, None, None]


def test_a_number_that_a_driver_refuses_leaves_each_to_be_loaded_alone(engine: sa.Engine) -> None:
    kind = orm_subject(Author, orm.sessionmaker(engine), batch=True)

    assert kind.load_many is not None
    assert kind.load_many(["1", str(1 << 70)]) == {}
    assert list(kind.load_many(["1", "01", "x", "2"])) == ["1"]
    assert kind.load_many(["x", "y"]) == {}


def test_a_key_of_several_columns_is_taken_as_a_whole(engine: sa.Engine) -> None:
    kind = orm_subject(Book, orm.sessionmaker(engine), batch=True)
    with orm.Session(engine) as session:
        session.add_all(Book(shelf=shelf, number=number, title="", author_id=1) for shelf in "cd" for number in (1, 2))
        session.commit()

    assert kind.load_many is not None
    assert list(kind.load_many(["c,1", "d,2"])) == ["c,1", "d,2"]


def test_an_asynchronous_factory_loads_a_batch_with_one_query(engine: sa.Engine) -> None:
    pytest.importorskip("aiosqlite")
    asynchronous: Any = pytest.importorskip("sqlalchemy.ext.asyncio")
    own = asynchronous.create_async_engine(engine.url.set(drivername="sqlite+aiosqlite"))
    kind = orm_subject(Book, asynchronous.async_sessionmaker(own), batch=True)

    assert kind.load_many is not None
    found: Any = kind.load_many(["a%2Cb,1", "a%2Cb,2", "a%2Cb,99"])

    assert {name: book.title for name, book in found.items()} == {"a%2Cb,1": "Emma 1", "a%2Cb,2": "Emma 2"}
    assert all(sa.inspect(each).detached for each in found.values())
    authors = [each.author for each in found.values()]
    assert [each.name for each in authors] == ["Jane", "Jane"]
    assert authors[0] is not authors[1]
    asyncio.run(own.dispose())


def test_async_listeners_load_the_subjects_of_a_batch_with_one_query_beside_their_loop(engine: sa.Engine) -> None:
    pytest.importorskip("aiosqlite")
    asynchronous: Any = pytest.importorskip("sqlalchemy.ext.asyncio")
    own = asynchronous.create_async_engine(engine.url.set(drivername="sqlite+aiosqlite"))
    books = orm_subject(Book, asynchronous.async_sessionmaker(own), batch=True)
    found: list[str] = []
    went_on: list[bool] = []
    """Whether the loop went on during a query."""

    def note(_: object) -> None:
        turned = threading.Event()
        process_loop.loop().call_soon_threadsafe(turned.set)
        went_on.append(turned.wait(10))

    clock = FakeClock()
    with App(transports={"main": MemoryTransport(clock=clock)}, subjects=[books], clock=clock) as app:

        @app.listener("book.lent")
        async def lend_out(event: Event, call: Call) -> None:
            book = await call.load()
            found.append(book.title)

        lend(app)
        sa.event.listen(orm.Session, "do_orm_execute", note)
        try:
            app.drain(RunOptions(until_empty=True, execution="async", concurrency=MANY))
        finally:
            sa.event.remove(orm.Session, "do_orm_execute", note)

    asyncio.run(own.dispose())
    assert sorted(found) == sorted(f"Emma {each}" for each in range(MANY))
    assert went_on == [True] * len(went_on)
    assert 1 <= len(went_on) <= 5, "batches"


def test_a_scoped_session_is_refused_since_its_objects_are_not_apart(engine: sa.Engine) -> None:
    scoped = orm.scoped_session(orm.sessionmaker(engine))

    with pytest.raises(ConfigurationError, match=r"batch=True does not work .* Author .* pass a sessionmaker, or"):
        orm_subject(Author, scoped, batch=True)


def test_by_default_each_object_is_loaded_alone(engine: sa.Engine) -> None:
    assert orm_subject(Author, orm.sessionmaker(engine)).load_many is None
