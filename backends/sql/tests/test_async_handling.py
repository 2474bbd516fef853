"""Async transactional listeners, with each driver: what they wrote is there if and only if they are done."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.util import await_only

import relevo
from relevo import App, Call, Delivery, Envelope, Event, Nack, RunOptions
from relevo._listener.process_loop import process_loop
from relevo._worker.transaction import NotCalled, Transactions, Uncommitted
from relevo.backend import HandlingTransaction
from relevo.errors import CommitUnknownError, LeaseLostError, SessionError, TransportUnavailableError
from relevo.testing import make_call
from relevo_sql import SqlTransport

from .on_server import ASYNC_ON_MARIADB, ASYNC_ON_POSTGRESQL, execute, received, usable_async_driver

pytest.importorskip("greenlet")
asyncio_extension: Any = pytest.importorskip("sqlalchemy.ext.asyncio")

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]

_TABLES = sa.MetaData()
SHIPPED = sa.Table("shipped", _TABLES, sa.Column("number", sa.Integer))
STOCK = sa.Table("stock", _TABLES, sa.Column("id", sa.Integer, primary_key=True), sa.Column("n", sa.Integer))

CANCELLING = pytest.mark.parametrize("execution", ["threads", "async"])
"""The executors that cancel an async listener at its time limit."""


@pytest.fixture(name="driver", params=["sqlite+aiosqlite", *ASYNC_ON_POSTGRESQL, *ASYNC_ON_MARIADB])
def _driver(request: pytest.FixtureRequest) -> str:
    return usable_async_driver(request.param)


@pytest.fixture(name="url")
def _url(request: pytest.FixtureRequest, driver: str) -> str:
    url: str = "" if driver.startswith("sqlite") else request.getfixturevalue("server_database")
    return url


@pytest.fixture(name="transport")
def _transport(opener: Opener, url: str) -> SqlTransport:
    return opener(url=url)


@pytest.fixture(name="shop")
def _shop(transport: SqlTransport, driver: str) -> Iterator[Any]:
    """Return the application's engine, of a database with the table of its rows."""
    address = transport.url.set(drivername=driver)
    engine = asyncio_extension.create_async_engine(address, poolclass=sa.AsyncAdaptedQueuePool)

    async def create() -> None:
        async with engine.begin() as connection:
            await connection.run_sync(_TABLES.create_all)

    awaited(create())
    yield engine
    awaited(engine.dispose())


@pytest.fixture(name="sessions")
def _sessions(shop: Any) -> Any:
    return asyncio_extension.async_sessionmaker(shop)


@pytest.fixture(name="app")
def _app(transport: SqlTransport) -> App:
    return App(transports={"main": transport}, routes={"*": "main"}, source="shop")


def awaited(coroutine: Any) -> Any:
    """Return the result of *coroutine*, on the loop that listeners run on."""
    return process_loop.run(coroutine, "the test")


def shipped(engine: Any) -> list[int]:
    """Return the rows that listeners committed."""

    async def read() -> list[int]:
        async with engine.connect() as connection:
            return sorted(await connection.scalars(sa.select(SHIPPED.c.number)))

    found: list[int] = awaited(read())
    return found


async def ship(session: Any, number: int = 1) -> None:
    """Write a row."""
    await session.execute(sa.insert(SHIPPED).values(number=number))


def followed(app: App, name: str = "order.shipped") -> list[str]:
    """Return a list of the ids of the events of *name* that were handled."""
    found: list[str] = []
    app.add_listener(name, lambda _, call: found.append(call.event_id), id=f"follow {name}")
    return found


def one(transport: SqlTransport, **options: Any) -> Delivery:
    """Receive the one event that is there."""
    (found,) = received(transport, **options)
    return found


def drain(app: App, execution: Any = None, **options: Any) -> relevo.Report:
    return app.drain(RunOptions(until_empty=True, settle=10, execution=execution, **options))


