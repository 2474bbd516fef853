"""A dispatch without ``session=`` beside a session of the caller's own that has written to the same SQLite file."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import relevo
from relevo import App, TransportUnavailableError
from relevo_sql import SqlTransport

OWN = (
    r"is locked by a session of this thread or task, which has written to it .*; pass it with session=…, or dispatch "
    r"before it writes, or after it has committed$"
)


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "note"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return tmp_path / "shop.db"


@pytest.fixture(name="engine")
def _engine(path: Path) -> Iterator[sa.Engine]:
    engine = sa.create_engine(f"sqlite:///{path}", connect_args={"check_same_thread": False})
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture(name="app", params=["set up", "new"])
def _app(request: pytest.FixtureRequest, path: Path, engine: sa.Engine) -> Iterator[App]:
    """Return an application whose transport would wait for an hour."""
    with App(transports={"main": SqlTransport(f"sqlite:///{path}", busy_timeout=3600)}) as app:
        if request.param == "set up":
            app.dispatch("note.first")
        yield app


def test_a_dispatch_without_the_session_that_has_written_is_refused_at_once(app: App, engine: sa.Engine) -> None:
    with Session(engine) as session:
        session.add(Note(text="a"))
        session.flush()

        with pytest.raises(TransportUnavailableError, match=OWN):
            app.dispatch("note.added")
        with pytest.raises(TransportUnavailableError, match=OWN):
            app.dispatch_many([relevo.Event("note.added")] * 600)
        app.dispatch("note.added", session=session)
        session.commit()

    app.dispatch("note.added")
    assert app.transport().stats("default").ready in (2, 3)


def test_core_statements_and_savepoints_of_a_session_count_too(app: App, engine: sa.Engine) -> None:
    with Session(engine) as session, session.begin_nested():
        session.execute(sa.insert(Note).values(text="a"))
        with pytest.raises(TransportUnavailableError, match=OWN):
            app.dispatch("note.added")


def test_a_task_that_awaits_its_dispatch_is_refused_at_once(app: App, engine: sa.Engine) -> None:
    async def write() -> None:
        with Session(engine) as session:
            session.add(Note(text="a"))
            session.flush()
            with pytest.raises(TransportUnavailableError, match=OWN):
                await app.adispatch("note.added")

    asyncio.run(write())


def test_an_asynchronous_session_is_found_too(app: App, path: Path) -> None:
    async def write() -> None:
        engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
        async with AsyncSession(engine) as session:
            session.add(Note(text="a"))
            await session.flush()
            with pytest.raises(TransportUnavailableError, match=OWN):
                app.dispatch("note.added")
            with pytest.raises(TransportUnavailableError, match=OWN):
                await app.adispatch("note.added")
        await engine.dispose()

    asyncio.run(write())


def test_a_session_of_another_task_or_thread_is_waited_for(app: App, engine: sa.Engine) -> None:
    """It can commit while the dispatch waits, so the dispatch waits."""
    app.transport().setup(["default"])

    async def both() -> None:
        written = asyncio.Event()

        async def write() -> None:
            with Session(engine) as session:
                session.add(Note(text="a"))
                session.flush()
                written.set()
                await asyncio.sleep(0.3)  # the dispatch waits meanwhile; if it does not yet, the test proves less
                session.commit()

        writing = asyncio.create_task(write())
        await written.wait()
        await app.adispatch("note.added")
        await writing

    asyncio.run(both())


def test_a_session_that_has_only_read_or_was_rolled_back_is_not_to_blame(
    app: App, engine: sa.Engine, path: Path
) -> None:
    other = sa.create_engine(f"sqlite:///{path}")
    app.transport().setup(["default"])
    began, sent = threading.Event(), threading.Event()

    def write_elsewhere() -> None:
        with other.begin() as connection:
            connection.execute(sa.insert(Note).values(text="a"))
            began.set()
            sent.wait(0.5)  # the dispatch waits meanwhile, and gets the lock afterwards

    with ThreadPoolExecutor(1) as pool, Session(engine) as session:
        session.add(Note(text="a"))
        session.flush()
        session.rollback()
        session.scalars(sa.select(Note)).all()
        writing = pool.submit(write_elsewhere)
        assert began.wait(60)
        app.dispatch("note.added")
        sent.set()
        writing.result()
    other.dispose()


def test_progress_beside_a_session_that_a_listener_left_open_fails_at_once_and_names_it(
    app: App, engine: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with Session(engine) as session:

        @app.listener("note.added", priority=1)
        def leave_open(event: relevo.Event) -> None:
            session.add(Note(text="a"))
            session.flush()

        @app.listener("note.added")
        def close(event: relevo.Event) -> None:
            session.rollback()

        app.dispatch("note.added")
        report = app.drain()

    assert (report.done, report.dead, report.unsettled) == (1, 0, 0)
    (message,) = [each for each in caplog.messages if "could not be stored" in each]
    assert "is locked by a session of this thread, which has written to it and has not committed; a listener" in message


def test_a_session_on_another_file_is_not_to_blame(path: Path, engine: sa.Engine) -> None:
    with App(transports={"main": f"sqlite:///{path}.events"}) as app, Session(engine) as session:
        session.add(Note(text="a"))
        session.flush()

        app.dispatch("note.added")


def test_what_cannot_be_found_is_in_the_message_of_the_timeout(path: Path, engine: sa.Engine) -> None:
    with App(transports={"main": SqlTransport(f"sqlite:///{path}", busy_timeout=0.1)}) as app:
        app.setup()
        with engine.begin() as connection:  # no session
            connection.execute(sa.insert(Note).values(text="a"))
            with pytest.raises(
                TransportUnavailableError,
                match=r"longer than 0\.1 s; .*; if it is a session of this thread .*session=…",
            ):
                app.dispatch("note.added")


def test_the_memory_transport_of_a_test_refuses_it_too(app: App, engine: sa.Engine) -> None:
    with app.testing() as t, Session(engine) as session:
        app.dispatch("note.first")
        session.add(Note(text="a"))
        session.flush()
        with pytest.raises(TransportUnavailableError, match=OWN):
            app.dispatch("note.added")
        app.dispatch("note.added", session=session)
        session.commit()
        app.dispatch("note.added")

        t.dispatched("note.added", times=2)


def test_in_a_test_a_listener_is_refused_for_a_session_of_its_own_and_not_for_one_of_the_test(
    app: App, engine: sa.Engine
) -> None:
    @app.listen
    @relevo.listener("note.added")
    def copy(event: relevo.Event) -> None:
        with Session(engine) as own:
            own.add(Note(text="a"))
            own.flush()
            app.dispatch("note.copied")

    with app.testing() as t:
        app.dispatch("note.added")
        with pytest.raises(TransportUnavailableError, match=OWN):
            t.drain()

    app.unlisten(copy)
    app.add_listener("note.added", lambda event: app.dispatch("note.copied"))
    with app.testing() as t, Session(engine) as session:
        app.dispatch("note.added")
        session.add(Note(text="a"))
        session.flush()
        t.drain(raises=False)

        t.dispatched("note.copied", times=1)
