"""Warnings about listeners that exceed a time limit that nothing enforces."""

from __future__ import annotations

import os
import time

import pytest

from relevo import App, Delivery, Envelope, Event, listener
from relevo._worker.running import RunningListeners
from relevo.testing import FakeClock
from relevo_memory import MemoryTransport


def delivery(event_id: str) -> Delivery:
    envelope = Envelope(id=event_id, source="shop", name="image.created", body=b"{}")
    return Delivery(envelope=envelope, queue="default", receipt=None, enqueued_at=0.0)


def test_a_run_that_exceeds_its_limit_is_logged_once_an_hour(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    slow = delivery("slow")
    log = RunningListeners(
        clock, here=lambda: [(slow, "shop:make")], elsewhere=list, limit=lambda _: 60.0, held=lambda: 78
    )
    told = []

    for second in range(2 * 3600):
        clock.advance(1.0)
        before = len(caplog.records)
        log.keep_up(stopping=False)
        told += [second] * (len(caplog.records) - before)

    assert told == [61, 3661]
    said = caplog.records[0].getMessage()
    assert said.startswith(
        f"shop:make has run for 1 min on {slow} in the process {os.getpid()}; its time limit is 1 min"
    )
    assert "; 77 further events wait behind it in this worker; " in said


def test_a_run_within_its_limit_and_one_of_the_next_event_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    runs = [(delivery(str(number)), "shop:make") for number in range(9)]
    running: list[tuple[Delivery, str]] = []
    log = RunningListeners(clock, here=lambda: running, elsewhere=list, limit=lambda _: 60.0, held=lambda: 9)

    for run in runs:
        running[:] = [run]
        for _ in range(60):
            clock.advance(1.0)
            log.keep_up(stopping=False)

    assert not caplog.records


@pytest.mark.lengthy("waits")
def test_an_inline_worker_logs_a_listener_that_exceeds_its_own_limit(caplog: pytest.LogCaptureFixture) -> None:
    said = "slow has run for"

    @listener("image.created", id="slow", time_limit=0.001)
    def slow(event: Event) -> None:
        end = time.monotonic() + 300.0
        while said not in caplog.text and time.monotonic() < end:
            time.sleep(0.01)

    with App(transports={"main": MemoryTransport()}, listeners=[slow]) as app:
        app.dispatch(Event("image.created"))
        report = app.drain()

    assert report.done == 1
    assert caplog.text.count(said) == 1
