"""Ordering keys that are stuck, on each database."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from relevo import DeadLetter, Envelope, Nack, SystemClock
from relevo.testing import FakeClock
from relevo_sql import SqlOptions, SqlTransport

from .on_server import DATABASES

Maker = Callable[..., Envelope]


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest, path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{path}"
    found: str = request.getfixturevalue(f"{request.param}_database")
    return found


@pytest.fixture
def transport(url: str, clock: FakeClock) -> Iterator[SqlTransport]:
    with SqlTransport.open(SqlOptions(url=url), name="main", clock=clock) as transport:
        transport.setup([])
        yield transport


def execute(transport: SqlTransport, statement: str) -> None:
    with transport._database.engine.begin() as connection:
        connection.execute(sa.text(statement))


def test_a_lease_is_long_when_it_is_extended_for_long(
    transport: SqlTransport, clock: FakeClock, an_envelope: Maker
) -> None:
    transport.send([an_envelope(number, ordering_key="42") for number in range(3)])
    (held,) = transport.receive(["default"], limit=10, lease=60, wait=0)
    began = clock.now()

    clock.advance(50)
    transport.extend([held], lease=60)
    assert transport.stuck_keys(["default"]).total == 0
    clock.advance(20)

    (key,) = transport.stuck_keys(["default"]).keys
    assert (key.key, key.waiting, key.since) == ("42", 2, began)
    assert key.first is not None
    assert (key.first.envelope.id, key.first.status, key.first.leased_at) == ("id-0", "leased", began)
    assert transport.stuck_keys(["default"], longer=100).total == 0


def test_a_key_is_not_stuck_while_its_first_event_is_ready_or_its_lease_is_over(
    transport: SqlTransport, clock: FakeClock, an_envelope: Maker
) -> None:
    transport.send([an_envelope(number, ordering_key="42") for number in range(3)])
    (held,) = transport.receive(["default"], limit=10, lease=60, wait=0)
    transport.settle([(held, Nack(delay=30))])
    assert transport.stuck_keys(["default"]).total == 1

    clock.advance(31)
    assert transport.stuck_keys(["default"]).total == 0
    transport.receive(["default"], limit=10, lease=60, wait=0)
    clock.advance(61)

    assert transport.stuck_keys(["default"]).total == 0


def test_a_dead_letter_blocks_nothing(transport: SqlTransport, an_envelope: Maker) -> None:
    transport.send([an_envelope(number, ordering_key="42") for number in range(3)])
    (held,) = transport.receive(["default"], limit=10, lease=60, wait=0)

    transport.settle([(held, DeadLetter(reason="r"))])

    assert transport.stuck_keys(["default"]).total == 0


def test_a_key_whose_first_event_another_program_deleted_is_stuck_until_a_worker_notices(
    transport: SqlTransport, clock: FakeClock, an_envelope: Maker
) -> None:
    transport.receive(["default"], limit=10, lease=60, wait=0)  # looks for such keys, and then not for a minute
    transport.send([an_envelope(number, ordering_key="42") for number in range(3)])
    transport.receive(["default"], limit=10, lease=60, wait=0)
    execute(transport, "DELETE FROM relevo_event WHERE event_id = 'id-0'")

    stuck = transport.stuck_keys(["default"])

    assert [(key.key, key.waiting, key.first) for key in stuck.keys] == [("42", 2, None)]
    clock.advance(61)
    (again,) = transport.receive(["default"], limit=10, lease=60, wait=0)
    assert isinstance(again.envelope, Envelope)
    assert again.envelope.id == "id-1"
    assert transport.stuck_keys(["default"]).total == 0


def test_the_keys_that_are_stuck_the_longest_come_first_and_all_are_counted(
    transport: SqlTransport, clock: FakeClock, an_envelope: Maker
) -> None:
    queues = ["b", "a"]
    for number in range(6):
        queue = queues[number % 2]
        transport.send([an_envelope(10 * number + each, queue=queue, ordering_key=f"k{number}") for each in (0, 1)])
        clock.advance(1)
    for held in transport.receive(queues, limit=10, lease=60, wait=0) or ():
        transport.settle([(held, Nack(delay=3600))])
    for held in transport.receive(queues, limit=10, lease=60, wait=0):
        transport.settle([(held, Nack(delay=3600))])

    stuck = transport.stuck_keys(queues, limit=2)

    assert ([key.key for key in stuck.keys], stuck.total) == (["k0", "k1"], 6)
    assert [key.key for key in transport.stuck_keys(["a"]).keys] == ["k1", "k3", "k5"]


def test_the_status_shows_it(url: str, tmp_path: Path, an_envelope: Maker) -> None:
    with SqlTransport.open(SqlOptions(url=url), name="main", clock=SystemClock()) as transport:
        transport.setup([])
        transport.send([an_envelope(number, ordering_key="42") for number in range(3)])
        (held,) = transport.receive(["default"], limit=10, lease=60, wait=0)
        transport.settle([(held, Nack(delay=3600))])
    (tmp_path / "relevo.toml").write_text(f'source = "shop"\n[transports]\nmain = "{url}"\n')

    done = subprocess.run(
        [sys.executable, "-m", "relevo", "status", "--json"], cwd=tmp_path, capture_output=True, text=True, check=True
    )

    (row,) = json.loads(done.stdout)
    (key,) = row["stuck"]["keys"]
    assert (row["stuck"]["total"], key["key"], key["waiting"]) == (1, "42", 2)
    assert (key["first"]["id"], key["first"]["status"], key["first"]["attempt"]) == ("id-0", "scheduled", 2)