def commit(
    transport: SqlTransport,
    opened: Callable[[], HandlingTransaction],
    write: Callable[[Any], Any] = ship,
    *,
    state: bytes | None = b"done",
) -> None:
    """Open a transaction as for an async listener, *write* with its session, and commit it, unless *state* is none."""

    async def run() -> None:
        transaction = await transport.on_loop(opened)
        try:
            await write(transaction.session)
            if state is not None:
                await transport.on_loop(lambda: transaction.commit(state))
        finally:
            await transport.on_loop(transaction.close)

    awaited(run())


# --- the transaction ----------------------------------------------------------------------------------------


def test_the_row_and_the_state_commit_together(
    transport: SqlTransport, shop: Any, sessions: Any, an_envelope: Maker
) -> None:
    async def write(session: Any) -> None:
        await ship(session)
        seen.append(await asyncio.to_thread(shipped_elsewhere, transport))

    seen: list[list[int]] = []
    transport.send([an_envelope(1)])
    delivery = one(transport)

    commit(transport, lambda: transport.handling(delivery, sessions=sessions), write)
    transport.settle([(delivery, Nack())])

    assert (seen, shipped(shop)) == ([[]], [1])
    assert one(transport).state == b"done"
    assert shop.pool.checkedout() == 0


def shipped_elsewhere(transport: SqlTransport) -> list[int]:
    """Return the rows that another connection sees."""
    engine = sa.create_engine(transport.url)
    try:
        with engine.connect() as connection:
            return sorted(connection.scalars(sa.select(SHIPPED.c.number)))
    finally:
        engine.dispose()


def test_what_is_not_committed_is_rolled_back(
    transport: SqlTransport, shop: Any, sessions: Any, an_envelope: Maker
) -> None:
    transport.send([an_envelope(1)])
    delivery = one(transport)

    commit(transport, lambda: transport.handling(delivery, sessions=sessions), state=None)
    transport.settle([(delivery, Nack())])

    assert shipped(shop) == []
    assert one(transport).state == b""
    assert shop.pool.checkedout() == 0


def test_after_the_next_hand_over_nothing_can_be_committed(
    transport: SqlTransport, shop: Any, sessions: Any, an_envelope: Maker
) -> None:
    transport.send([an_envelope(1)])
    delivery = one(transport, lease=0.05)
    (again,) = transport.receive(["default"], limit=1, lease=60, wait=30)

    with pytest.raises(LeaseLostError):
        commit(transport, lambda: transport.handling(delivery, sessions=sessions))

    assert shipped(shop) == []
    transport.settle([(again, Nack())])
    assert one(transport).state == b""


def test_the_record_in_an_inbox_commits_once(transport: SqlTransport, shop: Any, sessions: Any) -> None:
    commit(transport, lambda: transport.handling_once("one", sessions=sessions))

    with pytest.raises(LeaseLostError):
        commit(transport, lambda: transport.handling_once("one", sessions=sessions), state=b"stopped")
    commit(transport, lambda: transport.handling_once("two", sessions=sessions), state=None)

    assert [transport.remembered(key) for key in ("one", "two")] == [b"done", None]
    assert shipped(shop) == [1]


def test_a_session_of_another_database_is_refused_before_the_listener_writes(
    transport: SqlTransport, an_envelope: Maker, tmp_path: Path
) -> None:
    pytest.importorskip("aiosqlite")
    elsewhere = asyncio_extension.create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/elsewhere.db")
    sessions = asyncio_extension.async_sessionmaker(elsewhere)
    transport.send([an_envelope(1)])
    delivery = one(transport)

    with pytest.raises(SessionError, match=r"another database|lacks relevo's tables"):
        awaited(transport.on_loop(lambda: transport.handling(delivery, sessions=sessions)))

    awaited(elsewhere.dispose())


def test_a_session_that_commits_each_statement_is_refused(
    transport: SqlTransport, shop: Any, an_envelope: Maker
) -> None:
    transport.send([an_envelope(1)])
    delivery = one(transport)
    sessions = asyncio_extension.async_sessionmaker(shop.execution_options(isolation_level="AUTOCOMMIT"))

    with pytest.raises(SessionError, match="AUTOCOMMIT"):
        awaited(transport.on_loop(lambda: transport.handling(delivery, sessions=sessions)))


