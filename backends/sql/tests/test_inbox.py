"""The inbox: what a listener wrote for an event of another transport is there once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from relevo import App, Call, Delivery, Envelope, Event
from relevo._worker.transaction import NotCalled, Transactions, Uncommitted
from relevo.backend import HandlingTransaction
from relevo.errors import ConfigurationError, LeaseLostError, SessionError, TransportUnavailableError
from relevo.testing import FakeClock, make_call
from relevo_sql import SqlTransport
from relevo_sql._schema import inbox

from .on_server import execute, in_a_thread

Opener = Callable[..., SqlTransport]

_TABLES = sa.MetaData()
SHIPPED = sa.Table("shipped", _TABLES, sa.Column("number", sa.Integer))


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
def _transport(opener: Opener, url: str, options: dict[str, Any]) -> SqlTransport:
    return opener(url=url, **options)


@pytest.fixture(name="shop")
def _shop(transport: SqlTransport, driver: str) -> Iterator[sa.Engine]:
    """Return the application's engine, of a database with the table of its rows."""
    engine = sa.create_engine(transport.url.set(drivername=driver))
    _TABLES.create_all(engine)
    yield engine
    engine.dispose()


def shipped(engine: sa.Engine) -> list[int]:
    with engine.connect() as connection:
        return sorted(connection.scalars(sa.select(SHIPPED.c.number)))


def ship(session: Any, number: int = 1) -> None:
    session.execute(sa.insert(SHIPPED).values(number=number))


def commit_once(transport: SqlTransport, key: str) -> None:
    transaction = transport.handling_once(key)
    transaction.commit(b"done")
    transaction.close()


@pytest.mark.parametrize("is_own", [False, True])
def test_the_row_and_the_record_commit_together(transport: SqlTransport, shop: sa.Engine, *, is_own: bool) -> None:
    before = transport.remembered("one")
    transaction = transport.handling_once("one", sessions=sessionmaker(shop) if is_own else None)
    ship(transaction.session)

    transaction.commit(b"done")
    transaction.close()

    assert (before, transport.remembered("one"), transport.remembered("two")) == (None, b"done", None)
    assert shipped(shop) == [1]


def test_what_is_not_committed_is_not_remembered(transport: SqlTransport, shop: sa.Engine) -> None:
    transaction = transport.handling_once("one")
    ship(transaction.session)

    transaction.close()

    assert transport.remembered("one") is None
    assert shipped(shop) == []


def test_the_second_transaction_of_an_event_writes_nothing(transport: SqlTransport, shop: sa.Engine) -> None:
    """As when a broker delivered the event again while its first worker was still busy."""
    one, other = (transport.handling_once("one", sessions=sessionmaker(shop)) for _ in range(2))
    ship(one.session, 1)
    one.commit(b"done")
    one.close()
    ship(other.session, 2)

    with pytest.raises(LeaseLostError):
        other.commit(b"stopped")
    other.close()

    assert transport.remembered("one") == b"done"
    assert shipped(shop) == [1]


@pytest.mark.parametrize("after", [False, True])
def test_after_a_commit_without_an_answer_the_record_shows_what_happened(
    transport: SqlTransport, shop: sa.Engine, monkeypatch: pytest.MonkeyPatch, *, after: bool
) -> None:
    commit, driver = shop.dialect.do_commit, shop.dialect.loaded_dbapi

    def lose(connection: Any) -> None:
        (commit if after else shop.dialect.do_rollback)(connection)
        raise driver.OperationalError(2013, "the connection is lost")

    transaction = transport.handling_once("one", sessions=sessionmaker(shop))
    ship(transaction.session)
    with monkeypatch.context() as patched:
        patched.setattr(shop.dialect, "do_commit", lose)
        if after:
            transaction.commit(b"done")
        else:
            with pytest.raises(sa.exc.OperationalError):
                transaction.commit(b"done")
        transaction.close()

    assert shipped(shop) == [1] * after
    assert transport.remembered("one") == (b"done" if after else None)


