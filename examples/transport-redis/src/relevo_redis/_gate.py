"""Closing: nobody comes in any more, and those who are in come out first."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakSet


class Gate:
    """What every call passes, and a close waits for."""

    def __init__(self) -> None:
        self.closed = False
        self._renew()
        _gates.add(self)

    def _renew(self) -> None:
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


_gates = WeakSet[Gate]()


def _begin_life() -> None:
    """Open every gate again in a child: its locks may be held by threads that are not there any more."""
    for gate in list(_gates):
        gate._renew()  # noqa: SLF001 - of the same module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_life)
