"""Waiting in the tests of the starters."""

from __future__ import annotations

import time
from collections.abc import Callable


def eventually(holds: Callable[[], bool], *, limit: float = 300.0) -> bool:
    """Return whether *holds* returns true within *limit* seconds."""
    deadline = time.monotonic() + limit
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
