"""
Run a command, and end all that it leaves running.

    python tests/servers/keeper.py COMMAND …

A TERM is passed on to the command. When the command has ended, by itself or not, its descendants are ended too, in any
session: workers of pytest, and the servers and programs that tests started. For that, orphans become children of this
process (Linux only). The exit code is the command's, as in a shell.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

PATIENCE = 30.0
"""Seconds for the command to end after a TERM, before it is killed."""

GRACE = 10.0
"""Seconds for its descendants to end after a TERM, before they are killed; and again before they are left."""

_PR_SET_CHILD_SUBREAPER = 36


def run(command: Sequence[str]) -> int:
    """Run *command*; return its exit code once its descendants have ended too."""
    _adopt_orphans()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        pid = os.posix_spawnp(command[0], list(command), os.environ, setsigmask=before)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return 127

    def pass_on(_number: int, _frame: FrameType | None) -> None:
        os.kill(pid, signal.SIGTERM)
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)

    signal.signal(signal.SIGALRM, lambda *_: os.kill(pid, signal.SIGKILL))
    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, lambda *_: None)  # a terminal sends its Ctrl-C to both; the command decides
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    code = _wait_for(pid)
    _end_the_rest()
    return code if code >= 0 else 128 - code


def _adopt_orphans() -> None:
    """Let orphaned descendants become children of this process, if the system supports that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _wait_for(pid: int) -> int:
    """Return the exit code of the process *pid*; do not reap it while a signal may still be sent to it."""
    while True:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        if ended is not None and ended.si_pid == pid:
            break
        if ended is not None:
            os.waitpid(ended.si_pid, 0)
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _end_the_rest() -> None:
    """End all descendants, first with TERM and then with KILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + GRACE
        signalled: set[int] = set()
        while _has_children():
            if time.monotonic() >= deadline:
                break
            for pid in set(_descendants()) - signalled:
                signalled.add(pid)
                try:
                    os.kill(pid, number)
                except OSError:
                    continue  # it ended, or belongs to another user
            time.sleep(0.02)


def _has_children() -> bool:
    """Reap the children that have ended; return whether there are others."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _descendants() -> list[int]:
    """Return the ids of all processes below this one that have not ended."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text(errors="replace").rpartition(")")[2].split()[:2]
        except OSError:
            continue  # it ended
        if state != "Z":
            children.setdefault(int(parent), []).append(int(stat.parent.name))
    found: list[int] = []
    unseen = [os.getpid()]
    while unseen:
        more = children.get(unseen.pop(), [])
        found += more
        unseen += more
    return found


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
