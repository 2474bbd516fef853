from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, object_session, scoped_session, sessionmaker

from relevo import Envelope
from relevo.errors import SendError, SessionError, TransportClosedError
from relevo.testing import FakeClock
from relevo_sql import SqlTransport, event

Maker = Callable[..., Envelope]


class Base(DeclarativeBase):
    pass


class Image(Base):
    __tablename__ = "image"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(unique=True)


@pytest.fixture
def shop(transport: SqlTransport, path: Path) -> Iterator[sa.Engine]:
    """Return the application's engine, whose savepoints work, on the transport's file."""
    engine = sa.create_engine(f"sqlite:///{path}")
    sa.event.listen(engine, "connect", lambda driver, _: setattr(driver, "isolation_level", None))
    sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


def one(an_envelope: Maker, number: int) -> list[Envelope]:
    return [an_envelope(number)]


def ids(transport: SqlTransport, queue: str = "default") -> list[str]:
    deliveries = transport.receive([queue], limit=100, lease=60, wait=0)
    return [d.envelope.id for d in deliveries if isinstance(d.envelope, Envelope)]


def statements(engine: sa.Engine) -> list[tuple[str, int]]:
    """Return a list that fills with the inserts into relevo's table, and how many rows each had."""
    seen: list[tuple[str, int]] = []

    def note(*execution: Any) -> None:
        _, _, statement, parameters, _, many = execution
        if "INTO relevo_event" in statement:
            seen.append((statement, len(parameters) if many else 1))

    sa.event.listen(engine, "before_cursor_execute", note)
    return seen


# --- sessions -----------------------------------------------------------------------------------------


def test_an_event_is_there_when_the_session_has_committed(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker
) -> None:
    with Session(shop) as session:
        transport.bound_to(session).send(lambda: [an_envelope()])
        before = ids(transport)
        session.commit()

    assert before == []
    assert ids(transport) == ["id-1"]


def test_an_event_is_gone_when_the_session_is_rolled_back(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker
) -> None:
    with Session(shop) as session:
        transport.bound_to(session).send(lambda: [an_envelope(1)])
        session.rollback()
        session.add(Image(title="sunset"))
        session.commit()

    assert ids(transport) == []


def test_an_event_is_gone_when_the_session_is_closed_without_a_commit(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker
) -> None:
    session = Session(shop)
    transport.bound_to(session).send(lambda: [an_envelope(1)])
    session.close()

    session.add(Image(title="sunset"))
    session.commit()
    session.close()

    assert ids(transport) == []


def test_a_pending_object_has_its_key_when_the_event_is_made(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker
) -> None:
    with Session(shop) as session:
        image = Image(title="sunset")
        session.add(image)
        transport.bound_to(session).send(lambda: [an_envelope(image.id)])
        session.commit()

    assert ids(transport) == ["id-1"]


def test_several_sends_of_a_session_are_one_statement(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker
) -> None:
    seen = statements(shop)
    with Session(shop) as session:
        for number in range(3):
            transport.bound_to(session).send(partial(one, an_envelope, number))
        session.commit()

    assert [count for _, count in seen] == [3]
    assert ids(transport) == ["id-0", "id-1", "id-2"]


def test_a_session_is_used_again_after_a_commit(transport: SqlTransport, shop: sa.Engine, an_envelope: Maker) -> None:
    with Session(shop) as session:
        sender = transport.bound_to(session)
        for number in range(3):
            sender.send(partial(one, an_envelope, number))
            session.commit()

        session.add(Image(title="sunset"))
        session.commit()

    assert ids(transport) == ["id-0", "id-1", "id-2"]


def test_a_failed_commit_sends_nothing_and_the_session_lives_on(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker
) -> None:
    with Session(shop) as session:
        session.add(Image(title="sunset"))
        session.commit()

        session.add(Image(title="sunset"))
        transport.bound_to(session).send(lambda: [an_envelope(1)])
        with pytest.raises(sa.exc.IntegrityError):
            session.commit()
        session.rollback()

        transport.bound_to(session).send(lambda: [an_envelope(2)])
        session.commit()

    assert ids(transport) == ["id-2"]


