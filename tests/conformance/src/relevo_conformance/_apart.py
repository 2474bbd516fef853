"""Run code that may end its process in a child process, and report how it ended."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any

import attrs

from relevo_conformance._interruption import raise_again

_ENDED = "ended "
_PASSED_ON = ("SIGINT", "SIGTERM", "SIGHUP")
_INTERRUPTION = frozenset({signal.SIGINT})


@attrs.frozen
class End:
    """How the child process ended."""

    code: int | None
    """The exit code that it reported; ``None`` if it ended before it could report one."""

    stage: str
    """The last stage that it reported."""

    how: str
    """The exit code or the signal with which it ended."""

    is_from_outside: bool
    """Whether it was ended by a signal that programs do not send to themselves."""


class Log:
    """The child's messages to its parent: a file, since a pipe would be held open by every process that inherits it."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        """Where the child keeps files; this process removes it."""

        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - open as long as both processes run
        self._held: list[object] = []

    def holds(self, something: object) -> None:
        """Keep *something* until the process ends."""
        self._held.append(something)

    def at(self, stage: str) -> None:
        """Report the stage that begins."""
        self._file.write(f"{' '.join(stage.split())}\n".encode())

    def end(self, code: int) -> None:
        """Report the exit code."""
        self.at(f"{_ENDED}{code}")

    def read(self) -> tuple[str, int | None]:
        """Return the last stage, and the exit code if the end was reached."""
        self._file.seek(0)
        stages = [line.decode() for line in self._file.read().splitlines()]
        code = int(stages.pop().removeprefix(_ENDED)) if stages and stages[-1].startswith(_ENDED) else None
        return (stages[-1] if stages else ""), code


def run_apart(act: Callable[[Log], int], interrupted: Callable[[], int], *, folder: Path | None = None) -> End:
    """
    Run *act* in a child process, forward signals to it, and return how it ended.

    Call it while this process has only one thread.

    Args:
        act: Returns the exit code.

        interrupted: Returns the exit code if a KeyboardInterrupt ended *act*.

        folder: Where the child keeps files.
    """
    log = Log(folder)
    ours, theirs = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    # Until each of the two processes is prepared for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTION)
    child = os.fork()
    if child == 0:
        os.close(theirs)
        _be_the_child(act, interrupted, log, ours)
    os.close(ours)
    before = _pass_on_signals(child)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPTION)
    try:
        _, status = os.waitpid(child, 0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(theirs)
    stage, code = log.read()
    number = os.waitstatus_to_exitcode(status)
    how = f"with exit code {number}" if number >= 0 else f"by {signal.Signals(-number).name}"
    return End(code, stage, how, -number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP))


def _be_the_child(act: Callable[[Log], int], interrupted: Callable[[], int], log: Log, parent: int) -> None:
    # The child has its own session, so a signal to its group does not reach the parent.
    os.setsid()
    _watch(parent)
    # Threads do not survive a fork. Without this one, a forked process would keep the output of this process open.
    os.register_at_fork(after_in_child=partial(_watch, parent))
    code = 1
    try:
        raise_again()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPTION)
        code = act(log)
    except KeyboardInterrupt:
        code = interrupted()
    except BaseException:  # noqa: BLE001 - nothing above can show it
        traceback.print_exc()
    log.end(code)
    # sys.exit would wait for a thread that hangs.
    os._exit(code)


def _watch(parent: int) -> None:
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when the process with the other end of *parent* has ended, for any reason."""
    os.read(parent, 1)
    os._exit(1)


def _pass_on_signals(child: int) -> Mapping[int, Any]:
    """Forward to *child* the signals that this process gets; the second of a kind kills it."""
    asked: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        os.kill(child, signal.SIGKILL if number in asked else number)
        asked.append(number)

    numbers = [getattr(signal, name) for name in _PASSED_ON]
    return MappingProxyType(
        {number: signal.signal(number, pass_on) for number in numbers if signal.getsignal(number) is not signal.SIG_IGN}
    )
