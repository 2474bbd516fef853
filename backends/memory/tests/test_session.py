"""Joining transactions of SQLAlchemy, on real SQLite: an event and a row commit together, or neither does."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, ForeignKey, create_engine, event, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, object_session, scoped_session, sessionmaker

from relevo import Ack, Delivery, Envelope, UniqueSender
from relevo.errors import SessionError, TransportClosedError
from relevo.testing import FakeClock
from relevo_memory import MemoryStore, MemoryTransport

Make = Callable[..., Envelope]
Take = Callable[..., Sequence[Delivery]]
Ids = Callable[[Sequence[Delivery]], list[str]]


class Base(DeclarativeBase):
    pass


class Image(Base):
    __tablename__ = "image"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(default="", unique=True)
    # Checked at the commit and no earlier, so that the commit itself can fail.
    album_id: Mapped[int | None] = mapped_column(ForeignKey("album.id", deferrable=True, initially="DEFERRED"))


class Album(Base):
    __tablename__ = "album"

    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture(name="engine")
def _engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path}/shop.db")

    @event.listens_for(engine, "connect")
    def _(connection: Any, _: object) -> None:
        # The driver begins too late for savepoints; so it never begins, and BEGIN is said below.
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def _(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture(name="session")
def _session(engine: Engine) -> Iterator[Session]:
    with Session(engine) as session:
        yield session


@pytest.fixture(name="connection")
def _connection(engine: Engine) -> Iterator[Connection]:
    with engine.connect() as connection:
        yield connection


@pytest.fixture(name="dispatch")
def _dispatch(transport: MemoryTransport, envelope: Make) -> Callable[..., None]:
    """Send an event inside a session's transaction."""

    def dispatch(session: Any, event_id: str = "1", *, delay: float = 0.0, **fields: Any) -> None:
        transport.bound_to(session).send(lambda: [envelope(event_id, **fields)], delay=delay)

    return dispatch


@pytest.fixture(name="dispatch_and_fail")
def _dispatch_and_fail(dispatch: Callable[..., None]) -> Callable[..., None]:
    """Do so, and go wrong afterwards."""

    def dispatch_and_fail(session: Any, event_id: str) -> None:
        dispatch(session, event_id)
        raise ZeroDivisionError

    return dispatch_and_fail


@pytest.fixture(name="seen")
def _seen(transport: MemoryTransport, take: Take, ids: Ids) -> Callable[[], list[str]]:
    """Receive the ids of what is visible."""

    def seen() -> list[str]:
        return ids(take(transport))

    return seen


Dispatch = Callable[..., None]
Seen = Callable[[], list[str]]


# --- sessions ------------------------------------------------------------------------------------------


def test_an_event_becomes_visible_with_the_commit(session: Session, dispatch: Dispatch, seen: Seen) -> None:
    session.add(Image())
    dispatch(session, "1")
    dispatch(session, "2")
    session.flush()
    assert seen() == []

    session.commit()

    assert seen() == ["1", "2"]
    session.commit()
    assert seen() == []


def test_a_rolled_back_event_is_never_visible(session: Session, dispatch: Dispatch, seen: Seen) -> None:
    session.add(Image())
    dispatch(session)
    session.flush()

    session.rollback()
    session.commit()

    assert seen() == []


def test_an_event_without_any_work_of_the_database_commits_too(
    session: Session, dispatch: Dispatch, seen: Seen
) -> None:
    dispatch(session)
    session.commit()

    assert seen() == ["1"]


def test_an_event_without_any_work_of_the_database_rolls_back_too(
    session: Session, dispatch: Dispatch, seen: Seen
) -> None:
    dispatch(session, "1")
    session.rollback()
    session.add(Image())
    dispatch(session, "2")
    session.commit()

    assert seen() == ["2"]


def test_a_session_that_is_closed_without_a_commit_sends_nothing(
    engine: Engine, dispatch: Dispatch, seen: Seen
) -> None:
    with Session(engine) as session:
        session.add(Image())
        dispatch(session)
    session.add(Image())
    session.commit()

    assert seen() == []


