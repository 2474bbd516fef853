"""
Re-entrant locks that an exception of a signal handler does not leave locked.

Python runs signal handlers between two instructions of the main thread, so also between the one that acquires a lock
and the block that releases it. A thread that waits for the interpreter just then makes that likely.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def attempt(lock: threading.RLock, *, timeout: float) -> Iterator[bool]:
    """
    Try to acquire *lock* for the block; yield whether it was acquired.

    Args:
        lock: The lock.

        timeout: Seconds to wait for it; 0 for none.
    """
    owned: Any = getattr(lock, "_is_owned")  # noqa: B009 - threading.Condition needs it too, and it has no other name
    is_outermost, acquired = not owned(), False
    try:
        acquired = lock.acquire(timeout=timeout) if timeout else lock.acquire(blocking=False)
        yield acquired
    finally:
        if is_outermost:
            while owned():  # whatever an interruption left
                lock.release()
        elif acquired:
            lock.release()
