"""
Chancy on PostgreSQL: one process, its asynchronous executor, 100 jobs at once, polled again when one is done.

A send is committed. Results are written every 0.1 s, not every second, its default, with which the calls of a short
measurement run ahead of what is written; a dead worker repeats those jobs too. Every minute its recovery, which is on
by default, releases the jobs of workers that had no heartbeat for 90 s; one comes every 30 s (read in
`chancy/plugins/recovery.py` and `chancy/worker.py`; after a kill it took two minutes). Rows of finished jobs are
deleted after a day.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import chancy  # type: ignore[import-not-found] # only make bench installs it

from peers import database
from peers.meter import note
from peers.peer import Place, Sender, arguments

AT_ONCE = 100
WRITTEN = 0.1

log = logging.getLogger("chancy.quiet")  # the default logger writes a line for each job
log.setLevel(logging.WARNING)
app = chancy.Chancy(database.plain(Place.here().url), log=log)


async def nothing(*, event: dict[str, int]) -> None:
    """Do nothing except note the event in the meter; a function that is not asynchronous needs another executor."""
    note(event["sent"])


image_created = chancy.Job.from_func(nothing)


async def install() -> None:
    """Create the tables and the queue."""
    queue = chancy.Queue(
        "default", executor=chancy.Chancy.Executor.Async, concurrency=AT_ONCE, polling_interval=1, eager_polling=True
    )
    async with app:
        await app.migrate()
        await app.declare(queue)


class Chancy(Sender):
    """Its jobs are sent by its synchronous interface."""

    def __init__(self, place: Place):
        super().__init__(place)
        asyncio.run(install())
        app.sync_pool.open()

    def fill(self, number: int) -> None:
        list(app.sync_push_many([image_created.with_kwargs(event=arguments()) for _ in range(number)]))

    @contextmanager
    def sending(self) -> Iterator[Callable[[], None]]:
        yield lambda: app.sync_push(image_created.with_kwargs(event=arguments(time.monotonic_ns())))

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "peers.chancy"]

    def left(self) -> int:
        return database.scalar(self.place.url, "SELECT count(*) FROM chancy_jobs WHERE state <> 'succeeded'")

    def clear(self) -> None:
        app.sync_pool.close()


async def work() -> None:
    """Handle events without end."""
    async with app:
        worker = chancy.Worker(app)
        worker.send_outgoing_interval = WRITTEN
        async with worker:
            await worker.wait_for_shutdown()


if __name__ == "__main__":
    asyncio.run(work())
