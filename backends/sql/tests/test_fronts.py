"""Claims that begin where earlier ones ended, while a look at a queue takes long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from relevo import Ack, Envelope, Release
from relevo.testing import FakeClock
from relevo_sql import SqlOptions, SqlTransport
from relevo_sql._front import Front, Fronts
from relevo_sql._schema import HIGH, NORMAL

from .on_server import SERVERS, ids, ids_of, received

Maker = Callable[..., Envelope]


def row(seq: int, ready_at: int, urgency: int = NORMAL) -> tuple[Any, ...]:
    return (seq, ready_at, "default", "default", str(seq), "shop", "image.created", urgency)


# --- when ---------------------------------------------------------------------------------------------


@pytest.fixture
def fronts(clock: FakeClock) -> Fronts:
    """Return fronts that are far."""
    fronts = Fronts(clock.monotonic)
    fronts.of("default").note([row(seq, seq) for seq in range(10_000)], now=10**9)
    return fronts


@pytest.mark.parametrize(("took", "lasts"), [(0.019, 0.0), (0.02, 0.2), (0.7, 7.0), (3.0, 10.0)])
def test_a_look_is_late_by_ten_times_of_what_the_last_one_took_if_that_was_long(
    fronts: Fronts, clock: FakeClock, took: float, lasts: float
) -> None:
    fronts.note_look(["default"], took)

    assert max(0.0, fronts.left(["default"])) == pytest.approx(lasts, abs=1e-6)
    clock.advance(lasts)
    assert fronts.left(["default"]) <= 1e-6


def test_a_quick_look_ends_it(fronts: Fronts) -> None:
    fronts.note_look(["default"], 0.5)
    fronts.note_look(["default"], 0.001)

    assert fronts.left(["default"]) <= 0


def test_other_queues_are_looked_at(fronts: Fronts) -> None:
    fronts.note_look(["default"], 0.5)

    assert fronts.left(["default"]) > 0
    assert fronts.left(["default", "mail"]) <= 0


def test_few_events_are_always_looked_for(clock: FakeClock) -> None:
    fronts = Fronts(clock.monotonic)
    fronts.of("default").note([row(seq, seq) for seq in range(9_999)], now=10**9)

    fronts.note_look(["default"], 0.5)

    assert fronts.left(["default"]) <= 0


def test_it_is_left_for_a_while_if_it_saves_no_time_as_with_a_server_that_is_far_away(
    fronts: Fronts, clock: FakeClock
) -> None:
    fronts.note_look(["default"], 0.5)
    for took in (0.4, 0.4, 0.1, 0.4, 0.4):
        fronts.note_claim(took)
    goes_on = fronts.left(["default"]) > 0
    fronts.note_claim(0.4)

    assert goes_on
    assert fronts.left(["default"]) <= 0
    fronts.note_look(["default"], 0.5)
    assert fronts.left(["default"]) <= 0
    clock.advance(5.0)
    fronts.note_look(["default"], 0.5)
    assert fronts.left(["default"]) > 0


# --- from where ---------------------------------------------------------------------------------------


def test_the_front_is_a_tenth_of_a_second_before_the_last_row_of_its_urgency() -> None:
    front = Front()
    front.note([row(1, 5_000_000, HIGH), row(2, 3_000_000)], now=10**9)
    front.note([row(3, 2_000_000), row(4, 4_000_000)], now=10**9)
    front.note([row(5, 1_000_000)], now=10**9)

    assert front.since(HIGH) == 4_900_000
    assert front.since(NORMAL) == 3_900_000


def test_a_row_with_a_time_that_has_not_come_moves_the_front_no_further_than_now() -> None:
    front = Front()
    front.note([row(1, 10**18)], now=7_000_000)

    assert front.since(NORMAL) == 6_900_000


def test_what_was_never_claimed_has_its_front_at_the_beginning() -> None:
    assert Front().since(HIGH) == -(2**63)


# --- on servers ---------------------------------------------------------------------------------------


@pytest.fixture(params=SERVERS)
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(f"{request.param}_database")
    return found


@pytest.fixture
def transport(url: str, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqlTransport]:
    """Open a transport whose fronts are far at once."""
    monkeypatch.setattr("relevo_sql._front._FAR", 0)
    with SqlTransport.open(SqlOptions(url=url), name="main", clock=clock) as transport:
        transport.setup([])
        yield transport


def look_slowly(transport: SqlTransport, *queues: str) -> None:
    """Do as if the last look at *queues* had taken a second."""
    transport._claimer._fronts.note_look(queues or ["default"], 1.0)


def test_events_are_claimed_from_the_front_in_order_the_urgent_ones_first(
    transport: SqlTransport, an_envelope: Maker, clock: FakeClock
) -> None:
    transport.send([an_envelope(1), an_envelope(2)])
    transport.settle([(each, Ack()) for each in received(transport)])
    look_slowly(transport)
    clock.advance(1.0)
    transport.send([an_envelope(3), an_envelope(4)])
    clock.advance(1.0)
    transport.send([an_envelope(5)])
    transport.send([an_envelope(6, urgency="high")])

    first = ids_of(received(transport, limit=2))
    transport.send([an_envelope(7, urgency="high")])
    rest = ids(transport)

    assert first == ["id-6", "id-3"]
    assert rest == ["id-7", "id-4", "id-5"]


def test_the_queues_keep_their_preference(transport: SqlTransport, an_envelope: Maker) -> None:
    transport.send([an_envelope(1), an_envelope(2, queue="mail")])
    transport.settle([(each, Ack()) for each in transport.receive(["mail", "default"], limit=9, lease=60, wait=0)])
    look_slowly(transport, "mail", "default")
    transport.send([an_envelope(3, urgency="high"), an_envelope(4, queue="mail"), an_envelope(5, queue="mail")])

    found = [ids_of(list(transport.receive(["mail", "default"], limit=2, lease=60, wait=0))) for _ in range(2)]

    assert found == [["id-4", "id-5"], ["id-3"]]


def test_what_is_ready_before_the_front_is_found_by_the_next_look(
    transport: SqlTransport, an_envelope: Maker, clock: FakeClock
) -> None:
    released = _released_before_the_front(transport, an_envelope, clock)
    look_slowly(transport)
    transport.send([an_envelope(3)])

    assert ids(transport) == ["id-3"]
    clock.advance(10.0)
    assert ids(transport) == released


def test_a_receive_that_does_not_wait_finds_it_as_soon_as_there_is_nothing_else(
    transport: SqlTransport, an_envelope: Maker, clock: FakeClock
) -> None:
    released = _released_before_the_front(transport, an_envelope, clock)
    look_slowly(transport)

    waiting = transport._claimer.claim(["default"], limit=9, lease=60.0, waits=True)

    assert waiting.deliveries == []
    assert waiting.next_change == pytest.approx((clock.now() + 10.0) * 1e6, abs=1e4)
    assert ids(transport) == released


def test_a_delay_that_ends_meanwhile_is_noticed_by_the_next_look(
    transport: SqlTransport, an_envelope: Maker, clock: FakeClock
) -> None:
    transport.send([an_envelope(1)])
    transport.settle([(each, Ack()) for each in received(transport)])
    transport.send([an_envelope(2)], delay=4.0)
    look_slowly(transport)
    clock.advance(5.0)

    meanwhile = transport._claimer.claim(["default"], limit=9, lease=60.0, waits=True)
    clock.advance(5.0)

    assert meanwhile.deliveries == []
    assert ids(transport) == ["id-2"]


def _released_before_the_front(transport: SqlTransport, an_envelope: Maker, clock: FakeClock) -> list[str]:
    """Move the front beyond an event that is released then; return its id."""
    transport.send([an_envelope(1)])
    held = received(transport)
    clock.advance(1.0)
    transport.send([an_envelope(2)])
    transport.settle([(each, Ack()) for each in received(transport)])
    transport.settle([(each, Release()) for each in held])
    return ids_of(held)
