"""Unique events on real databases: many at once, at each isolation level, and the rows that are left."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import attrs
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from relevo import Ack, Envelope, UniqueSender
from relevo.errors import RelevoError, SendError, SessionError
from relevo.testing import FakeClock
from relevo_sql import SqlTransport

from .on_server import execute

Opener = Callable[..., SqlTransport]

THREADS = 6


def event(event_id: str) -> Envelope:
    return Envelope(id=event_id, source="shop", name="feed.stale", body=b"{}")


def count(transport: SqlTransport, table: str) -> int:
    with transport._database.engine.connect() as connection:
        found: int = connection.exec_driver_sql(f"SELECT COUNT(*) FROM {table}").scalar_one()  # noqa: S608 - relevo's
    return found


def clear(transport: SqlTransport) -> None:
    held = transport.receive(["default"], limit=100, lease=60, wait=0)
    assert transport.settle([(each, Ack()) for each in held]) == []


@pytest.mark.parametrize("is_taken_over", [False, True], ids=["new key", "key of an event that is done"])
def test_of_many_at_once_one_is_accepted(
    opener: Opener, url: str, options: dict[str, Any], *, is_taken_over: bool
) -> None:
    transports = [opener(url=url, **options)]
    address = transports[0].url.render_as_string(hide_password=False)
    transports += [opener(url=address, **options) for _ in range(THREADS - 1)]
    for number in range(5):
        key, start = f"key {number}", threading.Barrier(THREADS)
        if is_taken_over:
            assert transports[0].send_unique([event(f"{number}-before")], key=key) is None
            clear(transports[0])

        def send(
            index: int, number: int = number, key: str = key, start: threading.Barrier = start
        ) -> tuple[str, str | None]:
            event_id = f"{number}-{index}"
            start.wait(30)
            return event_id, transports[index].send_unique([event(event_id)], key=key)

        with ThreadPoolExecutor(THREADS) as pool:
            answers = dict(pool.map(send, range(THREADS)))

        accepted = [event_id for event_id, living in answers.items() if living is None]
        assert len(accepted) == 1
        assert {living for living in answers.values() if living is not None} == set(accepted)
        held = transports[0].receive(["default"], limit=100, lease=60, wait=0)
        assert [attrs.asdict(each)["envelope"]["id"] for each in held] == accepted
        transports[0].settle([(each, Ack()) for each in held])


@pytest.mark.parametrize("is_new", [False, True], ids=["known key", "new key"])
@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_a_session_whose_snapshot_is_old_sends_no_second_event(
    opener: Opener, url: str, options: dict[str, Any], level: str, *, is_new: bool
) -> None:
    """SQLite, and PostgreSQL at a high isolation level, refuse the commit; then nothing of it is there."""
    transport = opener(url=url, **options)
    engine = sa.create_engine(transport._database.engine.url)
    if engine.name != "sqlite":
        engine = engine.execution_options(isolation_level=level)
    if engine.name not in ("sqlite", "postgresql") and level == "SERIALIZABLE":
        pytest.skip("it locks what it reads, so that no other event is sent")
    if not is_new:
        assert transport.send_unique([event("before")], key="key") is None
        clear(transport)
    answers: list[str | None] = []

    with Session(engine) as session:
        if engine.name not in ("sqlite", "postgresql"):
            with suppress(sa.exc.DBAPIError):  # MySQL, and MariaDB before 11.6.2, have no such setting, and read on
                session.execute(sa.text("SET SESSION innodb_snapshot_isolation = OFF"))
        session.execute(sa.text("SELECT COUNT(*) FROM relevo_unique")).all()
        session.execute(sa.text("SELECT COUNT(*) FROM relevo_event")).all()  # its snapshot
        assert transport.send_unique([event("first")], key="key") is None
        sender = transport.bound_to(session)
        assert isinstance(sender, UniqueSender)
        sender.send_unique(lambda: [event("second")], key="key", within=0.0, decided=answers.append)
        with suppress(RelevoError, sa.exc.SQLAlchemyError):
            session.commit()
    engine.dispose()

    held = transport.receive(["default"], limit=100, lease=60, wait=0)
    assert [attrs.asdict(each)["envelope"]["id"] for each in held] == ["first"]
    refuses = engine.name == "sqlite" or (engine.name == "postgresql" and level != "READ COMMITTED")
    assert answers == ["first"] or (refuses and not answers)


@pytest.mark.parametrize("since", ["begun", "done", "begun before and done"])
@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_a_session_whose_snapshot_is_old_is_not_refused_for_an_event_that_is_done(
    opener: Opener, url: str, options: dict[str, Any], level: str, since: str
) -> None:
    """In its snapshot the event that has the key still lives; no listener of it would see what the session writes."""
    transport = opener(url=url, **options)
    engine = sa.create_engine(transport._database.engine.url)
    if engine.name != "sqlite":
        engine = engine.execution_options(isolation_level=level)
    if engine.name not in ("sqlite", "postgresql") and level == "SERIALIZABLE":
        pytest.skip("it locks what it reads, so that no worker takes the event")
    assert transport.send_unique([event("first")], key="key") is None
    held = transport.receive(["default"], limit=1, lease=60, wait=0) if since == "begun before and done" else ()
    answers: list[str | None] = []
    committed = False

    with Session(engine) as session:
        if engine.name not in ("sqlite", "postgresql"):
            with suppress(sa.exc.DBAPIError):  # as above
                session.execute(sa.text("SET SESSION innodb_snapshot_isolation = OFF"))
        session.execute(sa.text("SELECT COUNT(*) FROM relevo_unique")).all()
        session.execute(sa.text("SELECT COUNT(*) FROM relevo_event")).all()  # its snapshot
        held = held or transport.receive(["default"], limit=1, lease=60, wait=0)
        if since != "begun":
            assert transport.settle([(each, Ack()) for each in held]) == []
        sender = transport.bound_to(session)
        assert isinstance(sender, UniqueSender)
        sender.send_unique(lambda: [event("second")], key="key", within=0.0, decided=answers.append)
        with suppress(RelevoError, sa.exc.SQLAlchemyError):
            session.commit()
            committed = True
    engine.dispose()

    living = "first" if since == "begun" else None
    assert answers == ([living] if committed else [])
    left = transport.receive(["default"], limit=100, lease=60, wait=0)
    is_sent = committed and since != "begun"
    assert [attrs.asdict(each)["envelope"]["id"] for each in left] == (["second"] if is_sent else [])
    refuses = engine.name == "sqlite" or (engine.name == "postgresql" and level != "READ COMMITTED")
    assert committed or refuses


def test_an_event_that_waits_stays_until_a_session_that_is_refused_for_it_has_committed(
    opener: Opener, url: str, options: dict[str, Any]
) -> None:
    """A worker that began it before would miss what the session writes."""
    transport = opener(url=url, **options)
    engine = sa.create_engine(transport._database.engine.url)
    if engine.name == "sqlite" or options:
        pytest.skip("SQLite has one writer at a time, and the portable dialect passes over no row that is locked")
    assert transport.send_unique([event("first")], key="key") is None
    answers: list[str | None] = []

    with engine.connect() as connection, connection.begin():
        sender = transport.bound_to(connection)
        assert isinstance(sender, UniqueSender)
        sender.send_unique(lambda: [event("second")], key="key", within=0.0, decided=answers.append)
        during = transport.receive(["default"], limit=1, lease=60, wait=0)
    engine.dispose()
    after = transport.receive(["default"], limit=1, lease=60, wait=0)

    assert (answers, len(during), len(after)) == (["first"], 0, 1)


def test_a_session_that_is_refused_for_a_held_event_lets_its_worker_go_on(
    opener: Opener, url: str, options: dict[str, Any]
) -> None:
    transport = opener(url=url, **options)
    engine = sa.create_engine(transport._database.engine.url)
    if engine.name != "postgresql" or options:
        pytest.skip("there the worker waits for the commit")
    assert transport.send_unique([event("first")], key="key") is None
    held = transport.receive(["default"], limit=1, lease=60, wait=0)

    with engine.connect() as connection, connection.begin():
        sender = transport.bound_to(connection)
        assert isinstance(sender, UniqueSender)
        sender.send_unique(lambda: [event("second")], key="key", within=0.0, decided=print)
        lost = transport.extend(held, lease=60)
    engine.dispose()

    assert lost == []


def test_two_sessions_that_take_keys_in_opposite_order_do_not_block_one_another(
    opener: Opener, url: str, options: dict[str, Any]
) -> None:
    transports = [opener(url=url, **options)]
    transports.append(opener(url=transports[0].url.render_as_string(hide_password=False), **options))
    engine = sa.create_engine(transports[0]._database.engine.url, **_waiting_long(transports[0]))
    if options:
        pytest.skip("the portable dialect cannot insert a key that another transaction inserts, and says so")
    for number in range(10):
        start = threading.Barrier(2)

        def commit(index: int, number: int = number, start: threading.Barrier = start) -> list[str | None]:
            answers: list[str | None] = []
            with Session(engine) as session:
                sender = transports[index].bound_to(session)
                assert isinstance(sender, UniqueSender)
                for key in ("ab", "ba")[index]:
                    made = event(f"{number}-{index}-{key}")
                    name = f"{number} {key}"
                    sender.send_unique(lambda made=made: [made], key=name, within=0.0, decided=answers.append)  # type: ignore[misc]
                start.wait(30)
                session.commit()
            return answers

        with ThreadPoolExecutor(2) as pool:
            one, other = pool.map(commit, range(2))

        assert sorted([one.count(None), other.count(None)]) == [0, 2]
    engine.dispose()


def _waiting_long(transport: SqlTransport) -> dict[str, Any]:
    """Return what makes an engine wait for another writer of a file."""
    return {"connect_args": {"timeout": 30}} if transport._database.dialect.is_file else {}


def test_the_result_of_a_commit_that_failed_stays_unknown(opener: Opener, url: str, options: dict[str, Any]) -> None:
    transport = opener(url=url, **options)
    engine = sa.create_engine(transport._database.engine.url)
    answers: list[str | None] = []

    with Session(engine) as session:
        sender = transport.bound_to(session)
        assert isinstance(sender, UniqueSender)
        sender.send_unique(lambda: [event("first")], key="key", within=0.0, decided=answers.append)

        @sa.event.listens_for(session.connection(), "commit")
        def fail(_: object) -> None:
            raise RuntimeError

        with pytest.raises(RuntimeError):
            session.commit()
    engine.dispose()

    assert answers == []
    assert transport.send_unique([event("second")], key="key") is None


def test_rows_of_keys_are_deleted_when_their_events_are_gone(
    opener: Opener, url: str, options: dict[str, Any], clock: FakeClock
) -> None:
    transport = opener(clock, url=url, **options)
    for number in range(12):
        transport.send_unique([event(f"done-{number}")], key=f"done {number}", within=number % 3)
    clear(transport)
    transport.send_unique([event("scheduled")], key="scheduled", delay=86_400.0)
    transport.send_unique([event("later")], key="later", within=86_400.0)
    assert count(transport, "relevo_unique") == 14

    clock.advance(1800.0)
    clear(transport)  # too early
    assert count(transport, "relevo_unique") == 14
    clock.advance(3600.0)
    for _ in range(4):  # each settlement looks at some
        transport.settle([])

    assert count(transport, "relevo_unique") == 2
    assert transport.send_unique([event("other")], key="scheduled") == "scheduled"
    assert transport.send_unique([event("other")], key="later") == "later"


def test_a_worker_goes_on_without_the_table_and_a_dispatch_says_what_to_run(
    opener: Opener, url: str, options: dict[str, Any]
) -> None:
    transport = opener(url=url, **options)
    execute(transport.url, "DROP TABLE relevo_unique")

    transport.send([event("plain")])
    clear(transport)
    with pytest.raises(RelevoError, match="relevo setup"):
        transport.send_unique([event("first")], key="key")
    engine = sa.create_engine(transport._database.engine.url)
    with Session(engine) as session:
        sender = transport.bound_to(session)
        assert isinstance(sender, UniqueSender)
        sender.send_unique(lambda: [event("first")], key="key", within=0.0, decided=print)
        with pytest.raises(RelevoError, match="relevo setup"):
            session.commit()
    engine.dispose()

    assert transport.lacking([]) == []
    assert "table relevo_unique" in transport.setup([])
    assert transport.send_unique([event("first")], key="key") is None


def test_a_key_is_not_stored_in_the_clear(opener: Opener, url: str, options: dict[str, Any]) -> None:
    transport = opener(url=url, **options)
    transport.send_unique([event("first")], key="ann@example.com")

    with transport._database.engine.connect() as connection:
        ((key,),) = connection.exec_driver_sql(
            f"SELECT {transport._database.dialect.compiler.identifier_preparer.quote('key')} FROM relevo_unique"  # noqa: S608 - relevo's
        ).all()
    assert len(key) == 64


def test_a_send_that_cannot_be_written_takes_no_key(opener: Opener, url: str, options: dict[str, Any]) -> None:
    transport = opener(url=url, **options)
    engine = transport._database.engine
    if engine.name == "sqlite":
        pytest.skip("it has no limit for a text")

    with pytest.raises(SendError):
        transport.send_unique([attrs.evolve(event("broken"), name="x" * 300)], key="key")

    assert transport.send_unique([event("first")], key="key") is None


def test_a_session_of_another_database_is_refused(opener: Opener, url: str, options: dict[str, Any]) -> None:
    transport = opener(url=url, **options)
    engine = sa.create_engine("sqlite://")
    with Session(engine) as session:
        sender = transport.bound_to(session)
        assert isinstance(sender, UniqueSender)

        with pytest.raises(SessionError):
            sender.send_unique(lambda: [event("first")], key="key", within=0.0, decided=print)
    engine.dispose()


@pytest.mark.parametrize("is_taken_over", [False, True], ids=["new key", "key of an event that is done"])
@pytest.mark.parametrize("way", ["at once", "in a session", "in a session with another key"])
def test_an_event_that_is_done_is_refused_within_its_time_although_the_clock_stands_still(
    opener: Opener, url: str, options: dict[str, Any], clock: FakeClock, way: str, *, is_taken_over: bool
) -> None:
    transport = opener(clock, url=url, **options)
    application = sa.create_engine(transport.url)
    if is_taken_over:
        assert transport.send_unique([event("before")], key="a") is None
        clear(transport)

    def send() -> str | None:
        if way == "at once":
            return transport.send_unique([event("first")], key="a", within=60.0)
        decided: list[str | None] = []
        with Session(application) as session:
            sender = transport.bound_to(session)
            assert isinstance(sender, UniqueSender)
            sender.send_unique(lambda: [event("first")], key="a", within=60.0, decided=decided.append)
            if way == "in a session with another key":
                sender.send_unique(lambda: [event("second")], key="b", within=0.0, decided=lambda _: None)
            session.commit()
        return decided[-1]

    assert send() is None
    assert send() is None  # it lives, and is no duplicate of itself
    clear(transport)

    assert send() == "first"
    application.dispose()
