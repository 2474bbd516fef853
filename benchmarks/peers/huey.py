"""
Huey on SQLite: one worker process, which polls every 5 ms, without results.

It deletes an event before it handles it, so an event in progress is lost when the process dies; it has no other mode.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from huey import SqliteHuey

from peers.meter import note
from peers.peer import EVENT, Place, Sender, arguments

huey = SqliteHuey("bench", filename=str(Place.here().folder / "huey.db"), results=False)


def nothing(event: dict[str, int]) -> None:
    """Do nothing except note the event in the meter."""
    note(event["sent"])


image_created = huey.task(name=EVENT.replace(".", "_"))(nothing)


class Huey(Sender):
    """Its file has a write-ahead log, and each commit is FULL."""

    def fill(self, number: int) -> None:
        for _ in range(number):
            image_created(arguments())

    @contextmanager
    def sending(self) -> Iterator[Callable[[], None]]:
        yield lambda: self.fill(1)

    def command(self) -> Sequence[str]:
        program = [sys.executable, "-m", "huey.bin.huey_consumer", f"{__name__}.huey"]
        return [
            *program,
            "--quiet",
            "--delay",
            "0.005",
            "--max-delay",
            "0.01",
            "--no-periodic",
            "--disable-health-check",
        ]

    def left(self) -> int:
        return int(huey.pending_count())

    def clear(self) -> None:
        huey.storage.close()
