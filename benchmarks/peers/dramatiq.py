"""Dramatiq on RabbitMQ: confirms, one process with one thread, its fastest setting, and 1000 events prefetched."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from peers import rabbitmq
from peers.meter import note
from peers.peer import EVENT, Peer, Place, arguments

PLACE = Place.here()

broker = RabbitmqBroker(url=PLACE.url, confirm_delivery=True)


def nothing(event: dict[str, int]) -> None:
    """Do nothing except note the event in the meter."""
    note(event["sent"])


image_created = dramatiq.actor(nothing, actor_name=EVENT.replace(".", "_"), queue_name=PLACE.name, broker=broker)


class Dramatiq(Peer):
    """It acks by itself after the work is done."""

    def fill(self, number: int) -> None:
        for _ in range(number):
            image_created.send(arguments())

    def command(self) -> Sequence[str]:
        program = [sys.executable, "-m", "dramatiq", f"{__name__}:broker"]
        return [*program, "--processes", "1", "--threads", "1"]

    def environ(self) -> Mapping[str, str]:
        return {"dramatiq_queue_prefetch": "1000"}

    def left(self) -> int:
        return rabbitmq.ready(self.place.url, self.place.name)

    def clear(self) -> None:
        broker.close()
        rabbitmq.delete(self.place.url, [self.place.name + end for end in ("", ".DQ", ".XQ")])