def test_the_block_of_a_transaction_is_honoured(
    engine: Engine, dispatch: Dispatch, dispatch_and_fail: Dispatch, seen: Seen
) -> None:
    with Session(engine) as session:
        with session.begin():
            dispatch(session, "1")
        with pytest.raises(ZeroDivisionError), session.begin():
            dispatch_and_fail(session, "2")
        with session.begin():
            dispatch(session, "3")

    assert seen() == ["1", "3"]


def test_it_is_made_after_the_flush_when_pending_objects_have_their_keys(
    transport: MemoryTransport, session: Session, envelope: Make, seen: Seen
) -> None:
    image = Image()
    session.add(image)
    transport.bound_to(session).send(lambda: [envelope(f"image/{image.id}")])

    session.commit()

    assert seen() == ["image/1"]


def test_it_is_made_once_and_never_after_a_roll_back(
    transport: MemoryTransport, session: Session, envelope: Make
) -> None:
    calls: list[str] = []

    def make(event_id: str) -> Callable[[], list[Envelope]]:
        def made() -> list[Envelope]:
            calls.append(event_id)
            return [envelope(event_id)]

        return made

    transport.bound_to(session).send(make("1"))
    session.rollback()
    transport.bound_to(session).send(make("2"))
    assert calls == []
    session.commit()
    session.commit()

    assert calls == ["2"]


def test_if_making_fails_the_commit_fails_with_it_and_so_does_the_next(
    transport: MemoryTransport, session: Session, engine: Engine, seen: Seen, dispatch: Dispatch
) -> None:
    def make() -> list[Envelope]:
        raise ZeroDivisionError

    session.add(Image())
    dispatch(session, "1")
    transport.bound_to(session).send(make)

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            session.commit()
    session.rollback()
    session.commit()

    assert seen() == []
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM image")) == 0


def test_a_flush_that_fails_in_the_commit_sends_nothing(session: Session, dispatch: Dispatch, seen: Seen) -> None:
    session.add_all([Image(name="same"), Image(name="same")])
    dispatch(session)

    with pytest.raises(IntegrityError):
        session.commit()
    session.rollback()
    session.commit()

    assert seen() == []


def test_a_commit_that_the_database_refuses_sends_nothing(session: Session, dispatch: Dispatch, seen: Seen) -> None:
    session.add(Image(album_id=7))
    dispatch(session)

    with pytest.raises(IntegrityError):
        session.commit()
    assert seen() == []
    session.rollback()
    dispatch(session, "2")
    session.commit()

    assert seen() == ["2"]


def test_all_events_of_a_commit_become_visible_at_once(
    transport: MemoryTransport, session: Session, dispatch: Dispatch, take: Take
) -> None:
    for number in range(10):
        dispatch(session, str(number))
    session.commit()

    assert len(take(transport)) == 10


def test_a_delay_counts_from_the_send(
    transport: MemoryTransport, session: Session, clock: FakeClock, dispatch: Dispatch, seen: Seen
) -> None:
    dispatch(session, "1", delay=10)
    dispatch(session, "2", delay=3)
    clock.advance(4)
    session.commit()

    assert seen() == ["2"]
    clock.advance(5.5)
    assert seen() == []
    clock.advance(0.5)
    assert seen() == ["1"]


def test_a_session_goes_on_after_its_commit(session: Session, dispatch: Dispatch, seen: Seen) -> None:
    for event_id in ("1", "2", "3"):
        dispatch(session, event_id)
        session.commit()
        assert seen() == [event_id]


def test_two_transports_join_one_session(session: Session, clock: FakeClock, envelope: Make, take: Take) -> None:
    one, two = MemoryTransport(clock=clock), MemoryTransport(clock=clock)
    one.bound_to(session).send(lambda: [envelope("1")])
    two.bound_to(session).send(lambda: [envelope("2")])

    session.commit()

    assert len(take(one)) == len(take(two)) == 1


