"""
pika alone on a quorum queue: the floor for every transport that receives through pika unchanged.

An event is a short JSON text. 1000 are prefetched, and each hundred is acked at once, or after 20 ms. Filling has up to
1000 unconfirmed events in flight; single events are sent with a confirmation each.
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
    """Sends through a blocking channel, receives through an asynchronous one."""

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
    Handles the messages of one channel, without end.

    Args:
        channel: An open channel of pika.
    """

    def __init__(self, channel: Any):
        self._channel = channel
        self._last = self._acked = 0
        self._waits = False

    def begin(self, queue: str) -> None:
        """Start consuming from *queue*."""
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
