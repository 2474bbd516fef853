"""Events of one queue and ordering key, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from relevo import Ack, Delivery, Envelope, Lost, Nack, Release
from relevo.testing import FakeClock
from relevo_memory import MemoryTransport

Make = Callable[..., Envelope]
Take = Callable[..., Sequence[Delivery]]
Ids = Callable[[Sequence[Delivery]], list[str]]


@pytest.fixture(name="line")
def _line(transport: MemoryTransport, envelope: Make) -> None:
    """Two events of one key, one of another, one of none."""
    transport.send([envelope("k1", ordering_key="k"), envelope("k2", ordering_key="k")])
    transport.send([envelope("l1", ordering_key="l"), envelope("free")])


@pytest.mark.usefixtures("line")
def test_at_most_one_event_of_a_key_is_held(transport: MemoryTransport, take: Take, ids: Ids) -> None:
    held = take(transport)

    assert ids(held) == ["k1", "l1", "free"]
    assert take(transport) == []
    transport.ack(held[0])
    assert ids(take(transport)) == ["k2"]


@pytest.mark.usefixtures("line")
@pytest.mark.parametrize("outcome", [Nack(), Nack(delay=10), Release(), Lost()])
def test_what_comes_back_keeps_its_place_in_the_line(
    outcome: Nack | Release | Lost, transport: MemoryTransport, clock: FakeClock, take: Take, ids: Ids
) -> None:
    [first] = take(transport, limit=1)
    transport.settle([(first, outcome)])

    if isinstance(outcome, Nack) and outcome.delay:
        assert "k2" not in ids(take(transport, lease=10))
        clock.advance(10)
    [*others] = take(transport)

    assert "k1" in ids(others)
    assert "k2" not in ids(others)


@pytest.mark.usefixtures("line")
def test_a_lost_event_keeps_its_place_in_the_line(
    transport: MemoryTransport, clock: FakeClock, take: Take, ids: Ids
) -> None:
    take(transport, lease=10)
    clock.advance(10)

    assert ids(take(transport)) == ["k1", "l1", "free"]


@pytest.mark.usefixtures("line")
def test_a_dead_letter_blocks_nobody(transport: MemoryTransport, take: Take, ids: Ids) -> None:
    [first] = take(transport, limit=1)

    transport.dead_letter(first, reason="no")

    assert ids(take(transport)) == ["k2", "l1", "free"]


@pytest.mark.usefixtures("line")
def test_a_cancelled_event_blocks_nobody(transport: MemoryTransport, take: Take, ids: Ids) -> None:
    transport.cancel("k1")

    assert "k2" in ids(take(transport))


def test_a_delayed_event_is_an_earlier_one_too(
    transport: MemoryTransport, clock: FakeClock, envelope: Make, take: Take, ids: Ids
) -> None:
    transport.send([envelope("1", ordering_key="k")], delay=10)
    transport.send([envelope("2", ordering_key="k")])

    assert take(transport) == []
    clock.advance(10)
    assert ids(take(transport)) == ["1"]


def test_urgency_does_not_overtake_within_a_key(
    transport: MemoryTransport, envelope: Make, take: Take, ids: Ids
) -> None:
    transport.send([envelope("1", ordering_key="k"), envelope("2", ordering_key="k", urgency="high")])

    assert ids(take(transport)) == ["1"]


def test_a_key_orders_within_its_queue_alone(transport: MemoryTransport, envelope: Make, take: Take) -> None:
    transport.send([envelope(queue="a", ordering_key="k"), envelope(queue="b", ordering_key="k")])

    assert len(take(transport, "a", "b")) == 2


def test_an_empty_key_is_a_key(transport: MemoryTransport, envelope: Make, take: Take, ids: Ids) -> None:
    transport.send([envelope("1", ordering_key=""), envelope("2", ordering_key="")])

    assert ids(take(transport)) == ["1"]


def test_a_revived_event_goes_to_the_end_of_its_line(
    transport: MemoryTransport, envelope: Make, take: Take, ids: Ids
) -> None:
    transport.send([envelope("1", ordering_key="k"), envelope("2", ordering_key="k")])
    transport.dead_letter(take(transport)[0], reason="no")
    [dead] = transport.dead_letters(["default"])

    transport.revive({dead.ref: b""})

    [second] = take(transport)
    assert ids([second]) == ["2"]
    transport.ack(second)
    assert ids(take(transport)) == ["1"]


@pytest.mark.usefixtures("line")
def test_who_waits_for_his_turn_counts_as_ready(transport: MemoryTransport, take: Take) -> None:
    take(transport)

    stats = transport.stats("default")

    assert (stats.ready, stats.leased) == (1, 3)


def test_a_long_line_is_worked_off_in_order(transport: MemoryTransport, envelope: Make, take: Take, ids: Ids) -> None:
    transport.send([envelope(str(number), ordering_key="k") for number in range(200)])

    seen = []
    while deliveries := take(transport):
        seen += ids(deliveries)
        transport.settle([(delivery, Ack()) for delivery in deliveries])

    assert seen == [str(number) for number in range(200)]
