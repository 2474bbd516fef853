"""
pika alone on a quorum queue: the floor, which no transport that receives through pika as it is can be below.

An event is a little JSON. 1000 are fetched ahead and each hundred acked at once, or after 20 ms; events are filled in
with 1000 on their way without their confirmation, and sent one by one with a confirmation each.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from floor_amqp import PERSISTENT, QUORUM, connected, published
from peers import rabbitmq
from peers.meter import note
from peers.peer import Immediate, Place, arguments

PREFETCH, ACK_EACH, ACK_AFTER = 1000, 100, 0.02


class Pika(Immediate):
    """Sends through a channel that blocks, receives through one that does not."""

    def __init__(self, place: Place):
        super().__init__(place)
        with rabbitmq.channel(place.url) as channel:
            channel.queue_declare(place.name, durable=True, arguments=QUORUM)

    def fill(self, number: int) -> None:
        published(self.place.url, self.place.name, number, window=1000, body=json.dumps(arguments()).encode())

    @contextmanager
    def sending(self) -> Iterator[Callable[[], None]]:
        with rabbitmq.channel(self.place.url) as channel:
            channel.confirm_delivery()

            def send() -> None:
                body = json.dumps(arguments(time.monotonic_ns())).encode()
                channel.basic_publish("", self.place.name, body, PERSISTENT, mandatory=True)

            yield send

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "peers.pika"]

    def left(self) -> int:
        return rabbitmq.ready(self.place.url, self.place.name)

    def clear(self) -> None:
        rabbitmq.delete(self.place.url, [self.place.name])


class Worker:
    """
    Handles what comes through one channel, for ever.

    Args:
        channel: pika's, open.
    """

    def __init__(self, channel: Any):
        self._channel = channel
        self._last = self._acked = 0
        self._waits = False

    def begin(self, queue: str) -> None:
        """Have the server hand out what is in *queue*."""
        self._channel.basic_qos(prefetch_count=PREFETCH)
        self._channel.basic_consume(queue, self._receive)

    def _receive(self, _: Any, method: Any, __: Any, body: bytes) -> None:
        note(json.loads(body)["sent"])
        self._last = method.delivery_tag
        if self._last - self._acked >= ACK_EACH:
            self._ack()
        elif not self._waits:
            self._waits = True
            self._channel.connection.ioloop.call_later(ACK_AFTER, self._ack_late)

    def _ack_late(self) -> None:
        self._waits = False
        if self._last > self._acked:
            self._ack()

    def _ack(self) -> None:
        self._acked = self._last
        self._channel.basic_ack(self._last, multiple=True)


if __name__ == "__main__":
    connected(Place.here().url, lambda channel: Worker(channel).begin(Place.here().name))
