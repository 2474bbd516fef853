"""
The application that the crash tests run in processes of their own.

Every call of a listener is written to the file that ``CRASH_LOG`` names, one line by one ``write`` on a
descriptor opened for appending, so that a killed process keeps what it wrote.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import relevo

SECONDS = 0.002
"""Seconds that the listener takes for an event."""

GATE_FROM = 5
"""The number of the first event that waits until the file that ``CRASH_GATE`` names is there."""

_LOG = os.open(os.environ.get("CRASH_LOG", os.devnull), os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def note(*words: object) -> None:
    """Write *words* as one line that survives a kill."""
    os.write(_LOG, (" ".join(map(str, words)) + "\n").encode())


@relevo.hookimpl
@contextmanager
def relevo_around_settle(settlements: Sequence[relevo.Settlement]) -> Iterator[None]:
    """Note which events are being settled, and which are settled."""
    ids = [each.envelope.id for each, _ in settlements if isinstance(each.envelope, relevo.Envelope)]
    note("settling", os.getpid(), *ids)
    yield
    note("settled", os.getpid(), *ids)


@relevo.listener("number.counted", queue="numbers")
def count(event: relevo.Event) -> None:
    """Take a moment, so that a kill finds it at work; if there is a gate, later events wait there."""
    note("began", event["number"], os.getpid())
    time.sleep(SECONDS)
    gate = os.environ.get("CRASH_GATE")
    while gate and event["number"] >= GATE_FROM and not Path(gate).exists():
        time.sleep(0.01)
    note("ended", event["number"], os.getpid())


@relevo.listener("mine.stepped-on", queue="mines", priority=10)
def before(event: relevo.Event) -> None:
    """Come before the one that kills: run once, however often the process dies afterwards."""
    note("before", event["number"], os.getpid())


@relevo.listener("mine.stepped-on", queue="mines")
def explode(event: relevo.Event, call: relevo.Call) -> None:
    """End the process as the kernel would, for the events that say so."""
    note("began", event["number"], os.getpid(), f"lost_leases={call.lost_leases}")
    if event["deadly"]:
        os.kill(os.getpid(), signal.SIGKILL)
    note("ended", event["number"], os.getpid())