def test_a_rolled_back_savepoint_takes_its_own_events_along(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker
) -> None:
    with Session(shop) as session:
        sender = transport.bound_to(session)
        sender.send(lambda: [an_envelope(1)])
        savepoint = session.begin_nested()
        sender.send(lambda: [an_envelope(2)])
        with session.begin_nested():
            sender.send(lambda: [an_envelope(3)])
        savepoint.rollback()
        sender.send(lambda: [an_envelope(4)])
        session.commit()

    assert ids(transport) == ["id-1", "id-4"]


def test_a_savepoint_whose_release_fails_takes_its_events_along(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker
) -> None:
    with Session(shop) as session:
        sender = transport.bound_to(session)
        session.add(Image(title="sunset"))
        session.flush()
        sender.send(lambda: [an_envelope(1)])
        savepoint = session.begin_nested()
        session.add(Image(title="sunset"))
        sender.send(lambda: [an_envelope(2)])
        with pytest.raises(sa.exc.IntegrityError):
            savepoint.commit()
        savepoint.rollback()
        session.commit()

    assert ids(transport) == ["id-1"]


def test_a_released_savepoint_keeps_its_events(transport: SqlTransport, shop: sa.Engine, an_envelope: Maker) -> None:
    made = []

    def make() -> list[Envelope]:
        made.append(session.in_nested_transaction())
        return [an_envelope(1)]

    with Session(shop) as session:
        with session.begin_nested():
            transport.bound_to(session).send(make)
        session.commit()

    assert made == [False]
    assert ids(transport) == ["id-1"]


def test_a_commit_with_a_savepoint_open_keeps_its_events(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker
) -> None:
    with Session(shop) as session:
        session.begin_nested()
        transport.bound_to(session).send(lambda: [an_envelope(1)])
        session.commit()

    assert ids(transport) == ["id-1"]


def test_nothing_is_made_after_a_roll_back(transport: SqlTransport, shop: sa.Engine) -> None:
    def make() -> list[Envelope]:
        pytest.fail("made")

    with Session(shop) as session:
        transport.bound_to(session).send(make)
        session.rollback()
        session.add(Image(title="sunset"))
        session.commit()


def test_an_error_in_making_fails_the_commit_and_every_later_one(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker
) -> None:
    def make() -> list[Envelope]:
        raise LookupError("no subject")

    with Session(shop) as session:
        session.add(Image(title="sunset"))
        transport.bound_to(session).send(make)
        with pytest.raises(LookupError):
            session.commit()
        with pytest.raises(LookupError):
            session.commit()
        session.rollback()

        assert session.scalars(sa.select(Image)).all() == []
        transport.bound_to(session).send(lambda: [an_envelope(2)])
        session.commit()

    assert ids(transport) == ["id-2"]


def test_an_event_sent_by_a_listener_of_the_commit_is_written_too(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker
) -> None:
    with Session(shop) as session:
        transport.bound_to(session).send(lambda: [an_envelope(1)])

        @sa.event.listens_for(session, "before_commit")
        def _(session: Session) -> None:
            image = Image(title="sunset")
            session.add(image)
            transport.bound_to(session).send(lambda: [an_envelope(10 + image.id)])

        session.commit()

    assert ids(transport) == ["id-1", "id-11"]


def test_an_event_sent_during_a_flush_is_written_too(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker
) -> None:
    with Session(shop) as session:

        @sa.event.listens_for(session, "after_flush")
        def _(session: Session, _: Any) -> None:
            for image in session.new:
                transport.bound_to(session).send(partial(one, an_envelope, image.id))

        session.add(Image(title="sunset"))
        session.commit()
        session.add(Image(title="sunrise"))
        session.commit()

    assert ids(transport) == ["id-1", "id-2"]


