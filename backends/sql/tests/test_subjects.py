from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.ext.asyncio import async_scoped_session, async_sessionmaker

from relevo import (
    App,
    Call,
    ConfigurationError,
    Envelope,
    Event,
    LoopRunner,
    RunOptions,
    Subject,
    SubjectError,
    SubjectMissingError,
    SubjectType,
    Transport,
    listener,
)
from relevo_memory import MemoryTransport
from relevo_sql import SqlTransport, orm_subject


class Base(orm.DeclarativeBase):
    pass


class Image(Base):
    __tablename__ = "image"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str]
    kind: orm.Mapped[str] = orm.mapped_column(default="image")
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "image"}  # noqa: RUF012 - as SQLAlchemy has it


class Photograph(Image):
    __mapper_args__ = {"polymorphic_identity": "photograph"}  # noqa: RUF012 - as above


class Tag(Base):
    __tablename__ = "tag"
    lang: orm.Mapped[str] = orm.mapped_column(primary_key=True)
    word: orm.Mapped[str] = orm.mapped_column(primary_key=True)


class Order(Base):
    __tablename__ = "order"
    id: orm.Mapped[uuid.UUID] = orm.mapped_column(primary_key=True, default=uuid.uuid4)


class Moment(Base):
    __tablename__ = "moment"
    at: orm.Mapped[datetime] = orm.mapped_column(primary_key=True)


@pytest.fixture(name="sessions")
def _sessions() -> Iterator[orm.sessionmaker[orm.Session]]:
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    Base.metadata.create_all(engine)
    yield orm.sessionmaker(engine)
    engine.dispose()


Sessions = orm.sessionmaker[orm.Session]


@pytest.fixture(name="shop", params=["sql", "memory"])
def _shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[App, Sessions]]:
    """Make an application on a file, whose savepoints work, and its sessions; events lie beside its rows, or not."""
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'shop.db'}")
    sa.event.listen(engine, "connect", lambda driver, _: setattr(driver, "isolation_level", None))
    sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    Base.metadata.create_all(engine)
    sessions = orm.sessionmaker(engine)
    main: Transport = SqlTransport(engine) if request.param == "sql" else MemoryTransport()
    with App(transports={"main": main}, routes={"*": "main"}, subjects=[orm_subject(Image, sessions)]) as app:
        app.setup()
        yield app, sessions
    engine.dispose()


def subjects(app: App) -> list[str]:
    """Return what the events that are ready happened to."""
    deliveries = app.transport().receive(["default"], limit=100, lease=60.0, wait=0.0)
    return [json.loads(each.envelope.body)["subject"] for each in deliveries if isinstance(each.envelope, Envelope)]


def test_a_row_is_named_once_it_has_a_key_and_found_by_it(sessions: Sessions) -> None:
    kind = orm_subject(Image, sessions)
    with sessions() as session:
        session.add(image := Image(name="cat"))
        before = kind.name(image)
        session.flush()
        flushed = kind.name(image)
        session.commit()
        after = kind.name(image)
    detached = kind.name(image)

    found = kind.load("1")
    assert (kind.type, before, flushed, after, detached) == ("image", None, "1", "1", "1")
    assert isinstance(found, Image)
    assert found.name == "cat"
    assert kind.load("2") is kind.load("seven") is kind.load("") is None


@pytest.mark.parametrize(
    "row", [Tag(lang="es", word="relevo"), Tag(lang="a,b/c", word="d%2C e"), Order(id=uuid.uuid4())]
)
def test_keys_of_several_columns_and_of_text_come_back(row: Any, sessions: Sessions) -> None:
    kind = orm_subject(type(row), sessions, type="thing")
    with sessions(expire_on_commit=False) as session:
        session.add(row)
        session.commit()

    name = kind.name(row)

    assert name is not None
    assert kind.name(kind.load(name)) == name
    assert kind.type == "thing"


# --- the name of the type --------------------------------------------------------------------------------


class OrderLine(Base):
    __tablename__ = "order_lines"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)


