"""Ctrl-C while the command line is imported: one line and an exit code, without a traceback."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

EXIT_INTERRUPTED = 130
STOPPED = "stopped by Ctrl-C; there is no verdict"

_COMMAND = "relevo-conformance"
_PACKAGE = "relevo_conformance"


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, f"{_COMMAND}: {STOPPED}\n".encode())
    os._exit(EXIT_INTERRUPTED)


def _is_command() -> bool:
    """Return whether this process runs the command: as a script, or by ``python -m`` while that imports the package."""
    if sys.argv[:1] == ["-m"]:
        return _PACKAGE in sys.orig_argv
    return bool(sys.argv) and Path(sys.argv[0]).name == _COMMAND


def end_quietly() -> None:
    """End the process at Ctrl-C, if it runs the command and Python would raise a KeyboardInterrupt."""
    is_usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_usual and threading.current_thread() is threading.main_thread() and _is_command():
        signal.signal(signal.SIGINT, _end)


def raise_again() -> None:
    """Let Ctrl-C raise a KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


end_quietly()
