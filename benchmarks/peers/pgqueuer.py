"""
PgQueuer on PostgreSQL: asyncpg and uvloop, 500 events at once, and asynchronous entrypoints, its fastest settings.

A send is committed. Handled events are moved to a log table, 500 at once or after 0.1 s; until then a dead worker's
are handed out again. `pgqueuer.run` is what the command `pgq run` calls.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import pgqueuer  # type: ignore[import-not-found] # only make bench installs it
import uvloop  # type: ignore[import-not-found] # likewise

from peers import database
from peers.meter import note
from peers.peer import EVENT, Immediate, Place, arguments

AT_ONCE = 500
_FILLING = 1000


async def nothing(job: Any) -> None:
    """Do nothing except note the event in the meter; a function that is not asynchronous would run in a thread."""
    note(json.loads(job.payload)["sent"])


class PgQueuer(Immediate):
    """It hands an event of a dead worker out again after 30 s without a heartbeat."""

    def __init__(self, place: Place):
        super().__init__(place)
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._connection = self._runner.run(asyncpg.connect(database.plain(place.url)))
        self._queries = pgqueuer.Queries(pgqueuer.AsyncpgDriver(self._connection))
        self._runner.run(self._queries.install())

    def fill(self, number: int) -> None:
        for start in range(0, number, _FILLING):
            many = min(_FILLING, number - start)
            bodies = [json.dumps(arguments()).encode() for _ in range(many)]
            self._runner.run(self._queries.enqueue([EVENT] * many, bodies, [0] * many))

    @contextmanager
    def sending(self) -> Iterator[Callable[[], None]]:
        def send() -> None:
            self._runner.run(self._queries.enqueue(EVENT, json.dumps(arguments(time.monotonic_ns())).encode()))

        yield send

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "peers.pgqueuer"]

    def left(self) -> int:
        return database.scalar(self.place.url, "SELECT count(*) FROM pgqueuer")

    def clear(self) -> None:
        self._runner.run(self._connection.close())
        self._runner.close()


@asynccontextmanager
async def application() -> AsyncIterator[Any]:
    """Yield what a worker runs."""
    connection = await asyncpg.connect(database.plain(Place.here().url))
    try:
        made = pgqueuer.PgQueuer(pgqueuer.AsyncpgDriver(connection))
        made.entrypoint(EVENT)(nothing)
        yield made
    finally:
        await connection.close()


if __name__ == "__main__":
    uvloop.run(pgqueuer.run(application, batch_size=AT_ONCE))