class HTTPLog(Base):
    __tablename__ = "logs"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)


def test_the_type_is_the_class_and_the_table_is_an_alias(sessions: Sessions) -> None:
    line, log = orm_subject(OrderLine, sessions), orm_subject(HTTPLog, sessions)

    assert (line.type, line.aliases) == ("order_line", ("order_lines",))
    assert (log.type, log.aliases) == ("http_log", ("logs",))


def test_a_type_that_is_given_has_the_aliases_that_are_given(sessions: Sessions) -> None:
    line = orm_subject(OrderLine, sessions, type="line", aliases=["lines", "row"])

    assert (line.type, line.aliases) == ("line", ("lines", "row"))


def test_a_class_and_its_subclass_in_one_table_are_types_of_their_own(sessions: Sessions) -> None:
    with App(routes={"*": "now"}, subjects=[orm_subject(Image, sessions), orm_subject(Photograph, sessions)]) as app:
        assert app.subjects.of(Image()).type == "image"
        assert app.subjects.of(Photograph()).type == "photograph"


def test_events_that_were_stored_under_the_name_of_the_table_find_their_subject(sessions: Sessions) -> None:
    found: list[object] = []
    app = App(transports={"main": MemoryTransport()}, subjects=[orm_subject(OrderLine, sessions)])
    app.add_listener("line.packed", lambda event, call: found.append(call.subject.id), id="pack")
    with sessions() as session:
        session.add(OrderLine(id=7))
        session.commit()

    app.dispatch("line.packed", subject=Subject("order_lines", "7"))
    app.dispatch("line.packed", subject=Subject("order_line", "7"))
    app.drain()

    assert found == [7, 7]


def test_a_table_that_has_the_name_of_another_type_is_refused(sessions: Sessions) -> None:
    other = orm.registry()

    @other.mapped
    class Entry:
        __tablename__ = "order_line"
        id: orm.Mapped[int] = orm.mapped_column(primary_key=True)

    with pytest.raises(
        SubjectError, match=r'"entry" of .*Entry clashes with "order_line" of OrderLine: .*"order_line/…"'
    ):
        App(routes={"*": "now"}, subjects=[orm_subject(OrderLine, sessions), orm_subject(Entry, sessions)])


def test_a_subclass_is_of_the_kind_of_its_parent(sessions: Sessions) -> None:
    app = App(transports={"main": MemoryTransport()}, routes={"*": "main"}, subjects=[orm_subject(Image, sessions)])
    with sessions() as session:
        session.add(photograph := Photograph(name="sea"))
        session.commit()
        subject = app.subjects.named(photograph)

    assert str(subject) == "image/1"
    assert subject is not None
    assert isinstance(app.subjects.load(subject), Photograph)


def test_a_scoped_session_is_used_and_left_as_it_is(sessions: Sessions) -> None:
    scoped = orm.scoped_session(sessions)
    scoped.add(Image(name="cat"))
    scoped.commit()

    found = orm_subject(Image, scoped).load("1")

    assert found in scoped
    scoped.remove()


def test_an_image_reaches_its_listener_and_is_missed_when_it_is_gone(sessions: Sessions) -> None:
    seen: list[object] = []

    @listener("image.created")
    def look(event: Event, call: Call) -> None:
        try:
            seen.append(call.subject.name)
        except SubjectMissingError as error:
            seen.append(str(error))

    app = App(
        transports={"main": MemoryTransport()},
        routes={"*": "main"},
        listeners=[look],
        subjects=[orm_subject(Image, sessions)],
    )
    with sessions() as session:
        session.add(image := Image(name="cat"))
        app.dispatch(Event("image.created", subject=image), session=session)
        session.commit()
    app.dispatch(Event("image.created", subject=Subject("image", "99")))
    LoopRunner(signals=False).run(app, RunOptions(until_empty=True))

    assert seen == ["cat", "the subject image/99 is gone, or not committed yet"]


# --- rows that are not, or no more --------------------------------------------------------------------------------


