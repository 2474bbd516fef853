"""A worker of a transport that settles in parallel."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from relevo import Ack, Delivery, Envelope, Outcome, RunOptions, Settlement, Worker
from relevo.backend import ParallelSettlement
from relevo.errors import TransportUnavailableError
from relevo.testing import FakeClock
from relevo_memory import MemoryStore, MemoryTransport

MakeEnvelope = Callable[..., Envelope]
MakeWorker = Callable[..., Worker]

BATCH = 4
PATIENCE = 300.0
DRAIN = RunOptions(until_empty=True, batch=BATCH)


class _Slow(MemoryTransport, ParallelSettlement):
    """Settles when it is allowed to."""

    settles_in_parallel = True

    def __init__(self, store: MemoryStore, clock: FakeClock):
        super().__init__(store, name="main", clock=clock)
        self.may_settle = threading.Event()
        self.settling = 0
        self.threads: set[str] = set()
        self.errors: list[Exception] = []
        self.pause = 0.0

    def settle(self, settlements: Sequence[Settlement]) -> Sequence[Delivery]:
        self.settling += 1
        self.threads.add(threading.current_thread().name)
        try:
            assert self.may_settle.wait(PATIENCE)
            time.sleep(self.pause)
            if self.errors:
                raise self.errors.pop()
            return super().settle(settlements)
        finally:
            self.settling -= 1


@pytest.fixture(name="slow")
def _slow(store: MemoryStore, clock: FakeClock) -> _Slow:
    return _Slow(store, clock)


@pytest.fixture(name="send")
def _send(slow: _Slow, envelope: MakeEnvelope) -> Callable[[int], None]:
    return lambda number: slow.send([envelope(str(each)) for each in range(number)])


def _id(delivery: Delivery) -> str:
    assert isinstance(delivery.envelope, Envelope)
    return delivery.envelope.id


def wait_until(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_the_next_batch_is_handled_while_the_last_one_is_settled(
    slow: _Slow, send: Callable[[int], None], worker: MakeWorker
) -> None:
    send(2 * BATCH)

    def handle(delivery: Delivery) -> Outcome:
        if _id(delivery) == str(2 * BATCH - 1):
            wait_until(lambda: slow.settling == 1)
            slow.may_settle.set()  # not before: a worker that settled in this thread would never get here
        return Ack()

    report = worker(handle, transport=slow, options=DRAIN, background=True).run()

    assert report.done == 2 * BATCH
    assert "relevo-flusher" in slow.threads
    assert slow.stats("default").leased == 0


def test_a_server_that_settles_slowly_slows_the_worker_down(
    slow: _Slow, send: Callable[[int], None], worker: MakeWorker
) -> None:
    send(20 * BATCH)
    slow.may_settle.set()
    slow.pause = 0.05
    held: list[int] = []

    def handle(_: Delivery) -> Outcome:
        held.append(working.held())
        return Ack()

    working = worker(handle, transport=slow, options=DRAIN, background=True)
    working.run()

    assert len(held) == 20 * BATCH
    # Two batches that wait at most, for then the worker settles itself; as many on their way, which the thread took
    # when they waited; and the one in hand.
    assert max(held) <= 5 * BATCH


@pytest.mark.parametrize("patient", [True, False])
def test_an_outage_that_the_thread_meets_is_the_workers(
    patient: bool,  # noqa: FBT001 - a parameter of the test
    slow: _Slow,
    send: Callable[[int], None],
    worker: MakeWorker,
) -> None:
    send(3 * BATCH)
    slow.may_settle.set()
    # Met by the thread, and again by the worker that flushes in its place.
    slow.errors = [TransportUnavailableError("main", "down") for _ in range(1 if patient else 50)]

    working = worker(lambda _: Ack(), transport=slow, options=DRAIN, background=True, patient=patient)
    if patient:
        assert working.run().done == 3 * BATCH
        assert slow.stats("default").leased == 0
    else:
        with pytest.raises(TransportUnavailableError):
            working.run()


def test_a_suspect_is_begun_when_everything_before_it_is_settled(
    slow: _Slow, send: Callable[[int], None], worker: MakeWorker, clock: FakeClock
) -> None:
    send(1)
    (lost,) = slow.receive(["default"], limit=1, lease=1.0, wait=0.0)
    send_more: Any = send
    send_more(2 * BATCH)
    alone: list[tuple[int, int]] = []
    clock.advance(2.0)  # its lease ends

    def handle(delivery: Delivery) -> Outcome:
        if delivery.lost_leases:
            alone.append((slow.settling, working.held()))
        return Ack()

    slow.may_settle.set()
    working = worker(handle, transport=slow, options=DRAIN, background=True)
    working.run()

    assert alone == [(0, 1)]
    assert _id(lost) == "0"


def test_all_is_settled_when_a_stopped_worker_ends(
    slow: _Slow, send: Callable[[int], None], worker: MakeWorker
) -> None:
    send(10 * BATCH)
    handled: list[str] = []

    def handle(delivery: Delivery) -> Outcome:
        handled.append(_id(delivery))
        if len(handled) == 2 * BATCH:
            working.stop()
            slow.may_settle.set()
        return Ack()

    working = worker(handle, transport=slow, options=DRAIN, background=True)
    report = working.run()

    assert report.done == len(handled) == 2 * BATCH
    assert report.unsettled == 0
    assert slow.stats("default").ready == 8 * BATCH


def test_a_transport_that_settles_at_once_is_asked_in_the_workers_thread(
    slow: _Slow, send: Callable[[int], None], worker: MakeWorker
) -> None:
    send(3 * BATCH)
    slow.settles_in_parallel = False
    slow.may_settle.set()

    worker(lambda _: Ack(), transport=slow, options=DRAIN, background=True).run()

    assert "relevo-flusher" not in slow.threads
