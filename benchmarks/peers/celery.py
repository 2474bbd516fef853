"""
Celery on RabbitMQ: `acks_late`, publisher confirms, no results, and no gossip, mingling or heartbeat of its own.

A worker is one process that handles events: prefork with one child, or solo; the better one counts.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from celery import Celery

from peers import rabbitmq
from peers.meter import note
from peers.peer import EVENT, Peer, Place, arguments

PLACE = Place.here()

app = Celery("bench", broker=PLACE.url)
app.conf.update(
    broker_transport_options={"confirm_publish": True},
    task_acks_late=True,
    task_default_queue=PLACE.name,
    task_ignore_result=True,
)


def nothing(event: dict[str, int]) -> None:
    """Do nothing except note the event in the meter."""
    note(event["sent"])


image_created = app.task(nothing, name=EVENT)


class Solo(Peer):
    """Events are handled in the process that receives them."""

    pool: Sequence[str] = ("--pool", "solo", "--prefetch-multiplier", "1000")

    def fill(self, number: int) -> None:
        for _ in range(number):
            image_created.delay(arguments())

    def command(self) -> Sequence[str]:
        quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "error")
        return [sys.executable, "-m", "celery", "--app", __name__, "worker", *self.pool, *quiet]

    def left(self) -> int:
        return rabbitmq.ready(self.place.url, self.place.name)

    def clear(self) -> None:
        app.close()
        rabbitmq.delete(self.place.url, [self.place.name], [self.place.name])


class Prefork(Solo):
    """Events are handled in a child process."""

    pool = ("--pool", "prefork", "--concurrency", "1", "--prefetch-multiplier", "1000")