def test_an_alias_is_remembered_too(transport: SqlTransport, shop: sa.Engine) -> None:
    renamed = transport.handling_once("new", aliases=["old"], sessions=sessionmaker(shop))
    earlier = transport.handling_once("old", sessions=sessionmaker(shop))
    renamed.commit(b"done")
    renamed.close()

    with pytest.raises(LeaseLostError):
        earlier.commit(b"done")
    earlier.close()

    assert [transport.remembered(key) for key in ("new", "old")] == [b"done", b"done"]


def test_a_key_that_is_named_twice_is_recorded_once(transport: SqlTransport, shop: sa.Engine) -> None:
    transaction = transport.handling_once("one", aliases=["one", "old", "old"], sessions=sessionmaker(shop))
    ship(transaction.session)
    transaction.commit(b"done")
    transaction.close()

    assert shipped(shop) == [1]
    assert [transport.remembered(key) for key in ("one", "old")] == [b"done", b"done"]


def test_of_two_at_the_same_time_one_commits(transport: SqlTransport, shop: sa.Engine) -> None:
    one, other = (transport.handling_once("one", sessions=sessionmaker(shop)) for _ in range(2))

    def ending(transaction: HandlingTransaction, number: int) -> str:
        try:
            ship(transaction.session, number)
            transaction.commit(b"done")
        except LeaseLostError:
            return "lost"
        finally:
            transaction.close()
        return "committed"

    with in_a_thread(lambda: ending(other, 2)) as ended:  # on a server, one waits for the record of the other
        ended.append(ending(one, 1))

    assert sorted(map(str, ended)) == ["committed", "lost"]
    assert len(shipped(shop)) == 1


def test_records_are_forgotten_in_time(opener: Opener, url: str, options: dict[str, Any], clock: FakeClock) -> None:
    transport = opener(clock, url=url, inbox_keep=3600.0, **options)
    for key in ("old", "new"):
        commit_once(transport, key)
        clock.advance(1800.0)
    clock.advance(60.0)

    assert [transport.remembered(key) for key in ("old", "new")] == [None, b"done"]


def test_records_are_forgotten_a_few_at_a_time(
    opener: Opener, url: str, options: dict[str, Any], clock: FakeClock
) -> None:
    """A statement that listed all of them could be larger than what the server takes, and would hold locks for long."""
    transport = opener(clock, url=url, inbox_keep=3600.0, **options)
    old = [{"key": f"old-{number}", "state": b"done", "handled_at": max(number, 600)} for number in range(1600)]
    engine = sa.create_engine(transport.url)
    left = []
    with engine.begin() as connection:
        connection.execute(sa.insert(inbox), old)

    for _ in range(4):
        transport.remembered("one")
        with engine.connect() as connection:
            left.append(connection.scalar(sa.select(sa.func.count()).select_from(inbox)))

    engine.dispose()
    assert left == [1100, 600, 101, 101]  # the rest of those with equal times in the next sweep


