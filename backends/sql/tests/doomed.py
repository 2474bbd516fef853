"""
The application of the tests of crash loops, run by ``relevo`` in processes of its own.

Each call is a line in the file ``calls``, written by one ``write`` so that a killed process keeps it.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import relevo

_CALLS = os.open("calls", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def _called(event: relevo.Event, what: str) -> None:
    os.write(_CALLS, f"{what} {event['number']} {os.getpid()}\n".encode())


@relevo.listener("thing.done")
def finish(event: relevo.Event) -> None:
    """Do no harm."""
    _called(event, "ended")


@relevo.listener("process.killed")
def kill(event: relevo.Event) -> None:
    """End this process, or its parent."""
    _called(event, "began")
    os.kill(os.getppid() if event["whom"] == "parent" else os.getpid(), signal.SIGKILL)
    time.sleep(600)


@relevo.listener("file.awaited")
def wait(event: relevo.Event) -> None:
    """Return once the file ``go`` exists."""
    _called(event, "began")
    while not Path("go").exists():
        time.sleep(0.01)
    _called(event, "ended")
