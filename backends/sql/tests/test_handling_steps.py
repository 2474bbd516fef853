"""Listeners with steps on every engine: what a step wrote, and its note, commit together or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import attrs
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import sessionmaker

from relevo import Delivery, Envelope, Nack
from relevo.backend import HandlingTransaction
from relevo.errors import ConfigurationError, LeaseLostError
from relevo_sql import SqlTransport

from .on_server import received

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]

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


@pytest.fixture(name="transport", params=["the dialect of the database", "the portable dialect"])
def _transport(request: pytest.FixtureRequest, opener: Opener, url: str) -> SqlTransport:
    return opener(url=url, **({"dialect": "portable"} if request.param == "the portable dialect" else {}))


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


def ship(transaction: HandlingTransaction, number: int) -> None:
    transaction.session.execute(sa.insert(SHIPPED).values(number=number))


@attrs.define
class Event:
    """One event: of the database, or in the inbox with that of another transport."""

    transport: SqlTransport
    sessions: Any
    delivery: Delivery | None

    def begun(self, *, noted: bytes | None = None) -> HandlingTransaction:
        if self.delivery is not None:
            return self.transport.handling(self.delivery, sessions=self.sessions)
        known = {} if noted is None else {"one": noted}
        return self.transport.handling_once("one", noted=known, sessions=self.sessions)

    def state(self) -> bytes | None:
        if self.delivery is None:
            return self.transport.noted("one")
        self.transport.settle([(self.delivery, Nack())])
        (self.delivery,) = received(self.transport)
        return self.delivery.state or None

    def take_away(self) -> None:
        """Let another worker go on with the event."""
        if self.delivery is None:
            with closing(self.transport.handling_once("one", noted=self._known(), sessions=self.sessions)) as other:
                other.commit_step(b"other")
        else:
            held = self.delivery
            self.state()
            self.delivery = held

    def _known(self) -> dict[str, bytes]:
        noted = self.transport.noted("one")
        return {} if noted is None else {"one": noted}


@pytest.fixture(name="event", params=["of the database", "in the inbox"])
def _event(request: pytest.FixtureRequest, transport: SqlTransport, shop: sa.Engine, an_envelope: Maker) -> Event:
    if request.param == "in the inbox":
        return Event(transport, sessionmaker(shop), None)
    transport.send([an_envelope(1)])
    (delivery,) = received(transport)
    return Event(transport, sessionmaker(shop), delivery)


def test_a_step_commits_with_its_note_and_what_follows_does_not(event: Event, shop: sa.Engine) -> None:
    with closing(event.begun()) as transaction:
        session = transaction.session
        ship(transaction, 1)
        transaction.commit_step(b"first")
        between = shipped(shop)
        ship(transaction, 2)
        transaction.commit_step(b"second")
        ship(transaction, 3)

        assert transaction.session is session

    assert (between, shipped(shop), event.state()) == ([1], [1, 2], b"second")


def test_after_its_steps_a_listener_is_done(event: Event, shop: sa.Engine) -> None:
    with closing(event.begun()) as transaction:
        for number in range(3):
            ship(transaction, number)
            transaction.commit_step(b"%d" % number)
        ship(transaction, 3)
        transaction.commit(b"done")

    assert shipped(shop) == [0, 1, 2, 3]
    if event.delivery is None:
        assert (event.transport.noted("one"), event.transport.remembered("one")) == (None, b"done")
    else:
        assert event.state() == b"done"


def test_another_transaction_goes_on_where_the_last_step_ended(event: Event, shop: sa.Engine) -> None:
    with closing(event.begun()) as first:
        ship(first, 1)
        first.commit_step(b"first")
    with closing(event.begun(noted=b"first")) as second:
        ship(second, 2)
        second.commit_step(b"second")
    with closing(event.begun(noted=b"second")) as third:
        ship(third, 3)
        third.commit(b"done")

    assert shipped(shop) == [1, 2, 3]
    assert event.transport.noted("one") is None


@pytest.mark.parametrize(("steps", "ends"), [(0, False), (1, False), (1, True)])
def test_a_step_whose_event_went_to_another_worker_writes_nothing(
    event: Event, shop: sa.Engine, steps: int, *, ends: bool
) -> None:
    with closing(event.begun()) as transaction:
        for number in range(steps):
            transaction.commit_step(b"%d" % number)
        event.take_away()
        ship(transaction, 1)

        with pytest.raises(LeaseLostError):
            (transaction.commit if ends else transaction.commit_step)(b"late")

    assert shipped(shop) == []


def test_a_step_of_an_event_that_another_worker_has_done_writes_nothing(
    transport: SqlTransport, shop: sa.Engine
) -> None:
    sessions = sessionmaker(shop)
    with closing(transport.handling_once("one", sessions=sessions)) as late:
        late.commit_step(b"first")
        with closing(transport.handling_once("one", noted={"one": b"first"}, sessions=sessions)) as other:
            other.commit(b"done")
        ship(late, 1)
        with pytest.raises(LeaseLostError):
            late.commit_step(b"second")

    assert (shipped(shop), transport.noted("one"), transport.remembered("one")) == ([], None, b"done")


def test_the_note_of_a_renamed_listener_is_found_under_both_ids(transport: SqlTransport, shop: sa.Engine) -> None:
    sessions = sessionmaker(shop)
    with closing(transport.handling_once("old", sessions=sessions)) as earlier:
        earlier.commit_step(b"first")
    with closing(
        transport.handling_once("new", aliases=["old"], noted={"old": b"first"}, sessions=sessions)
    ) as renamed:
        renamed.commit_step(b"second")
    between = [transport.noted(key) for key in ("new", "old")]
    noted = {"new": b"second", "old": b"second"}
    with closing(transport.handling_once("new", aliases=["old"], noted=noted, sessions=sessions)) as last:
        last.commit(b"done")

    assert between == [b"second", b"second"]
    assert [transport.noted(key) for key in ("new", "old")] == [None, None]
    assert [transport.remembered(key) for key in ("new", "old")] == [b"done", b"done"]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("steps", [0, 1])
def test_after_a_step_without_an_answer_the_database_says_whether_it_has_committed(
    event: Event, shop: sa.Engine, monkeypatch: pytest.MonkeyPatch, steps: int, *, after: bool
) -> None:
    commit, driver = shop.dialect.do_commit, shop.dialect.loaded_dbapi

    def lose(connection: Any) -> None:
        (commit if after else shop.dialect.do_rollback)(connection)
        raise driver.OperationalError(2013, "the connection is lost")

    with closing(event.begun()) as transaction:
        for number in range(steps):
            transaction.commit_step(b"%d" % number)
        ship(transaction, 1)
        with monkeypatch.context() as patched:
            patched.setattr(shop.dialect, "do_commit", lose)
            if after:
                transaction.commit_step(b"late")
            else:
                with pytest.raises(sa.exc.OperationalError):
                    transaction.commit_step(b"late")
        if after:
            ship(transaction, 2)
            transaction.commit_step(b"next")

    assert shipped(shop) == ([1, 2] if after else [])
    assert event.state() == (b"next" if after else b"0" if steps else None)


def test_what_was_written_since_the_last_step_is_noticed(event: Event) -> None:
    with closing(event.begun()) as transaction:
        fresh = transaction.has_written
        transaction.session.execute(sa.select(SHIPPED.c.number)).all()
        with transaction.session.begin_nested():
            transaction.session.execute(sa.text("SELECT 1"))
        queried = transaction.has_written
        ship(transaction, 1)
        written = transaction.has_written
        transaction.commit_step(b"first")

        assert (fresh, queried, written, transaction.has_written) == (False, False, True, False)


def test_a_note_has_the_size_of_a_state_at_most(event: Event, shop: sa.Engine) -> None:
    with closing(event.begun()) as transaction:
        ship(transaction, 1)
        with pytest.raises(ConfigurationError, match="at most 16384 bytes"):
            transaction.commit_step(bytes(16385))
        transaction.commit_step(b"x" * 16384)

    assert (shipped(shop), event.state()) == ([1], b"x" * 16384)