def test_records_that_cannot_be_forgotten_are_logged(
    opener: Opener, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    transport = opener(clock, inbox_keep=3600.0)
    commit_once(transport, "old")
    execute(
        transport.url,
        "CREATE TRIGGER refusal BEFORE DELETE ON relevo_inbox BEGIN SELECT RAISE(ABORT, 'not today'); END",
    )
    clock.advance(7200.0)

    with caplog.at_level("WARNING", logger="relevo.sql"):
        found = [transport.remembered("old")]
        clock.advance(60.0)
        found.append(transport.remembered("old"))  # the first failure may be an outage, which the work reports

    assert found == [b"done", b"done"]
    assert "the upkeep of" in caplog.text


def test_without_the_table_it_says_what_to_run(transport: SqlTransport, shop: sa.Engine) -> None:
    execute(transport.url, "DROP TABLE relevo_inbox")

    with pytest.raises(ConfigurationError, match="relevo setup"):
        transport.remembered("one")

    assert "table relevo_inbox" in transport.setup([])
    assert transport.remembered("one") is None


def test_a_second_setup_finds_everything(
    opener: Opener, url: str, options: dict[str, Any], transport: SqlTransport
) -> None:
    assert transport.setup([], dry_run=True) == []
    assert opener(url=url, setup=False, **options).setup([]) == []


@pytest.mark.usefixtures("shop")
def test_a_session_of_another_database_is_refused(transport: SqlTransport, tmp_path: Any) -> None:
    elsewhere = sa.create_engine(f"sqlite:///{tmp_path}/elsewhere.db")

    with pytest.raises(SessionError):
        transport.handling_once("one", sessions=sessionmaker(elsewhere))

    elsewhere.dispose()


# --- as a worker uses it --------------------------------------------------------------------------


Run = Callable[[Callable[[Call], object]], tuple[Call, Uncommitted | NotCalled | None]]


@pytest.fixture(name="made")
def _made() -> list[Session]:
    """Return the sessions of the application that were made."""
    return []


@pytest.fixture(name="run")
def _run(request: pytest.FixtureRequest, transport: SqlTransport, shop: sa.Engine, made: list[Session]) -> Run:
    """Return what handles one event of a transport without transactions; it returns the call, and how it ended."""

    def session() -> Session:
        made.append(Session(shop))
        return made[-1]

    app = App(routes={"*": "now"})
    aliases = getattr(request, "param", ())
    app.add_listener("order.paid", lambda event, call: None, id="pay", aliases=aliases, transactional=session)
    (listener,) = app.listeners
    envelope = Envelope(id="1", source="shop", name="order.paid", body=b"{}")
    delivery = Delivery(envelope=envelope, queue="default", attempt=1, lost_leases=0, receipt=object(), enqueued_at=0.0)
    transactions = Transactions(outbox=transport, service="shop")

    def run(work: Callable[[Call], object]) -> tuple[Call, Uncommitted | NotCalled | None]:
        call = make_call(Event("order.paid"))
        about: dict[str, Any] = {"delivery": delivery, "call": call, "listener": listener}
        ended = transactions.run(lambda: work(call), nullcontext, **about, state=bytes, noted=bytes)
        return call, ended

    return run


def test_a_listener_writes_with_the_sessions_that_it_names(run: Run, shop: sa.Engine, made: list[Session]) -> None:
    used: list[object] = []

    def work(call: Call) -> None:
        used.append(call.session)
        ship(call.session)

    run(work)

    assert used == made
    assert shipped(shop) == [1]


@pytest.mark.parametrize("run", [("pay",), ("old", "old")], ids=["its own id", "the same twice"], indirect=True)
def test_an_id_that_is_named_twice_keeps_no_listener_from_its_commit(run: Run, shop: sa.Engine) -> None:
    _, ended = run(lambda call: ship(call.session))

    assert ended is None
    assert shipped(shop) == [1]


@pytest.mark.parametrize("stops", [False, True])
def test_a_stop_of_the_propagation_is_remembered(run: Run, shop: sa.Engine, *, stops: bool) -> None:
    def work(call: Call) -> None:
        ship(call.session)
        if stops:
            call.stop_propagation()

    run(work)
    again, ended = run(work)

    assert (again.stopped, ended) == (stops, None)
    assert shipped(shop) == [1]


def test_a_commit_of_which_nothing_is_known_is_one_apart_from_the_event(
    run: Run, transport: SqlTransport, shop: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(connection: Any) -> None:
        shop.dialect.do_rollback(connection)
        raise shop.dialect.loaded_dbapi.OperationalError(2013, "the connection is lost")

    def unreachable(_: str) -> bool:
        raise TransportUnavailableError("main", "unreachable")

    with monkeypatch.context() as patched:
        patched.setattr(transport._inbox, "has", unreachable)

        def work(call: Call) -> None:
            ship(call.session)
            patched.setattr(shop.dialect, "do_commit", lose)

        _, ended = run(work)

    assert ended is Uncommitted.UNKNOWN_APART
