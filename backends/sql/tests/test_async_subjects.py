"""Subjects that are loaded with asynchronous sessions, for listeners, which are synchronous."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from relevo import App, Call, ConfigurationError, Event, Subject
from relevo_memory import MemoryTransport
from relevo_sql import orm_subject

pytest.importorskip("aiosqlite")
pytest.importorskip("greenlet")
asyncio_extension: Any = pytest.importorskip("sqlalchemy.ext.asyncio")


class Base(orm.DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "author"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str]


class Book(Base):
    __tablename__ = "books"
    shelf: orm.Mapped[str] = orm.mapped_column(primary_key=True)
    number: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    title: orm.Mapped[str]
    author_id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("author.id"))
    author: orm.Mapped[Author] = orm.relationship(lazy="selectin")
    editor: orm.Mapped[Author] = orm.relationship(viewonly=True)


EMMA = Subject("book", "a%2Cb,7")


@pytest.fixture(name="sessions", params=["file", "memory"])
def _sessions(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Return a source of sessions whose engine has connections of an event loop that has ended."""
    where = f"/{tmp_path / 'shop.db'}" if request.param == "file" else ""
    engine = asyncio_extension.create_async_engine(f"sqlite+aiosqlite://{where}")
    sessions = asyncio_extension.async_sessionmaker(engine)

    async def fill() -> None:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with sessions() as session:
            session.add(Book(shelf="a,b", number=7, title="Emma", author=Author(name="Jane")))
            await session.commit()

    asyncio.run(fill())
    yield sessions
    asyncio.run(engine.dispose())


def an_app(sessions: Any, **options: Any) -> App:
    return App(transports={"main": MemoryTransport()}, subjects=[orm_subject(Book, sessions)], **options)


def test_a_worker_loads_a_subject_with_an_asynchronous_session(sessions: Any) -> None:
    found: list[str] = []
    app = an_app(sessions)
    app.add_listener("book.lent", lambda event, call: found.append(call.subject.title), id="lend")

    async def dispatch() -> None:
        async with sessions() as session:
            book = await session.get(Book, ("a,b", 7))
            app.dispatch("book.lent", subject=book)

    asyncio.run(dispatch())
    app.drain()

    assert found == ["Emma"]
    assert orm_subject(Book, sessions).load("a%2Cb,8") is None


def test_a_listener_that_is_called_in_an_event_loop_loads_a_subject(sessions: Any) -> None:
    found: list[str] = []
    app = an_app(sessions, routes={"*": "now"})
    app.add_listener("book.lent", lambda event, call: found.append(call.subject.title), id="lend")

    async def request() -> None:
        async with sessions() as session:
            await session.get(Book, ("a,b", 7))
        app.dispatch("book.lent", subject=EMMA)
        async with sessions() as session:
            assert await session.get(Book, ("a,b", 7)) is not None

    asyncio.run(request())

    assert found == ["Emma"]


def test_the_object_is_detached_with_what_was_loaded_with_it(sessions: Any) -> None:
    book: Any = orm_subject(Book, sessions).load(EMMA.id)

    assert sa.inspect(book).detached
    assert book.author.name == "Jane"
    with pytest.raises(orm.exc.DetachedInstanceError):
        book.editor  # noqa: B018 - it is loaded at the access


def test_changes_of_the_object_are_not_lost_in_silence(sessions: Any, caplog: pytest.LogCaptureFixture) -> None:
    app = an_app(sessions)

    @app.listener("book.lent")
    def rename(event: Event, call: Call) -> None:
        call.subject.title = event["title"]

    app.dispatch("book.lent", {"title": "Emma"}, subject=EMMA)
    app.drain()
    assert caplog.messages == [], "the title was the same before"

    app.dispatch("book.lent", {"title": "Persuasion"}, subject=EMMA)
    app.drain()
    assert ["changed what call.subject had loaded (Book)" in each for each in caplog.messages] == [True]


def test_the_engine_may_be_configured_later(sessions: Any) -> None:
    later = asyncio_extension.async_sessionmaker()
    kind = orm_subject(Book, later)

    with pytest.raises(ConfigurationError, match=r"expected an engine in the async_sessionmaker that loads Book; got"):
        kind.load(EMMA.id)
    later.configure(bind=sessions.kw["bind"])

    assert kind.load(EMMA.id) is not None


def test_an_asynchronous_session_from_a_function_is_refused_with_what_to_pass(sessions: Any) -> None:
    kind = orm_subject(Book, partial(sessions))

    with pytest.raises(ConfigurationError, match=r"to load Book; it returned .*AsyncSession.*async_sessionmaker"):
        kind.load(EMMA.id)


def test_a_type_may_be_registered_again_with_sessions_of_another_kind(sessions: Any) -> None:
    with App(routes={"*": "now"}, subjects=[orm_subject(Book, orm.sessionmaker())]) as app:
        app.add_subject(orm_subject(Book, sessions))

        assert app.subjects.load(EMMA).title == "Emma"
