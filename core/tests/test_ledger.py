from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from relevo import Ack, DeadLetter, Delivery, Envelope, Hooks, Nack, Release, Settlement, hookimpl
from relevo._worker.ledger import Ledger
from relevo.errors import ConfigurationError, RelevoError, SettleError, TransportUnavailableError, UnsupportedError
from relevo.testing import FakeClock
from relevo_memory import MemoryTransport

DOWN = TransportUnavailableError("main", "down")
PATIENCE = 300.0


class _Heard:
    """What the ledger noted."""

    def __init__(self) -> None:
        self.settled: list[Settlement] = []
        self.lost: list[Settlement] = []

    def __call__(self, settlements: Sequence[Settlement], lost: Sequence[Settlement]) -> None:
        self.settled += settlements
        self.lost += lost


@pytest.fixture(name="heard")
def _heard() -> _Heard:
    return _Heard()


@pytest.fixture(name="ledger")
def _ledger(transport: Any, clock: FakeClock, heard: _Heard) -> Ledger:
    return Ledger(transport, clock, Hooks(), heard, limit=3)


@pytest.fixture(name="held")
def _held(transport: Any, envelope: Callable[..., Envelope], ledger: Ledger) -> Sequence[Delivery]:
    """Three deliveries that the ledger holds."""
    transport.send([envelope(str(number)) for number in range(3)])
    deliveries: Sequence[Delivery] = transport.receive(["default"], limit=3, lease=60.0, wait=0.0)
    ledger.hold(deliveries)
    return deliveries


def test_what_was_received_is_held_until_it_is_settled(
    ledger: Ledger, held: Sequence[Delivery], transport: Any
) -> None:
    ledger.add(held[0], Ack())

    before = ledger.held(), ledger.pending()
    ledger.flush()

    assert (before, ledger.held(), ledger.pending()) == ((3, 1), 2, 0)
    assert [ledger.holds(delivery) for delivery in held] == [False, True, True]
    assert transport.stats("default").leased == 2


def test_settlements_wait_for_others_ten_milliseconds_or_until_there_are_enough(
    ledger: Ledger, held: Sequence[Delivery], clock: FakeClock
) -> None:
    ripe = [ledger.ripe()]
    ledger.add(held[0], Ack())
    ripe.append(ledger.ripe())
    clock.advance(0.006)
    ledger.add(held[1], Ack())
    ripe.append(ledger.ripe())
    clock.advance(0.006)

    assert [*ripe, ledger.ripe()] == [False, False, False, True]
    ledger.flush()
    for delivery in held:
        ledger.add(delivery, Ack())
    assert ledger.ripe()


def test_an_empty_flush_asks_nobody(ledger: Ledger, transport: Any) -> None:
    ledger.flush()

    assert transport.said("settle") == []


def test_what_was_settled_is_counted_by_outcome_and_releases_are_no_handling(
    ledger: Ledger, held: Sequence[Delivery]
) -> None:
    ledger.add(held[0], Ack())
    ledger.add(held[1], DeadLetter(reason="gave-up"))
    ledger.release(held[2:])

    ledger.flush()

    assert (ledger.counts[Ack], ledger.counts[DeadLetter], ledger.counts[Release]) == (1, 1, 1)
    assert ledger.handled() == 2
    assert ledger.reasons == {"gave-up": 1}


def test_a_lost_lease_is_told_and_not_counted(
    ledger: Ledger, held: Sequence[Delivery], heard: _Heard, clock: FakeClock
) -> None:
    clock.advance(61)
    ledger.add(held[0], Ack())

    ledger.flush()

    assert (heard.lost, heard.settled) == ([(held[0], Ack())], [])
    assert ledger.handled() == 0
    assert not ledger.holds(held[0])


