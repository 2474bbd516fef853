"""The time on PostgreSQL is the database's, which may differ from the host's."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from sqlalchemy import Connection
from sqlalchemy.orm import Session

from relevo import Ack, Envelope, SystemClock
from relevo_sql import SqlTransport
from relevo_sql._dialect.postgresql import PostgresqlDialect

from .on_postgresql import an_engine, ids, scalar

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]

HOUR = 3600 * 1_000_000
DAY = 24 * HOUR


@pytest.fixture(name="ahead", params=[DAY, -DAY])
def _ahead(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Let the host's time be that of a day earlier, or later, than the database's."""
    ahead, known = int(request.param), PostgresqlDialect.ahead
    monkeypatch.setattr(PostgresqlDialect, "ahead", lambda self, connection: known(self, connection) + ahead)
    return ahead


def off_by(found: int | None, expected: float) -> float:
    """Return by how many seconds *found*, in microseconds, differs."""
    assert found is not None
    return abs(found - expected) / 1_000_000


def test_leases_delays_and_the_time_of_sending_follow_the_database(
    opener: Opener, postgresql_database: str, an_envelope: Maker, ahead: int
) -> None:
    transport = opener(url=postgresql_database)

    transport.send([an_envelope(1)])
    transport.send([an_envelope(2)], delay=3600)
    with an_engine(postgresql_database) as engine, Session(engine) as session:
        transport.bound_to(session).send(lambda: [an_envelope(3)])
        transport.bound_to(session).send(lambda: [an_envelope(4)], delay=3600)
        session.commit()
    deliveries = transport.receive(["default"], limit=10, lease=3600, wait=0)

    now = time.time() * 1_000_000 + ahead
    for column, number, expected in [
        ("enqueued_at", 1, now), ("enqueued_at", 3, now), ("lease_until", 1, now + HOUR),
        ("ready_at", 2, now + HOUR), ("ready_at", 4, now + HOUR),
    ]:  # fmt: skip
        found = scalar(postgresql_database, f"SELECT {column} FROM relevo_event WHERE event_id = 'id-{number}'")  # noqa: S608
        assert off_by(found, expected) < 60, (column, number)
    assert [delivery.envelope for delivery in deliveries] == [an_envelope(1), an_envelope(3)]
    assert all(abs(delivery.enqueued_at * 1_000_000 - now) < HOUR / 60 for delivery in deliveries)
    assert (transport.stats("default").leased, transport.stats("default").scheduled) == (2, 2)
    assert (transport.stats("default").oldest_age or 0) < 60


def test_a_host_whose_clock_differs_takes_no_lease_from_another(
    opener: Opener, postgresql_database: str, an_envelope: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = PostgresqlDialect.ahead
    here, there = opener(url=postgresql_database), opener(url=postgresql_database)
    here.send([an_envelope(1)])
    (held,) = here.receive(["default"], limit=1, lease=60, wait=0)
    away = time.time  # the other host's clock is a day ahead, and it finds that the database's is a day behind
    monkeypatch.setattr("relevo_sql._dialect.postgresql.time", lambda: away() + DAY / 1_000_000)
    clock = there._clock
    monkeypatch.setattr(type(clock), "now", lambda self: away() + DAY / 1_000_000)
    there._database._compared = (0.0, 0.0)

    stolen = ids(there)
    ahead = there._database.read(lambda connection: known(there._database.dialect, connection))  # type: ignore[arg-type]  # it is PostgreSQL's

    assert stolen == []
    assert off_by(ahead, -DAY) < 60
    monkeypatch.undo()
    here._database._compared = (0.0, 0.0)
    assert not here.settle([(held, Ack())])


class InterruptedClock(SystemClock):
    """Other threads run after it was read, as often as there are pauses left."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    def now(self) -> float:
        now = super().now()
        time.sleep(self.pauses.pop() if self.pauses else 0.0)
        return now


def test_a_thread_that_is_interrupted_sees_no_step_of_the_clock(
    opener: Opener, postgresql_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = 0
    known = PostgresqlDialect.ahead

    def count(self: PostgresqlDialect, connection: Connection) -> int:
        nonlocal compared
        compared += 1
        return known(self, connection)

    monkeypatch.setattr(PostgresqlDialect, "ahead", count)
    clock = InterruptedClock()
    database = opener(clock, url=postgresql_database)._database
    database.now(clock)
    assert compared == 1

    for pauses in ([0.02], [0.01, 0.02, 0.005]):
        clock.pauses = pauses
        database.now(clock)
    assert (compared, clock.pauses) == (1, [])

    monkeypatch.setattr(InterruptedClock, "now", lambda self: time.time() + 1.0)
    database.now(clock)
    assert compared == 2


def test_a_comparison_whose_answer_came_late_does_not_set_the_time_back(
    opener: Opener, postgresql_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a lease that was over could be held again."""
    clock = SystemClock()
    database = opener(url=postgresql_database)._database
    found = []
    for ahead in (200_000, 0, -DAY):
        monkeypatch.setattr(PostgresqlDialect, "ahead", lambda self, connection, ahead=ahead: ahead)
        database._compared = (0.0, 0.0)
        found.append(database.now(clock))

    assert found[0] == found[1]
    assert off_by(found[2] - found[0], -DAY) < 60