def test_a_delay_counts_from_the_send(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker, clock: FakeClock
) -> None:
    with Session(shop) as session:
        transport.bound_to(session).send(lambda: [an_envelope(1)], delay=10)
        clock.advance(4)
        session.commit()

    clock.advance(5.9)
    early = ids(transport)
    clock.advance(0.1)

    assert early == []
    assert ids(transport) == ["id-1"]


def test_a_commit_wakes_who_waits(transport: SqlTransport, shop: sa.Engine, an_envelope: Maker) -> None:
    rings = transport._doorbell.rings
    with Session(shop) as session:
        transport.bound_to(session).send(lambda: [an_envelope(1)])
        assert transport._doorbell.rings == rings
        session.commit()

    assert transport._doorbell.rings > rings


def test_a_scoped_session_is_joined(transport: SqlTransport, shop: sa.Engine, an_envelope: Maker) -> None:
    session = scoped_session(sessionmaker(shop))
    transport.bound_to(session).send(lambda: [an_envelope(1)])
    session.commit()
    session.remove()

    assert ids(transport) == ["id-1"]


def test_a_session_on_a_connection_leaves_the_end_to_it(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker
) -> None:
    for number, end in enumerate(("rollback", "commit")):
        with shop.connect() as connection:
            outer = connection.begin()
            with Session(connection) as session:
                transport.bound_to(session).send(partial(one, an_envelope, number))
                session.commit()
            getattr(outer, end)()

    assert ids(transport) == ["id-1"]


def test_two_transports_join_one_session(
    transport: SqlTransport, opener: Callable[..., SqlTransport], shop: sa.Engine, an_envelope: Maker, clock: FakeClock
) -> None:
    other = opener(clock)
    with Session(shop) as session:
        transport.bound_to(session).send(lambda: [an_envelope(1)])
        other.bound_to(session).send(lambda: [an_envelope(2)])
        session.commit()

    assert sorted(ids(transport)) == ["id-1", "id-2"]


def test_sending_the_same_id_again_in_a_session_makes_no_second_event(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker
) -> None:
    transport.send([an_envelope(1)])
    with Session(shop) as session:
        session.add(Image(title="sunset"))
        transport.bound_to(session).send(lambda: [an_envelope(1), an_envelope(2)])
        session.commit()

    assert ids(transport) == ["id-1", "id-2"]


# --- sending while the session is at work -------------------------------------------------------------

