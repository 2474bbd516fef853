"""USR1: what a worker does at this moment, for an operator who wonders why it does not go on."""

from __future__ import annotations

import faulthandler
import signal
from _thread import start_new_thread
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from relevo._signal import USR1, dump_threads_at


class Described(Protocol):
    """What can log what it does."""

    def log_running(self) -> None:
        """Log what runs, since when and where it is; called from another thread."""
        ...


@contextmanager
def dumps_on_signal(workers: Iterable[Described]) -> Iterator[None]:
    """
    Let USR1 log what runs in *workers*, and write where each thread of this process is to standard error.

    The threads are written even if one blocks Python. If the program has a handler of its own for USR1, that stays.
    """
    if USR1 is None or signal.getsignal(USR1) is not signal.SIG_DFL:
        yield
        return

    def log() -> None:
        for worker in workers:
            worker.log_running()

    def handle(_: int, __: Any) -> None:
        start_new_thread(log, ())  # the interrupted thread may hold a lock of a log

    # Otherwise it would not be put before the new handler.
    dumped_before: bool = faulthandler.unregister(USR1)  # type: ignore[func-returns-value, assignment]  # it does
    signal.signal(USR1, handle)
    try:
        dump_threads_at(USR1, chain=True)
        yield
    finally:
        faulthandler.unregister(USR1)
        signal.signal(USR1, signal.SIG_DFL)
        if dumped_before:
            dump_threads_at(USR1, chain=False)