def test_what_was_rolled_back_names_no_row_that_gets_its_key_afterwards(shop: tuple[App, Sessions]) -> None:
    app, sessions = shop
    with sessions() as session:
        session.add(rolled := Image(name="rolled"))
        session.flush()
        session.rollback()
        app.dispatch(Event("image.created", subject=rolled), session=session)
        session.add(Image(name="another"))
        with pytest.raises(SubjectError, match='type "image" has no id yet, or its row was rolled back'):
            session.commit()
        session.rollback()
    with pytest.raises(SubjectError, match="or its row was rolled back"):
        app.dispatch(Event("image.created", subject=rolled))

    assert subjects(app) == []


def test_what_a_savepoint_rolled_back_names_no_row(shop: tuple[App, Sessions]) -> None:
    app, sessions = shop
    with sessions() as session:
        session.add(Image(name="kept"))
        with session.begin_nested() as savepoint:
            session.add(rolled := Image(name="rolled"))
            session.flush()
            savepoint.rollback()
        app.dispatch(Event("image.created", subject=rolled), session=session)

        with pytest.raises(SubjectError, match="or its row was rolled back"):
            session.commit()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_key_set_by_hand_names_a_row_that_is_written_by_the_commit(when: str, shop: tuple[App, Sessions]) -> None:
    app, sessions = shop
    image = Image(id=7, name="by hand")
    with sessions() as session:
        if when == "before":
            session.add(image)
        app.dispatch(Event("image.created", subject=image), session=session)
        if when == "after":
            session.add(image)
        session.commit()

    assert subjects(app) == ["image/7"]


def test_a_key_set_by_hand_names_no_row_that_is_never_written(shop: tuple[App, Sessions]) -> None:
    app, sessions = shop
    with sessions() as session:
        session.add(image := Image(id=7, name="by hand"))
        app.dispatch(Event("image.created", subject=image), session=session)
        session.expunge(image)
        with pytest.raises(SubjectError, match="has no id yet"):
            session.commit()
    with sessions() as session:
        session.add(image)
        with pytest.raises(SubjectError, match=r"has no id yet, .* or it was not added to a session; add"):
            app.dispatch(Event("image.created", subject=image))
        session.flush()
        app.dispatch(Event("image.created", subject=image), session=session)
        session.commit()

    assert subjects(app) == ["image/7"]


def test_a_row_that_is_deleted_is_named_in_its_transaction_and_afterwards(shop: tuple[App, Sessions]) -> None:
    app, sessions = shop
    with sessions() as session:
        session.add(image := Image(name="cat"))
        session.commit()
        session.delete(image)
        app.dispatch(Event("image.deleted", subject=image), session=session)
        session.flush()
        app.dispatch(Event("image.deleted", subject=image), session=session)
        session.commit()
        app.dispatch(Event("image.deleted", subject=image), session=session)
        session.commit()
    app.dispatch(Event("image.deleted", subject=image))

    assert subjects(app) == ["image/1"] * 4


def test_a_row_that_was_deleted_and_rolled_back_is_there_again(shop: tuple[App, Sessions]) -> None:
    app, sessions = shop
    with sessions() as session:
        session.add(image := Image(name="cat"))
        session.commit()
        session.delete(image)
        session.flush()
        session.rollback()
        app.dispatch(Event("image.kept", subject=image), session=session)
        session.commit()

    assert subjects(app) == ["image/1"]


@pytest.mark.parametrize(
    "cls, why",
    [
        (object, "is not a class that SQLAlchemy has mapped"),
        (Moment, "the key moment.at of Moment is datetime; expected integers, text, UUIDs or dates"),
    ],
)
def test_what_cannot_be_named_for_sure_is_refused(cls: type, why: str, sessions: Sessions) -> None:
    with pytest.raises(ConfigurationError, match=why):
        orm_subject(cls, sessions)


