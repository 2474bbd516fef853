"""Async listeners in a transaction of the application's, as each executor calls them, in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.util import await_only

import relevo
from relevo import App, Call, ConfigurationError, Event, Nack, Release, RunOptions
from relevo._listener.process_loop import SMALL_WORK, process_loop
from relevo._worker.executor import Handling, Work
from relevo._worker.transaction import NO_TRANSACTION
from relevo_memory import MemoryTransport

pytest.importorskip("aiosqlite")
pytest.importorskip("greenlet")
asyncio_extension: Any = pytest.importorskip("sqlalchemy.ext.asyncio")

_TABLES = sa.MetaData()
SHIPPED = sa.Table("shipped", _TABLES, sa.Column("number", sa.Integer))

ALL_WAYS = pytest.mark.parametrize("execution", ["inline", "threads", "async"])


@pytest.fixture(name="engine")
def _engine(tmp_path: Path) -> Iterator[sa.Engine]:
    """Return an engine to look at the rows with."""
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'rows.db'}")
    _TABLES.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture(name="sessions")
def _sessions(engine: sa.Engine) -> Iterator[Any]:
    """Return what makes the sessions of listeners."""
    address = engine.url.set(drivername="sqlite+aiosqlite")
    of_listeners = asyncio_extension.create_async_engine(address, poolclass=sa.AsyncAdaptedQueuePool)
    yield asyncio_extension.async_sessionmaker(of_listeners)
    process_loop.run(of_listeners.dispose(), "the test")


@pytest.fixture(name="app")
def _app() -> App:
    return App(transports={"main": MemoryTransport()}, routes={"*": "main", "now.*": "now"}, source="shop")


def shipped(engine: sa.Engine) -> list[int]:
    with engine.connect() as connection:
        return sorted(connection.scalars(sa.select(SHIPPED.c.number)))


async def ship(session: Any, number: int = 1) -> None:
    await session.execute(sa.insert(SHIPPED).values(number=number))


def drain(app: App, execution: Any, **options: Any) -> relevo.Report:
    return app.drain(RunOptions(until_empty=True, settle=5, execution=execution, **options))


def waiting(app: App) -> list[str]:
    return [group.key for group in app.transport().waiting_groups(["default"], by="event")]


def dead(app: App) -> str:
    (letter,) = app.transport().dead_letters(["default"])
    return letter.error


# --- the transaction ----------------------------------------------------------------------------------------


@ALL_WAYS
def test_what_a_listener_wrote_is_there_if_it_is_done(
    app: App, engine: sa.Engine, sessions: Any, execution: str
) -> None:
    seen: list[object] = []

    @app.listener("order.paid", transactional=sessions, retry=relevo.Retry(2, first=0.0))
    async def pay(event: Event, call: Call) -> None:
        seen.append(isinstance(call.session, asyncio_extension.AsyncSession))
        await ship(call.session, call.attempt)
        await call.dispatch("order.shipped")
        seen.append(shipped(engine))
        if call.attempt == 1:
            raise ValueError("not yet")

    app.dispatch("order.paid")
    drain(app, execution, max_events=2)

    assert seen == [True, [], True, []]
    assert shipped(engine) == [2]
    assert waiting(app) == ["order.shipped"]


@ALL_WAYS
def test_each_listener_has_a_transaction_of_its_own(app: App, engine: sa.Engine, sessions: Any, execution: str) -> None:
    ran: list[str] = []

    @app.listener("order.paid", transactional=sessions, priority=1)
    async def first(event: Event, call: Call) -> None:
        ran.append("first")
        await ship(call.session, 1)

    @app.listener("order.paid", transactional=sessions, retry=relevo.Retry(2, first=0.0))
    async def second(event: Event, call: Call) -> None:
        ran.append("second")
        await ship(call.session, 2)
        if call.attempt == 1:
            raise ValueError("not yet")

    app.dispatch("order.paid")
    drain(app, execution)

    assert ran == ["first", "second", "second"]
    assert shipped(engine) == [1, 2]


@ALL_WAYS
def test_plain_and_async_ones_of_one_event_both_commit(
    app: App, engine: sa.Engine, sessions: Any, execution: str
) -> None:
    @app.listener("order.paid", transactional=sessionmaker(engine), priority=1)
    def first(event: Event, call: Call) -> None:
        call.session.execute(sa.insert(SHIPPED).values(number=1))

    @app.listener("order.paid", transactional=sessions)
    async def second(event: Event, call: Call) -> None:
        await ship(call.session, 2)

    app.dispatch("order.paid")
    drain(app, execution)

    assert shipped(engine) == [1, 2]


def test_many_run_at_once(app: App, engine: sa.Engine, sessions: Any) -> None:
    """Their transactions overlap; on SQLite, only the part in which they write does not."""
    together = asyncio.Barrier(10)

    @app.listener("order.paid", transactional=sessions)
    async def pay(event: Event, call: Call) -> None:
        await together.wait()
        await ship(call.session, event["number"])

    for number in range(10):
        app.dispatch("order.paid", {"number": number})
    drain(app, "async", concurrency=10)

    assert shipped(engine) == [*range(10)]


@ALL_WAYS
def test_a_listener_that_ends_its_transaction_has_failed(
    app: App, engine: sa.Engine, sessions: Any, execution: str
) -> None:
    @app.listener("order.paid", transactional=sessions, retry=1)
    async def pay(event: Event, call: Call) -> None:
        await ship(call.session, 1)
        await call.session.rollback()
        await ship(call.session, 2)

    app.dispatch("order.paid")
    drain(app, execution)

    assert "has ended the transaction of call.session" in dead(app)
    assert shipped(engine) == []


def test_a_listener_that_commits_has_failed(app: App, engine: sa.Engine, sessions: Any) -> None:
    @app.listener("order.paid", transactional=sessions, retry=1)
    async def pay(event: Event, call: Call) -> None:
        await ship(call.session)
        await call.session.commit()

    app.dispatch("order.paid")
    app.drain()

    assert "does not commit call.session" in dead(app)
    assert shipped(engine) == []


def test_a_savepoint_is_part_of_the_transaction(app: App, engine: sa.Engine, sessions: Any) -> None:
    @app.listener("order.paid", transactional=sessions, retry=1)
    async def pay(event: Event, call: Call) -> None:
        async with call.session.begin_nested():
            await ship(call.session)
        raise ValueError("never")

    app.dispatch("order.paid")
    app.drain()

    assert shipped(engine) == []


def test_an_app_dispatches_in_the_transaction(app: App, sessions: Any) -> None:
    @app.listener("order.paid", transactional=sessions, retry=1)
    async def pay(event: Event, call: Call) -> None:
        app.dispatch("order.shipped", session=call.session)
        async with call.session.begin_nested() as savepoint:
            await app.adispatch("order.lost", session=call.session)
            await savepoint.rollback()
        await app.adispatch("order.packed", session=call.session)
        if event["fails"]:
            raise ValueError("never")

    for fails in (True, False):
        app.dispatch("order.paid", {"fails": fails})
    app.drain(RunOptions(until_empty=True, max_events=2))

    assert sorted(waiting(app)) == ["order.packed", "order.shipped"]


def test_after_its_end_a_listener_has_no_session_and_its_connection_is_returned(app: App, sessions: Any) -> None:
    calls: list[Call] = []

    @app.listener("order.paid", transactional=sessions)
    async def pay(event: Event, call: Call) -> None:
        calls.append(call)
        await ship(call.session)

    app.dispatch("order.paid")
    app.drain()

    with pytest.raises(ConfigurationError, match="until it has ended"):
        print(calls[0].session)
    assert sessions.kw["bind"].pool.checkedout() == 0


def test_the_events_of_a_transaction_need_no_thread(app: App, sessions: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them may wait for the lock that the transaction has."""

    def refuse(*_: object) -> None:
        raise AssertionError("a thread was asked for")

    @app.listener("order.paid", transactional=sessions, retry=1)
    async def pay(event: Event, call: Call) -> None:
        await call.dispatch("order.shipped")

    monkeypatch.setattr(SMALL_WORK, "submit", refuse)
    app.dispatch("order.paid")
    app.drain(RunOptions(until_empty=True, max_events=1, execution="inline"))

    assert waiting(app) == ["order.shipped"]


