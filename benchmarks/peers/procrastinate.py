"""
Procrastinate on PostgreSQL: one process, 30 tasks at once, finished ones deleted, its fastest settings.

A send is committed. Tasks are fetched one by one, and deleted after they ran; those of a dead worker wait until the
application finds and retries them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import procrastinate  # type: ignore[import-not-found] # only make bench installs it

from peers import database
from peers.meter import note
from peers.peer import EVENT, Place, Sender, arguments

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=database.plain(Place.here().url)))

_FILLING = 1000


async def nothing(event: dict[str, int]) -> None:
    """Do nothing except note the event in the meter; a function that is not asynchronous would run in a thread."""
    note(event["sent"])


image_created = app.task(name=EVENT)(nothing)


class Procrastinate(Sender):
    """Its tables have triggers that record what happens to a task."""

    def __init__(self, place: Place):
        super().__init__(place)
        app.open()
        app.schema_manager.apply_schema()

    def fill(self, number: int) -> None:
        for start in range(0, number, _FILLING):
            image_created.batch_defer(*({"event": arguments()} for _ in range(min(_FILLING, number - start))))

    @contextmanager
    def sending(self) -> Iterator[Callable[[], None]]:
        yield lambda: image_created.defer(event=arguments())

    def command(self) -> Sequence[str]:
        program = [sys.executable, "-m", "procrastinate", "--app", f"{__name__}.app", "worker"]
        return [*program, "--concurrency", "30", "--delete-jobs", "always"]

    def left(self) -> int:
        return database.scalar(self.place.url, "SELECT count(*) FROM procrastinate_jobs")

    def clear(self) -> None:
        app.close()