@pytest.mark.parametrize("kind", ["None", "engine", "session", "asynchronous"])
def test_what_makes_no_session_is_refused_at_once(kind: str, sessions: Sessions) -> None:
    with sessions() as session:
        given: Any = {
            "None": None,
            "engine": session.get_bind(),
            "session": session,
            "asynchronous": async_scoped_session(async_sessionmaker(), scopefunc=lambda: None),
        }[kind]

        with pytest.raises(
            ConfigurationError, match=r"expected a source of sessions that load Image; got .*; pass .*maker"
        ):
            orm_subject(Image, given)


# --- the session of a loaded subject ------------------------------------------------------------------


class Author(Base):
    __tablename__ = "author"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str]


class Book(Base):
    __tablename__ = "book"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    title: orm.Mapped[str]
    author_id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("author.id"))
    author: orm.Mapped[Author] = orm.relationship()


@pytest.fixture(name="library")
def _library(shop: tuple[App, Sessions]) -> tuple[App, Sessions]:
    """Return an application that knows a book, and what makes its sessions."""
    app, sessions = shop
    app.add_subject(orm_subject(Book, sessions))
    with sessions() as session:
        session.add(Book(id=1, title="Emma", author=Author(name="Jane")))
        session.commit()
    return app, sessions


def test_what_a_subject_loads_lazily_can_be_loaded_until_its_listener_has_ended(library: tuple[App, Sessions]) -> None:
    app, sessions = library
    heard: list[Any] = []

    @app.listener("book.returned")
    def shelve(event: Event, call: Call) -> None:
        heard.extend([call.subject, call.subject.author.name])

    app.dispatch("book.returned", subject=Subject("book", "1"))
    app.drain()

    book, author = heard
    assert author == "Jane"
    assert sa.inspect(book).detached
    pool = sessions.kw["bind"].pool
    assert not hasattr(pool, "checkedout") or pool.checkedout() == 0


def test_no_transaction_is_open_while_the_listener_works(library: tuple[App, Sessions]) -> None:
    app, _ = library
    states: list[bool] = []

    @app.listener("book.returned")
    def shelve(event: Event, call: Call) -> None:
        session = orm.object_session(call.subject)
        assert session is not None
        states.append(session.in_transaction())

    app.dispatch("book.returned", subject=Subject("book", "1"))
    app.drain()

    assert states == [False]


def test_changes_of_a_subject_are_not_lost_in_silence(
    library: tuple[App, Sessions], caplog: pytest.LogCaptureFixture
) -> None:
    app, sessions = library

    @app.listener("book.returned")
    def rename(event: Event, call: Call) -> None:
        call.subject.title = "Persuasion"
        call.subject.author.name  # noqa: B018 - it must not write the change

    @app.listener("book.lent")
    def rename_in_a_session(event: Event, call: Call) -> None:
        with sessions() as session:
            session.merge(call.subject).title = "Persuasion"
            session.commit()

    app.dispatch("book.returned", subject=Subject("book", "1"))
    app.drain()
    assert ["changed what call.subject had loaded (Book)" in each for each in caplog.messages] == [True]
    with sessions() as session:
        assert session.get_one(Book, 1).title == "Emma"

    caplog.clear()
    app.dispatch("book.lent", subject=Subject("book", "1"))
    app.drain()
    assert caplog.messages == []
    with sessions() as session:
        assert session.get_one(Book, 1).title == "Persuasion"


@pytest.mark.parametrize("removes", [False, True])
def test_changes_of_a_subject_in_a_scoped_session_are_not_lost_in_silence_either(
    sessions: Sessions, caplog: pytest.LogCaptureFixture, *, removes: bool
) -> None:
    scoped = orm.scoped_session(sessions)
    scoped.add(Image(name="cat"))
    scoped.commit()
    app = App(transports={"main": MemoryTransport()}, subjects=[orm_subject(Image, scoped)])

    @app.listener("image.renamed")
    def rename(event: Event, call: Call) -> None:
        call.subject.name = "dog"
        if event["commits"]:
            scoped.commit()
        if removes:  # as an application context does at its end
            scoped.remove()

    app.dispatch("image.renamed", {"commits": True}, subject=Subject("image", "1"))
    app.drain()
    assert caplog.messages == []

    app.dispatch("image.renamed", {"commits": False}, subject=Subject("image", "1"))
    app.drain()
    assert ["changed call.subject (Image) and did not commit: " in each for each in caplog.messages] == [True]
    scoped.remove()