def lose_the_answer(shop: Any, patch: pytest.MonkeyPatch, *, after: bool) -> None:
    """Break the connection of the next commit on *shop*, before or *after* it takes effect."""
    dialect = shop.dialect
    commit_it = dialect.do_commit

    def lose(connection: Any) -> None:
        patch.setattr(dialect, "do_commit", commit_it)
        (commit_it if after else dialect.do_rollback)(connection)
        raise dialect.loaded_dbapi.OperationalError(2013, "the connection is lost")

    patch.setattr(dialect, "do_commit", lose)


@pytest.mark.parametrize("after", [False, True])
def test_after_a_commit_without_an_answer_the_database_is_asked(
    transport: SqlTransport,
    shop: Any,
    sessions: Any,
    an_envelope: Maker,
    monkeypatch: pytest.MonkeyPatch,
    *,
    after: bool,
) -> None:
    """In another thread: the database may answer late, and the loop has other listeners."""
    asked: list[bool] = []
    has_progress = transport._settler.has_progress

    def ask(*arguments: Any) -> bool:
        asked.append(process_loop.is_here())
        return has_progress(*arguments)

    async def write(session: Any) -> None:
        await ship(session)
        lose_the_answer(shop, monkeypatch, after=after)

    transport.send([an_envelope(1)])
    delivery = one(transport)
    monkeypatch.setattr(transport._settler, "has_progress", ask)

    with contextlib.nullcontext() if after else pytest.raises(sa.exc.OperationalError):
        commit(transport, lambda: transport.handling(delivery, sessions=sessions), write)
    transport.settle([(delivery, Nack())])

    assert asked == [False]
    assert shipped(shop) == [1] * after
    assert one(transport).state == b"done" * after


def test_if_the_database_cannot_be_asked_either_the_commit_is_unknown(
    transport: SqlTransport, shop: Any, sessions: Any, an_envelope: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object) -> bool:
        raise TransportUnavailableError("main", "unreachable")

    async def write(session: Any) -> None:
        await ship(session)
        lose_the_answer(shop, monkeypatch, after=True)

    transport.send([an_envelope(1)])
    delivery = one(transport)
    monkeypatch.setattr(transport._settler, "has_progress", unreachable)

    with pytest.raises(CommitUnknownError, match=r"the commit failed: .*; .*unreachable"):
        commit(transport, lambda: transport.handling(delivery, sessions=sessions), write)
    transport.settle([(delivery, Nack())])

    assert one(transport).state == b"done"


@pytest.mark.parametrize("text", ["ROLLBACK", "COMMIT"])
def test_a_listener_that_ends_the_transaction_in_words_has_failed(
    transport: SqlTransport, shop: Any, sessions: Any, an_envelope: Maker, text: str
) -> None:
    async def write(session: Any) -> None:
        await ship(session, 1)
        await session.execute(sa.text(text))
        await ship(session, 2)

    transport.send([an_envelope(1)])
    delivery = one(transport)

    with pytest.raises(SessionError, match="had ended before the listener returned"):
        commit(transport, lambda: transport.handling(delivery, sessions=sessions), write)
    transport.settle([(delivery, Nack())])

    later = [2] * (shop.dialect.driver == "asyncpg")  # it begins no other transaction: each statement commits
    assert shipped(shop) == [1] * (text == "COMMIT") + later
    assert one(transport).state == b""


def test_a_savepoint_before_all_else_is_part_of_the_transaction(
    transport: SqlTransport, shop: Any, sessions: Any, an_envelope: Maker
) -> None:
    async def write(session: Any) -> None:
        async with session.begin_nested():
            await ship(session)

    transport.send([an_envelope(1)])
    delivery = one(transport)

    commit(transport, lambda: transport.handling(delivery, sessions=sessions), write, state=None)

    assert shipped(shop) == []


