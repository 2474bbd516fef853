"""What is handed out, in which order, and how a receive waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings, strategies as st

from relevo import Ack, Delivery, Envelope, Lost, Nack, Release
from relevo.errors import LeaseLostError, TransportClosedError
from relevo.testing import FakeClock
from relevo_sql import SqlTransport, _claim

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    return [d.envelope.id for d in deliveries if isinstance(d.envelope, Envelope)]


def take(transport: SqlTransport, *queues: str, limit: int = 100) -> Sequence[Delivery]:
    return transport.receive(queues or ["default"], limit=limit, lease=60, wait=0)


# --- in which order --------------------------------------------------------------------------------------


def test_the_first_queue_is_emptied_first_and_the_urgent_overtake(transport: SqlTransport, an_envelope: Maker) -> None:
    transport.send(
        [
            an_envelope(1, queue="feed"),
            an_envelope(2, queue="feed", urgency="high"),
            an_envelope(3, queue="media"),
            an_envelope(4, queue="media", urgency="high"),
        ]
    )

    first = take(transport, "media", "feed", limit=3)
    rest = take(transport, "media", "feed")

    assert ids(first) == ["id-4", "id-3", "id-2"]
    assert ids(rest) == ["id-1"]


def test_what_is_put_off_goes_behind_and_what_is_given_back_keeps_its_place(
    transport: SqlTransport, an_envelope: Maker, clock: FakeClock
) -> None:
    transport.send([an_envelope(number) for number in (1, 2, 3)])
    clock.advance(1)
    transport.send([an_envelope(4)])
    clock.advance(1)
    one, two, three = take(transport, limit=3)

    transport.settle([(one, Nack()), (two, Release()), (three, Lost())])

    assert ids(take(transport)) == ["id-2", "id-3", "id-4", "id-1"]


def test_an_event_that_is_always_put_off_does_not_keep_others_waiting(
    transport: SqlTransport, an_envelope: Maker, clock: FakeClock
) -> None:
    transport.send([an_envelope(number) for number in range(5)])
    seen = []
    for _ in range(5):
        clock.advance(0.001)
        (delivery,) = take(transport, limit=1)
        seen += ids([delivery])
        transport.nack(delivery)

    assert seen == [f"id-{number}" for number in range(5)]


def test_an_event_sent_before_another_committed_later_is_not_passed_over(
    transport: SqlTransport, an_envelope: Maker, clock: FakeClock
) -> None:
    transport.send([an_envelope(1), an_envelope(2)], delay=10)
    transport.send([an_envelope(3)])

    first = take(transport)
    clock.advance(10)

    assert ids(first) == ["id-3"]
    assert ids(take(transport)) == ["id-1", "id-2"]


# --- more than one look moves ----------------------------------------------------------------------------


def test_more_overdue_events_than_one_claim_moves_all_come(
    transport: SqlTransport, an_envelope: Maker, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_claim, "_BOUND", 3)
    transport.send([an_envelope(number) for number in range(10)], delay=5)
    transport.send([an_envelope(number) for number in range(10, 20)])
    held = take(transport)
    clock.advance(60)

    came: list[str] = []
    while deliveries := take(transport, limit=4):
        came += ids(deliveries)

    assert len(held) == 10
    assert sorted(came) == sorted(f"id-{number}" for number in range(20))


# --- what a queue holds -----------------------------------------------------------------------------------


def test_what_time_has_made_ready_counts_as_ready_before_anybody_looked(
    transport: SqlTransport, an_envelope: Maker, clock: FakeClock
) -> None:
    transport.send([an_envelope(1)])
    take(transport)
    transport.send([an_envelope(2)], delay=30)
    transport.send([an_envelope(number, ordering_key="42") for number in (3, 4)])
    before = transport.stats("default")

    clock.advance(60)
    after = transport.stats("default")

    assert (before.ready, before.leased, before.scheduled, before.oldest_age) == (2, 1, 1, 0.0)
    assert (after.ready, after.leased, after.scheduled, after.oldest_age) == (4, 0, 0, 60.0)


def test_a_lease_that_ran_out_is_lost_whoever_looked(
    transport: SqlTransport, an_envelope: Maker, clock: FakeClock
) -> None:
    transport.send([an_envelope(1)])
    (delivery,) = take(transport)
    clock.advance(60)

    assert transport.settle([(delivery, Ack())]) == [delivery]
    assert transport.extend([delivery], lease=60) == [delivery]
    with pytest.raises(LeaseLostError):
        transport.checkpoint(delivery, b"late")
    (again,) = take(transport)
    assert (again.attempt, again.lost_leases, again.state) == (2, 1, b"")


def test_a_purge_takes_more_than_one_transactions_worth_and_leaves_what_is_held(
    transport: SqlTransport, an_envelope: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relevo_sql._stats._BOUND", 3)
    transport.send([an_envelope(number, ordering_key=str(number % 2)) for number in range(8)])
    transport.send([an_envelope(number) for number in range(8, 16)])
    transport.send([an_envelope(number) for number in range(16, 20)], delay=5)
    transport.send([an_envelope(20, queue="feed")])
    held = take(transport, limit=1)

    purged = transport.purge("default")

    assert purged == 19
    assert transport.stats("default").leased == 1
    assert ids(take(transport, "feed")) == ["id-20"]
    assert not transport.settle([(held[0], Ack())])


def test_a_purge_leaves_what_is_sent_meanwhile(
    transport: SqlTransport, opener: Opener, an_envelope: Maker, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relevo_sql._stats._BOUND", 2)
    other = opener(clock)
    transport.send([an_envelope(number, ordering_key="42") for number in range(4)])
    meanwhile = iter([[an_envelope(number, ordering_key="42")] for number in range(10, 12)])

    def send_more(*execution: Any) -> None:
        if execution[2] == "COMMIT":
            other.send(next(meanwhile, []))

    engine = transport._database.engine
    sa.event.listen(engine, "after_cursor_execute", send_more)
    purged = transport.purge("default")
    sa.event.remove(engine, "after_cursor_execute", send_more)

    assert purged == 4
    (first,) = take(transport)
    transport.ack(first)
    assert ids([first, *take(transport)]) == ["id-10", "id-11"]


def test_dead_letters_are_paged_queue_by_queue(transport: SqlTransport, an_envelope: Maker) -> None:
    for number in range(6):
        transport.send([an_envelope(number, queue="feed" if number % 2 else "media")])
        (delivery,) = take(transport, "feed", "media")
        transport.dead_letter(delivery, reason="broken")

    whole = [entry.ref for entry in transport.dead_letters(["media", "feed"])]
    paged: list[str] = []
    while page := transport.dead_letters(["media", "feed"], after=paged[-1] if paged else None, limit=2):
        paged += [entry.ref for entry in page]
        transport.discard(paged[-1:])

    assert whole == ["1@media", "3@media", "5@media", "2@feed", "4@feed", "6@feed"]
    assert paged == whole


def test_those_behind_a_cancelled_one_of_their_key_have_their_turn(transport: SqlTransport, an_envelope: Maker) -> None:
    transport.send([an_envelope(number, ordering_key="42") for number in (1, 2, 3)])
    transport.send([an_envelope(4, ordering_key="42")], delay=10)

    counts = [transport.cancel("id-1"), transport.cancel("id-1")]

    assert counts == [1, 0]
    assert ids(take(transport)) == ["id-2"]


# --- receipts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("receipt", [None, "receipt", (1,), (1, 2, 3), ("1", "2"), (2**70, 1), object(), (1, -1)])
def test_a_receipt_of_something_else_is_lost(transport: SqlTransport, an_envelope: Maker, receipt: object) -> None:
    transport.send([an_envelope(1)])
    take(transport)
    stranger = Delivery(envelope=an_envelope(1), queue="default", receipt=receipt, enqueued_at=0.0)

    assert transport.settle([(stranger, Ack())]) == [stranger]
    assert transport.extend([stranger], lease=5) == [stranger]
    with pytest.raises(LeaseLostError):
        transport.checkpoint(stranger, b"")


def test_a_delivery_that_stands_twice_in_a_batch_is_settled_once(transport: SqlTransport, an_envelope: Maker) -> None:
    transport.send([an_envelope(1)])
    (delivery,) = take(transport)

    lost = transport.settle([(delivery, Nack()), (delivery, Ack())])

    assert lost == [delivery]
    (again,) = take(transport)
    assert again.attempt == 2


# --- waiting ----------------------------------------------------------------------------------------------


def timed_receive(transport: SqlTransport, wait: float) -> tuple[list[str], float]:
    start = time.monotonic()
    deliveries = transport.receive(["default"], limit=1, lease=60, wait=wait)
    return ids(deliveries), time.monotonic() - start


def test_a_wait_in_vain_ends_in_time(opener: Opener) -> None:
    transport = opener()

    received, took = timed_receive(transport, 0.3)

    assert received == []
    assert 0.3 <= took < 60


def test_a_send_of_this_process_ends_a_wait_at_once(
    opener: Opener, an_envelope: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relevo_sql._pause._FIRST", 600.0)
    transport = opener(poll=600.0)
    timer = threading.Timer(0.5, lambda: transport.send([an_envelope(1)]))
    timer.start()

    received, took = timed_receive(transport, 600)

    timer.join()
    assert received == ["id-1"]
    assert took < 60


def test_a_send_of_another_process_is_found_by_looking(opener: Opener, an_envelope: Maker) -> None:
    transport, other = opener(), opener()
    timer = threading.Timer(0.5, lambda: other.send([an_envelope(1)]))
    timer.start()

    received, took = timed_receive(transport, 600)

    timer.join()
    assert received == ["id-1"]
    assert took < 60


def test_the_end_of_a_delay_is_waited_for_and_not_polled_for(
    opener: Opener, an_envelope: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relevo_sql._pause._FIRST", 600.0)
    transport = opener(poll=600.0)
    before = time.monotonic()
    transport.send([an_envelope(1)], delay=0.5)

    received, _ = timed_receive(transport, 600)

    assert received == ["id-1"]
    assert 0.5 <= time.monotonic() - before < 60


def test_a_close_ends_a_wait(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relevo_sql._pause._FIRST", 600.0)
    transport = opener(poll=600.0)
    timer = threading.Timer(0.3, transport.close)
    timer.start()
    start = time.monotonic()

    with pytest.raises(TransportClosedError):
        transport.receive(["default"], limit=1, lease=60, wait=600)

    timer.join()
    assert time.monotonic() - start < 60


def test_a_clock_that_stands_still_is_asked_to_sleep(
    transport: SqlTransport, an_envelope: Maker, clock: FakeClock
) -> None:
    transport.send([an_envelope(1)], delay=30)
    start = clock.now()

    in_vain = ids(transport.receive(["default"], limit=1, lease=60, wait=10))
    received = ids(transport.receive(["default"], limit=1, lease=60, wait=100))

    assert (in_vain, received) == ([], ["id-1"])
    assert clock.now() - start == pytest.approx(30)


def test_a_waiting_receive_writes_nothing(opener: Opener, an_envelope: Maker) -> None:
    transport = opener(poll=0.01)
    transport.send([an_envelope(1)], delay=60)
    before = transport._database.read(lambda c: c.exec_driver_sql("PRAGMA data_version").scalar())
    other = opener()
    version = other._database.read(lambda c: c.exec_driver_sql("PRAGMA data_version").scalar())

    transport.receive(["default"], limit=1, lease=60, wait=0.2)

    assert other._database.read(lambda c: c.exec_driver_sql("PRAGMA data_version").scalar()) == version
    assert transport._database.read(lambda c: c.exec_driver_sql("PRAGMA data_version").scalar()) == before


# --- laws ---------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(delay=st.floats(0, 1e6), short=st.floats(0.002, 1.0))
def test_a_delay_is_never_cut_short_and_ends_within_its_resolution(
    transport: SqlTransport, an_envelope: Maker, clock: FakeClock, delay: float, short: float
) -> None:
    transport.purge("default")
    transport.send([an_envelope(1)], delay=delay)
    if delay > short:
        clock.advance(delay - short)
        assert not take(transport)
        clock.advance(short)
    else:
        clock.advance(delay)
    clock.advance(0.001)

    (delivery,) = take(transport)
    transport.ack(delivery)


@pytest.mark.parametrize("seconds", [1e12, 1e300, float("inf")])
def test_for_ever_is_as_long_as_a_database_can_tell(
    transport: SqlTransport, an_envelope: Maker, seconds: float
) -> None:
    transport.send([an_envelope(1)], delay=seconds)
    transport.send([an_envelope(2)])
    (delivery,) = transport.receive(["default"], limit=1, lease=seconds, wait=0)
    transport.nack(delivery, delay=seconds)

    assert transport.stats("default").scheduled == 2
