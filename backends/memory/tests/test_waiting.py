"""A receive that finds nothing: on a clock that runs it is woken, on one that stands still it lets time pass."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from relevo import Ack, Delivery, Envelope, Lost, Nack, Outcome, Release, SystemClock
from relevo.errors import TransportClosedError
from relevo.testing import FakeClock
from relevo_memory import MemoryStore, MemoryTransport

Make = Callable[..., Envelope]
Take = Callable[..., Sequence[Delivery]]

PATIENCE = 60.0
"""Seconds; a test that waits so long has failed."""

LONG = 2 * PATIENCE
"""Seconds for which a receive waits that another event should end."""


class ShiftedClock:
    """A clock that runs, an hour fast, and is no subclass of the system's."""

    def now(self) -> float:
        return time.time() + 3600

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class StuckClock(FakeClock):
    """A clock that stands still and does not sleep either."""

    def sleep(self, seconds: float) -> None:
        pass


@pytest.fixture(name="live")
def _live(store: MemoryStore) -> Iterator[MemoryTransport]:
    with MemoryTransport(store) as live:
        yield live


@pytest.fixture(name="pool")
def _pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture(name="blocked")
def _blocked(live: MemoryTransport, pool: ThreadPoolExecutor, take: Take) -> Callable[[], Future[Sequence[Delivery]]]:
    """Start a receive that blocks."""

    def blocked() -> Future[Sequence[Delivery]]:
        receiving: list[threading.Thread] = []

        def receive() -> Sequence[Delivery]:
            receiving.append(threading.current_thread())
            return take(live, wait=LONG, lease=LONG)

        future = pool.submit(receive)
        wait_until(lambda: bool(receiving) and waits(receiving[0]))
        assert not future.done()
        return future

    return blocked


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def waits(thread: threading.Thread) -> bool:
    """Return whether *thread* waits to be notified."""
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and frame.f_code is threading.Condition.wait.__code__


# --- a clock that runs ---------------------------------------------------------------------------------


def test_a_blocked_receive_is_woken_by_a_send(
    live: MemoryTransport, blocked: Callable[[], Future[Sequence[Delivery]]], envelope: Make
) -> None:
    future = blocked()
    live.send([envelope(queue="other")])
    live.send([envelope()])

    assert len(future.result(PATIENCE)) == 1


@pytest.mark.parametrize("outcome", [Nack(), Release(), Lost()])
def test_a_blocked_receive_is_woken_by_what_is_given_back(
    outcome: Outcome,
    live: MemoryTransport,
    blocked: Callable[[], Future[Sequence[Delivery]]],
    envelope: Make,
    take: Take,
) -> None:
    live.send([envelope()])
    [delivery] = take(live)
    future = blocked()

    live.settle([(delivery, outcome)])

    assert len(future.result(PATIENCE)) == 1


def test_a_blocked_receive_is_woken_by_an_ack_of_the_one_before_in_the_line(
    live: MemoryTransport, blocked: Callable[[], Future[Sequence[Delivery]]], envelope: Make, take: Take
) -> None:
    live.send([envelope("1", ordering_key="k"), envelope("2", ordering_key="k")])
    [delivery] = take(live)
    future = blocked()

    live.ack(delivery)

    assert len(future.result(PATIENCE)) == 1


def test_a_blocked_receive_is_woken_by_a_cancel_of_the_one_before_in_the_line(
    live: MemoryTransport, blocked: Callable[[], Future[Sequence[Delivery]]], envelope: Make
) -> None:
    live.send([envelope("1", ordering_key="k")], delay=LONG)
    live.send([envelope("2", ordering_key="k")])
    future = blocked()

    live.cancel("1")

    assert len(future.result(PATIENCE)) == 1


