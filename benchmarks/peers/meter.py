"""
The times when each event was sent and its listener was called, in a file that is mapped into memory.

The process that handles events writes and the measuring process reads; neither waits for the other, and a note takes
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
"""The variable with the path of a worker's meter."""

_SPARE = 1000
"""Space for events that are handled twice."""


class Meter:
    """
    The notes of one worker.

    Args:
        path: A file that :meth:`made` created.
    """

    def __init__(self, path: Path):
        self.path = path
        with path.open("r+b") as file:
            self._notes = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")
        self._numbers = itertools.count()  # called by several threads at the same time

    @classmethod
    def made(cls, path: Path, *, events: int) -> Meter:
        """Create a file with space for that number of events."""
        with path.open("wb") as file:
            file.truncate(16 * (events + _SPARE))
        return cls(path)

    def note(self, sent: int = 0) -> None:
        """Note that an event is being handled that was *sent* at this nanosecond of the monotonic clock."""
        now = time.monotonic_ns()
        place = 2 * next(self._numbers)
        if place < len(self._notes):
            self._notes[place] = sent
            self._notes[place + 1] = now

    def came(self, number: int) -> bool:
        """Return whether that number of events was noted."""
        return self._notes[2 * number - 1] != 0

    def read(self) -> list[tuple[int, int]]:
        """Return all notes: when an event was sent, and when its listener was called, in nanoseconds."""
        notes = array("q", self._notes.tobytes())
        pairs = zip(notes[::2], notes[1::2], strict=True)
        return list(itertools.takewhile(lambda pair: pair[1], pairs))


def note(sent: int = 0) -> None:
    """Note the event in the meter of this worker, as a listener that does nothing else."""
    with _MAKING:
        meter = _meter()
    meter.note(sent)


_MAKING = threading.Lock()
"""Held while a thread opens the meter, since several threads may begin their first event at once."""


@cache
def _meter() -> Meter:
    return Meter(Path(os.environ[VARIABLE]))
