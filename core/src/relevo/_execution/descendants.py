"""The processes that were started from a child process, wherever they went: their environment has its mark."""

from __future__ import annotations

import os
import signal
from pathlib import Path

MARK = "_RELEVO_CHILD"
"""The environment variable by which they are known. A program that is to outlive its child process must not have it."""

_MOST_LOOKS = 5
"""Looks for processes that were started while others were killed."""


def kill_marked(mark: str) -> None:
    """Kill every process whose environment had *mark*, a name with its value, at its start; only Linux shows that."""
    if not hasattr(os, "pidfd_open"):
        return
    for _ in range(_MOST_LOOKS):
        if not sum(_kill_if_marked(path, os.fsencode(mark)) for path in Path("/proc").glob("[0-9]*")):
            return


def _kill_if_marked(folder: Path, mark: bytes) -> bool:
    """Kill the process of *folder* if it has *mark*; return whether it was there and had it."""
    try:
        process = os.pidfd_open(int(folder.name))  # so that no later process with this id is killed
    except OSError:
        return False
    try:
        if mark not in (folder / "environ").read_bytes().split(b"\0"):
            return False
        signal.pidfd_send_signal(process, signal.SIGKILL)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(process)