# --- listeners ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("execution", ["inline", "threads", "async"])
def test_a_listener_that_raises_leaves_nothing_and_runs_again(
    app: App, shop: Any, sessions: Any, execution: str
) -> None:
    attempts: list[int] = []

    @app.listener("order.paid", transactional=sessions, retry=relevo.Retry(2, first=0.0))
    async def pay(event: Event, call: Call) -> None:
        attempts.append(call.attempt)
        await ship(call.session)
        await call.dispatch("order.shipped")
        if call.attempt == 1:
            raise ValueError("not yet")

    shipments = followed(app)
    app.dispatch("order.paid")
    drain(app, execution)

    assert attempts == [1, 2]
    assert shipped(shop) == [1]
    assert len(shipments) == 1


def test_many_at_once_each_commit_once(app: App, shop: Any, sessions: Any) -> None:
    @app.listener("order.paid", transactional=sessions, priority=1)
    async def pay(event: Event, call: Call) -> None:
        await ship(call.session, event["number"])
        await call.dispatch("order.shipped")

    @app.listener("order.paid", transactional=sessions, retry=relevo.Retry(2, first=0.0))
    async def pack(event: Event, call: Call) -> None:
        await ship(call.session, 100 + event["number"])
        if call.attempt == 1:
            raise ValueError("not yet")

    shipments = followed(app)
    for number in range(20):
        app.dispatch("order.paid", {"number": number})
    report = drain(app, "async", concurrency=10)

    assert shipped(shop) == [*range(20), *range(100, 120)]
    assert (report.done, report.dead) == (40, 0)
    assert len(set(shipments)) == 20
    assert shop.pool.checkedout() == 0


def test_listeners_that_begin_at_once_look_at_the_database_once(app: App, shop: Any, sessions: Any) -> None:
    """Each look has a connection of its own, and a server has not one for each of a thousand listeners."""

    def note(driver: Any, _: object) -> None:
        if asyncio._get_running_loop() is not None:  # else it is one of the transport's
            opened.append(driver)

    opened: list[Any] = []
    before_commits: list[int] = []
    all_began = asyncio.Barrier(20)

    @app.listener("order.paid", transactional=sessions)
    async def pay(event: Event, call: Call) -> None:
        await all_began.wait()
        before_commits.append(len(opened))

    for _ in range(20):
        app.dispatch("order.paid")
    sa.event.listen(sa.Pool, "connect", note)
    try:
        report = drain(app, "async", concurrency=20)
    finally:
        sa.event.remove(sa.Pool, "connect", note)

    assert report.done == 20
    assert before_commits[0] <= 2, "one of the engine's pool, and one beside it"