def test_a_subject_is_released_in_process_too_and_an_error_in_that_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    released: list[str] = []

    def release(instance: str) -> None:
        released.append(instance)
        raise ValueError("no")

    kind = SubjectType(type="text", cls=str, name=str, load=str.upper, release=release)
    app = App(routes={"*": "now"}, subjects=[kind])
    app.add_listener("text.shown", lambda event, call: call.subject, id="hear")
    app.dispatch("text.shown", subject=Subject("text", "a"))
    app.dispatch("text.shown", subject="b")

    assert released == ["A"]
    assert "hear: its subject text/a could not be released" in caplog.messages


@pytest.mark.parametrize("state", ["pending", "flushed", "committed"])
@pytest.mark.parametrize("route", ["now", "main", "outbox", "now and main"])
def test_the_same_upload_runs_on_every_route(route: str, state: str, tmp_path: Path) -> None:
    """In process the listener gets the object itself; after the commit, a worker loads it."""
    address = f"sqlite:///{tmp_path / 'shop.db'}"
    engine = sa.create_engine(address)
    Base.metadata.create_all(engine)
    sessions = orm.sessionmaker(engine)
    heard: list[Any] = []
    app = App(
        transports={"main": SqlTransport(engine), "far": "memory://"},
        outboxes={"far": "main"} if route == "outbox" else {},
        routes={"*": {"outbox": ["far"], "now and main": ["now", "main"]}.get(route, [route])},
        subjects=[orm_subject(Image, sessions)],
    )
    app.add_listener("image.created", lambda event, call: heard.append(call.subject), id="hear")

    with sessions() as session:
        image = Image(name="sea")
        session.add(image)
        if state == "flushed":
            session.flush()
        if state == "committed":
            session.commit()
        app.dispatch("image.created", subject=image, session=session)
        in_process = [each is image for each in heard]
        session.commit()
        app.drain()
        names = [each.name for each in heard]

    assert in_process == ([True] if "now" in route else [])
    assert names == ["sea"]
    app.close()
    engine.dispose()


# --- a cell that is run again ---------------------------------------------------------------------------------

_CELL = """
class Base(orm.DeclarativeBase):
    pass

class Run(Base):
    __tablename__ = "run"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
"""


def test_a_mapped_class_may_be_registered_again(sessions: Sessions) -> None:
    other = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    Base.metadata.create_all(other)
    with orm.Session(other) as session:
        session.add(Image(name="sea"))
        session.commit()
    with App(routes={"*": "now"}) as app:
        app.add_subject(orm_subject(Image, sessions))

        app.add_subject(orm_subject(Image, orm.sessionmaker(other)))

        assert app.subjects.load(Subject("image", "1")).name == "sea"
    other.dispose()


def test_a_mapped_class_that_is_defined_again_replaces_the_former(sessions: Sessions) -> None:
    notebook: dict[str, Any] = {"__name__": "__main__", "orm": orm}
    with App(routes={"*": "now"}) as app:
        for _ in range(2):
            exec(compile(_CELL, "cell", "exec", dont_inherit=True), notebook)  # noqa: S102
            app.add_subject(orm_subject(notebook["Run"], sessions))

        assert app.subjects.of(notebook["Run"]()).cls is notebook["Run"]


def test_another_mapped_class_still_clashes(sessions: Sessions) -> None:
    with App(routes={"*": "now"}) as app:
        app.add_subject(orm_subject(Image, sessions))

        for kind in (orm_subject(Tag, sessions, type="image"), orm_subject(Image, sessions, type="picture")):
            with pytest.raises(SubjectError, match="clashes"):
                app.add_subject(kind)
