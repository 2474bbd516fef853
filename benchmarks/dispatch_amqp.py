"""
The time of a dispatch to RabbitMQ, beside pika alone.

    python benchmarks/dispatch_amqp.py amqp://localhost --rounds 40 --events 80

Both publish persistent, mandatory messages with the same body to a quorum queue, and wait until they are confirmed. One
by one, pika's blocking connection is compared, and its asynchronous one with a window of 1, whose callbacks are
quicker. A list goes through pika's asynchronous connection with a window of 1,000. Eight threads of relevo share one
connection; with pika each has its own. The queues are deleted at the end. Rounds are interleaved. Figures are medians
of wall-clock time; their ratios are more reliable.
"""

from __future__ import annotations

import argparse
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import takewhile
from typing import Any

import pika
from pika.adapters.select_connection import SelectConnection

import relevo
from dispatch import BY_NAME
from dispatch_sql import THREADS, Pair, lines, measured
from drivers import AT_ONCE
from floor_amqp import PERSISTENT, QUORUM
from peers import rabbitmq
from relevo_amqp import AmqpTransport
from relevo_memory import MemoryTransport


class Blocking:
    """pika's blocking connection, with confirms."""

    def __init__(self, url: str, queue: str, body: bytes):
        self._queue, self._body = queue, body
        self._connection = pika.BlockingConnection(pika.URLParameters(url))
        self._channel = self._connection.channel()
        self._channel.confirm_delivery()

    def send(self, number: int) -> None:
        """Publish that number of messages, each after the confirmation of the one before."""
        for _ in range(number):
            self._channel.basic_publish("", self._queue, self._body, PERSISTENT, mandatory=True)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class Pipelined:
    """pika's asynchronous connection, with up to *window* messages in flight."""

    def __init__(self, url: str, queue: str, body: bytes, *, window: int):
        self._queue, self._body, self._window = queue, body, window
        self._channel: Any = None
        self._left = self._tag = 0
        self._flying: dict[int, None] = {}
        self._connection = SelectConnection(
            pika.URLParameters(url),
            on_open_callback=lambda made: made.channel(on_open_callback=self._opened),
            on_close_callback=lambda made, _: made.ioloop.stop(),
        )
        self._connection.ioloop.start()

    def send(self, number: int) -> None:
        """Publish that number of messages, and wait for all confirmations."""
        self._left = number
        self._connection.ioloop.add_callback_threadsafe(self._fill)
        self._connection.ioloop.start()

    def close(self) -> None:
        """Close the connection."""
        self._connection.ioloop.add_callback_threadsafe(self._connection.close)
        self._connection.ioloop.start()
        self._connection.ioloop.close()

    def _opened(self, channel: Any) -> None:
        self._channel = channel
        channel.confirm_delivery(self._confirmed, callback=lambda _: self._connection.ioloop.stop())

    def _fill(self) -> None:
        while self._left and len(self._flying) < self._window:
            self._channel.basic_publish("", self._queue, self._body, PERSISTENT, mandatory=True)
            self._left -= 1
            self._tag += 1
            self._flying[self._tag] = None

    def _confirmed(self, frame: Any) -> None:
        tag = frame.method.delivery_tag
        for each in list(takewhile(tag.__ge__, self._flying)) if frame.method.multiple else [tag]:
            del self._flying[each]
        if self._left:
            self._fill()
        elif not self._flying:
            self._connection.ioloop.stop()


def body_of(event: relevo.Event) -> bytes:
    """Return the body that relevo makes of *event*."""
    with relevo.App(transports={"main": MemoryTransport()}, routes={"*": "main"}, source="bench") as app:
        app.setup()
        app.dispatch(event)
        (delivery,) = app.transport().receive(["default"], limit=1, lease=60.0, wait=0.0)
        assert isinstance(delivery.envelope, relevo.Envelope)  # noqa: S101 - it was just dispatched
        return delivery.envelope.body


@contextmanager
def pairs(url: str, *, events: int) -> Iterator[Sequence[Pair]]:
    """Yield what is measured, with queues of its own on the server at *url*."""
    name = f"bench-{uuid.uuid4().hex[:8]}"
    body = body_of(BY_NAME)
    with ExitStack() as stack:
        with rabbitmq.channel(url) as channel:
            channel.queue_declare(name, durable=True, arguments=QUORUM)
        stack.callback(rabbitmq.delete, url, [name])
        app = relevo.App(transports={"main": AmqpTransport(url, name="main")}, routes={"*": "main"}, source=name)
        stack.enter_context(rabbitmq.borrowed(app, url))
        app.dispatch(BY_NAME)
        blocking = [Blocking(url, name, body) for _ in range(THREADS)]
        single, many = (Pipelined(url, name, body, window=window) for window in (1, AT_ONCE))
        for each in blocking:
            stack.callback(each.close)
        stack.callback(single.close)
        stack.callback(many.close)
        pool = stack.enter_context(ThreadPoolExecutor(THREADS))
        share = max(1, events // 2)  # long enough to even out the start of the threads

        def dispatch(number: int) -> None:
            for _ in range(number):
                app.dispatch(BY_NAME)

        yield (
            Pair("one by one, blocking", events, lambda: dispatch(events), lambda: blocking[0].send(events)),
            Pair("one by one, asynchronous", events, lambda: dispatch(events), lambda: single.send(events)),
            Pair(
                f"dispatch_many of {AT_ONCE:,}",
                AT_ONCE,
                lambda: app.dispatch_many([BY_NAME] * AT_ONCE),
                lambda: many.send(AT_ONCE),
            ),
            Pair(
                f"{THREADS} threads, one by one",
                share * THREADS,
                lambda: list(pool.map(dispatch, [share] * THREADS)),
                lambda: list(pool.map(lambda each: each.send(share), blocking)),
            ),
        )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description="The time of a dispatch to RabbitMQ, beside pika alone.")
    parser.add_argument("url", help="a server")
    parser.add_argument("--rounds", type=int, default=20, help="rounds of each (20)")
    parser.add_argument("--events", type=int, default=100, help="events in a round (100)")
    options = parser.parse_args()
    with pairs(options.url, events=options.events) as contestants:
        print("\n".join(lines(measured(contestants, rounds=options.rounds), driver="pika")))


if __name__ == "__main__":
    main()