def test_two_sessions_do_not_mix(engine: Engine, dispatch: Dispatch, seen: Seen) -> None:
    with Session(engine) as first, Session(engine) as second:
        dispatch(first, "1")
        dispatch(second, "2")
        second.commit()
        assert seen() == ["2"]
        first.rollback()
        second.commit()

    assert seen() == []


def test_a_sender_may_be_kept_and_used_again(
    transport: MemoryTransport, session: Session, envelope: Make, seen: Seen
) -> None:
    sender = transport.bound_to(session)
    sender.send(lambda: [envelope("1"), envelope("2")])
    sender.send(list)
    session.commit()
    sender.send(lambda: [envelope("3")])
    session.rollback()
    sender.send(lambda: [envelope("4")])
    session.commit()

    assert seen() == ["1", "2", "4"]


def test_what_was_sent_before_the_close_commits_and_what_comes_after_is_refused(
    transport: MemoryTransport, other: MemoryTransport, session: Session, envelope: Make, take: Take, ids: Ids
) -> None:
    sender = transport.bound_to(session)
    sender.send(lambda: [envelope()])

    transport.close()

    with pytest.raises(TransportClosedError):
        sender.send(lambda: [envelope("2")])
    session.commit()
    assert ids(take(other)) == ["1"]


def test_a_session_that_begins_nothing_by_itself_must_have_begun(
    engine: Engine, dispatch: Dispatch, seen: Seen
) -> None:
    with Session(engine, autobegin=False) as session:
        with pytest.raises(SessionError, match="begin"):
            dispatch(session, "1")
        with session.begin():
            dispatch(session, "2")

    assert seen() == ["2"]


def test_a_session_left_lying_is_collected_with_what_hangs_on_it(
    transport: MemoryTransport, engine: Engine, envelope: Make
) -> None:
    def leave() -> weakref.ref[Session]:
        session = Session(engine)
        session.add(Image())
        transport.bound_to(session).send(lambda: [envelope(f"{len(session.new)}")])
        return weakref.ref(session)

    gone = leave()
    gc.collect()

    assert gone() is None


def test_listening_does_not_grow_with_the_events(transport: MemoryTransport, session: Session) -> None:
    for _ in range(3):
        transport.bound_to(session)
        assert len(session.dispatch.before_commit) == 1


# --- dispatching while the session is at work --------------------------------------------------------------


def test_a_listener_of_the_flush_may_dispatch(session: Session, dispatch: Dispatch, seen: Seen) -> None:
    @event.listens_for(session, "after_flush")
    def _(session: Session, _: object) -> None:
        for image in session.new:
            dispatch(session, f"flushed {image.name}")

    session.add(Image(name="a"))
    session.commit()
    session.add(Image(name="b"))
    session.rollback()
    session.add(Image(name="c"))
    dispatch(session, "d")
    session.commit()

    assert seen() == ["flushed a", "d", "flushed c"]


def test_a_listener_of_the_commit_may_dispatch_and_add(
    transport: MemoryTransport, session: Session, envelope: Make, dispatch: Dispatch, seen: Seen
) -> None:
    dispatch(session, "1")

    @event.listens_for(session, "before_commit")
    def _(session: Session) -> None:
        image = Image(name="late")
        session.add(image)
        transport.bound_to(session).send(lambda: [envelope(f"image/{image.id}")])

    session.commit()

    assert seen() == ["1", "image/1"]


def test_if_making_fails_for_a_listener_of_the_commit_the_commit_fails_with_it(
    transport: MemoryTransport, session: Session, dispatch: Dispatch, seen: Seen
) -> None:
    dispatch(session, "1")

    def make() -> list[Envelope]:
        raise ZeroDivisionError

    @event.listens_for(session, "before_commit")
    def _(session: Session) -> None:
        transport.bound_to(session).send(make)

    session.add(Image())
    with pytest.raises(ZeroDivisionError):
        session.commit()
    session.rollback()

    assert seen() == []
    assert session.scalar(text("SELECT count(*) FROM image")) == 0