@pytest.mark.parametrize("execution", ["inline", "async"])
def test_what_was_handed_out_again_is_given_back_for_a_moment(app: App, sessions: Any, execution: str) -> None:
    ran: list[str] = []

    @app.listener("order.paid", transactional=sessions)
    async def pay(event: Event, call: Call) -> None:
        ran.append(call.event_id)

    app.dispatch("order.paid")
    (delivery,) = app.transport().receive(["default"], limit=1, lease=60, wait=0)
    app.transport().settle([(delivery, Release())])
    handle = app.handle("main", app.listeners, checkpoint=None)
    assert isinstance(handle, Handling)

    if execution == "inline":
        outcome = handle(delivery)
    else:
        outcome = process_loop.run(handle.on_loop(delivery, turn), "the test")  # type: ignore[assignment]

    assert isinstance(outcome, Nack)
    assert outcome.reason != NO_TRANSACTION
    assert outcome.delay == pytest.approx(1.0, abs=1e-3)
    assert ran == []


async def turn(work: Work) -> Any:
    """Do *work* as the executor on a loop does."""
    assert isinstance(work, tuple)
    _, arguments, on_loop = work
    assert on_loop is not None
    return await on_loop(*arguments)


# --- cancellation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("execution", ["threads", "async"])
def test_at_its_time_limit_it_is_rolled_back_and_runs_again(
    app: App, engine: sa.Engine, sessions: Any, execution: str, caplog: pytest.LogCaptureFixture
) -> None:
    @app.listener("order.paid", transactional=sessions, time_limit=1.0, retry=relevo.Retry(2, first=0.0))
    async def pay(event: Event, call: Call) -> None:
        await ship(call.session, call.attempt)
        if call.attempt == 1:
            await asyncio.sleep(600)

    app.dispatch("order.paid")
    report = drain(app, execution, concurrency=2)

    assert shipped(engine) == [2]
    assert (report.done, report.retry_reasons) == (1, {"listener-failed": 1})
    assert "TimeLimitExceededError" in caplog.text
    assert sessions.kw["bind"].pool.checkedout() == 0


