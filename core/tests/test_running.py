"""Warnings about listeners that come near their time limit, or exceed one that nothing enforces."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from relevo import App, Delivery, Envelope, Event, listener
from relevo._worker.running import RunningListeners
from relevo.testing import FakeClock
from relevo_memory import MemoryTransport

TOML = """
source = "shop"
listeners = ["shop"]
[transports]
main = "sqlite:///shop.db"
"""
SLOW = """
import time
import relevo

@relevo.listener("image.created", id="slow", time_limit="12s")
def slow(event):
    while "slow has run for" not in open("log").read():
        time.sleep(0.05)
"""


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


def test_a_run_that_will_be_ended_is_logged_after_three_quarters_of_its_limit(caplog: pytest.LogCaptureFixture) -> None:
    clock, slow, ended = FakeClock(), delivery("slow"), "it is killed, and has failed"
    log = RunningListeners(
        clock, here=list, elsewhere=lambda: [(slow, "shop:make")], limit=lambda _: 60.0, held=lambda: 1, at_limit=ended
    )
    told = []

    for second in range(60):
        clock.advance(1.0)
        before = len(caplog.records)
        log.keep_up(stopping=False)
        told += [second] * (len(caplog.records) - before)

    assert told == [46]
    assert caplog.messages == [f"shop:make has run for 46 s on {slow}; at its time limit of 1 min {ended}"]


def test_the_limit_of_what_has_just_begun_is_not_looked_up() -> None:
    clock, asked = FakeClock(), list[str]()
    runs = [(delivery(str(number)), "shop:make") for number in range(9)]
    running: list[tuple[Delivery, str]] = []

    def limit(listener_id: str) -> float:
        asked.append(listener_id)
        return 60.0

    log = RunningListeners(clock, here=lambda: running, elsewhere=list, limit=limit, held=lambda: 9)

    for run in runs:
        running[:] = [run]
        clock.advance(1.0)
        log.keep_up(stopping=False)

    assert not asked


@pytest.mark.lengthy("waits")
@pytest.mark.parametrize(
    ("execution", "end"),
    [
        ("threads", "it is cancelled if it is an async def; otherwise the worker ends"),
        ("process", "it is killed, and has failed"),
    ],
)
def test_a_worker_logs_a_listener_that_comes_near_its_limit(execution: str, end: str, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SLOW)
    (tmp_path / "relevo.toml").write_text(TOML)
    with App.from_config(tmp_path / "relevo.toml", environ={}) as app:
        app.dispatch("image.created")

    with (tmp_path / "log").open("w") as log:
        command = [sys.executable, "-m", "relevo", "drain", "--execution", execution]
        subprocess.run(command, cwd=tmp_path, stderr=log, check=True, timeout=300)

    said = (tmp_path / "log").read_text()
    assert re.search(rf"slow has run for [\d.]+ s on image\.created .*; at its time limit of 12 s {end}\n", said)


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
