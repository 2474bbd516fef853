"""The first dispatch of all inside the application's own transaction: the tables are made by it, or not at all."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker

from relevo import App, Envelope, Event
from relevo.errors import ConfigurationError, SessionError, TransportUnavailableError
from relevo_memory import MemoryTransport
from relevo_sql import SqlTransport, metadata
from relevo_sql._schema import is_for

Opener = Callable[..., SqlTransport]

KINDS = ["plain", "deferred", "immediate"] + (["autocommit=False"] if sys.version_info >= (3, 12) else [])
"""How the application's connections begin: as the driver does it, or as SQLAlchemy advises for savepoints."""


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "note"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


def an_engine(path: Path, kind: str = "deferred") -> sa.Engine:
    arguments = {"autocommit": False} if kind.startswith("autocommit") else {}
    engine = sa.create_engine(f"sqlite:///{path}", connect_args=arguments)
    if kind in {"deferred", "immediate"}:
        begin = "BEGIN" if kind == "deferred" else "BEGIN IMMEDIATE"
        sa.event.listen(engine, "connect", lambda driver, _: setattr(driver, "isolation_level", None))
        sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    return engine


@pytest.fixture(name="shop", params=KINDS)
def _shop(request: pytest.FixtureRequest, path: Path) -> Iterator[sa.Engine]:
    engine = an_engine(path, request.param)
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture(name="savepoints")
def _savepoints(path: Path) -> Iterator[sa.Engine]:
    """Return an engine whose savepoints are of a transaction; the driver by itself begins none for them."""
    engine = an_engine(path)
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture(name="app", params=["an address", "an engine"])
def _app(request: pytest.FixtureRequest, path: Path, opener: Opener) -> Iterator[App]:
    """Return an application whose database has no tables yet; nothing in it may wait for this very thread."""
    engine = sa.create_engine(f"sqlite:///{path}")
    if request.param == "an address":
        transport = opener(setup=False, busy_timeout=3600)
    else:
        transport = SqlTransport(engine, busy_timeout=3600)
    with App(transports={"main": transport}, routes={"*": "main"}) as app:
        yield app
    engine.dispose()


