"""The queues that hold events, and what two transports have in common, on each database."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from relevo import DeadLetter, Envelope
from relevo.errors import TransportUnavailableError
from relevo.testing import FakeClock
from relevo_sql import SqlOptions, SqlTransport
from relevo_sql._query_statement import NEXT

from .on_server import DATABASES

Maker = Callable[..., Envelope]
Opened = Callable[..., SqlTransport]


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest, path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{path}"
    found: str = request.getfixturevalue(f"{request.param}_database")
    return found


@pytest.fixture
def opened(url: str, clock: FakeClock) -> Iterator[Opened]:
    """Open transports, which are closed at the end."""
    made: list[SqlTransport] = []

    def opened(**options: Any) -> SqlTransport:
        made.append(SqlTransport.open(SqlOptions(**({"url": url} | options)), name="main", clock=clock))
        return made[-1]

    yield opened
    for transport in made:
        transport.close()


@pytest.mark.parametrize("dialect", [None, "portable"])
def test_each_queue_that_holds_events_is_found_whatever_their_state(
    opened: Opened, an_envelope: Maker, dialect: str | None
) -> None:
    transport = opened(dialect=dialect)
    transport.setup([])
    nothing = transport.held_queues()

    def send(queue: str, *, delay: float = 0.0, ordering_key: str | None = None) -> Sequence[Any]:
        transport.send(
            [an_envelope(hash((queue, number)), queue=queue, ordering_key=ordering_key) for number in range(3)],
            delay=delay,
        )
        return transport.receive([queue], limit=3, lease=60, wait=0)

    held = ["Mail", "done", "mail", "outbox/main", "zürich", "~"]
    send("outbox/main", delay=3600)
    for queue in ("Mail", "mail", "zürich"):
        send(queue)
    send("~", ordering_key="42")
    transport.settle([(delivery, DeadLetter(reason="x", error="y")) for delivery in send("done")])
    for delivery in send("gone"):
        transport.ack(delivery)

    assert nothing == []
    assert transport.held_queues() == held


def test_two_transports_of_one_database_have_one_id(opened: Opened, tmp_path: Path) -> None:
    one, same, other = opened(), opened(), opened(url=f"sqlite:///{tmp_path}/other.db")
    for transport in (one, other):
        transport.setup([])

    assert one.store_id() == same.store_id() != other.store_id()
    with pytest.raises(TransportUnavailableError, match="run: relevo setup"):
        opened(url=f"sqlite:///{tmp_path}/missing.db").store_id()


def test_the_queues_are_found_at_the_beginning_of_indexes(opened: Opened, an_envelope: Maker, url: str) -> None:
    transport = opened()
    transport.setup([])
    for delay in (0.0, 60.0):
        transport.send([an_envelope(number, queue="mail") for number in range(int(delay), 5000)], delay=delay)
    sql = transport._database.statements.queries.next_queues().compile()
    with transport._database.engine.begin() as connection:
        if url.startswith("postgresql"):  # an empty table is read as a whole, which is quicker
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        if url.startswith(("mariadb", "mysql")):
            before = _read(connection)
            connection.exec_driver_sql(sql, ("",) * len(NEXT)).all()
            assert _read(connection) - before < 50
            return
        explain, values = "EXPLAIN", ("",) * len(NEXT)
        if url.startswith("sqlite"):
            explain, values = "EXPLAIN QUERY PLAN", ("",) * sql.count("?")  # an offset is a parameter too
        plan = "\n".join(map(str, connection.exec_driver_sql(f"{explain} {sql}", values).all()))

    for index in ("event_ready", "event_leased", "event_scheduled", "event_waiting", "dead_queue"):
        assert f"relevo_{index}" in plan
    for slow in ("Sort", "Aggregate", "SCAN relevo", "B-TREE"):
        assert slow not in plan


def _read(connection: sa.Connection) -> int:
    """Return the number of rows that this session has read on MariaDB."""
    rows = connection.exec_driver_sql("SHOW SESSION STATUS LIKE 'Handler_read%%'").all()
    return sum(int(value) for _, value in rows)
