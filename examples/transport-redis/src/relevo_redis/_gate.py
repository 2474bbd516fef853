"""Closing: new calls are refused, and running calls end first."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from relevo.backend import ForkAware


class Gate(ForkAware):
    """Counts the running calls, so that a close can wait for them."""

    def __init__(self) -> None:
        self.closed = False
        self.after_fork_in_child()
        super().__init__()

    def after_fork_in_child(self) -> None:
        """Replace the lock, which a thread that does not exist in the child may hold."""
        # Re-entrant: a signal handler may close a transport in a thread that is in a call.
        self._changed = threading.Condition(threading.RLock())
        self._inside = Counter[int]()

    @contextmanager
    def passed(self) -> Iterator[bool]:
        """Count the block as a running call; yield whether the gate is open."""
        thread = threading.get_ident()
        with self._changed:
            is_open = not self.closed
            self._inside[thread] += 1
        try:
            yield is_open
        finally:
            with self._changed:
                self._inside[thread] -= 1
                self._inside += Counter()  # removes the threads without calls
                self._changed.notify_all()

    def close(self) -> None:
        """Refuse new calls, and return when the calls of other threads have ended."""
        with self._changed:
            self.closed = True
            own = threading.get_ident()
            self._changed.wait_for(lambda: not any(number for thread, number in self._inside.items() if thread != own))
