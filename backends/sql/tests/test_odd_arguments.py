"""Queries with arguments that no database holds, on each database and in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from relevo import DeadLetter, DeadLetterFilter, Envelope, EventFilter, StuckKeys, Transport
from relevo.errors import ConfigurationError
from relevo.testing import FakeClock
from relevo_memory import MemoryTransport
from relevo_sql import SqlOptions, SqlTransport

from .on_server import DATABASES

Maker = Callable[..., Envelope]
HUGE = [2**31, 2**63 - 1, 2**63, 10**400]
SURROGATE = "\ud800"
NAN = float("nan")


@pytest.fixture(params=[*DATABASES, "memory"])
def transport(request: pytest.FixtureRequest, path: Path, clock: FakeClock) -> Iterator[Transport]:
    if request.param == "memory":
        yield MemoryTransport(clock=clock)
        return
    url = f"sqlite:///{path}" if request.param == "sqlite" else request.getfixturevalue(f"{request.param}_database")
    with SqlTransport.open(SqlOptions(url=url), name="main", clock=clock) as transport:
        transport.setup([])
        yield transport


def test_a_limit_without_end_returns_all(transport: Transport, an_envelope: Maker) -> None:
    transport.send([an_envelope(number, ordering_key="7") for number in range(3)])
    (dead, *_) = transport.receive(["default"], limit=2**63, lease=60, wait=0)
    transport.settle([(dead, DeadLetter(reason="x", error=""))])
    where = DeadLetterFilter(names=("*",))

    for limit in HUGE:
        assert len(transport.dead_letters(["default"], limit=limit)) == 1
        assert len(transport.matching_dead_letters(["default"], where=where, limit=limit)) == 1
        assert len(transport.dead_letter_groups(["default"], by="event", limit=limit)) == 1
        assert len(transport.waiting(["default"], limit=limit)) == 2
        assert len(transport.waiting_groups(["default"], by="event", limit=limit)) == 1
        assert transport.stuck_keys(["default"], limit=limit).total == 0


@pytest.mark.parametrize("name", [SURROGATE, "a" + SURROGATE])
def test_a_queue_whose_name_no_row_can_hold_has_no_events(transport: Transport, an_envelope: Maker, name: str) -> None:
    transport.send([an_envelope(1)])
    queues = [name, "default"]

    assert transport.stats(name).ready == 0
    assert transport.purge(name) == 0
    assert len(transport.waiting(queues)) == 1
    assert len(transport.waiting_groups(queues, by="queue")) == 1
    assert transport.dead_letters([name]) == transport.matching_dead_letters([name], where=DeadLetterFilter()) == []
    assert transport.dead_letter_groups([name], by="event") == []
    assert transport.stuck_keys([name]) == StuckKeys()
    assert list(transport.receive([name], limit=1, lease=60, wait=0)) == []
    assert len(transport.receive(queues, limit=9, lease=60, wait=0)) == 1


def test_a_time_that_is_no_number_is_refused(transport: Transport) -> None:
    with pytest.raises(ConfigurationError, match=r"^longer: expected seconds; got nan"):
        transport.stuck_keys(["default"], longer=NAN)


@pytest.mark.parametrize("kind", [EventFilter, DeadLetterFilter])
@pytest.mark.parametrize("time", [NAN, 10**400, -(10**400), "1", True + 0j])
def test_a_filter_refuses_a_time_that_no_float_holds(kind: Any, time: object) -> None:
    for side in ("since", "until"):
        with pytest.raises(ConfigurationError, match=rf"^{side} of a filter: expected seconds since the epoch; got "):
            kind(**{side: time})
