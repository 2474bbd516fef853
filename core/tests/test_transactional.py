"""Listeners that are called in a transaction of the application's, as a worker in memory and a dispatch call them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

import relevo
from relevo import (
    App,
    Call,
    ConfigurationError,
    Envelope,
    Event,
    LocalDispatcher,
    Nack,
    Release,
    RunOptions,
    SessionError,
)
from relevo._worker.transaction import key_of
from relevo.testing import make_call
from relevo_memory import MemoryTransport

_TABLES = sa.MetaData()
SHIPPED = sa.Table("shipped", _TABLES, sa.Column("number", sa.Integer))


@pytest.fixture(name="engine")
def _engine() -> Iterator[sa.Engine]:
    engine = sa.create_engine("sqlite://", poolclass=sa.pool.StaticPool)
    _TABLES.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture(name="app")
def _app() -> App:
    return App(transports={"main": MemoryTransport()}, routes={"*": "main", "now.*": "now"}, source="shop")


def shipped(engine: sa.Engine) -> list[int]:
    with engine.connect() as connection:
        return sorted(connection.scalars(sa.select(SHIPPED.c.number)))


def ship(session: Any, number: int = 1) -> None:
    session.execute(sa.insert(SHIPPED).values(number=number))


def test_what_a_listener_wrote_is_there_if_it_is_done(app: App, engine: sa.Engine) -> None:
    @app.listener("order.paid", transactional=sessionmaker(engine), retry=relevo.Retry(2, first=0.0))
    def pay(event: Event, call: Call) -> None:
        ship(call.session, call.attempt)
        call.dispatch("order.shipped")
        if call.attempt == 1:
            raise ValueError("not yet")

    app.dispatch("order.paid")
    app.drain(RunOptions(until_empty=True, settle=0.1, max_events=2))

    assert shipped(engine) == [2]
    assert [each.key for each in app.transport().waiting_groups(["default"], by="event")] == ["order.shipped"]


def test_in_an_inbox_each_listener_of_each_event_in_each_queue_has_a_key_of_its_own() -> None:
    def key(service: str = "a", source: str = "b", event: str = "c", queue: str = "d", listener: str = "e") -> str:
        return key_of(service, Envelope(id=event, source=source, name="order.paid", body=b"{}"), queue, listener)

    same = [key(), key()]
    others = [key(service="x"), key(source="x"), key(event="x"), key(queue="x"), key(listener="x")]
    moved = [key("ab", "c", "d", "e", "f"), key("a", "bc", "d", "e", "f")]

    assert same[0] == same[1]
    assert len({*same, *others, *moved}) == 8


def test_in_memory_the_sessions_have_to_be_named(app: App) -> None:
    @app.listener("order.paid", transactional=True)
    def pay(event: Event, call: Call) -> None:
        raise AssertionError("it has no session")

    with pytest.raises(ConfigurationError, match=r"has no database .* transactional=sessionmaker\(engine\)"):
        app.worker()
    app.dispatch("order.paid")
    (delivery,) = app.transport().receive(["default"], limit=1, lease=60, wait=0)
    with pytest.raises(ConfigurationError, match=r"transactional=sessionmaker\(engine\)"):
        app.transport().handling(delivery)  # type: ignore[attr-defined]  # of an optional interface


@pytest.mark.parametrize("value", [3, "session", None])
def test_another_value_is_refused(app: App, value: Any) -> None:
    with pytest.raises(ConfigurationError, match="transactional: expected True, or a session factory"):

        @app.listener("order.paid", transactional=value)
        def pay(event: Event, call: Call) -> None: ...


def test_a_listener_that_takes_no_call_is_refused(app: App) -> None:
    with pytest.raises(ConfigurationError, match=r"takes no call, which has the session; write \(event, call\)"):

        @app.listener("order.paid", transactional=True)
        def pay(event: Event) -> None: ...


def test_another_listener_has_no_session(app: App) -> None:
    found: list[str] = []

    @app.listener("order.paid")
    def pay(event: Event, call: Call) -> None:
        try:
            print(call.session)
        except ConfigurationError as error:
            found.append(str(error))

    app.dispatch("order.paid")
    app.drain()

    assert len(found) == 1
    assert "call.session is for a transactional listener" in found[0]


def test_after_its_end_a_listener_has_no_session(app: App, engine: sa.Engine) -> None:
    calls: list[Call] = []

    @app.listener("order.paid", transactional=sessionmaker(engine))
    def pay(event: Event, call: Call) -> None:
        calls.append(call)

    app.dispatch("order.paid")
    app.drain()

    with pytest.raises(ConfigurationError, match="until it has ended"):
        print(calls[0].session)


def test_a_listener_that_commits_has_failed(app: App, engine: sa.Engine) -> None:
    @app.listener("order.paid", transactional=sessionmaker(engine), retry=1)
    def pay(event: Event, call: Call) -> None:
        ship(call.session)
        call.session.commit()

    app.dispatch("order.paid")
    app.drain()

    (dead,) = app.transport().dead_letters(["default"])
    assert "does not commit call.session" in dead.error
    assert shipped(engine) == []


def test_a_listener_whose_transaction_ended_unnoticed_has_failed(app: App, engine: sa.Engine) -> None:
    @app.listener("order.paid", transactional=sessionmaker(engine), retry=1)
    def pay(event: Event, call: Call) -> None:
        ship(call.session, 1)
        call.session.execute(sa.text("ROLLBACK"))
        ship(call.session, 2)

    app.dispatch("order.paid")
    report = app.drain()

    assert shipped(engine) == []
    assert report.dead == 1


def test_a_savepoint_before_all_else_is_part_of_the_transaction(app: App, engine: sa.Engine) -> None:
    @app.listener("order.paid", transactional=sessionmaker(engine), retry=1)
    def pay(event: Event, call: Call) -> None:
        with call.session.begin_nested():
            ship(call.session)
        raise ValueError("never")

    app.dispatch("order.paid")
    app.drain()

    assert shipped(engine) == []


def test_a_stop_of_the_propagation_counts_only_if_it_commits(app: App, engine: sa.Engine) -> None:
    ran: list[str] = []

    @app.listener("order.paid", transactional=sessionmaker(engine), priority=1, retry=relevo.Retry(2, first=0.0))
    def first(event: Event, call: Call) -> None:
        ran.append("first")
        if call.attempt == 1:
            call.stop_propagation()
            sa.event.listen(call.session, "before_commit", refuse)

    @app.listener("order.paid")
    def second(event: Event) -> None:
        ran.append("second")

    def refuse(_: object) -> None:
        raise ValueError("refused")

    app.dispatch("order.paid")
    app.drain(RunOptions(until_empty=True, settle=5))

    assert ran == ["first", "second", "first"]


def test_in_process_the_session_is_that_of_the_dispatch(app: App, engine: sa.Engine) -> None:
    @app.listener("now.paid", transactional=True)
    def pay(event: Event, call: Call) -> None:
        ship(call.session)

    with Session(engine) as session:
        app.dispatch("now.paid", session=session)
        session.rollback()
        assert shipped(engine) == []
        app.dispatch("now.paid", session=session)
        session.commit()

    assert shipped(engine) == [1]
    with pytest.raises(ConfigurationError, match=r"pass session= to a dispatch"):
        app.dispatch("now.paid")


def test_a_local_dispatcher_passes_its_session_on(engine: sa.Engine) -> None:
    dispatcher = LocalDispatcher()
    seen: list[Any] = []

    @dispatcher.listener("order.paid")
    def pay(event: Event, call: Call) -> None:
        seen.append(call.session)
        call.dispatch("order.shipped")

    @dispatcher.listener("order.shipped")
    def deliver(event: Event, call: Call) -> None:
        seen.append(call.session)

    with Session(engine) as session:
        dispatcher.dispatch("order.paid", session=session)

        assert seen == [session, session]


def test_a_unit_test_passes_a_session(engine: sa.Engine) -> None:
    def pay(event: Event, call: Call) -> None:
        ship(call.session)

    with Session(engine) as session:
        pay(Event("order.paid"), make_call(session=session))
        session.commit()

    assert shipped(engine) == [1]


def test_a_session_that_commits_each_statement_is_refused(app: App, engine: sa.Engine) -> None:
    sessions = sessionmaker(engine.execution_options(isolation_level="AUTOCOMMIT"))

    @app.listener("order.paid", transactional=sessions, retry=1)
    def pay(event: Event, call: Call) -> None:
        ship(call.session)
        raise ValueError("never")

    app.dispatch("order.paid")
    app.drain()

    (dead,) = app.transport().dead_letters(["default"])
    assert "AUTOCOMMIT" in dead.error
    assert shipped(engine) == []


def test_the_subject_is_released_after_the_commit(engine: sa.Engine) -> None:
    """Its session may be the one that is committed."""
    seen: list[str] = []
    numbers = relevo.SubjectType(type="number", cls=int, name=str, load=int, release=lambda _: seen.append("released"))
    app = App(transports={"main": MemoryTransport()}, routes={"*": "main"}, source="shop", subjects=[numbers])

    @app.listener("order.paid", transactional=sessionmaker(engine))
    def pay(event: Event, call: Call) -> None:
        assert call.subject == 7
        ship(call.session)
        sa.event.listen(call.session, "after_commit", lambda _: seen.append("committed"))

    app.dispatch(Event("order.paid", subject=7))
    app.drain()

    assert seen == ["committed", "released"]


def test_an_event_whose_transaction_is_refused_is_given_back_for_a_moment(app: App, engine: sa.Engine) -> None:
    """A store may take the outcome although it has refused the transaction: without a delay that would be a loop."""
    ran: list[str] = []

    @app.listener("order.paid", transactional=sessionmaker(engine))
    def pay(event: Event, call: Call) -> None:
        ran.append(call.event_id)

    app.dispatch("order.paid")
    (delivery,) = app.transport().receive(["default"], limit=1, lease=60, wait=0)
    app.transport().settle([(delivery, Release())])

    outcome = app.handle("main", app.listeners, checkpoint=None)(delivery)

    assert isinstance(outcome, Nack)
    assert outcome.delay == pytest.approx(1.0, abs=1e-3)
    assert ran == []


def test_what_makes_no_session_is_a_failure_that_says_so(app: App) -> None:
    @app.listener("order.paid", transactional=lambda: "session", retry=1)
    def pay(event: Event, call: Call) -> None: ...

    app.dispatch("order.paid")
    app.drain()

    (dead,) = app.transport().dead_letters(["default"])
    assert SessionError.__name__ in dead.error
    assert "such as a sessionmaker" in dead.error


def test_one_that_returns_a_coroutine_has_failed_and_wrote_nothing(app: App, engine: sa.Engine) -> None:
    async def later() -> None:
        raise AssertionError("it ran")

    @app.listener("order.paid", transactional=sessionmaker(engine), retry=1)
    def pay(event: Event, call: Call) -> object:
        ship(call.session)
        return later()

    app.dispatch("order.paid")
    app.drain()

    [dead] = app.transport().dead_letters(["default"], limit=1)
    assert "returned an awaitable, which is not awaited" in dead.error
    assert shipped(engine) == []
