"""The portable dialect and rows of other writers: its tables have no constraint that refuses them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from relevo import Ack, Envelope, SystemClock, Unreadable
from relevo_sql import SqlOptions, SqlTransport, event
from relevo_sql._schema import LEASED, READY, SCHEDULED, WAITING

from .on_mariadb import an_engine

Maker = Callable[..., Envelope]

VALID: dict[str, Any] = {
    "queue": "default",
    "target": "default",
    "event_id": "id-1",
    "source": "shop",
    "name": "image.created",
    "enqueued_at": 0,
    "body": b'{"number":1}',
}


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.soak)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a new database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/shop.db"
    found: str = request.getfixturevalue(f"{request.param}_database")
    return found


@pytest.fixture
def portable(url: str) -> Iterator[SqlTransport]:
    with SqlTransport.open(SqlOptions(url=url, dialect="portable"), name="main", clock=SystemClock()) as transport:
        transport.setup([])
        yield transport


def write(transport: SqlTransport, **values: Any) -> None:
    """Write a row as another program does."""
    with an_engine(transport._database.engine.url) as engine, engine.begin() as connection:
        connection.execute(sa.insert(event).values(VALID | values))


def test_a_valid_row_of_another_writer_is_an_event(portable: SqlTransport, an_envelope: Maker) -> None:
    write(portable)

    (delivery,) = portable.receive(["default"], limit=10, lease=60, wait=0)

    assert delivery.envelope == an_envelope()
    assert portable.settle([(delivery, Ack())]) == []


STRAYS: list[dict[str, Any]] = [
    {"state": 9},
    {"state": -1},
    {"state": LEASED},
    {"state": LEASED, "token": 1},
    {"state": WAITING},
    {"state": WAITING, "ordering_key": "k", "target": None},
    {"state": WAITING, "ordering_key": None},
]


@pytest.mark.parametrize("stray", STRAYS, ids=str)
def test_a_row_that_no_claim_would_find_becomes_a_dead_letter(portable: SqlTransport, stray: dict[str, Any]) -> None:
    write(portable, **stray)

    assert portable.stats("default").ready == 1
    assert len(portable.problems(["default"])) == 1
    (delivery,) = portable.receive(["default"], limit=10, lease=60, wait=0)
    assert isinstance(delivery.envelope, Unreadable)
    assert not portable.receive(["default"], limit=10, lease=60, wait=0)
    portable.dead_letter(delivery, reason="unreadable")

    assert portable.stats("default").dead == 1
    assert portable.stats("default").ready == 0


def test_stray_rows_are_purged_and_cancelled(portable: SqlTransport) -> None:
    for number, stray in enumerate(STRAYS):
        write(portable, event_id=str(number), **stray)

    assert portable.cancel("0") == 1
    assert portable.purge("default") == len(STRAYS) - 1


@pytest.mark.parametrize(
    "values",
    [
        {"event_id": None},
        {"attempt": 0},
        {"attempt": -1, "lost_leases": -1},
        {"attempt": 2**31 - 1, "lost_leases": 2**31 - 1, "body": None},
        {"urgency": 7},
        {"headers": "[]"},
        {"name": None, "source": None, "body": None, "headers": "{"},
        {"state": SCHEDULED, "ready_at": -(2**63), "body": None},
        {"state": LEASED, "token": 1, "lease_until": 2**63 - 1, "body": None},
        {"ordering_key": "k", "target": None, "body": None, "state": READY},
    ],
    ids=str,
)
def test_an_unreadable_row_holds_nothing_up(portable: SqlTransport, an_envelope: Maker, values: dict[str, Any]) -> None:
    write(portable, **values)
    portable.send([an_envelope(2)])

    deliveries = portable.receive(["default"], limit=10, lease=60, wait=0)
    unreadable = [each for each in deliveries if isinstance(each.envelope, Unreadable)]
    for each in unreadable:
        portable.dead_letter(each, reason="unreadable")

    assert len(deliveries) == 2
    assert len(unreadable) == portable.stats("default").dead == 1
    entries = portable.dead_letters(["default"])
    assert portable.revive({entry.ref: b"" for entry in entries}) == []
    assert portable.stats("default").dead == 0


def test_two_rows_may_lack_the_same(portable: SqlTransport) -> None:
    for _ in range(2):
        write(portable, event_id=None)

    assert len(portable.receive(["default"], limit=10, lease=60, wait=0)) == 2