@pytest.mark.parametrize("execution", ["threads", "async"])
def test_the_time_limit_covers_the_commit(
    app: App, engine: sa.Engine, sessions: Any, execution: str, caplog: pytest.LogCaptureFixture
) -> None:
    def wait(_: Session) -> None:
        await_only(asyncio.sleep(600))

    @app.listener("order.paid", transactional=sessions, time_limit=1.0, retry=relevo.Retry(2, first=0.0))
    async def pay(event: Event, call: Call) -> None:
        await ship(call.session, call.attempt)
        if call.attempt == 1:
            sa.event.listen(call.session.sync_session, "before_commit", wait)

    app.dispatch("order.paid")
    report = drain(app, execution, concurrency=2)

    assert shipped(engine) == [2]
    assert (report.done, report.retry_reasons) == (1, {"listener-failed": 1})
    assert "TimeLimitExceededError" in caplog.text


@ALL_WAYS
def test_one_that_cancels_itself_has_failed_and_the_next_one_runs(
    app: App, engine: sa.Engine, sessions: Any, execution: str
) -> None:
    @app.listener("order.paid", transactional=sessions, retry=1, priority=1)
    async def first(event: Event, call: Call) -> None:
        await ship(call.session, 1)
        for task in asyncio.all_tasks():
            task.cancel()
        await asyncio.sleep(600)

    @app.listener("order.paid", transactional=sessions, retry=1)
    async def second(event: Event, call: Call) -> None:
        await ship(call.session, 2)

    app.dispatch("order.paid")
    drain(app, execution)

    assert "CancelledError" in dead(app)
    assert shipped(engine) == [2]
    assert sessions.kw["bind"].pool.checkedout() == 0


@ALL_WAYS
def test_one_that_is_cancelled_once_more_is_rolled_back_before_its_failure_counts(
    app: App, engine: sa.Engine, sessions: Any, execution: str
) -> None:
    """The cancellation arrives at the first await after the listener, which is the rollback."""

    @app.listener("order.paid", transactional=sessions, retry=1)
    async def pay(event: Event, call: Call) -> None:
        await ship(call.session)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        raise ValueError("never")

    app.dispatch("order.paid")
    drain(app, execution)

    assert dead(app).endswith("ValueError: never")
    assert shipped(engine) == []
    assert sessions.kw["bind"].pool.checkedout() == 0


@ALL_WAYS
@pytest.mark.parametrize("turns", [0, 1, 2])
def test_if_the_rollback_itself_is_cancelled_the_transaction_ends_nevertheless(
    app: App, engine: sa.Engine, sessions: Any, execution: str, turns: int
) -> None:
    """Before it has begun, inside it, or later: each await is a turn of the loop."""

    def cancel_all(left: int) -> None:
        if left:
            asyncio.get_running_loop().call_soon(cancel_all, left - 1)
            return
        for task in asyncio.all_tasks():
            task.cancel()

    @app.listener("order.paid", transactional=sessions, retry=1)
    async def pay(event: Event, call: Call) -> None:
        await ship(call.session)
        asyncio.get_running_loop().call_soon(cancel_all, turns)
        raise ValueError("never")

    app.dispatch("order.paid")
    drain(app, execution)

    assert dead(app).endswith("ValueError: never")
    assert shipped(engine) == []
    assert sessions.kw["bind"].pool.checkedout() == 0


