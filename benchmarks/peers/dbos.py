"""
DBOS on PostgreSQL: a queue of workflows without steps, one process, 20 threads, polled every 10 ms.

A send is committed. Up to 200 workflows are taken from the queue at once; the result of each is committed by itself,
and its row stays. A process that starts again under the same executor ID recovers those that were running; without
Conductor, a service of its own, no other process does (its documentation: Workflow Recovery; tried with a kill).
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import dbos  # type: ignore[import-not-found] # only make bench installs it

from peers import database
from peers.meter import note
from peers.peer import EVENT, Place, Sender, arguments

AT_ONCE = 200
THREADS = 20
"""As many as its pool has connections."""

POLLED = 0.01
NAME = "bench"
OPTIONS = {"queue_name": NAME, "workflow_name": EVENT}
_FILLING = 1000


def nothing(event: dict[str, int]) -> None:
    """Do nothing except note the event in the meter."""
    note(event["sent"])


class Dbos(Sender):
    """A client sends, as from another program; it fills the queue in transactions of its own."""

    def __init__(self, place: Place):
        super().__init__(place)
        dbos.run_dbos_database_migrations(database.plain(place.url))
        self._engine = database.engine_of(place.url)
        self._client = dbos.DBOSClient(system_database_url=database.plain(place.url), application_name=NAME)

    def fill(self, number: int) -> None:
        for start in range(0, number, _FILLING):
            with self._engine.begin() as connection:
                for _ in range(min(_FILLING, number - start)):
                    self._client.enqueue_in_transaction(connection, OPTIONS, arguments())

    @contextmanager
    def sending(self) -> Iterator[Callable[[], None]]:
        yield lambda: self._client.enqueue(OPTIONS, arguments(time.monotonic_ns()))

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "peers.dbos"]

    def left(self) -> int:
        return database.scalar(self.place.url, "SELECT count(*) FROM dbos.workflow_status WHERE status <> 'SUCCESS'")

    def clear(self) -> None:
        self._client.destroy()
        self._engine.dispose()


def work(url: str) -> None:
    """Handle events without end."""
    config = {"name": NAME, "system_database_url": database.plain(url), "application_version": "1"}
    dbos.DBOS(config={**config, "log_level": "ERROR", "max_executor_threads": THREADS})
    dbos.DBOS.workflow(name=EVENT)(nothing)
    dbos.DBOS.launch()
    dbos.DBOS.register_queue(NAME, worker_concurrency=AT_ONCE, polling_interval_sec=POLLED)
    threading.Event().wait()


if __name__ == "__main__":
    work(Place.here().url)