@pytest.mark.parametrize("execution", ["inline", "async"])
def test_after_a_commit_of_which_nothing_is_known_the_listener_is_not_called_again(
    app: App, transport: SqlTransport, shop: Any, sessions: Any, execution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []

    def unreachable(*_: object) -> bool:
        raise TransportUnavailableError("main", "unreachable")

    @app.listener("order.paid", transactional=sessions)
    async def pay(event: Event, call: Call) -> None:
        ran.append(call.attempt)
        await ship(call.session)
        lose_the_answer(shop, monkeypatch, after=True)
        monkeypatch.setattr(transport._settler, "has_progress", unreachable)

    app.dispatch("order.paid")
    report = drain(app, execution)

    assert (ran, shipped(shop)) == ([1], [1])
    assert (report.done, report.retry_reasons) == (1, {"commit-unknown": 1})


def test_an_app_dispatches_in_the_transaction(app: App, shop: Any, sessions: Any) -> None:
    @app.listener("order.paid", transactional=sessions, retry=1)
    async def pay(event: Event, call: Call) -> None:
        await ship(call.session)
        await app.adispatch("order.shipped", session=call.session)
        async with call.session.begin_nested() as savepoint:
            app.dispatch("order.lost", session=call.session)
            await savepoint.rollback()
        if event["fails"]:
            raise ValueError("never")

    shipments, lost = followed(app), followed(app, "order.lost")
    for fails in (True, False):
        app.dispatch("order.paid", {"fails": fails})
    drain(app)

    assert shipped(shop) == [1]
    assert (len(shipments), lost) == (1, [])


# --- with an inbox ------------------------------------------------------------------------------------------


Run = Callable[[Callable[[Call], Any]], tuple[Call, object]]


@pytest.fixture(name="run")
def _run(transport: SqlTransport, sessions: Any) -> Run:
    """Return what handles one event of a transport without transactions; it returns the call, and how it ended."""

    async def pay(event: Event, call: Call) -> None: ...

    app = App(routes={"*": "now"})
    app.add_listener("order.paid", pay, transactional=sessions)
    (listener,) = app.listeners
    envelope = Envelope(id="1", source="shop", name="order.paid", body=b"{}")
    delivery = Delivery(envelope=envelope, queue="default", attempt=1, lost_leases=0, receipt=object(), enqueued_at=0.0)
    transactions = Transactions(outbox=transport, service="shop")

    def run(work: Callable[[Call], Any]) -> tuple[Call, object]:
        call = make_call(Event("order.paid"))
        about: Any = {"delivery": delivery, "call": call, "listener": listener, "state": bytes, "noted": bytes}
        return call, awaited(transactions.run_on_loop(lambda: work(call), contextlib.nullcontext, **about))

    return run


@pytest.mark.parametrize("stops", [False, True])
def test_a_listener_that_the_inbox_remembers_is_not_called(
    run: Run, transport: SqlTransport, shop: Any, monkeypatch: pytest.MonkeyPatch, *, stops: bool
) -> None:
    """It is asked in another thread, since the loop has other listeners."""
    remembered, asked = transport.remembered, []

    def ask(key: str) -> bytes | None:
        asked.append(process_loop.is_here())
        return remembered(key)

    async def work(call: Call) -> None:
        await ship(call.session)
        if stops:
            call.stop_propagation()

    monkeypatch.setattr(transport, "remembered", ask)
    run(work)
    again, ended = run(work)

    assert (again.stopped, ended) == (stops, None)
    assert asked == [False, False]
    assert shipped(shop) == [1]


def test_a_commit_of_which_nothing_is_known_is_one_apart_from_the_event(
    run: Run, transport: SqlTransport, shop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(_: str) -> bool:
        raise TransportUnavailableError("main", "unreachable")

    async def work(call: Call) -> None:
        await ship(call.session)
        lose_the_answer(shop, monkeypatch, after=True)

    monkeypatch.setattr(transport._inbox, "has", unreachable)

    assert run(work)[1] is Uncommitted.UNKNOWN_APART
    assert run(work)[1] is None
    assert shipped(shop) == [1]


def test_without_the_inbox_the_listener_is_not_called(run: Run, transport: SqlTransport) -> None:
    async def work(call: Call) -> None:
        raise AssertionError("there is no record of it")

    execute(transport.url, "DROP TABLE relevo_inbox")

    ended = run(work)[1]

    assert isinstance(ended, NotCalled)
    assert "relevo setup" in str(ended.error)


# --- cancellation -------------------------------------------------------------------------------------------


@CANCELLING
def test_at_its_time_limit_a_listener_is_rolled_back_and_runs_again(
    app: App, shop: Any, sessions: Any, execution: str, caplog: pytest.LogCaptureFixture
) -> None:
    @app.listener("order.paid", transactional=sessions, time_limit=1.0, retry=relevo.Retry(2, first=0.0))
    async def pay(event: Event, call: Call) -> None:
        await ship(call.session, call.attempt)
        if call.attempt == 1:
            await asyncio.sleep(600)

    app.dispatch("order.paid")
    report = drain(app, execution, concurrency=2)

    assert shipped(shop) == [2]
    assert (report.done, report.retry_reasons) == (1, {"listener-failed": 1})
    assert "TimeLimitExceededError" in caplog.text
    assert shop.pool.checkedout() == 0


@CANCELLING
def test_a_listener_that_catches_its_cancellation_and_returns_has_finished(
    app: App, shop: Any, sessions: Any, execution: str
) -> None:
    @app.listener("order.paid", transactional=sessions, time_limit=1.0, retry=relevo.Retry(5, first=0.0))
    async def pay(event: Event, call: Call) -> None:
        await ship(call.session, 1)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(600)
        await ship(call.session, 2)

    app.dispatch("order.paid")
    report = drain(app, execution, concurrency=2)

    assert shipped(shop) == [1, 2]
    assert report.done == 1


@CANCELLING
def test_the_time_limit_holds_while_the_worker_waits_for_the_lock_of_the_listener(
    app: App, shop: Any, sessions: Any, execution: str
) -> None:
    """On SQLite, the worker cannot settle the other event before the listener that has the lock is cancelled."""
    has_begun = asyncio.Event()

    @app.listener("order.paid", transactional=sessions, time_limit=1.0, retry=relevo.Retry(2, first=0.0))
    async def pay(event: Event, call: Call) -> None:
        await ship(call.session, call.attempt)
        has_begun.set()
        if call.attempt == 1:
            await asyncio.sleep(600)

    @app.listener("order.seen")
    async def see(event: Event) -> None:
        await has_begun.wait()

    app.dispatch("order.seen")
    app.dispatch("order.paid")
    report = drain(app, execution, concurrency=2)

    assert shipped(shop) == [2]
    assert (report.done, report.retry_reasons) == (2, {"listener-failed": 1})


@CANCELLING
@pytest.mark.parametrize("after", [False, True])
def test_at_its_time_limit_during_the_commit_the_database_is_asked(
    app: App,
    shop: Any,
    sessions: Any,
    execution: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    after: bool,
) -> None:
    """A commit that took effect makes the listener done; else it has failed, and runs again."""
    commit_it = shop.dialect.do_commit

    def hang(connection: Any) -> None:
        monkeypatch.setattr(shop.dialect, "do_commit", commit_it)
        if after:
            commit_it(connection)
        await_only(asyncio.sleep(600))

    @app.listener("order.paid", transactional=sessions, time_limit=1.0, retry=relevo.Retry(2, first=0.0))
    async def pay(event: Event, call: Call) -> None:
        await ship(call.session, call.attempt)
        if call.attempt == 1:
            monkeypatch.setattr(shop.dialect, "do_commit", hang)

    app.dispatch("order.paid")
    report = drain(app, execution, concurrency=2)

    assert shipped(shop) == ([1] if after else [2])
    assert (report.done, report.retry_reasons) == (1, {} if after else {"listener-failed": 1})
    assert shop.pool.checkedout() == 0


@CANCELLING
def test_at_its_time_limit_a_statement_that_waits_for_a_lock_is_ended(
    app: App, transport: SqlTransport, shop: Any, sessions: Any, execution: str
) -> None:
    if shop.dialect.name == "sqlite":
        pytest.skip("it locks no row, and the driver's thread waits for the lock of the file")

    @app.listener("order.paid", transactional=sessions, time_limit=1.0, retry=relevo.Retry(2, first=0.0))
    async def pay(event: Event, call: Call) -> None:
        await ship(call.session, call.attempt)
        if call.attempt == 1:
            await call.session.execute(sa.text("UPDATE stock SET n = 2 WHERE id = 1"))

    other = sa.create_engine(transport.url)
    with other.begin() as connection:
        connection.execute(sa.insert(STOCK).values(id=1, n=0))
    with other.connect() as connection:
        connection.execute(sa.text("UPDATE stock SET n = 1 WHERE id = 1"))
        app.dispatch("order.paid")
        report = drain(app, execution, concurrency=2)
        connection.rollback()
    other.dispose()

    assert shipped(shop) == [2]
    assert (report.done, report.retry_reasons) == (1, {"listener-failed": 1})
