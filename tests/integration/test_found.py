"""An event is found by its id wherever it lives, on every transport that claims it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from relevo import DeadLetter, Envelope, Nack, Transport, UnsupportedError
from relevo.testing import FakeClock
from relevo_amqp import AmqpTransport
from relevo_memory import MemoryTransport
from relevo_sql import SqlTransport


@pytest.fixture(name="clock")
def _clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(name="transport", params=["memory", "sqlite"])
def _transport(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> Iterator[Transport]:
    made: Transport
    if request.param == "memory":
        made = MemoryTransport(clock=clock)
    else:
        made = SqlTransport(sa.create_engine(f"sqlite:///{tmp_path / 'shop.db'}", poolclass=sa.NullPool), clock=clock)
    with made:
        made.setup(["one", "two"])
        yield made


def _envelope(event_id: str, queue: str = "one", **how: str) -> Envelope:
    return Envelope(id=event_id, source="shop", name="a.b", queue=queue, body=b"{}", **how)  # type: ignore[arg-type]


def test_it_is_told_where_it_is_and_how_far(transport: Transport, clock: FakeClock) -> None:
    transport.send([_envelope("x"), _envelope("x", "two"), _envelope("y")])
    (held,) = transport.receive(["two"], limit=1, lease=60.0, wait=0.0)
    ready, leased = transport.find("x")
    transport.settle([(held, Nack(delay=30.0, state=b"so far"))])
    _, scheduled = transport.find("x")
    clock.advance(30.0)
    _, due = transport.find("x")

    assert (ready.queue, ready.status, ready.attempt, ready.until) == ("one", "ready", 1, None)
    assert (leased.queue, leased.status, leased.until) == ("two", "leased", clock.now() + 30.0)
    assert (scheduled.status, scheduled.attempt, scheduled.state) == ("scheduled", 2, b"so far")
    assert scheduled.until == clock.now()
    assert (due.status, due.until, due.enqueued_at) == ("ready", None, clock.now() - 30.0)
    assert ready.envelope == _envelope("x")


def test_a_lease_that_is_past_holds_it_no_longer(transport: Transport, clock: FakeClock) -> None:
    transport.send([_envelope("x")])
    transport.receive(["one"], limit=1, lease=60.0, wait=0.0)
    clock.advance(61.0)

    (found,) = transport.find("x")

    assert (found.status, found.until) == ("ready", None)


def test_what_waits_behind_its_key_is_ready_and_what_is_done_or_dead_is_not_there(transport: Transport) -> None:
    transport.send([_envelope("x", ordering_key="k"), _envelope("y", ordering_key="k"), _envelope("z")])
    held = transport.receive(["one"], limit=9, lease=60.0, wait=0.0)
    (waiting,) = transport.find("y")
    first, last = sorted(held, key=lambda one: str(one.envelope))
    transport.settle([(last, DeadLetter(reason="gave-up"))])
    transport.ack(first)

    assert waiting.status == "ready"
    assert [len(transport.find(each)) for each in ("x", "y", "z", "nobody")] == [0, 1, 0, 0]


def test_where_it_is_not_claimed_asking_is_an_error() -> None:
    with AmqpTransport("amqp://localhost") as transport, pytest.raises(UnsupportedError, match="find"):
        transport.find("x")
