"""Transactional listeners on every engine: what they wrote is there if and only if they are done."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, scoped_session, sessionmaker

import relevo
import relevo_sql
from relevo import Ack, App, Call, Delivery, Envelope, Event, Nack
from relevo.errors import (
    CommitUnknownError,
    ConfigurationError,
    LeaseLostError,
    SessionError,
    TransportUnavailableError,
)
from relevo_sql import SqlTransport

from .on_server import in_a_thread, received

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]

_TABLES = sa.MetaData()
SHIPPED = sa.Table("shipped", _TABLES, sa.Column("number", sa.Integer))
STOCK = sa.Table("stock", _TABLES, sa.Column("id", sa.Integer, primary_key=True), sa.Column("n", sa.Integer))
"""What listeners write; a row that is there twice is an effect that happened twice."""


@pytest.fixture(
    name="driver",
    params=[
        "sqlite",
        pytest.param("postgresql+psycopg", marks=pytest.mark.postgresql),
        pytest.param("mariadb+pymysql", marks=pytest.mark.mariadb),
    ],
)
def _driver(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(name="url")
def _url(request: pytest.FixtureRequest, driver: str) -> str:
    url: str = "" if driver == "sqlite" else request.getfixturevalue("server_database")
    return url


@pytest.fixture(name="transport")
def _transport(opener: Opener, url: str) -> SqlTransport:
    return opener(url=url)


@pytest.fixture(name="shop")
def _shop(transport: SqlTransport, driver: str) -> Iterator[sa.Engine]:
    """Return the application's engine, of a database with the table of its rows."""
    engine = sa.create_engine(transport.url.set(drivername=driver))
    _TABLES.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture(name="app")
def _app(transport: SqlTransport, shop: sa.Engine) -> App:
    return App(transports={"main": transport}, routes={"*": "main"}, source="shop")


def shipped(engine: sa.Engine) -> list[int]:
    """Return the rows that listeners committed."""
    with engine.connect() as connection:
        return sorted(connection.scalars(sa.select(SHIPPED.c.number)))


def ship(session: Any, number: int = 1) -> None:
    """Write a row."""
    session.execute(sa.insert(SHIPPED).values(number=number))


def waiting(app: App) -> list[str]:
    """Return the names of the events that were dispatched and are not done."""
    return [group.key for group in app.transport().waiting_groups(["default"], by="event")]


def one(transport: SqlTransport, **options: Any) -> Delivery:
    """Receive the one event that is there."""
    (found,) = received(transport, **options)
    return found


# --- the transaction ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_own", [False, True])
def test_the_row_and_the_state_commit_together(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker, *, is_own: bool
) -> None:
    transport.send([an_envelope(1)])
    delivery = one(transport)
    transaction = transport.handling(delivery, sessions=sessionmaker(shop) if is_own else None)
    ship(transaction.session)

    before = shipped(shop)
    transaction.commit(b"done")
    transaction.close()
    transport.settle([(delivery, Nack())])

    assert (before, shipped(shop)) == ([], [1])
    assert one(transport).state == b"done"


@pytest.mark.usefixtures("shop")
def test_what_is_not_committed_is_rolled_back(transport: SqlTransport, shop: sa.Engine, an_envelope: Maker) -> None:
    transport.send([an_envelope(1)])
    delivery = one(transport)
    transaction = transport.handling(delivery)
    ship(transaction.session)

    transaction.close()
    transport.settle([(delivery, Nack())])

    assert shipped(shop) == []
    assert one(transport).state == b""


def test_after_the_next_hand_over_nothing_can_be_committed(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker
) -> None:
    transport.send([an_envelope(1)])
    delivery = one(transport, lease=0.05)
    transaction = transport.handling(delivery, sessions=sessionmaker(shop))
    (again,) = transport.receive(["default"], limit=1, lease=60, wait=30)
    ship(transaction.session)

    with pytest.raises(LeaseLostError):
        transaction.commit(b"done")
    transaction.close()

    assert shipped(shop) == []
    assert (again.lost_leases, again.state) == (1, b"")
    transport.settle([(again, Nack())])
    assert one(transport).state == b""