def test_a_blocked_receive_is_woken_by_a_revival(
    live: MemoryTransport, blocked: Callable[[], Future[Sequence[Delivery]]], envelope: Make, take: Take
) -> None:
    live.send([envelope()])
    live.dead_letter(take(live)[0], reason="no")
    future = blocked()

    live.revive({live.dead_letters(["default"])[0].ref: b""})

    assert len(future.result(PATIENCE)) == 1


def test_a_blocked_receive_is_woken_by_foreign_bytes(
    store: MemoryStore, blocked: Callable[[], Future[Sequence[Delivery]]]
) -> None:
    future = blocked()

    store.put_raw("default", b"?")

    assert len(future.result(PATIENCE)) == 1


def test_a_blocked_receive_ends_when_something_comes_due_and_not_before(
    live: MemoryTransport, blocked: Callable[[], Future[Sequence[Delivery]]], envelope: Make
) -> None:
    future = blocked()
    before = time.time()
    live.send([envelope()], delay=0.2)

    assert len(future.result(PATIENCE)) == 1
    assert time.time() - before >= 0.2


def test_a_blocked_receive_ends_when_a_lease_does(
    live: MemoryTransport, pool: ThreadPoolExecutor, envelope: Make, take: Take
) -> None:
    live.send([envelope()])
    before = time.time()
    take(live, lease=0.2)
    future = pool.submit(take, live, wait=LONG)  # too late to be blocked, if the machine pauses here

    assert future.result(PATIENCE)[0].lost_leases == 1
    assert time.time() - before >= 0.2


def test_a_blocked_receive_notices_that_a_lease_was_shortened(
    live: MemoryTransport, blocked: Callable[[], Future[Sequence[Delivery]]], envelope: Make, take: Take
) -> None:
    live.send([envelope()])
    [delivery] = take(live, lease=LONG)
    future = blocked()

    live.extend([delivery], lease=0.1)

    assert future.result(PATIENCE)[0].lost_leases == 1


def test_a_blocked_receive_returns_empty_when_its_wait_is_over(live: MemoryTransport, take: Take) -> None:
    before = time.monotonic()

    assert take(live, wait=0.2) == []

    assert 0.2 <= time.monotonic() - before < 30


def test_a_receive_that_does_not_wait_returns_at_once(live: MemoryTransport, take: Take) -> None:
    before = time.monotonic()

    assert take(live) == []

    assert time.monotonic() - before < 5


def test_a_close_wakes_a_blocked_receive(
    live: MemoryTransport, blocked: Callable[[], Future[Sequence[Delivery]]]
) -> None:
    future = blocked()

    live.close()

    with pytest.raises(TransportClosedError):
        future.result(PATIENCE)


def test_a_close_leaves_the_receive_of_a_neighbour_blocked(
    store: MemoryStore, live: MemoryTransport, blocked: Callable[[], Future[Sequence[Delivery]]], envelope: Make
) -> None:
    future = blocked()

    MemoryTransport(store).close()
    time.sleep(0.05)

    assert not future.done()
    live.send([envelope()])
    assert len(future.result(PATIENCE)) == 1


def test_a_send_on_one_transport_wakes_the_receive_of_another(
    store: MemoryStore, blocked: Callable[[], Future[Sequence[Delivery]]], envelope: Make
) -> None:
    future = blocked()

    MemoryTransport(store).send([envelope()])

    assert len(future.result(PATIENCE)) == 1


def test_a_running_clock_of_another_kind_is_noticed(
    store: MemoryStore, pool: ThreadPoolExecutor, envelope: Make, take: Take
) -> None:
    with MemoryTransport(store, clock=ShiftedClock()) as transport:
        future = pool.submit(take, transport, wait=LONG)
        time.sleep(0.05)
        before = time.time()
        transport.send([envelope()])

        assert len(future.result(PATIENCE)) == 1
        assert before <= future.result()[0].enqueued_at - 3600 <= time.time()