def tables(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE name LIKE 'relevo%'")}


def names(app: App, queue: str = "default") -> list[str]:
    deliveries = app.transport().receive([queue], limit=100, lease=60, wait=0)
    return sorted(d.envelope.name for d in deliveries if isinstance(d.envelope, Envelope))


def complete(path: Path) -> bool:
    """Return whether *path* has all that setting up makes."""
    with closing(sqlite3.connect(path)) as connection:
        keys = {key for (key,) in connection.execute("SELECT key FROM relevo_meta")}
    wanted = {table.name for table in metadata.tables.values()}
    indexes = (index for table in metadata.tables.values() for index in table.indexes)
    wanted |= {str(index.name) for index in indexes if is_for(index, "sqlite")}
    return keys == {"schema", "database"} and tables(path) >= wanted


# --- sessions -----------------------------------------------------------------------------------------


def test_a_session_that_has_flushed_makes_the_tables_and_commits_its_event(
    app: App, shop: sa.Engine, path: Path
) -> None:
    with Session(shop) as session:
        session.add(Note(text="a"))
        session.flush()
        app.dispatch(Event("note.added"), session=session)
        session.commit()

    assert complete(path)
    assert names(app) == ["note.added"]


def test_a_session_that_has_only_read_makes_the_tables(app: App, shop: sa.Engine) -> None:
    with Session(shop) as session:
        assert session.scalars(sa.select(Note)).all() == []
        app.dispatch(Event("note.read"), session=session)
        session.commit()

    assert names(app) == ["note.read"]


def test_a_session_that_does_nothing_else_makes_the_tables(app: App, shop: sa.Engine) -> None:
    with Session(shop) as session:
        app.dispatch(Event("note.wanted"), session=session)
        session.commit()

    assert names(app) == ["note.wanted"]


def test_a_roll_back_leaves_no_table_and_the_next_dispatch_makes_them(app: App, shop: sa.Engine, path: Path) -> None:
    with Session(shop) as session:
        for end in ("rollback", "close", "rollback"):
            session.add(Note(text=end))
            session.flush()
            app.dispatch(Event(f"note.{end}"), session=session)
            getattr(session, end)()
            assert tables(path) == set()
        session.add(Note(text="kept"))
        session.flush()
        app.dispatch(Event("note.kept"), session=session)
        session.commit()

    assert names(app) == ["note.kept"]


def test_tables_that_a_failed_commit_took_along_are_made_again(app: App, shop: sa.Engine, path: Path) -> None:
    with Session(shop) as session:
        app.dispatch(Event("note.lost"), session=session)
        connection = session.connection()

        @sa.event.listens_for(connection, "commit")
        def fail(_: sa.Connection) -> None:
            raise OSError("the disk")

        with pytest.raises(OSError, match="the disk"):
            session.commit()
        sa.event.remove(connection, "commit", fail)
        session.rollback()
        assert tables(path) == set()

        app.dispatch(Event("note.kept"), session=session)
        session.commit()

    assert names(app) == ["note.kept"]


def test_several_events_of_the_first_session_are_all_there_and_so_are_those_of_the_next(
    app: App, shop: sa.Engine
) -> None:
    with Session(shop) as session:
        for turn in ("first", "second"):
            for number in range(2):
                session.add(Note(text=turn))
                session.flush()
                app.dispatch(Event(f"{turn}.{number}"), session=session)
            session.commit()

    app.dispatch(Event("third.0"))

    assert names(app) == ["first.0", "first.1", "second.0", "second.1", "third.0"]


def test_a_savepoint_that_is_rolled_back_takes_no_table_from_the_others(app: App, savepoints: sa.Engine) -> None:
    with Session(savepoints) as session:
        session.add(Note(text="a"))
        with session.begin_nested() as savepoint:
            session.add(Note(text="b"))
            session.flush()
            app.dispatch(Event("note.dropped"), session=session)
            savepoint.rollback()
        app.dispatch(Event("note.kept"), session=session)
        with session.begin_nested():
            app.dispatch(Event("note.released"), session=session)
        session.commit()

    assert names(app) == ["note.kept", "note.released"]


def test_a_session_in_somebody_elses_transaction_makes_the_tables_with_it(
    app: App, savepoints: sa.Engine, path: Path
) -> None:
    for end in ("rollback", "commit"):
        with savepoints.connect() as connection:
            outer = connection.begin()
            with Session(connection, join_transaction_mode="create_savepoint") as session:
                for name in ("rolled.back", "first.committed", "second.committed"):
                    session.add(Note(text=name))
                    session.flush()
                    app.dispatch(Event(name), session=session)
                    getattr(session, "rollback" if name == "rolled.back" else "commit")()
            getattr(outer, end)()
        assert bool(tables(path)) == (end == "commit")

    assert names(app) == ["first.committed", "second.committed"]


def test_a_scoped_session_makes_the_tables(app: App, shop: sa.Engine) -> None:
    session = scoped_session(sessionmaker(shop))
    session.add(Note(text="a"))
    session.flush()
    app.dispatch(Event("note.added"), session=session)
    session.commit()
    session.remove()

    assert names(app) == ["note.added"]


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_an_asynchronous_session_makes_the_tables_at_its_commit(
    app: App, shop: sa.Engine, path: Path, end: str
) -> None:
    pytest.importorskip("aiosqlite")
    asynchronous: Any = pytest.importorskip("sqlalchemy.ext.asyncio")

    async def upload() -> None:
        engine = asynchronous.create_async_engine(f"sqlite+aiosqlite:///{path}")
        async with asynchronous.AsyncSession(engine) as session:
            session.add(Note(text="a"))
            await session.flush()
            app.dispatch(Event("note.added"), session=session)
            await getattr(session, end)()
            assert bool(tables(path)) == (end == "commit")

            await session.run_sync(lambda own: app.dispatch(Event("note.seen"), session=own))
            await session.commit()
        await engine.dispose()

    asyncio.run(upload())

    assert names(app) == (["note.added"] if end == "commit" else []) + ["note.seen"]


# --- connections --------------------------------------------------------------------------------------


def test_a_connection_that_has_written_makes_the_tables(app: App, shop: sa.Engine, path: Path) -> None:
    for end in ("rollback", "commit"):
        with shop.connect() as connection:
            connection.execute(sa.insert(Note).values(text=end))
            app.dispatch_many([Event(f"{end}.{number}") for number in range(2)], session=connection)
            getattr(connection, end)()
        assert bool(tables(path)) == (end == "commit")

    assert names(app) == ["commit.0", "commit.1"]


def test_a_connection_that_writes_nothing_else_makes_them_in_its_transaction(
    app: App, shop: sa.Engine, path: Path
) -> None:
    with shop.connect() as connection:
        app.dispatch(Event("note.dropped"), session=connection)
        connection.rollback()
        assert tables(path) == set()

    with shop.begin() as connection:
        app.dispatch(Event("note.kept"), session=connection)

    assert names(app) == ["note.kept"]


def test_a_savepoint_of_a_connection_takes_the_tables_along_and_the_next_dispatch_makes_them(
    app: App, savepoints: sa.Engine
) -> None:
    with savepoints.begin() as connection:
        savepoint = connection.begin_nested()
        app.dispatch(Event("note.dropped"), session=connection)
        savepoint.rollback()
        app.dispatch(Event("note.kept"), session=connection)

    assert names(app) == ["note.kept"]


def test_schemas_that_the_application_translates_are_not_relevos(app: App, shop: sa.Engine, tmp_path: Path) -> None:
    with shop.connect() as plain:
        plain.exec_driver_sql(f"ATTACH '{tmp_path}/tenant.db' AS tenant")
        connection = plain.execution_options(schema_translate_map={None: "tenant"})
        app.dispatch(Event("note.added"), session=connection)
        connection.commit()

    assert names(app) == ["note.added"]


# --- who else is there --------------------------------------------------------------------------------

DISPATCHER = """
import sys
import sqlalchemy as sa
from sqlalchemy.orm import Session
from relevo import App, Event
from relevo_sql import SqlTransport

kind, number = sys.argv[1:]
print("ready", flush=True)
for url in map(str.strip, sys.stdin):
    engine = sa.create_engine(url, connect_args={"timeout": 60})
    if kind != "plain":
        begin = "BEGIN" if kind == "deferred" else "BEGIN IMMEDIATE"
        sa.event.listen(engine, "connect", lambda driver, _: setattr(driver, "isolation_level", None))
        sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    with App(transports={"main": SqlTransport(engine)}, routes={"*": "main"}) as app, Session(engine) as session:
        if int(number) % 2:
            session.execute(sa.text("INSERT INTO note (text) VALUES ('a')"))
        app.dispatch(Event(f"note.{number}"), session=session)
        session.commit()
    engine.dispose()
    print("done", flush=True)
"""


@pytest.mark.slow("three processes, and eight new databases for them")
@pytest.mark.parametrize("kind", ["plain", "deferred", "immediate"])
def test_several_processes_make_their_first_dispatch_at_the_same_moment(
    kind: str, tmp_path: Path, opener: Opener
) -> None:
    with ExitStack() as stack:
        processes = [stack.enter_context(a_dispatcher(kind, number)) for number in range(3)]
        for turn in range(8):
            path = tmp_path / f"{turn}.db"
            engine = sa.create_engine(f"sqlite:///{path}")
            with engine.connect() as connection:
                connection.exec_driver_sql(f"PRAGMA journal_mode = {'wal' if turn % 2 else 'delete'}")
            Base.metadata.create_all(engine)
            engine.dispose()

            for process in processes:
                tell(process, f"sqlite:///{path}")
            answers = [answer(process) for process in processes]

            assert answers == ["done"] * len(processes)
            assert complete(path)
            assert opener(url=f"sqlite:///{path}", setup=False).stats("default").ready == len(processes)


@contextmanager
def a_dispatcher(kind: str, number: int) -> Iterator[subprocess.Popen[str]]:
    """Start what dispatches once for each database that it is told; what it has to say goes to this one's stderr."""
    command = [sys.executable, "-c", DISPATCHER, kind, str(number)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert answer(process) == "ready"
        yield process
        assert process.stdin is not None
        process.stdin.close()


def tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_database_that_is_not_the_transports_is_given_no_tables(app: App, path: Path, tmp_path: Path) -> None:
    other = an_engine(tmp_path / "other.db")
    Base.metadata.create_all(other)
    for ours in ("missing", "without tables", "with tables"):
        if ours == "without tables":
            Base.metadata.create_all(own := an_engine(path))
            own.dispose()
        elif ours == "with tables":
            app.transport().setup([])
        with Session(other) as session, pytest.raises(SessionError, match=r"tables|another database"):
            app.dispatch(Event("note.added"), session=session)
        with other.connect() as connection, pytest.raises(SessionError, match=r"tables|another database"):
            app.dispatch(Event("note.added"), session=connection)
        assert tables(tmp_path / "other.db") == set(), ours
    other.dispose()


def test_the_same_file_by_another_name_is_given_the_tables(
    app: App, shop: sa.Engine, path: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(path)
    engine = an_engine(tmp_path / "link")
    with Session(engine) as session:
        app.dispatch(Event("note.added"), session=session)
        session.commit()
    engine.dispose()

    assert names(app) == ["note.added"]


# --- what is there already ----------------------------------------------------------------------------


def test_what_only_is_incomplete_is_completed_in_the_session(app: App, shop: sa.Engine, path: Path) -> None:
    metadata.create_all(shop)  # as a migration may have done
    with Session(shop) as session:
        session.execute(sa.text("DROP INDEX relevo_event_ready"))
        session.commit()
        session.add(Note(text="a"))
        session.flush()
        app.dispatch(Event("note.added"), session=session)
        session.commit()

    assert complete(path)
    assert names(app) == ["note.added"]


def test_tables_of_a_newer_release_are_told_before_anything_is_written(app: App, shop: sa.Engine, path: Path) -> None:
    app.transport().setup([])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE relevo_meta SET value = '999' WHERE key = 'schema'")

    with Session(shop) as session, pytest.raises(ConfigurationError, match=r"newer relevo .schema 999"):
        app.dispatch(Event("note.added"), session=session)


def test_where_setting_up_is_left_to_somebody_a_dispatch_only_looks(
    shop: sa.Engine, path: Path, opener: Opener
) -> None:
    app = App(transports={"main": opener(setup=False)}, routes={"*": "main"}, setup="explicit")

    with Session(shop) as session:
        with pytest.raises(ConfigurationError, match=r"is not set up; .* it lacks .* table relevo_dead"):
            app.dispatch(Event("note.added"), session=session)
        session.commit()

    assert tables(path) == set()


# --- several transports -------------------------------------------------------------------------------


def test_an_outbox_is_made_in_the_session_too(shop: sa.Engine, opener: Opener) -> None:
    outbox = opener(setup=False)
    app = App(transports={"main": MemoryTransport()}, outboxes={"main": outbox}, routes={"*": "main"})
    with Session(shop) as session:
        session.add(Note(text="a"))
        session.flush()
        app.dispatch(Event("note.added"), session=session)
        session.commit()

    assert outbox.stats("outbox/main").ready == 1


def test_two_transports_of_one_session_make_the_tables_once(shop: sa.Engine, opener: Opener, path: Path) -> None:
    transports = {"one": opener(setup=False), "two": opener(setup=False)}
    app = App(transports=transports, routes={"*": ["one/a", "two/b"]})
    with Session(shop) as session:
        session.add(Note(text="a"))
        session.flush()
        app.dispatch(Event("note.added"), session=session)
        session.commit()

    assert complete(path)
    assert [transports["one"].stats("a").ready, transports["two"].stats("b").ready] == [1, 1]


# --- where the transaction is not told of ---------------------------------------------------------------


def test_a_dispatch_beside_a_session_that_has_written_is_told_to_name_it(app: App, shop: sa.Engine) -> None:
    with Session(shop) as session:
        session.add(Note(text="a"))
        session.flush()
        with pytest.raises(
            TransportUnavailableError,
            match=r"locked by a session of this thread .*session=…, or dispatch before it writes, or after it has comm",
        ):
            app.dispatch(Event("note.added"))


def test_a_dispatch_beside_a_connection_that_has_written_is_told_to_name_it(app: App, path: Path) -> None:
    engine = an_engine(path)
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(sa.insert(Note).values(text="a"))
        with pytest.raises(
            TransportUnavailableError,
            match=r"longer than 2 s; .*session=…, or before it writes, or after it has committed$",
        ):
            app.dispatch(Event("note.added"))
    engine.dispose()


def test_a_database_by_a_name_that_sqlite_reads_is_set_up_apart(path: Path, opener: Opener) -> None:
    url = f"sqlite:///file:{path}?uri=true"
    engine = sa.create_engine(url)
    app = App(transports={"main": opener(url=url, setup=False)}, routes={"*": "main"})
    with Session(engine) as session:
        app.dispatch(Event("note.added"), session=session)
        session.rollback()
        assert complete(path)
        app.dispatch(Event("note.kept"), session=session)
        session.commit()
    engine.dispose()

    assert names(app) == ["note.kept"]