def test_a_lease_that_ended_is_held_until_the_next_hand_over(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker
) -> None:
    """The transaction of a listener may be what kept its worker from renewing it."""
    transport.send([an_envelope(1)])
    delivery = one(transport, lease=0.01)
    transaction = transport.handling(delivery)
    ship(transaction.session)
    time.sleep(0.05)

    transaction.commit(b"done")
    transaction.close()

    (again,) = transport.receive(["default"], limit=1, lease=60, wait=30)
    assert (again.lost_leases, again.state) == (1, b"done")
    assert shipped(shop) == [1]


def test_what_was_settled_cannot_be_committed(transport: SqlTransport, shop: sa.Engine, an_envelope: Maker) -> None:
    transport.send([an_envelope(1)])
    delivery = one(transport)
    transaction = transport.handling(delivery, sessions=sessionmaker(shop))
    transport.settle([(delivery, Nack())])
    ship(transaction.session)

    with pytest.raises(LeaseLostError):
        transaction.commit(b"done")
    transaction.close()

    assert shipped(shop) == []


@pytest.mark.parametrize("receipt", [None, b"", b"1", b"x 2", b"1 99999999999999999999", object(), (1, 2)])
@pytest.mark.usefixtures("shop")
def test_another_receipt_is_refused(transport: SqlTransport, an_envelope: Maker, receipt: object) -> None:
    delivery = Delivery(envelope=an_envelope(1), queue="default", receipt=receipt, enqueued_at=0.0)

    with pytest.raises(LeaseLostError):
        transport.handling(delivery)


def test_a_receipt_is_valid_in_another_instance_as_bytes(
    opener: Opener, url: str, transport: SqlTransport, shop: sa.Engine, an_envelope: Maker
) -> None:
    transport.send([an_envelope(1)])
    delivery = one(transport)
    receipt = transport.exported_receipt(delivery)
    other = opener(url=url)
    child = Delivery(envelope=delivery.envelope, queue="default", receipt=receipt, enqueued_at=0.0)
    transaction = other.handling(child)
    ship(transaction.session)

    transaction.commit(b"done")
    transaction.close()

    assert shipped(shop) == [1]
    assert transport.settle([(delivery, Ack())]) == []


def test_only_the_worker_commits(transport: SqlTransport, shop: sa.Engine, an_envelope: Maker) -> None:
    transport.send([an_envelope(1)])
    transaction = transport.handling(one(transport), sessions=sessionmaker(shop))
    ship(transaction.session)

    with pytest.raises(SessionError, match="does not commit"):
        transaction.session.commit()
    transaction.close()

    assert shipped(shop) == []


def test_a_state_that_is_too_long_is_refused(transport: SqlTransport, shop: sa.Engine, an_envelope: Maker) -> None:
    transport.send([an_envelope(1)])
    transaction = transport.handling(one(transport))
    ship(transaction.session)

    with pytest.raises(ConfigurationError, match="16384"):
        transaction.commit(bytes(relevo.MAX_STATE + 1))
    transaction.close()

    assert shipped(shop) == []


def test_a_session_of_another_database_is_refused_before_the_listener_writes(
    transport: SqlTransport, an_envelope: Maker, tmp_path: Any
) -> None:
    elsewhere = sa.create_engine(f"sqlite:///{tmp_path}/elsewhere.db")
    transport.send([an_envelope(1)])

    with pytest.raises(SessionError, match=r"another database|lacks relevo's tables"):
        transport.handling(one(transport), sessions=sessionmaker(elsewhere))

    elsewhere.dispose()


def test_a_session_that_commits_each_statement_is_refused(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker
) -> None:
    transport.send([an_envelope(1)])
    sessions = sessionmaker(shop.execution_options(isolation_level="AUTOCOMMIT"))

    with pytest.raises(SessionError, match="AUTOCOMMIT"):
        transport.handling(one(transport), sessions=sessions)


