"""Closing: nobody comes in any more, and those who are in come out first."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from relevo.backend import ForkAware


class Gate(ForkAware):
    """What every call passes, and a close waits for."""

    def __init__(self) -> None:
        self.closed = False
        self.after_fork_in_child()
        super().__init__()

    def after_fork_in_child(self) -> None:
        """Open it again: its lock may be held by a thread that does not exist in the child."""
        # Re-entrant: a signal handler may close a transport in the very thread that is in a call.
        self._changed = threading.Condition(threading.RLock())
        self._inside = Counter[int]()

    @contextmanager
    def passed(self) -> Iterator[bool]:
        """Be in during the block; yield whether it is open."""
        thread = threading.get_ident()
        with self._changed:
            is_open = not self.closed
            self._inside[thread] += 1
        try:
            yield is_open
        finally:
            with self._changed:
                self._inside[thread] -= 1
                self._inside += Counter()  # keeps none of the threads that are gone
                self._changed.notify_all()

    def close(self) -> None:
        """Let nobody in any more, and return when the other threads are out."""
        with self._changed:
            self.closed = True
            own = threading.get_ident()
            self._changed.wait_for(lambda: not any(number for thread, number in self._inside.items() if thread != own))