def test_a_signal_may_close_the_transport_inside_of_a_call(store: MemoryStore) -> None:
    """A signal handler runs in the main thread, in the middle of whatever it holds."""
    transport = MemoryTransport(store, clock=SystemClock())

    def close_inside() -> None:
        with store.changed:
            transport.close()

    thread = threading.Thread(target=close_inside, daemon=True)
    thread.start()
    thread.join(PATIENCE)

    assert not thread.is_alive()


# --- a clock that stands still -----------------------------------------------------------------------------


def test_on_a_clock_that_stands_still_the_wait_passes(transport: MemoryTransport, clock: FakeClock, take: Take) -> None:
    start = clock.now()

    assert take(transport, wait=25) == []

    assert clock.now() == start + 25


def test_on_a_clock_that_stands_still_no_time_passes_if_something_is_ready(
    transport: MemoryTransport, clock: FakeClock, envelope: Make, take: Take
) -> None:
    start = clock.now()
    transport.send([envelope()])

    assert len(take(transport, wait=25)) == 1

    assert clock.now() == start


def test_on_a_clock_that_stands_still_time_passes_to_what_is_due_and_no_further(
    transport: MemoryTransport, clock: FakeClock, envelope: Make, take: Take
) -> None:
    start = clock.now()
    transport.send([envelope("1")], delay=3.7)
    transport.send([envelope("2")], delay=30)

    assert len(take(transport, wait=25)) == 1
    assert clock.now() == start + 3.7
    assert take(transport, wait=0.5) == []
    assert clock.now() == start + 3.7 + 0.5


def test_on_a_clock_that_stands_still_time_passes_to_the_end_of_a_lease(
    transport: MemoryTransport, other: MemoryTransport, clock: FakeClock, envelope: Make, take: Take
) -> None:
    start = clock.now()
    transport.send([envelope()])
    [held] = take(transport, lease=8.1)

    [again] = take(other, wait=60)

    assert again.lost_leases == 1
    assert clock.now() == start + 8.1
    assert transport.settle([(held, Ack())]) == [held]


ALONE = f"""
from relevo.testing import FakeClock
from relevo_memory import MemoryTransport, _transport

clock = FakeClock()
transport = MemoryTransport(clock=clock)
transport.setup(["default"])
start = clock.now()
for glance in (_transport._FIRST_GLANCE, {LONG}):  # after the first receive it is known that the clock stands still
    _transport._FIRST_GLANCE = glance
    assert not transport.receive(["default"], limit=1, lease=1.0, wait=1000.0)
assert clock.now() == start + 2000.0
"""


def test_on_a_clock_that_stands_still_a_thread_that_is_alone_waits_for_no_other() -> None:
    # In a process of its own: in this one other tests may have left threads behind.
    subprocess.run([sys.executable, "-c", ALONE], check=True, timeout=PATIENCE)


def test_on_a_clock_that_stands_still_other_threads_get_a_moment(
    transport: MemoryTransport,
    clock: FakeClock,
    envelope: Make,
    take: Take,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take(transport, wait=1)
    start, began = clock.now(), time.monotonic()
    monkeypatch.setattr("relevo_memory._transport._FIRST_GLANCE", LONG)

    thread = threading.Timer(0.05, lambda: transport.send([envelope()]))
    thread.start()
    assert len(take(transport, wait=25)) == 1
    assert clock.now() == start
    thread.join()
    assert time.monotonic() - began < LONG / 2


@pytest.mark.lengthy("waits")
def test_a_clock_that_is_moved_by_hand_meanwhile_is_not_taken_for_one_that_runs(
    transport: MemoryTransport, clock: FakeClock, pool: ThreadPoolExecutor, take: Take
) -> None:
    future = pool.submit(take, transport, wait=1_000_000)

    while not future.done() and clock.now() < 1_767_225_600 + 100:
        clock.advance(0.01)
        time.sleep(0.0001)

    assert list(future.result(PATIENCE)) == []


def test_on_a_clock_that_neither_runs_nor_sleeps_a_receive_returns(take: Take) -> None:
    assert list(take(MemoryTransport(clock=StuckClock()), wait=LONG)) == []