def test_a_listener_cannot_choose_to_commit_each_statement(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker
) -> None:
    transport.send([an_envelope(1)])
    transaction = transport.handling(one(transport), sessions=sessionmaker(shop))

    with pytest.raises(SessionError, match="AUTOCOMMIT"):
        transaction.session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
    with pytest.raises(SessionError, match="AUTOCOMMIT"):  # if it catches the error
        transaction.commit(b"done")
    transaction.close()


@pytest.mark.parametrize("made", [None, "session", object()])
@pytest.mark.usefixtures("shop")
def test_what_makes_no_session_is_refused(transport: SqlTransport, an_envelope: Maker, made: object) -> None:
    transport.send([an_envelope(1)])

    with pytest.raises(SessionError, match="sessionmaker"):
        transport.handling(one(transport), sessions=lambda: made)


def test_an_error_of_the_database_during_the_commit_is_a_refusal(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a constraint that is checked at the commit."""

    def refuse(_: object) -> None:
        raise shop.dialect.loaded_dbapi.IntegrityError(1, "a deferred constraint")

    transport.send([an_envelope(1)])
    delivery = one(transport)
    transaction = transport.handling(delivery, sessions=sessionmaker(shop))
    ship(transaction.session)

    with monkeypatch.context() as patched:
        patched.setattr(shop.dialect, "do_commit", refuse)
        with pytest.raises(sa.exc.IntegrityError):
            transaction.commit(b"done")
        transaction.close()

    assert shipped(shop) == []
    transport.settle([(delivery, Nack())])
    assert one(transport).state == b""


def test_a_savepoint_that_was_released_is_no_commit(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker
) -> None:
    def fail(session: Session) -> None:
        if not session.in_nested_transaction():
            raise OSError("before the commit")

    transport.send([an_envelope(1)])
    delivery = one(transport)
    transaction = transport.handling(delivery, sessions=sessionmaker(shop))
    with transaction.session.begin_nested():
        ship(transaction.session)
    sa.event.listen(transaction.session, "before_commit", fail)

    with pytest.raises(OSError, match="before the commit"):
        transaction.commit(b"done")
    transaction.close()

    assert shipped(shop) == []


def test_a_commit_before_anything_was_written_is_named(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker
) -> None:
    transport.send([an_envelope(1)])
    transaction = transport.handling(one(transport), sessions=sessionmaker(shop))

    with pytest.raises(SessionError, match=r"does not commit call\.session"):
        transaction.session.commit()
    transaction.close()


@pytest.mark.parametrize("error", [OSError, SystemExit, GeneratorExit])
def test_what_is_raised_after_the_commit_changes_nothing(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker, error: type[BaseException]
) -> None:
    def fail(_: object) -> None:
        raise error("after the commit")

    transport.send([an_envelope(1)])
    delivery = one(transport)
    transaction = transport.handling(delivery, sessions=sessionmaker(shop))
    ship(transaction.session)
    sa.event.listen(transaction.session, "after_commit", fail)

    transaction.commit(b"done")
    transaction.close()

    assert shipped(shop) == [1]
    transport.settle([(delivery, Nack())])
    assert one(transport).state == b"done"


def lose_the_answer(shop: sa.Engine, patch: pytest.MonkeyPatch, *, after: bool) -> None:
    """Break the connection of the next commit on *shop*, before or *after* it takes effect."""
    commit, driver = shop.dialect.do_commit, shop.dialect.loaded_dbapi

    def lose(connection: Any) -> None:
        patch.setattr(shop.dialect, "do_commit", commit)
        (commit if after else shop.dialect.do_rollback)(connection)
        raise driver.OperationalError(2013, "the connection is lost")

    patch.setattr(shop.dialect, "do_commit", lose)


@pytest.mark.parametrize("after", [False, True])
def test_after_a_commit_without_an_answer_the_database_is_asked(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker, monkeypatch: pytest.MonkeyPatch, *, after: bool
) -> None:
    transport.send([an_envelope(1)])
    delivery = one(transport)
    transaction = transport.handling(delivery, sessions=sessionmaker(shop))
    ship(transaction.session)
    lose_the_answer(shop, monkeypatch, after=after)

    if after:
        transaction.commit(b"done")
    else:
        with pytest.raises(sa.exc.OperationalError):
            transaction.commit(b"done")
    transaction.close()

    assert shipped(shop) == [1] * after
    transport.settle([(delivery, Nack())])
    assert one(transport).state == b"done" * after


def test_if_the_database_cannot_be_asked_either_the_commit_is_unknown(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object) -> bool:
        raise TransportUnavailableError("main", "unreachable")

    transport.send([an_envelope(1)])
    delivery = one(transport)
    transaction = transport.handling(delivery, sessions=sessionmaker(shop))
    ship(transaction.session)
    lose_the_answer(shop, monkeypatch, after=True)
    monkeypatch.setattr(transport._settler, "has_progress", unreachable)

    with pytest.raises(CommitUnknownError, match=r"the commit failed: .*; .*unreachable"):
        transaction.commit(b"done")
    transaction.close()

    transport.settle([(delivery, Nack())])
    assert one(transport).state == b"done"


def ends_by_rollback(session: Any) -> None:
    session.rollback()


def ends_by_rollback_and_goes_on(session: Any) -> None:
    session.rollback()
    ship(session, 2)


def ends_by_close(session: Any) -> None:
    session.close()


def ends_by_close_and_goes_on(session: Any) -> None:
    session.close()
    ship(session, 2)


def ends_as_a_context_manager(session: Any) -> None:
    with session:
        ship(session, 2)


def commits_the_connection(session: Any) -> None:
    session.connection().commit()


def rolls_back_in_words(session: Any) -> None:
    session.execute(sa.text("ROLLBACK"))
    ship(session, 2)


def rolls_back_the_driver(session: Any) -> None:
    session.connection().connection.rollback()
    ship(session, 2)


@pytest.mark.parametrize(
    "end",
    [
        ends_by_rollback,
        ends_by_rollback_and_goes_on,
        ends_by_close,
        ends_by_close_and_goes_on,
        ends_as_a_context_manager,
        commits_the_connection,
        rolls_back_in_words,
        rolls_back_the_driver,
        ship,
    ],
)
def test_a_listener_that_ends_its_transaction_leaves_nothing(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker, end: Callable[[Any], None]
) -> None:
    transport.send([an_envelope(1)])
    delivery = one(transport)
    transaction = transport.handling(delivery, sessions=sessionmaker(shop))
    ship(transaction.session)

    try:
        end(transaction.session)
        transaction.commit(b"done")
        ended = False
    except SessionError:
        ended = True
    transaction.close()
    transport.settle([(delivery, Nack())])

    assert ended is (end is not ship)
    assert shipped(shop) == ([] if ended else [1, 1])
    assert one(transport).state == (b"" if ended else b"done")


@pytest.mark.parametrize("end", [ends_by_rollback_and_goes_on, ends_by_close_and_goes_on])
def test_a_listener_that_goes_on_after_a_rollback_is_not_accused_of_two_databases(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker, end: Callable[[Any], None]
) -> None:
    transport.send([an_envelope(1)])
    transaction = transport.handling(one(transport), sessions=sessionmaker(shop))
    ship(transaction.session)
    end(transaction.session)

    with pytest.raises(SessionError, match=r"has ended the transaction of call\.session"):
        transaction.commit(b"done")
    transaction.close()


@pytest.mark.parametrize("more", [0, 1])
def test_a_listener_that_commits_in_words_has_failed(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker, more: int
) -> None:
    transport.send([an_envelope(1)])
    delivery = one(transport)
    transaction = transport.handling(delivery, sessions=sessionmaker(shop))
    ship(transaction.session)
    transaction.session.execute(sa.text("COMMIT"))
    for number in range(more):
        ship(transaction.session, number)

    with pytest.raises(SessionError, match="had ended before the listener returned"):
        transaction.commit(b"done")
    transaction.close()
    transport.settle([(delivery, Nack())])

    assert shipped(shop) == [1]
    assert one(transport).state == b""


def test_a_rollback_by_the_database_fails_the_listener_that_caught_its_error(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker
) -> None:
    with shop.begin() as connection:
        connection.execute(sa.insert(STOCK), [{"id": 1, "n": 0}, {"id": 2, "n": 0}])
    transport.send([an_envelope(1)])
    delivery = one(transport)
    transaction = transport.handling(delivery, sessions=sessionmaker(shop))
    ship(transaction.session, 1)
    let_the_database_roll_back(transaction.session, shop)
    with contextlib.suppress(sa.exc.DBAPIError):  # PostgreSQL refuses it; the others begin another transaction
        ship(transaction.session, 2)

    with pytest.raises(SessionError, match=r"had ended before the listener returned|begin_nested"):
        transaction.commit(b"done")
    transaction.close()
    transport.settle([(delivery, Nack())])

    assert shipped(shop) == []
    assert one(transport).state == b""


def let_the_database_roll_back(session: Session, shop: sa.Engine) -> None:
    """Catch an error with which the database of *shop* rolls back the transaction of *session*."""
    if shop.dialect.name != "mariadb":
        again = sa.insert(STOCK).prefix_with("OR ROLLBACK", dialect="sqlite").values(id=1, n=0)
        with contextlib.suppress(sa.exc.IntegrityError):
            session.execute(again)
        return

    def lock_the_other_way_round() -> None:
        with shop.connect() as other:
            # The more it has changed, the later InnoDB chooses it as the one to roll back.
            other.execute(sa.insert(SHIPPED), [{"number": 0}] * 100)
            other.exec_driver_sql("UPDATE stock SET n = 1 WHERE id = 2")
            is_ready.set()
            other.exec_driver_sql("UPDATE stock SET n = 1 WHERE id = 1")
            other.rollback()

    is_ready = threading.Event()
    session.execute(sa.text("UPDATE stock SET n = 1 WHERE id = 1"))
    with in_a_thread(lock_the_other_way_round):
        assert is_ready.wait(30)
        with contextlib.suppress(sa.exc.OperationalError):
            session.execute(sa.text("UPDATE stock SET n = 1 WHERE id = 2"))


def test_a_session_in_a_transaction_that_outlasts_it_is_refused(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker
) -> None:
    transport.send([an_envelope(1)])
    delivery = one(transport)
    with (
        shop.connect() as connection,
        connection.begin(),
        pytest.raises(SessionError, match="transaction outlasts it"),
    ):
        transport.handling(delivery, sessions=sessionmaker(connection))


def test_a_session_on_a_connection_of_its_own_is_committed(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker
) -> None:
    transport.send([an_envelope(1)])
    with shop.connect() as connection:
        transaction = transport.handling(one(transport), sessions=sessionmaker(connection))
        ship(transaction.session)
        transaction.commit(b"done")
        transaction.close()

    assert shipped(shop) == [1]


def test_a_session_with_engines_by_table_is_committed(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker
) -> None:
    transport.send([an_envelope(1)])
    binds: Any = {SHIPPED: shop, relevo_sql.event: shop}  # mypy knows fewer keys
    sessions = sessionmaker(binds=binds)
    transaction = transport.handling(one(transport), sessions=sessions)
    ship(transaction.session)

    transaction.commit(b"done")
    transaction.close()

    assert shipped(shop) == [1]


def test_a_session_on_two_databases_is_refused(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker, tmp_path: Any
) -> None:
    elsewhere = sa.create_engine(f"sqlite:///{tmp_path}/elsewhere.db")
    _TABLES.create_all(elsewhere)
    transport.send([an_envelope(1)])
    binds: Any = {SHIPPED: elsewhere, relevo_sql.event: shop}  # mypy knows fewer keys
    sessions = sessionmaker(binds=binds)
    transaction = transport.handling(one(transport), sessions=sessions)
    ship(transaction.session)

    with pytest.raises(SessionError, match="several databases"):
        transaction.commit(b"done")
    transaction.close()

    assert shipped(elsewhere) == []
    elsewhere.dispose()


@pytest.mark.parametrize("setting", ["autobegin", "twophase"])
def test_a_session_with_a_transaction_of_another_kind_is_refused(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker, setting: str
) -> None:
    transport.send([an_envelope(1)])
    settings: Any = {setting: setting == "twophase"}
    sessions = sessionmaker(shop, **settings)

    with pytest.raises(SessionError, match="pass one without that setting"):
        transport.handling(one(transport), sessions=sessions)


def test_a_savepoint_before_all_else_is_part_of_the_transaction(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker
) -> None:
    """SQLite's driver begins no transaction for a savepoint, which would commit at its end."""
    transport.send([an_envelope(1)])
    transaction = transport.handling(one(transport), sessions=sessionmaker(shop))
    with transaction.session.begin_nested():
        ship(transaction.session)

    transaction.close()

    assert shipped(shop) == []


def test_an_error_that_the_listener_ignored_is_not_blamed_on_the_server(
    transport: SqlTransport, shop: sa.Engine, an_envelope: Maker
) -> None:
    transport.send([an_envelope(1)])
    transaction = transport.handling(one(transport), sessions=sessionmaker(shop))
    ship(transaction.session)
    with contextlib.suppress(sa.exc.DBAPIError):
        transaction.session.execute(sa.text("SELECT nothing FROM nowhere"))

    aborts = shop.dialect.name == "postgresql"
    with pytest.raises(SessionError, match="begin_nested") if aborts else contextlib.nullcontext():
        transaction.commit(b"done")
    transaction.close()

    assert shipped(shop) == ([] if aborts else [1])


def test_on_sqlite_a_session_waits_for_the_lock_as_long_as_the_transport(opener: Opener, an_envelope: Maker) -> None:
    """The application's engine waits for as long as its connections do, which is five seconds by default."""
    transport = opener()
    engine = sa.create_engine(transport.url, connect_args={"timeout": 0})
    _TABLES.create_all(engine)
    transport.send([an_envelope(1)])
    transaction = transport.handling(one(transport), sessions=sessionmaker(engine))
    writer = sqlite3.connect(transport.url.database or "", isolation_level=None, check_same_thread=False)
    writer.execute("BEGIN IMMEDIATE")

    with in_a_thread(partial(let_go_later, writer)):
        ship(transaction.session)
        waits = transaction.session.execute(sa.text("PRAGMA busy_timeout")).scalar()
        transaction.commit(b"done")
        transaction.close()

    assert (waits, shipped(engine)) == (0, [1])
    engine.dispose()


def let_go_later(writer: sqlite3.Connection) -> None:
    time.sleep(0.3)
    writer.rollback()
    writer.close()


def test_a_session_that_is_in_use_is_refused(transport: SqlTransport, shop: sa.Engine, an_envelope: Maker) -> None:
    transport.send([an_envelope(1)])
    delivery = one(transport)
    session = Session(shop)
    ship(session)

    with pytest.raises(SessionError, match="in use already"):
        transport.handling(delivery, sessions=lambda: session)

    session.close()


# --- listeners ----------------------------------------------------------------------------------------------


def test_a_listener_that_raises_leaves_nothing_and_runs_again(app: App, shop: sa.Engine) -> None:
    attempts: list[int] = []

    @app.listener("order.paid", transactional=True, retry=relevo.Retry(2, first=0.0))
    def pay(event: Event, call: Call) -> None:
        attempts.append(call.attempt)
        ship(call.session)
        call.dispatch("order.shipped")
        if call.attempt == 1:
            raise ValueError("not yet")

    app.dispatch("order.paid")
    app.drain(relevo.RunOptions(until_empty=True, settle=5))

    assert attempts == [1, 2]
    assert shipped(shop) == [1]
    assert waiting(app) == ["order.shipped"]


def test_each_listener_has_a_transaction_of_its_own(app: App, shop: sa.Engine) -> None:
    ran: list[str] = []

    @app.listener("order.paid", transactional=True, priority=1)
    def first(event: Event, call: Call) -> None:
        ran.append("first")
        ship(call.session, 1)

    @app.listener("order.paid", transactional=True, retry=relevo.Retry(2, first=0.0))
    def second(event: Event, call: Call) -> None:
        ran.append("second")
        ship(call.session, 2)
        if call.attempt == 1:
            raise ValueError("not yet")

    app.dispatch("order.paid")
    app.drain(relevo.RunOptions(until_empty=True, settle=5))

    assert ran == ["first", "second", "second"]
    assert shipped(shop) == [1, 2]


def test_a_stop_of_the_propagation_commits_with_the_rows(app: App, shop: sa.Engine) -> None:
    ran: list[str] = []

    @app.listener("order.paid", transactional=True, priority=1)
    def first(event: Event, call: Call) -> None:
        ship(call.session)
        call.stop_propagation()

    @app.listener("order.paid")
    def second(event: Event) -> None:
        ran.append("second")

    app.dispatch("order.paid")
    app.drain()

    assert (ran, shipped(shop)) == ([], [1])


@pytest.mark.parametrize("execution", ["inline", "threads"])
def test_after_a_commit_of_which_nothing_is_known_the_listener_is_not_called_again(
    app: App, transport: SqlTransport, shop: sa.Engine, execution: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What happens when the connection breaks after COMMIT was sent, and the server is gone for a moment."""
    ran: list[int] = []

    def unreachable(*_: object) -> bool:
        raise TransportUnavailableError("main", "unreachable")

    @app.listener("order.paid", transactional=sessionmaker(shop))
    def pay(event: Event, call: Call) -> None:
        ran.append(call.attempt)
        ship(call.session)
        lose_the_answer(shop, monkeypatch, after=True)
        monkeypatch.setattr(transport._settler, "has_progress", unreachable)

    app.dispatch("order.paid")
    report = app.drain(relevo.RunOptions(until_empty=True, settle=10, execution=execution))

    assert (ran, shipped(shop)) == ([1], [1])
    assert (report.done, report.retry_reasons) == (1, {"commit-unknown": 1})


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("execution", ["inline", "threads"])
def test_after_a_step_of_which_nothing_is_known_the_next_run_goes_by_what_is_stored(
    app: App, transport: SqlTransport, shop: sa.Engine, execution: Any, monkeypatch: pytest.MonkeyPatch, *, after: bool
) -> None:
    ran: list[int] = []

    def unreachable(*_: object) -> bool:
        raise TransportUnavailableError("main", "unreachable")

    @app.listener("order.paid", transactional=sessionmaker(shop))
    def pay(event: Event, call: Call) -> None:
        def add(number: int) -> None:
            ran.append(number)
            ship(call.session, number)
            if ran == [1, 2]:
                lose_the_answer(shop, monkeypatch, after=after)
                monkeypatch.setattr(transport._settler, "has_progress", unreachable)

        for number in (1, 2, 3):
            with contextlib.suppress(CommitUnknownError):
                call.step(f"{number}", add, number)

    app.dispatch("order.paid")
    report = app.drain(relevo.RunOptions(until_empty=True, settle=10, execution=execution))

    assert ran == ([1, 2, 3] if after else [1, 2, 2, 3])
    assert shipped(shop) == [1, 2, 3]
    assert (report.done, report.retry_reasons) == (1, {"commit-unknown": 1})


def test_a_step_whose_event_was_handed_out_again_gives_it_back(
    app: App, transport: SqlTransport, shop: sa.Engine
) -> None:
    taken: list[Delivery] = []

    @app.listener("order.paid", transactional=sessionmaker(shop))
    def pay(event: Event, call: Call) -> None:
        call.step("first", ship, call.session, 1)
        time.sleep(0.1)
        taken.extend(received(transport, lease=60))
        call.step("second", ship, call.session, 2)

    handle = app.handle("main", app.listeners, checkpoint=None)
    app.dispatch("order.paid")
    outcome = handle(one(transport, lease=0.05))

    assert isinstance(outcome, Nack)
    assert (outcome.reason, len(taken)) == ("", 1)
    assert shipped(shop) == [1]


def test_what_other_functions_write_with_a_scoped_session_is_part_of_it(app: App, shop: sa.Engine) -> None:
    scoped = scoped_session(sessionmaker(shop))

    def helper() -> None:
        ship(scoped)

    @app.listener("order.paid", transactional=scoped, retry=relevo.Retry(2, first=0.0))
    def pay(event: Event, call: Call) -> None:
        helper()
        if call.attempt == 1:
            raise ValueError("not yet")

    app.dispatch("order.paid")
    app.drain(relevo.RunOptions(until_empty=True, settle=5))

    assert shipped(shop) == [1]
    assert not scoped.registry.has()


def test_what_an_earlier_listener_left_in_a_scoped_session_is_not_committed(app: App, shop: sa.Engine) -> None:
    scoped = scoped_session(sessionmaker(shop))

    @app.listener("order.paid", retry=1, priority=1)
    def careless(event: Event) -> None:
        ship(scoped, 99)
        raise ValueError("never")

    @app.listener("order.paid", transactional=scoped)
    def pay(event: Event, call: Call) -> None:
        ship(call.session)

    app.dispatch("order.paid")
    app.drain()

    assert shipped(shop) == [1]


def test_an_app_dispatches_in_the_transaction(app: App, shop: sa.Engine) -> None:
    @app.listener("order.paid", transactional=True, retry=1)
    def pay(event: Event, call: Call) -> None:
        app.dispatch("order.shipped", session=call.session)
        with call.session.begin_nested() as savepoint:
            app.dispatch("order.lost", session=call.session)
            savepoint.rollback()
        if event["fails"]:
            raise ValueError("never")

    for fails in (True, False):
        app.dispatch("order.paid", {"fails": fails})
    app.drain()

    assert waiting(app) == ["order.shipped"]


def test_states_are_signed(transport: SqlTransport, shop: sa.Engine) -> None:
    signing = relevo.Signing("vq3nY0wXk2uS8rTzB6mLcPj9hGdEaF1o")
    app = App(transports={"main": transport}, routes={"*": "main"}, source="shop", signing=signing)
    ran: list[str] = []

    @app.listener("order.paid", transactional=True, priority=1)
    def first(event: Event, call: Call) -> None:
        ran.append("first")

    @app.listener("order.paid", retry=relevo.Retry(2, first=0.0))
    def second(event: Event, call: Call) -> None:
        ran.append("second")
        if call.attempt == 1:
            raise ValueError("not yet")

    app.dispatch("order.paid")
    report = app.drain(relevo.RunOptions(until_empty=True, settle=5))

    assert ran == ["first", "second", "second"]
    assert report.done == 1


def test_a_transport_that_was_given_an_engine_makes_sessions_on_it(shop: sa.Engine) -> None:
    transport = SqlTransport(shop)
    app = App(transports={"main": transport}, routes={"*": "main"}, source="shop")
    seen: list[sa.Engine] = []

    @app.listener("order.paid", transactional=True)
    def pay(event: Event, call: Call) -> None:
        seen.append(call.session.get_bind())
        ship(call.session)

    app.dispatch("order.paid")
    app.drain()
    app.close()

    assert [engine.pool for engine in seen] == [shop.pool]
    assert shipped(shop) == [1]
