"""A worker that receives the next batch while it handles one."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest

from relevo import Ack, Delivery, Envelope, Outcome, RunOptions, Worker
from relevo._worker.read_ahead import ReadAhead
from relevo.backend import ParallelSettlement
from relevo.errors import TransportUnavailableError
from relevo.testing import FakeClock
from relevo_memory import MemoryStore, MemoryTransport

MakeEnvelope = Callable[..., Envelope]
MakeWorker = Callable[..., Worker]

BATCH = 32
"""The worker asks for 1, 1, 2, 4, 8, 16, 32, 32 … events; from 16 on it receives ahead."""

BEFORE = 1 + 1 + 2 + 4
HERE, AHEAD = 8, 16
RECEIVED = BEFORE + HERE + AHEAD
"""What has been handed out while the batch of eight is handled."""

PATIENCE = 300.0
DRAIN = RunOptions(until_empty=True, batch=BATCH)


class _Recording(MemoryTransport, ParallelSettlement):
    """Records from which threads it is asked for events, and how many it has handed out."""

    settles_in_parallel = True

    def __init__(self, store: MemoryStore, clock: FakeClock):
        super().__init__(store, name="main", clock=clock)
        self.threads: list[str] = []
        self.handed_out = self.renewed = 0
        self.is_down = self.is_asked = False
        self.may_answer = threading.Event()
        self.may_answer.set()

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        self.threads.append(threading.current_thread().name)
        if self.is_down:
            raise TransportUnavailableError("main", "down")
        if self.threads[-1] == "relevo-read-ahead":
            self.is_asked = True
            assert self.may_answer.wait(PATIENCE)
            self.is_asked = False
        batch = super().receive(queues, limit=limit, lease=lease, wait=wait)
        self.handed_out += len(batch)
        return batch

    def extend(self, deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Delivery]:
        lost = super().extend(deliveries, lease=lease)
        self.renewed += 1
        return lost


@pytest.fixture(name="transport")
def _transport(store: MemoryStore, clock: FakeClock) -> _Recording:
    return _Recording(store, clock)


@pytest.fixture(name="send")
def _send(transport: _Recording, envelope: MakeEnvelope) -> Callable[[int], None]:
    return lambda number: transport.send([envelope(str(each)) for each in range(number)])


@pytest.fixture(name="run")
def _run(transport: _Recording, worker: MakeWorker) -> Callable[..., Worker]:
    """Return a function that makes a worker of the transport."""

    def run(handle: Callable[[Delivery], Outcome] = lambda _: Ack(), options: RunOptions = DRAIN, **how: Any) -> Worker:
        return worker(handle, transport=transport, options=options, **{"background": True, **how})

    return run


def _has_renewed_since(transport: _Recording, before: int) -> bool:
    return transport.renewed > before


def wait_until(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_the_next_batch_is_received_while_one_is_handled(
    transport: _Recording, send: Callable[[int], None], run: Callable[..., Worker]
) -> None:
    send(RECEIVED)
    handled: list[Delivery] = []

    def handle(delivery: Delivery) -> Outcome:
        handled.append(delivery)
        if len(handled) == BEFORE + 1:  # of the batch of eight: the next one comes before this returns
            wait_until(lambda: transport.handed_out == RECEIVED)
        return Ack()

    report = run(handle).run()

    assert report.done == RECEIVED
    assert "relevo-read-ahead" in transport.threads
    assert transport.stats("default").leased == 0


def test_no_more_is_received_than_the_limit_of_events_allows(
    transport: _Recording, send: Callable[[int], None], run: Callable[..., Worker]
) -> None:
    send(10 * BATCH)
    most = RECEIVED + BATCH // 2

    report = run(options=RunOptions(until_empty=True, batch=BATCH, max_events=most)).run()

    assert report.handled == transport.handed_out == most
    assert transport.stats("default").ready == 10 * BATCH - most


def test_what_was_received_ahead_is_released_when_the_worker_stops(
    transport: _Recording, send: Callable[[int], None], run: Callable[..., Worker]
) -> None:
    send(10 * BATCH)
    handled: list[Delivery] = []

    def handle(delivery: Delivery) -> Outcome:
        handled.append(delivery)
        if len(handled) == BEFORE + 1:
            wait_until(lambda: transport.handed_out == RECEIVED)
            working.stop()
        return Ack()

    working = run(handle)
    report = working.run()

    assert (report.done, report.unsettled) == (BEFORE + 1, 0)
    assert transport.stats("default").ready == 10 * BATCH - report.done
    again = transport.receive(["default"], limit=10 * BATCH, lease=60.0, wait=0.0)
    assert {(delivery.attempt, delivery.lost_leases) for delivery in again} == {(1, 0)}


def test_what_was_received_ahead_is_renewed_while_an_event_takes_long(
    transport: _Recording, send: Callable[[int], None], run: Callable[..., Worker], clock: FakeClock
) -> None:
    send(RECEIVED)
    handled: list[Delivery] = []

    def handle(delivery: Delivery) -> Outcome:
        handled.append(delivery)
        if len(handled) == BEFORE + 1:
            wait_until(lambda: transport.handed_out == RECEIVED)
            for _ in range(6):  # two leases pass
                renewed = transport.renewed
                clock.advance(20.0)
                wait_until(partial(_has_renewed_since, transport, renewed))
        return Ack()

    run(handle).run()

    assert len({id(delivery) for delivery in handled}) == len(handled) == RECEIVED


def test_a_suspect_among_them_is_handled_alone(
    transport: _Recording, send: Callable[[int], None], run: Callable[..., Worker], clock: FakeClock
) -> None:
    send(RECEIVED)
    held = transport.receive(["default"], limit=RECEIVED, lease=60.0, wait=0.0)
    transport.settle([(delivery, Ack()) for delivery in held[:-1]])
    clock.advance(61.0)  # the last one comes back as a suspect, after the others
    alone: list[int] = []

    def handle(delivery: Delivery) -> Outcome:
        if delivery.lost_leases:
            alone.append(working.held())
        return Ack()

    working = run(handle)
    working.run()

    assert alone == [1]


def test_an_outage_that_the_thread_meets_is_the_workers(
    transport: _Recording, send: Callable[[int], None], run: Callable[..., Worker]
) -> None:
    send(10 * BATCH)
    handled: list[Delivery] = []

    def handle(delivery: Delivery) -> Outcome:
        handled.append(delivery)
        if len(handled) == BEFORE:
            transport.is_down = True
        return Ack()

    with pytest.raises(TransportUnavailableError):
        run(handle).run()
    assert transport.stats("default").leased == 0


def test_a_slow_listener_holds_no_further_batch(
    transport: _Recording, send: Callable[[int], None], run: Callable[..., Worker], clock: FakeClock
) -> None:
    send(40)

    def handle(_: Delivery) -> Outcome:
        clock.advance(1.0)
        return Ack()

    run(handle).run()

    assert "relevo-read-ahead" not in transport.threads


@pytest.fixture(name="interpreter_is_shared_on_waits_alone")
def _interpreter_is_shared_on_waits_alone() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(PATIENCE)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("interpreter_is_shared_on_waits_alone")
def test_the_receive_is_under_way_before_the_next_listener_runs() -> None:
    asked: list[int] = []
    may_answer = threading.Event()

    def receive(limit: int) -> Sequence[Delivery]:
        asked.append(limit)
        assert may_answer.wait(PATIENCE)
        return ()

    with ReadAhead(receive, lambda _: None) as ahead:
        ahead.request(BATCH)
        asked_then = list(asked)
        may_answer.set()
        ahead.take()

    assert asked_then == [BATCH]


def test_an_interruption_does_not_wait_for_a_receive_that_is_under_way(
    transport: _Recording, send: Callable[[int], None], run: Callable[..., Worker]
) -> None:
    send(10 * BATCH)
    handled: list[Delivery] = []

    def handle(delivery: Delivery) -> Outcome:
        handled.append(delivery)
        if len(handled) == BEFORE:
            transport.may_answer.clear()
        if len(handled) == BEFORE + HERE:
            wait_until(lambda: transport.is_asked)
            raise KeyboardInterrupt
        return Ack()

    working = run(handle)
    with pytest.raises(KeyboardInterrupt):
        working.run()

    assert transport.is_asked  # it still does not answer
    transport.may_answer.set()
    wait_until(lambda: not transport.is_asked)
    assert working.run().stopped_by == "empty"
