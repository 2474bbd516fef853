"""How a hand-over ends: by a settlement, or with its lease."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from relevo import MAX_STATE, Ack, DeadLetter, Delivery, Envelope, Lost, Nack, Release
from relevo.errors import ConfigurationError, LeaseLostError
from relevo.testing import FakeClock
from relevo_memory import MemoryTransport

Make = Callable[..., Envelope]
Take = Callable[..., Sequence[Delivery]]
Ids = Callable[[Sequence[Delivery]], list[str]]


@pytest.fixture(name="held")
def _held(transport: MemoryTransport, envelope: Make, take: Take) -> Delivery:
    """Send an event and hold it for 60 seconds."""
    transport.send([envelope()])
    [delivery] = take(transport)
    return delivery


def test_an_ack_is_final(transport: MemoryTransport, held: Delivery, clock: FakeClock, take: Take) -> None:
    transport.ack(held)

    clock.advance(1_000_000)
    assert take(transport) == []
    stats = transport.stats("default")
    assert (stats.ready, stats.leased, stats.scheduled, stats.dead) == (0, 0, 0, 0)


def test_a_nack_brings_it_back_after_its_delay_with_the_next_attempt(
    transport: MemoryTransport, held: Delivery, clock: FakeClock, take: Take
) -> None:
    transport.nack(held, delay=10, state=b"progress")

    clock.advance(9.999)
    assert take(transport) == []
    clock.advance(0.001)
    [again] = take(transport)
    assert (again.attempt, again.lost_leases, again.state) == (2, 0, b"progress")
    assert again.envelope == held.envelope
    assert again.enqueued_at == held.enqueued_at


def test_a_nack_without_delay_goes_behind_what_is_ready(
    transport: MemoryTransport, held: Delivery, envelope: Make, take: Take, ids: Ids
) -> None:
    transport.send([envelope("2"), envelope("3")])

    transport.nack(held)

    assert ids(take(transport)) == ["2", "3", "1"]


def test_a_release_counts_nothing_and_keeps_its_place(
    transport: MemoryTransport, held: Delivery, envelope: Make, take: Take, ids: Ids
) -> None:
    transport.send([envelope("2")])

    assert transport.settle([(held, Release())]) == []

    first, second = take(transport)
    assert ids([first, second]) == ["1", "2"]
    assert (first.attempt, first.lost_leases, first.state) == (1, 0, b"")


def test_a_reported_loss_counts_at_once_and_keeps_its_place(
    transport: MemoryTransport, held: Delivery, envelope: Make, take: Take, ids: Ids
) -> None:
    transport.send([envelope("2")])

    assert transport.settle([(held, Lost(state=b"s"))]) == []

    first, second = take(transport)
    assert ids([first, second]) == ["1", "2"]
    assert (first.attempt, first.lost_leases, first.state) == (2, 1, b"s")


@pytest.mark.parametrize("outcome", [Nack(), Lost()])
def test_no_state_leaves_what_was_kept(
    outcome: Nack | Lost, transport: MemoryTransport, held: Delivery, take: Take
) -> None:
    transport.checkpoint(held, b"kept")

    transport.settle([(held, outcome)])

    assert take(transport)[0].state == b"kept"


def test_an_empty_state_replaces_what_was_kept(transport: MemoryTransport, held: Delivery, take: Take) -> None:
    transport.checkpoint(held, b"kept")

    transport.nack(held, state=b"")

    assert take(transport)[0].state == b""


def test_each_settlement_stands_on_its_own(
    transport: MemoryTransport, other: MemoryTransport, envelope: Make, take: Take
) -> None:
    transport.send([envelope(str(number)) for number in range(5)])
    done, put_off, dead, given_back, stale = take(transport)
    transport.ack(stale)

    lost = other.settle(
        [
            (stale, Nack()),
            (done, Ack()),
            (put_off, Nack(delay=9)),
            (dead, DeadLetter(reason="no")),
            (given_back, Release()),
            (done, Ack()),
        ]
    )

    assert lost == [stale, done]
    stats = transport.stats("default")
    assert (stats.ready, stats.leased, stats.scheduled, stats.dead) == (1, 0, 1, 1)


# --- leases ------------------------------------------------------------------------------------------


def test_a_held_event_is_hidden_for_its_lease_and_then_comes_back_as_a_loss(
    transport: MemoryTransport, other: MemoryTransport, clock: FakeClock, envelope: Make, take: Take
) -> None:
    transport.send([envelope()])
    [first] = take(transport, lease=10)

    clock.advance(9.999)
    assert take(other) == []
    clock.advance(0.001)
    [second] = take(other, lease=10)

    assert (second.attempt, second.lost_leases) == (2, 1)
    assert second.receipt != first.receipt


def test_the_lease_runs_from_the_hand_over_however_old_the_event_is(
    transport: MemoryTransport, clock: FakeClock, envelope: Make, take: Take
) -> None:
    transport.send([envelope()])
    clock.advance(1000)
    take(transport, lease=10)
    clock.advance(9)

    assert take(transport) == []


def test_lost_leases_and_attempts_both_count(
    transport: MemoryTransport, clock: FakeClock, envelope: Make, take: Take
) -> None:
    transport.send([envelope()])
    take(transport, lease=1)
    clock.advance(1)
    transport.nack(take(transport)[0])
    take(transport, lease=1)
    clock.advance(1)

    [delivery] = take(transport)

    assert (delivery.attempt, delivery.lost_leases) == (4, 2)


def test_what_is_lost_keeps_its_place(
    transport: MemoryTransport, clock: FakeClock, envelope: Make, take: Take, ids: Ids
) -> None:
    transport.send([envelope("1"), envelope("2")])
    take(transport, limit=1, lease=5)
    clock.advance(5)

    assert ids(take(transport)) == ["1", "2"]


@pytest.mark.parametrize("outcome", [Ack(), Nack(), Release(), DeadLetter(reason="no"), Lost(state=b"x")])
def test_a_stale_settlement_changes_nothing_and_is_told(
    outcome: Ack | Nack | Release | DeadLetter | Lost,
    transport: MemoryTransport,
    other: MemoryTransport,
    held: Delivery,
    clock: FakeClock,
    take: Take,
) -> None:
    clock.advance(60)
    [current] = take(other)

    assert transport.settle([(held, outcome)]) == [held]

    assert transport.stats("default").leased == 1
    assert transport.dead_letters(["default"]) == []
    assert other.settle([(current, Ack())]) == []


def test_a_lease_that_is_past_is_lost_even_if_nobody_took_over(
    transport: MemoryTransport, held: Delivery, clock: FakeClock, take: Take
) -> None:
    clock.advance(60)

    assert transport.settle([(held, Ack())]) == [held]
    assert transport.extend([held], lease=60) == [held]
    with pytest.raises(LeaseLostError):
        transport.checkpoint(held, b"late")

    [again] = take(transport)
    assert (again.attempt, again.lost_leases, again.state) == (2, 1, b"")


def test_a_settlement_from_before_a_revival_is_stale(transport: MemoryTransport, held: Delivery, take: Take) -> None:
    transport.dead_letter(held, reason="no")
    [dead] = transport.dead_letters(["default"])
    transport.revive({dead.ref: b""})
    take(transport)

    assert transport.settle([(held, Ack())]) == [held]


def test_the_operations_raise_when_the_lease_is_lost(transport: MemoryTransport, held: Delivery) -> None:
    transport.ack(held)

    for operation in (transport.ack, transport.nack):
        with pytest.raises(LeaseLostError) as caught:
            operation(held)
        assert caught.value.delivery is held
    with pytest.raises(LeaseLostError):
        transport.dead_letter(held, reason="no")


def test_a_receipt_of_another_store_proves_nothing(
    transport: MemoryTransport, held: Delivery, envelope: Make, take: Take
) -> None:
    stranger = MemoryTransport()
    stranger.send([envelope()])
    [foreign] = take(stranger)

    assert transport.settle([(foreign, Ack())]) == [foreign]
    assert transport.settle([(Delivery(envelope=held.envelope, queue="x", receipt=[], enqueued_at=0), Ack())])
    assert transport.settle([(held, Ack())]) == []


def test_extend_keeps_the_lease_from_now_on(
    transport: MemoryTransport, held: Delivery, clock: FakeClock, take: Take
) -> None:
    clock.advance(50)
    assert transport.extend([held], lease=60) == []

    clock.advance(59)
    assert take(transport) == []
    clock.advance(1)
    [again] = take(transport)
    assert (again.attempt, again.lost_leases) == (2, 1)


def test_extend_tells_the_lost_and_keeps_the_others(
    transport: MemoryTransport, clock: FakeClock, envelope: Make, take: Take
) -> None:
    transport.send([envelope("1"), envelope("2")])
    [short] = take(transport, limit=1, lease=1)
    [long] = take(transport, limit=1, lease=10)
    clock.advance(5)

    assert transport.extend([short, long], lease=10) == [short]
    clock.advance(9)
    assert transport.settle([(long, Ack())]) == []


def test_a_checkpoint_survives_a_loss(transport: MemoryTransport, held: Delivery, clock: FakeClock, take: Take) -> None:
    transport.checkpoint(held, b"half")
    clock.advance(30)
    transport.checkpoint(held, b"more")
    clock.advance(30)

    [again] = take(transport)

    assert (again.state, again.lost_leases) == (b"more", 1)


def test_a_state_that_is_too_long_is_refused_and_nothing_is_changed(
    transport: MemoryTransport, envelope: Make, take: Take
) -> None:
    transport.send([envelope("1"), envelope("2")])
    one, two = take(transport)
    longest, too_long = bytes(MAX_STATE), bytes(MAX_STATE + 1)

    for outcome in (Nack(state=too_long), DeadLetter(reason="no", state=too_long), Lost(state=too_long)):
        with pytest.raises(ConfigurationError, match="16384 bytes of state, not 16385"):
            transport.settle([(one, Ack()), (two, outcome)])
    with pytest.raises(ConfigurationError):
        transport.checkpoint(one, too_long)
    assert transport.stats("default").leased == 2

    transport.checkpoint(one, longest)
    transport.dead_letter(two, reason="no", state=longest)
    [dead] = transport.dead_letters(["default"])
    with pytest.raises(ConfigurationError):
        transport.revive({dead.ref: too_long})
    assert transport.revive({dead.ref: longest}) == []
