"""
Oban on PostgreSQL, from Python 3.12 on: uvloop, one process, 200 jobs at once, no log of jobs.

A send is committed. Jobs are fetched up to the limit at once, and marked as done one by one in one commit, at the next
fetch. The leader looks each minute for jobs that have been running for 5 minutes, and lets them run again, alive or not
(its documentation: Job Maintenance, Rescuing Jobs; tried with a kill). Rows of finished jobs are deleted after a day.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import oban  # type: ignore[import-not-found] # only make bench installs it, if Python is new enough
import uvloop  # type: ignore[import-not-found] # likewise
from oban.schema import install  # type: ignore[import-not-found] # likewise

from peers import database
from peers.meter import note
from peers.peer import Place, Sender, arguments

AT_ONCE = 200
_FILLING = 1000


class ImageCreated:
    """The handler, whose name is in its jobs."""

    async def process(self, job: Any) -> None:
        """Do nothing except note the event in the meter."""
        note(job.args["sent"])


image_created = oban.worker(queue="default")(ImageCreated)


class Oban(Sender):
    """It sends as a client, without queues of its own."""

    def __init__(self, place: Place):
        super().__init__(place)
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._pool = self._runner.run(oban.Oban.create_pool(database.plain(place.url)))
        self._runner.run(install(self._pool))
        self._oban = oban.Oban(pool=self._pool)

    def fill(self, number: int) -> None:
        for start in range(0, number, _FILLING):
            jobs = [image_created.new(arguments()) for _ in range(min(_FILLING, number - start))]
            self._runner.run(self._oban.enqueue_many(jobs))

    @contextmanager
    def sending(self) -> Iterator[Callable[[], None]]:
        yield lambda: self._runner.run(self._oban.enqueue(image_created.new(arguments(time.monotonic_ns()))))

    def command(self) -> Sequence[str]:
        program = [sys.executable, "-m", "oban", "start", "--dsn", database.plain(self.place.url)]
        return [*program, "--queues", f"default:{AT_ONCE}", "--log-level", "ERROR"]

    def left(self) -> int:
        return database.scalar(self.place.url, "SELECT count(*) FROM oban_jobs WHERE state <> 'completed'")

    def clear(self) -> None:
        self._runner.run(self._pool.close())
        self._runner.close()