MOMENTS = [
    "do_orm_execute",
    "before_flush",
    "before_insert",
    "after_insert",
    "after_flush",
    "after_flush_postexec",
    "before_commit",
]


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("listening", ["session", "maker"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_at_whatever_moment_a_listener_sends_exactly_what_was_committed_is_there(
    moment: str, listening: str, *, joined: bool, transport: SqlTransport, shop: sa.Engine, an_envelope: Maker
) -> None:
    maker = sessionmaker(shop)
    there: list[list[str]] = []
    for name, end in [("a", "commit"), ("b", "rollback"), ("c", "commit"), ("d", "close"), ("e", "commit")]:
        with maker() as session:
            if joined:
                transport.bound_to(session)
            for turn in ("1", "2"):
                image = Image(title=name + turn)
                with _sending_once(moment, session if listening == "session" else maker, transport, image, an_envelope):
                    session.add(image)
                    if moment == "do_orm_execute":
                        session.scalars(sa.select(Image)).all()
                    if end != "commit":
                        session.flush()
                    getattr(session, end)()
                there += [ids(transport)]

    assert there == [["id-1"], ["id-2"], [], [], ["id-3"], ["id-4"], [], [], ["id-5"], ["id-6"]]


@contextmanager
def _sending_once(
    moment: str, listening: Any, transport: SqlTransport, image: Image, an_envelope: Maker
) -> Iterator[None]:
    sent: list[object] = []

    def send(*arguments: Any) -> None:
        if not sent:
            sent.append(image)
            session: Any = arguments[0] if "insert" not in moment else object_session(arguments[2])
            if moment == "do_orm_execute":
                session = session.session
            transport.bound_to(session).send(lambda: [an_envelope(image.id)])

    target = Image if "insert" in moment else listening
    sa.event.listen(target, moment, send)
    try:
        yield
    finally:
        sa.event.remove(target, moment, send)


@pytest.mark.parametrize("moment", ["before_flush", "before_commit"])
@pytest.mark.parametrize("mode", ["conditional_savepoint", "rollback_only", "create_savepoint", "control_fully"])
def test_a_listener_sends_in_a_session_that_leaves_the_end_to_its_connection(
    moment: str, mode: Any, transport: SqlTransport, shop: sa.Engine, an_envelope: Maker
) -> None:
    for number, end in enumerate(("rollback", "commit", "commit")):
        with shop.connect() as connection:
            outer = connection.begin()
            with Session(connection, join_transaction_mode=mode) as session:
                image = Image(title=f"{number}")
                with _sending_once(moment, session, transport, image, lambda _, n=number: an_envelope(n)):
                    session.add(image)
                    session.commit()
            if outer.is_active:
                getattr(outer, end)()

    assert ids(transport) == (["id-0"] if mode == "control_fully" else []) + ["id-1", "id-2"]


def test_a_savepoint_that_is_left_open_when_its_transaction_commits_keeps_its_events(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker
) -> None:
    with Session(shop) as session, session.begin():
        session.begin_nested()
        transport.bound_to(session).send(lambda: [an_envelope(1)])

    assert ids(transport) == ["id-1"]


def test_a_listener_of_a_flush_in_a_savepoint_sends_with_the_savepoint(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker
) -> None:
    with Session(shop) as session:
        for number, end in enumerate(("rollback", "commit")):
            savepoint = session.begin_nested()
            image = Image(title=f"{number}")
            with _sending_once("after_flush", session, transport, image, lambda _, n=number: an_envelope(n)):
                session.add(image)
                session.flush()
            getattr(savepoint, end)()
        session.commit()

    assert ids(transport) == ["id-1"]


def test_an_event_that_cannot_be_made_in_the_commit_fails_it(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker
) -> None:
    with Session(shop) as session:
        image = Image(title="sunset")

        def need_the_database(_: int) -> Envelope:
            session.scalars(sa.select(Image)).all()
            return an_envelope(1)

        with _sending_once("after_flush", session, transport, image, need_the_database):
            session.add(image)
            with pytest.raises(SessionError, match="during the session's commit"):
                session.commit()
        session.rollback()

        assert session.scalars(sa.select(Image)).all() == []
        transport.bound_to(session).send(lambda: [an_envelope(2)])
        session.commit()

    assert ids(transport) == ["id-2"]


def test_sessions_leave_nothing_behind_on_a_connection_that_outlives_them(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker
) -> None:
    with shop.connect() as connection:
        for number in range(3):
            with Session(connection) as session:
                transport.bound_to(session).send(partial(one, an_envelope, number))
                session.commit()

        dispatch: Any = connection.dispatch
        assert [len(dispatch.commit), len(dispatch.prepare_twophase)] == [0, 0]


# --- connections --------------------------------------------------------------------------------------


def test_a_connection_is_written_to_at_once(transport: SqlTransport, shop: sa.Engine, an_envelope: Maker) -> None:
    seen = statements(shop)
    with shop.connect() as connection:
        transport.bound_to(connection).send(lambda: [an_envelope(1)])
        at_once = len(seen)
        hidden = ids(transport)
        connection.commit()

    assert (at_once, hidden) == (1, [])
    assert ids(transport) == ["id-1"]


def test_a_connection_that_rolls_back_sends_nothing(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker
) -> None:
    with shop.connect() as connection:
        transport.bound_to(connection).send(lambda: [an_envelope(1)])
        connection.rollback()

    with shop.begin() as connection:
        savepoint = connection.begin_nested()
        transport.bound_to(connection).send(lambda: [an_envelope(2)])
        savepoint.rollback()
        transport.bound_to(connection).send(lambda: [an_envelope(3)])

    assert ids(transport) == ["id-3"]


def test_a_plain_engine_is_joined_as_it_comes(transport: SqlTransport, engine: sa.Engine, an_envelope: Maker) -> None:
    with engine.begin() as connection:
        transport.bound_to(connection).send(lambda: [an_envelope(1)])
    with engine.connect() as connection:
        transport.bound_to(connection).send(lambda: [an_envelope(2)])
    with Session(engine) as session:
        transport.bound_to(session).send(lambda: [an_envelope(3)])
        session.commit()
    with Session(engine) as session:
        transport.bound_to(session).send(lambda: [an_envelope(4)])

    assert ids(transport) == ["id-1", "id-3"]


@pytest.mark.parametrize("level", ["engine", "connection", "driver"])
def test_a_connection_that_commits_by_itself_is_refused(
    transport: SqlTransport, path: Path, an_envelope: Maker, level: str
) -> None:
    options = {"isolation_level": "AUTOCOMMIT"}
    engine = sa.create_engine(f"sqlite:///{path}", **(options if level == "engine" else {}))
    if level == "driver":
        sa.event.listen(engine, "connect", lambda driver, _: setattr(driver, "isolation_level", None))
    with engine.connect() as connection:
        if level == "connection":
            connection.execution_options(isolation_level="AUTOCOMMIT")
        with pytest.raises(SessionError, match="AUTOCOMMIT"):
            transport.bound_to(connection).send(lambda: [an_envelope(1)])
    with Session(engine) as session:
        if level == "connection":
            session.connection(execution_options=options)
        with pytest.raises(SessionError, match="AUTOCOMMIT"):
            transport.bound_to(session).send(lambda: [an_envelope(1)])
    engine.dispose()

    assert ids(transport) == []


# --- another database -----------------------------------------------------------------------------------


def test_a_session_of_another_database_is_refused(
    transport: SqlTransport, opener: Callable[..., SqlTransport], tmp_path: Path, an_envelope: Maker
) -> None:
    url = f"sqlite:///{tmp_path}/other.db"
    opener(url=url)
    other = sa.create_engine(url)
    with Session(other) as session:
        with pytest.raises(SessionError, match="another database"):
            transport.bound_to(session).send(lambda: [an_envelope(1)])
        session.commit()
    with other.connect() as connection, pytest.raises(SessionError, match="another database"):
        transport.bound_to(connection)  # at once, before another transport has written
    other.dispose()


def test_a_session_of_a_database_without_relevos_tables_is_refused(
    transport: SqlTransport, tmp_path: Path, an_envelope: Maker
) -> None:
    other = sa.create_engine(f"sqlite:///{tmp_path}/other.db")
    with Session(other) as session, pytest.raises(SessionError, match="lacks relevo's tables"):
        transport.bound_to(session).send(lambda: [an_envelope(1)])
    other.dispose()


def test_a_session_of_another_kind_of_database_is_refused(
    transport: SqlTransport, path: Path, an_envelope: Maker
) -> None:
    other = sa.create_engine(f"sqlite:///{path}")
    other.dialect.name = "postgresql"
    with Session(other) as session, pytest.raises(SessionError, match="another database"):
        transport.bound_to(session).send(lambda: [an_envelope(1)])
    with other.connect() as connection, pytest.raises(SessionError, match="another database"):
        transport.bound_to(connection)  # at once, before another transport has written
    other.dispose()


def test_the_same_file_by_another_name_is_the_same_database(
    transport: SqlTransport, path: Path, tmp_path: Path, an_envelope: Maker
) -> None:
    (tmp_path / "link").symlink_to(path)
    engine = sa.create_engine(f"sqlite:///{tmp_path}/link")
    with Session(engine) as session:
        transport.bound_to(session).send(lambda: [an_envelope(1)])
        session.commit()
    engine.dispose()

    assert ids(transport) == ["id-1"]


def test_a_session_with_several_databases_finds_the_one_of_the_events(
    transport: SqlTransport, shop: sa.Engine, tmp_path: Path, an_envelope: Maker
) -> None:
    other = sa.create_engine(f"sqlite:///{tmp_path}/other.db")
    with Session(other, binds={event: shop}) as session:
        transport.bound_to(session).send(lambda: [an_envelope(1)])
        session.commit()
    with Session(binds={Image: shop}) as session, pytest.raises(SessionError, match="binds="):
        transport.bound_to(session).send(lambda: [an_envelope(2)])
    other.dispose()

    assert ids(transport) == ["id-1"]


def test_the_database_is_asked_who_it_is_once_an_engine(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker
) -> None:
    asked: list[str] = []

    def note(*execution: Any) -> None:
        if "relevo_meta" in execution[2]:
            asked.append(execution[2])

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        for number in range(3):
            with Session(shop) as session:
                transport.bound_to(session).send(partial(one, an_envelope, number))
                session.commit()
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)

    assert len(asked) == 1


def test_a_session_that_only_sends_is_not_made_stale_by_other_writers(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker
) -> None:
    with Session(shop) as session:
        transport.bound_to(session).send(lambda: [an_envelope(1)])
        transport.send([an_envelope(2)])
        session.commit()

    assert sorted(ids(transport)) == ["id-1", "id-2"]


def test_a_session_that_read_before_another_writer_is_told_how_to_begin(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker
) -> None:
    with Session(shop) as session:
        session.scalars(sa.select(Image)).all()
        transport.bound_to(session).send(lambda: [an_envelope(1)])
        transport.send([an_envelope(2)])
        with pytest.raises(SendError, match="BEGIN IMMEDIATE") as caught:
            session.commit()

    assert caught.value.refused == (0,)
    assert ids(transport) == ["id-2"]


def test_a_database_made_anew_behind_the_same_engines_is_joined(
    transport: SqlTransport, engine: sa.Engine, path: Path, an_envelope: Maker
) -> None:
    with Session(engine) as session:
        transport.bound_to(session).send(lambda: [an_envelope(1)])
        session.commit()
    engine.dispose()
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
    transport.setup([])

    with Session(engine) as session:
        transport.bound_to(session).send(lambda: [an_envelope(2)])
        session.commit()

    assert ids(transport) == ["id-2"]


# --- an outbox -------------------------------------------------------------------------------------------


def test_an_outbox_keeps_the_envelope_as_it_is(transport: SqlTransport, shop: sa.Engine, an_envelope: Maker) -> None:
    envelopes = [an_envelope(1, queue="media"), an_envelope(1, queue="feed", ordering_key="42")]
    with Session(shop) as session:
        transport.bound_to(session, relay_to="rabbit").send(lambda: envelopes)
        session.commit()

    deliveries = transport.receive(["outbox/rabbit"], limit=10, lease=60, wait=0)

    assert [delivery.envelope for delivery in deliveries] == envelopes
    assert {delivery.queue for delivery in deliveries} == {"outbox/rabbit"}
    assert ids(transport, "media") == []


# --- what cannot be joined -----------------------------------------------------------------------------


def test_what_is_no_session_is_refused(transport: SqlTransport, shop: sa.Engine) -> None:
    for thing in (None, "session", shop, sessionmaker(shop)):
        with pytest.raises(SessionError, match="cannot be joined"):
            transport.bound_to(thing)


def test_a_session_that_must_be_begun_is_told_so(transport: SqlTransport, shop: sa.Engine, an_envelope: Maker) -> None:
    with Session(shop, autobegin=False) as session:
        with pytest.raises(SessionError, match="begin"):
            transport.bound_to(session).send(lambda: [an_envelope(1)])
        with session.begin():
            transport.bound_to(session).send(lambda: [an_envelope(2)])

    assert ids(transport) == ["id-2"]


def test_a_closed_transport_joins_nothing_more(transport: SqlTransport, shop: sa.Engine, an_envelope: Maker) -> None:
    with Session(shop) as session:
        sender = transport.bound_to(session)
        transport.close()
        with pytest.raises(TransportClosedError):
            transport.bound_to(session)
        with pytest.raises(TransportClosedError):
            sender.send(lambda: [an_envelope(1)])