def test_a_listener_of_every_commit_may_dispatch_first(
    transport: MemoryTransport, engine: Engine, dispatch: Dispatch, seen: Seen
) -> None:
    maker = sessionmaker(engine)

    @event.listens_for(maker, "before_commit")
    def _(session: Session) -> None:
        dispatch(session, "from the listener")

    with maker() as session:
        session.add(Image())
        session.commit()

    assert seen() == ["from the listener"]


MOMENTS = [
    "do_orm_execute",
    "before_flush",
    "before_insert",
    "after_insert",
    "after_flush",
    "after_flush_postexec",
    "before_commit",
]


@pytest.mark.lengthy("tries many cases")
@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("listening", ["session", "maker"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_at_whatever_moment_a_listener_dispatches_exactly_what_was_committed_is_seen(
    moment: str, listening: str, *, joined: bool, transport: MemoryTransport, engine: Engine, envelope: Make, seen: Seen
) -> None:
    maker = sessionmaker(engine)
    there: list[str] = []
    for name, end in [("a", "commit"), ("b", "rollback"), ("c", "commit"), ("d", "close"), ("e", "commit")]:
        with maker() as session:
            if joined:
                transport.bound_to(session)
            for turn in ("1", "2"):
                image = Image(name=name + turn)
                with _sending_once(moment, session if listening == "session" else maker, transport, image, envelope):
                    session.add(image)
                    if moment == "do_orm_execute":
                        session.scalars(select(Image)).all()
                    if end != "commit":
                        session.flush()
                    getattr(session, end)()
                there += seen()

    assert there == ["a1/1", "a2/2", "c1/3", "c2/4", "e1/5", "e2/6"]


@contextmanager
def _sending_once(
    moment: str, listening: Any, transport: MemoryTransport, image: Image, envelope: Make
) -> Iterator[None]:
    sent: list[object] = []

    def send(*arguments: Any) -> None:
        if not sent:
            sent.append(image)
            session: Any = arguments[0] if "insert" not in moment else object_session(arguments[2])
            if moment == "do_orm_execute":
                session = session.session
            transport.bound_to(session).send(lambda: [envelope(f"{image.name}/{image.id}")])

    target = Image if "insert" in moment else listening
    event.listen(target, moment, send)
    try:
        yield
    finally:
        event.remove(target, moment, send)


# --- savepoints ---------------------------------------------------------------------------------------------


def test_a_rolled_back_savepoint_discards_its_own(session: Session, dispatch: Dispatch, seen: Seen) -> None:
    dispatch(session, "before")
    savepoint = session.begin_nested()
    session.add(Image())
    dispatch(session, "inside")
    savepoint.rollback()
    dispatch(session, "after")
    session.commit()

    assert seen() == ["before", "after"]


def test_a_released_savepoint_waits_for_the_whole(session: Session, dispatch: Dispatch, seen: Seen) -> None:
    with session.begin_nested():
        dispatch(session, "inside")
    assert seen() == []

    session.commit()

    assert seen() == ["inside"]


def test_a_released_savepoint_rolls_back_with_the_whole(session: Session, dispatch: Dispatch, seen: Seen) -> None:
    with session.begin_nested():
        dispatch(session, "inside")

    session.rollback()
    session.commit()

    assert seen() == []


def test_a_released_savepoint_rolls_back_with_the_one_around_it(
    session: Session, dispatch: Dispatch, seen: Seen
) -> None:
    outer = session.begin_nested()
    dispatch(session, "outer")
    with session.begin_nested():
        dispatch(session, "inner")
    with session.begin_nested():
        dispatch(session, "inner too")
    outer.rollback()
    with session.begin_nested():
        dispatch(session, "later")
    session.commit()

    assert seen() == ["later"]


def test_an_inner_savepoint_rolls_back_alone(
    session: Session, dispatch: Dispatch, dispatch_and_fail: Dispatch, seen: Seen
) -> None:
    with session.begin_nested():
        dispatch(session, "outer")
        with pytest.raises(ZeroDivisionError), session.begin_nested():
            dispatch_and_fail(session, "inner")
    session.commit()

    assert seen() == ["outer"]


def test_a_savepoint_that_is_closed_is_rolled_back(session: Session, dispatch: Dispatch, seen: Seen) -> None:
    savepoint = session.begin_nested()
    dispatch(session, "inside")
    savepoint.close()
    session.commit()

    assert seen() == []


def test_a_commit_of_the_whole_takes_open_savepoints_along(session: Session, dispatch: Dispatch, seen: Seen) -> None:
    with session.begin():
        dispatch(session, "before")
        session.begin_nested()
        dispatch(session, "inside")

    assert seen() == ["before", "inside"]


def test_a_flush_that_fails_in_a_savepoint_discards_its_own(session: Session, dispatch: Dispatch, seen: Seen) -> None:
    session.add(Image(name="same"))
    dispatch(session, "before")
    savepoint = session.begin_nested()
    session.add(Image(name="same"))
    dispatch(session, "inside")
    with pytest.raises(IntegrityError):
        session.flush()
    savepoint.rollback()
    session.commit()

    assert seen() == ["before"]


# --- other kinds of session ------------------------------------------------------------------------------------


def test_a_scoped_session_is_joined(engine: Engine, dispatch: Dispatch, seen: Seen) -> None:
    scoped = scoped_session(sessionmaker(engine))
    scoped.add(Image())
    dispatch(scoped, "1")
    scoped.commit()
    dispatch(scoped, "2")
    scoped.remove()
    scoped.commit()

    assert seen() == ["1"]


def test_asynchronous_sessions_are_joined_and_connections_inside_their_run_sync(
    tmp_path: Path, transport: MemoryTransport, dispatch: Dispatch, seen: Seen
) -> None:
    pytest.importorskip("greenlet")
    pytest.importorskip("aiosqlite")
    from sqlalchemy.ext.asyncio import (  # noqa: PLC0415 - raises without greenlet
        AsyncSession,
        async_scoped_session,
        async_sessionmaker,
        create_async_engine,
    )

    async def main() -> None:
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/async.db")
        async with AsyncSession(engine) as session:
            await session.execute(text("SELECT 1"))
            dispatch(session, "session")
            await session.commit()
            dispatch(session, "rolled back")
            await session.rollback()
        scoped = async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)
        dispatch(scoped, "scoped")
        await scoped.commit()
        await scoped.remove()
        async with engine.begin() as connection:
            await connection.run_sync(dispatch, "connection")
            with pytest.raises(SessionError, match="an asynchronous connection is joined inside its run_sync"):
                dispatch(connection, "outside")
        with pytest.raises(SessionError):
            transport.bound_to(engine.connect())
        await engine.dispose()

    asyncio.run(main())

    assert seen() == ["session", "scoped", "connection"]


def test_a_session_on_a_connection_of_its_caller_commits_as_a_session(
    connection: Connection, dispatch: Dispatch, seen: Seen
) -> None:
    """The recipe for tests: the code commits, the test rolls everything back."""
    with connection.begin() as whole:
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            dispatch(session, "1")
            session.commit()
            dispatch(session, "2")
            session.rollback()
        assert seen() == ["1"]
        whole.rollback()


@pytest.mark.parametrize("stranger", [None, object(), "session", Session])
def test_what_is_no_session_is_refused(stranger: object, transport: MemoryTransport) -> None:
    with pytest.raises(SessionError, match="cannot be joined"):
        transport.bound_to(stranger)


# --- connections -------------------------------------------------------------------------------------------------


def test_on_a_connection_it_is_made_at_once_and_visible_with_the_commit(
    transport: MemoryTransport, connection: Connection, envelope: Make, seen: Seen
) -> None:
    made: list[Envelope] = [envelope()]
    transport.bound_to(connection).send(lambda: [made.pop()])
    assert made == []
    assert seen() == []

    connection.commit()

    assert seen() == ["1"]
    connection.commit()
    assert seen() == []


def test_a_rolled_back_connection_sends_nothing(connection: Connection, dispatch: Dispatch, seen: Seen) -> None:
    connection.execute(text("INSERT INTO image (name) VALUES ('a')"))
    dispatch(connection, "1")
    connection.rollback()
    dispatch(connection, "2")
    connection.commit()

    assert seen() == ["2"]


def test_a_connection_that_is_closed_without_a_commit_sends_nothing(
    engine: Engine, dispatch: Dispatch, seen: Seen
) -> None:
    with engine.connect() as connection:
        dispatch(connection)
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        connection.commit()

    assert seen() == []


def test_the_block_of_a_connections_transaction_is_honoured(
    engine: Engine, dispatch: Dispatch, dispatch_and_fail: Dispatch, seen: Seen
) -> None:
    with engine.begin() as connection:
        dispatch(connection, "1")
    with pytest.raises(ZeroDivisionError), engine.begin() as connection:
        dispatch_and_fail(connection, "2")
    with engine.connect() as connection, connection.begin() as transaction:
        dispatch(connection, "3")
        transaction.commit()

    assert seen() == ["1", "3"]


def test_a_commit_of_a_connection_that_the_database_refuses_sends_nothing(
    connection: Connection, dispatch: Dispatch, seen: Seen
) -> None:
    connection.execute(text("INSERT INTO image (name, album_id) VALUES ('a', 7)"))
    dispatch(connection)

    with pytest.raises(IntegrityError):
        connection.commit()

    assert seen() == []
    connection.rollback()
    connection.commit()
    assert seen() == []


def test_after_a_commit_that_the_database_refuses_the_next_one_sends_only_its_own(
    connection: Connection, dispatch: Dispatch, seen: Seen
) -> None:
    connection.execute(text("INSERT INTO image (name, album_id) VALUES ('a', 7)"))
    dispatch(connection, "refused")
    with pytest.raises(IntegrityError):
        connection.commit()
    connection.rollback()
    connection.connection.rollback()  # SQLite keeps a transaction whose commit it refused, and SQLAlchemy sends nothing

    dispatch(connection, "committed")
    connection.commit()

    assert seen() == ["committed"]


def test_each_commit_of_a_connection_sends_only_its_own(
    transport: MemoryTransport, connection: Connection, dispatch: Dispatch, take: Take, ids: Ids
) -> None:
    came = []
    for event_id in ("1", "2"):
        dispatch(connection, event_id)
        connection.commit()
        deliveries = take(transport)
        came.append(ids(deliveries))
        transport.settle([(delivery, Ack()) for delivery in deliveries])

    assert came == [["1"], ["2"]]


def test_a_listener_of_a_connections_commit_may_dispatch(
    connection: Connection, dispatch: Dispatch, seen: Seen
) -> None:
    @event.listens_for(connection, "commit")
    def _(connection: Connection) -> None:
        dispatch(connection, "from the listener")

    dispatch(connection, "before")
    connection.commit()

    assert seen() == ["before", "from the listener"]


def test_a_connection_honours_its_savepoints(
    connection: Connection, dispatch: Dispatch, dispatch_and_fail: Dispatch, seen: Seen
) -> None:
    connection.execute(text("SELECT 1"))
    dispatch(connection, "before")
    with connection.begin_nested():
        dispatch(connection, "released")
    with pytest.raises(ZeroDivisionError), connection.begin_nested():
        dispatch_and_fail(connection, "rolled back")
    outer = connection.begin_nested()
    dispatch(connection, "outer")
    with connection.begin_nested():
        dispatch(connection, "inner")
    outer.rollback()
    closed = connection.begin_nested()
    dispatch(connection, "closed")
    closed.close()
    open_still = connection.begin_nested()
    dispatch(connection, "open still")
    connection.commit()

    assert seen() == ["before", "released", "open still"]
    assert not open_still.is_active


def test_a_savepoint_that_was_open_before_the_first_event_is_honoured(
    connection: Connection, dispatch: Dispatch, seen: Seen
) -> None:
    connection.execute(text("SELECT 1"))
    outer = connection.begin_nested()
    with connection.begin_nested():
        dispatch(connection, "inside")
    outer.rollback()
    dispatch(connection, "after")
    connection.commit()

    assert seen() == ["after"]


def test_closing_a_savepoint_after_its_release_takes_nothing_back(
    connection: Connection, dispatch: Dispatch, seen: Seen
) -> None:
    connection.execute(text("SELECT 1"))
    savepoint = connection.begin_nested()
    dispatch(connection)
    savepoint.commit()
    savepoint.close()
    connection.commit()

    assert seen() == ["1"]


def test_a_connection_that_is_left_lying_is_collected(engine: Engine, dispatch: Dispatch) -> None:
    connection = engine.connect()
    connection.begin_nested() if connection.in_transaction() else connection.begin()
    connection.begin_nested()
    dispatch(connection)
    gone = weakref.ref(connection)
    connection.close()

    del connection
    gc.collect()

    assert gone() is None


def test_a_connection_without_transactions_is_refused(engine: Engine, transport: MemoryTransport) -> None:
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        with pytest.raises(SessionError, match="AUTOCOMMIT"):
            transport.bound_to(connection)


def test_a_transaction_that_is_joined_is_still_what_it_was(connection: Connection, dispatch: Dispatch) -> None:
    before = connection.begin()
    kind = type(before)
    dispatch(connection)

    assert connection.get_transaction() is before
    assert isinstance(before, kind)
    before.rollback()


# --- the outbox ----------------------------------------------------------------------------------------------------


def test_a_unique_event_in_an_outbox_has_its_key(
    transport: MemoryTransport, session: Session, envelope: Make, take: Take
) -> None:
    living: list[str | None] = []

    def send(number: int) -> None:
        sender = transport.bound_to(session, relay_to="broker")
        assert isinstance(sender, UniqueSender)
        sender.send_unique(lambda: [envelope(number)], key="the key", within=0.0, decided=living.append)
        session.commit()

    send(1)
    send(2)
    transport.settle([(delivery, Ack()) for delivery in take(transport, "outbox/broker")])
    send(3)

    assert living == [None, envelope(1).id, None]


def test_in_an_outbox_the_envelope_keeps_its_own_queue(
    transport: MemoryTransport, session: Session, envelope: Make, take: Take
) -> None:
    sent = envelope(queue="media")
    transport.bound_to(session, relay_to="rabbit").send(lambda: [sent])
    session.commit()

    assert take(transport, "media") == []
    [delivery] = take(transport, "outbox/rabbit")
    assert delivery.queue == "outbox/rabbit"
    assert delivery.envelope == sent

    transport.dead_letter(delivery, reason="no")
    [dead] = transport.dead_letters(["outbox/rabbit"])
    assert dead.queue == "outbox/rabbit"
    assert dead.envelope == sent


def test_in_an_outbox_the_copies_of_a_fan_out_stay_apart(
    transport: MemoryTransport, session: Session, envelope: Make, take: Take
) -> None:
    copies = [envelope(queue="media"), envelope(queue="feed")]
    transport.bound_to(session, relay_to="rabbit").send(lambda: [*copies, *copies])
    session.commit()

    deliveries = take(transport, "outbox/rabbit")

    assert [one.envelope for one in deliveries] == copies
    for delivery in deliveries:
        transport.dead_letter(delivery, reason="no")
    assert [dead.envelope for dead in transport.dead_letters(["outbox/rabbit"])] == copies


def test_an_outbox_keeps_the_order_of_a_key(
    transport: MemoryTransport, session: Session, envelope: Make, take: Take
) -> None:
    sender = transport.bound_to(session, relay_to="rabbit")
    first, second = ([envelope(id_, queue=queue, ordering_key="k") for queue in ("feed", "media")] for id_ in "12")
    sender.send(lambda: [*first, *second])
    session.commit()

    held = take(transport, "outbox/rabbit")
    assert [one.envelope for one in held] == first
    for one in held:
        transport.ack(one)

    assert [one.envelope for one in take(transport, "outbox/rabbit")] == second


def test_the_store_of_a_joined_transport_may_be_shared(
    store: MemoryStore, session: Session, dispatch: Dispatch, other: MemoryTransport, take: Take
) -> None:
    dispatch(session)
    session.commit()

    assert len(take(other)) == 1
