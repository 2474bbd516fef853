"""
When each event was sent and when its listener was entered, noted in a file that is mapped into memory.

The one process that handles events writes, the one that measures reads; neither waits for the other, and a note costs
less than a microsecond.
"""

from __future__ import annotations

import itertools
import mmap
import os
import threading
import time
from array import array
from functools import cache
from pathlib import Path

VARIABLE = "BENCH_METER"
"""Tells a worker where its meter is."""

_SPARE = 1000
"""Room for what is handled twice."""


class Meter:
    """
    The notes of one worker.

    Args:
        path: A file that :meth:`made` has made.
    """

    def __init__(self, path: Path):
        self.path = path
        with path.open("r+b") as file:
            self._notes = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")
        self._numbers = itertools.count()  # which threads may ask at the same time

    @classmethod
    def made(cls, path: Path, *, events: int) -> Meter:
        """Make a file with room for so many events."""
        with path.open("wb") as file:
            file.truncate(16 * (events + _SPARE))
        return cls(path)

    def note(self, sent: int = 0) -> None:
        """Note that an event that was *sent* at that nanosecond of the monotonic clock is being handled."""
        now = time.monotonic_ns()
        place = 2 * next(self._numbers)
        if place < len(self._notes):
            self._notes[place] = sent
            self._notes[place + 1] = now

    def came(self, number: int) -> bool:
        """Return whether so many were noted."""
        return self._notes[2 * number - 1] != 0

    def read(self) -> list[tuple[int, int]]:
        """Return all that was noted: when it was sent, and when its listener was entered; in nanoseconds."""
        notes = array("q", self._notes.tobytes())
        pairs = zip(notes[::2], notes[1::2], strict=True)
        return list(itertools.takewhile(lambda pair: pair[1], pairs))


def note(sent: int = 0) -> None:
    """Be a listener that does nothing: note it in the meter of this worker."""
    with _MAKING:
        meter = _meter()
    meter.note(sent)


_MAKING = threading.Lock()
"""Held when a thread asks for the meter: several may begin with their first event at once."""


@cache
def _meter() -> Meter:
    return Meter(Path(os.environ[VARIABLE]))
