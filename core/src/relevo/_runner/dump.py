"""USR1: what a worker does at this moment, for an operator who wonders why it does not go on."""

from __future__ import annotations

import faulthandler
import io
import signal
import sys
from _thread import start_new_thread
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

_SIGNAL = getattr(signal, "SIGUSR1", None)


class Described(Protocol):
    """What can log what it does."""

    def log_running(self) -> None:
        """Log what runs, since when and where it is; called from another thread."""
        ...


@contextmanager
def dumps_on_signal(workers: Iterable[Described]) -> Iterator[None]:
    """
    Let USR1 log what runs in *workers*, and write where each thread of this process is to standard error.

    The threads are written even if one blocks Python. A program that handles USR1 itself goes on doing so.
    """
    if _SIGNAL is None or signal.getsignal(_SIGNAL) is not signal.SIG_DFL:
        yield
        return

    def log() -> None:
        for worker in workers:
            worker.log_running()

    def handle(_: int, __: Any) -> None:
        start_new_thread(log, ())  # the interrupted thread may hold a lock of a log

    signal.signal(_SIGNAL, handle)
    try:
        with suppress(AttributeError, ValueError, io.UnsupportedOperation):  # no standard error, or no file behind it
            faulthandler.register(_SIGNAL, file=sys.stderr, all_threads=True, chain=True)
        yield
    finally:
        faulthandler.unregister(_SIGNAL)
        signal.signal(_SIGNAL, signal.SIG_DFL)