def test_settlements_that_are_refused_together_are_one_warning(
    ledger: Ledger, held: Sequence[Delivery], clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    clock.advance(61)
    for delivery in held[:3]:
        ledger.add(delivery, Ack())

    ledger.flush()

    (line,) = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert line == (
        f"{held[0]} was no longer held when it was settled: its lease had ended, or an earlier try settled it; "
        "and 2 more like it"
    )


def test_while_the_server_is_down_settlements_wait_in_their_order(
    ledger: Ledger, held: Sequence[Delivery], transport: Any, heard: _Heard
) -> None:
    transport.fail("settle", DOWN, times=2)
    ledger.add(held[0], Ack())
    with pytest.raises(TransportUnavailableError):
        ledger.flush()
    ledger.add(held[1], Nack())
    with pytest.raises(TransportUnavailableError):
        ledger.flush()

    ledger.flush()

    assert [outcome for _, outcome in heard.settled] == [Ack(), Nack()]
    assert ledger.handled() == 2


def test_settling_again_after_a_lost_answer_does_no_harm(
    ledger: Ledger, held: Sequence[Delivery], transport: Any, heard: _Heard
) -> None:
    transport.fail("settle", DOWN, done=True)
    ledger.add(held[0], Ack())
    with pytest.raises(TransportUnavailableError):
        ledger.flush()

    ledger.flush()

    assert heard.lost == [(held[0], Ack())]
    assert not ledger.holds(held[0])
    assert transport.stats("default").leased == 2


# --- what cannot be settled while the rest can ------------------------------------------------------


def test_what_the_transport_does_not_support_holds_up_nothing_else(
    ledger: Ledger, held: Sequence[Delivery], transport: Any, clock: FakeClock, heard: _Heard
) -> None:
    settle = transport.settle

    def refuse(settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        if any(delivery is held[1] for delivery, _ in settlements):
            raise UnsupportedError("main", "dead_letters")
        return cast("Sequence[Delivery]", settle(settlements))

    transport.settle = refuse
    for delivery in held:
        ledger.add(delivery, DeadLetter(reason="expired") if delivery is held[1] else Ack())

    ledger.flush()

    assert [delivery for delivery, _ in heard.settled] == [held[0], held[2]]
    assert (ledger.held(), ledger.waiting()) == (1, 1)
    for _ in range(4):
        clock.advance(1.0)
        ledger.flush()
    clock.advance(1.0)
    with pytest.raises(SettleError, match='could not settle 1 delivery: the transport "main" does not support dead_'):
        ledger.flush()


@pytest.mark.parametrize(
    ("error", "tried"),
    [
        (SettleError("main", unsettled=["of the batch"], why="the queue is full"), ["0", "1", "2"]),
        (DOWN, ["0", "1"]),
        (ConfigurationError("the password is wrong"), ["0", "1"]),
    ],
)
def test_an_error_while_outcomes_are_settled_one_by_one_settles_none_twice_and_forgets_none(
    ledger: Ledger,
    held: Sequence[Delivery],
    transport: Any,
    clock: FakeClock,
    heard: _Heard,
    error: RelevoError,
    tried: list[str],
) -> None:
    if isinstance(error, SettleError):
        error = SettleError("main", unsettled=[held[1]], why=error.why)
    transport.fail("settle", UnsupportedError("main", "dead_letters"))
    settle = transport.settle

    def fail_once(settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        if [delivery for delivery, _ in settlements] == [held[1]] and not transport.faults["settle"]:
            transport.fail("settle", error)
            transport.settle = settle
        return cast("Sequence[Delivery]", settle(settlements))

    transport.settle = fail_once
    for delivery in held:
        ledger.add(delivery, Ack())

    ledger.flush()

    batches = [[event_id for event_id, _ in batch] for batch in transport.said("settle")]
    assert batches == [["0", "1", "2"], *([each] for each in tried)]
    settled = [delivery for number, delivery in enumerate(held) if str(number) in tried and number != 1]
    assert [delivery for delivery, _ in heard.settled] == settled
    assert (ledger.held(), ledger.waiting(), ledger.pending()) == (3 - len(settled), 3 - len(settled), 0)
    clock.advance(1.0)
    ledger.flush()
    assert (ledger.held(), ledger.counts[Ack], heard.lost) == (0, 3, [])


def _refuse(transport: Any, settled: Sequence[Delivery], unsettled: Sequence[Delivery], *, times: int = 1) -> None:
    """Let the server settle *settled* alone; the harness does what it would have done."""
    error = SettleError("main", unsettled=unsettled, why="the queue is full")
    transport.fail("settle", error, times=times)
    if settled:
        MemoryTransport.settle(transport, [(delivery, Ack()) for delivery in settled])


def test_what_could_not_be_settled_is_tried_again_after_a_second_and_the_rest_is_done(
    ledger: Ledger, held: Sequence[Delivery], transport: Any, heard: _Heard, clock: FakeClock
) -> None:
    for delivery in held:
        ledger.add(delivery, Ack())
    _refuse(transport, held[:2], held[2:])

    ledger.flush()
    told = list(heard.settled)
    ledger.flush()
    early = ledger.held(), ledger.ripe(), len(transport.said("settle"))
    clock.advance(1.0)
    ripe = ledger.ripe()
    ledger.flush()

    assert [delivery for delivery, _ in told] == list(held[:2])
    assert early == (1, False, 1)
    assert ripe
    assert ledger.held() == 0
    assert ledger.handled() == 3


def test_what_can_never_be_settled_is_raised_every_time_and_never_forgotten(
    ledger: Ledger, held: Sequence[Delivery], transport: Any, clock: FakeClock
) -> None:
    _refuse(transport, [], held[:1], times=7)
    ledger.add(held[0], Ack())

    for _ in range(5):
        ledger.flush()
        clock.advance(1.0)
    for _ in range(2):
        with pytest.raises(SettleError):
            ledger.flush()
        clock.advance(1.0)

    assert ledger.holds(held[0])
    ledger.flush()
    assert not ledger.holds(held[0])


def test_an_unforeseen_error_leaves_everything_where_it_was(
    ledger: Ledger, held: Sequence[Delivery], transport: Any
) -> None:
    transport.fail("settle", RuntimeError("a defect"))
    ledger.add(held[0], Ack())

    with pytest.raises(RuntimeError):
        ledger.flush()

    assert (ledger.pending(), ledger.held()) == (1, 3)


# --- leases --------------------------------------------------------------------------------------------


def test_all_that_is_held_is_renewed(
    ledger: Ledger, held: Sequence[Delivery], transport: Any, clock: FakeClock
) -> None:
    ledger.add(held[0], Ack())
    clock.advance(50)

    ledger.extend(60.0)
    clock.advance(50)
    ledger.flush()

    assert ledger.handled() == 1
    assert transport.stats("default").leased == 2


def test_nothing_held_is_nothing_to_renew(ledger: Ledger, transport: Any) -> None:
    ledger.extend(60.0)

    assert transport.said("extend") == []


def test_a_lease_that_was_lost_while_it_was_held_is_told_once_and_given_up(
    ledger: Ledger, held: Sequence[Delivery], clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    ledger.add(held[0], Ack())
    clock.advance(61)

    ledger.extend(60.0)
    ledger.extend(60.0)

    assert [record.message.count("was lost while it was held") for record in caplog.records] == [1, 1]
    assert [ledger.holds(delivery) for delivery in held] == [True, False, False]  # the first is told when it is settled


def test_a_renewal_that_fails_is_told_and_does_no_harm(
    ledger: Ledger, held: Sequence[Delivery], transport: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        transport.fail("extend", DOWN)
        ledger.extend(60.0)

    assert caplog.text.count("could not be renewed") == 1, "once a minute"
    assert ledger.held() == 3


def test_what_is_just_being_settled_does_not_seem_lost(
    envelope: Callable[..., Envelope], clock: FakeClock, heard: _Heard, caplog: pytest.LogCaptureFixture
) -> None:
    settled, go_on = threading.Event(), threading.Event()

    class _Slow(MemoryTransport):
        def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
            lost = super().settle(settlements)
            settled.set()
            go_on.wait(PATIENCE)
            return lost

    with _Slow(clock=clock) as transport:
        ledger = Ledger(transport, clock, Hooks(), heard, limit=3)
        transport.send([envelope()])
        (delivery,) = transport.receive(["default"], limit=1, lease=60.0, wait=0.0)
        ledger.hold([delivery])
        ledger.add(delivery, Ack())
        flush = threading.Thread(target=ledger.flush)
        extend = threading.Thread(target=ledger.extend, args=(60.0,))
        flush.start()
        settled.wait(PATIENCE)
        extend.start()
        extend.join(0.1)
        go_on.set()
        for thread in (flush, extend):
            thread.join(PATIENCE)

    assert caplog.records == []
    assert ledger.handled() == 1


def test_two_threads_that_flush_settle_everything_once(
    envelope: Callable[..., Envelope], clock: FakeClock, transport: Any
) -> None:
    heard = _Heard()
    ledger = Ledger(transport, clock, Hooks(), heard, limit=3)
    transport.send([envelope(str(number)) for number in range(500)])
    deliveries = transport.receive(["default"], limit=500, lease=60.0, wait=0.0)
    ledger.hold(deliveries)
    done = threading.Event()

    def keep() -> None:
        while not done.is_set():
            ledger.flush()
            ledger.extend(60.0)

    keeper = threading.Thread(target=keep)
    keeper.start()
    for delivery in deliveries:
        ledger.add(delivery, Ack())
        ledger.flush()
    done.set()
    keeper.join(PATIENCE)

    assert heard.lost == []
    assert ledger.handled() == len(heard.settled) == 500
    assert ledger.held() == 0


# --- hooks ----------------------------------------------------------------------------------------------


class _Watch:
    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    @hookimpl
    def relevo_around_settle(self, transport: str, settlements: Sequence[Settlement]) -> None:
        self.seen.append((transport, len(settlements)))


def test_an_observing_hook_sees_every_flush(
    transport: Any, clock: FakeClock, envelope: Callable[..., Envelope]
) -> None:
    watch = _Watch()
    ledger = Ledger(transport, clock, Hooks([watch]), _Heard(), limit=3)
    transport.send([envelope()])
    (delivery,) = transport.receive(["default"], limit=1, lease=60.0, wait=0.0)
    ledger.add(delivery, Ack())

    ledger.flush()

    assert watch.seen == [("memory", 1)]