# --- registration -------------------------------------------------------------------------------------------


def test_the_transport_makes_no_session_for_it(app: App) -> None:
    with pytest.raises(ConfigurationError, match=r"is transactional and async; .* transactional=async_sessionmaker"):

        @app.listener("order.paid", transactional=True)
        async def pay(event: Event, call: Call) -> None: ...


def test_a_session_that_is_not_awaited_is_refused(app: App, engine: sa.Engine) -> None:
    @app.listener("order.paid", transactional=sessionmaker(engine), retry=1)
    async def pay(event: Event, call: Call) -> None:
        raise AssertionError("it would block the loop")

    app.dispatch("order.paid")
    app.drain()

    assert "expected what makes an AsyncSession of SQLAlchemy's" in dead(app)


def test_a_plain_one_gets_no_session_that_is_awaited(app: App, sessions: Any) -> None:
    @app.listener("order.paid", transactional=sessions, retry=1)
    def pay(event: Event, call: Call) -> None:
        raise AssertionError("it could not await")

    app.dispatch("order.paid")
    app.drain()

    assert "an AsyncSession is for listeners that are async def" in dead(app)


def test_a_scoped_session_is_refused(app: App, sessions: Any) -> None:
    scoped = asyncio_extension.async_scoped_session(sessions, scopefunc=asyncio.current_task)

    @app.listener("order.paid", transactional=scoped, retry=1)
    async def pay(event: Event, call: Call) -> None:
        raise AssertionError("its scope is another task")

    app.dispatch("order.paid")
    app.drain()

    assert "pass its async_sessionmaker" in dead(app)


def test_a_transport_without_async_sessions_refuses_it_at_the_start(sessions: Any) -> None:
    class OfOldTransport(MemoryTransport):
        takes_async_sessions = False

    app = App(transports={"main": OfOldTransport()}, routes={"*": "main"}, source="shop")

    @app.listener("order.paid", transactional=sessions)
    async def pay(event: Event, call: Call) -> None: ...

    with pytest.raises(ConfigurationError, match=r"OfOldTransport, .* takes no AsyncSession"):
        app.worker()


# --- steps ------------------------------------------------------------------------------------------------


@ALL_WAYS
@pytest.mark.parametrize("failing", ["step", "after the step", "row 0", "row 2", "end", ""])
def test_each_step_and_row_commits_once(
    app: App, sessions: Any, engine: sa.Engine, execution: Any, failing: str
) -> None:
    between: list[list[int]] = []

    @app.listener("order.paid", transactional=sessions, retry=relevo.Retry(2, first=0.0))
    async def pay(event: Event, call: Call) -> None:
        def fail_at(point: str) -> None:
            if call.attempt == 1 and point == failing:
                raise ValueError(point)

        async def add(number: int, point: str) -> None:
            await ship(call.session, number)
            await call.dispatch("order.shipped", {"number": number})
            fail_at(point)

        await call.step("first", add, 1, "step")
        between.append(shipped(engine))
        fail_at("after the step")
        async for row in call.cursor("rows", range(3)):
            await add(10 + row, f"row {row}")
        await add(20, "end")

    seen: list[int] = []
    app.add_listener("order.shipped", lambda event: seen.append(event["number"]), id="see")
    app.dispatch("order.paid")
    drain(app, execution)

    assert between[0] == [1]
    assert shipped(engine) == sorted(seen) == [1, 10, 11, 12, 20]


@ALL_WAYS
def test_a_step_that_is_cancelled_after_a_write_ends_the_listener(
    app: App, sessions: Any, engine: sa.Engine, execution: Any
) -> None:
    @app.listener("order.paid", transactional=sessions, retry=relevo.Retry(2, first=0.0))
    async def pay(event: Event, call: Call) -> None:
        async def half() -> None:
            await ship(call.session, 2)
            if call.attempt == 1:
                raise asyncio.CancelledError

        await call.step("first", ship, call.session, 1)
        with suppress(asyncio.CancelledError):
            await call.step("half", half)

    app.dispatch("order.paid")
    report = drain(app, execution)

    assert (report.done, shipped(engine)) == (1, [1, 2])
