"""A prefix for each module on a real server, and nothing left of it at the end."""

from __future__ import annotations

import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

import pika
import pytest

from relevo import Ack, Delivery, Envelope
from relevo_amqp import AmqpOptions, AmqpTransport
from relevo_amqp._subscription import Subscription
from relevo_amqp._topology import Role, Topology

LEVELS = 6

PATIENCE = 60.0
"""Seconds for what comes within milliseconds, unless the machine pauses."""

HEARTBEAT_FRAME = 8
"""Bytes."""


def wait_until(true: Callable[[], bool], within: float = PATIENCE) -> None:
    deadline = time.monotonic() + within
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_until_it_waits(thread: threading.Thread) -> None:
    """Wait until *thread* waits for another one, as a receive does for events."""

    def waits() -> bool:
        frame = sys._current_frames().get(thread.ident or 0)
        return frame is not None and frame.f_code is threading.Condition.wait.__code__

    wait_until(waits)


class Server:
    """The server, with the names that one module may use on it."""

    def __init__(self, url: str):
        self.url = url
        self.prefix = f"relevo-test-{secrets.token_hex(4)}"
        self.topology = Topology(self.prefix, 0.1, LEVELS)
        self.queues: list[str] = []
        self.connections: list[Any] = []

    def queue(self, name: str = "") -> str:
        """Return the name of a queue that no other test uses."""
        name = name or f"queue-{secrets.token_hex(4)}"
        self.queues.append(name)
        return name

    def options(self, **changes: Any) -> AmqpOptions:
        """Return options for this module."""
        everything: dict[str, Any] = {
            "url": self.url,
            "prefix": self.prefix,
            "levels": LEVELS,
            "settle_in": 0.0,  # the server is not killed, and every test makes new queues
        } | changes
        return AmqpOptions(**everything)

    def channel(self) -> Any:
        """Return a channel of pika's, to look and to meddle with."""
        self.connections.append(pika.BlockingConnection(pika.URLParameters(self.url)))
        return self.connections[-1].channel()

    def ready(self, name: str) -> int:
        """Return how many events lie in the server's queue *name*."""
        channel = self.channel()
        count = channel.queue_declare(name, passive=True).method.message_count
        self.connections.pop().close()
        return int(count)

    def hand_out(self, queue: str) -> None:
        """Wait until the server has handed out all that was ready in *queue*, also what no receive asked for yet."""
        wait_until(lambda: not self.ready(self.topology.queue(queue, Role.MAIN)))

    def consumers(self, name: str) -> int:
        """Return how many consumers the server's queue *name* has."""
        channel = self.channel()
        count = channel.queue_declare(name, passive=True).method.consumer_count
        self.connections.pop().close()
        return int(count)

    def rest(self) -> None:
        """Let a queue that was just declared settle before it is deleted: RabbitMQ 4.0.5 can crash over it."""
        time.sleep(1.0)

    def clean(self) -> None:
        """Delete all that this module can have declared."""
        channel = self.channel()
        names = [queue.name for queue in self.topology.shared_queues()]
        names += [own.name for queue in self.queues for own in self.topology.own_queues(queue)]
        for name in names:
            channel.queue_delete(name)
        marks = [self.topology.mark(queue) for queue in (None, *self.queues)]
        for exchange in (*self.topology.exchanges(), *marks):
            channel.exchange_delete(exchange.name)
        for connection in self.connections:
            with suppress(pika.exceptions.AMQPError):  # idle for longer than its heartbeat, perhaps
                connection.close()


@pytest.fixture(scope="module")
def server(rabbitmq_url: str) -> Iterator[Server]:
    server = Server(rabbitmq_url)
    yield server
    server.clean()


@pytest.fixture
def queue(server: Server) -> str:
    return server.queue()


@pytest.fixture
def connect(server: Server) -> Iterator[Callable[..., AmqpTransport]]:
    """Give a way to open transports, which are closed at the end."""
    opened: list[AmqpTransport] = []

    def connect(**changes: Any) -> AmqpTransport:
        opened.append(AmqpTransport(server.options(**changes)))
        return opened[-1]

    yield connect
    for transport in opened:
        transport.close()


@pytest.fixture
def transport(connect: Callable[..., AmqpTransport], queue: str) -> AmqpTransport:
    """Give a transport on which *queue* is set up."""
    transport = connect()
    transport.setup([queue])
    return transport


def receive(transport: AmqpTransport, *queues: str, limit: int = 100, wait: float = PATIENCE) -> list[Delivery]:
    """Receive as a worker does."""
    return list(transport.receive(queues, limit=limit, lease=60.0, wait=wait))


def ids(deliveries: Iterable[Delivery]) -> list[str]:
    """Return the ids of what was received; what is unreadable has none."""
    return [each.envelope.id if isinstance(each.envelope, Envelope) else "unreadable" for each in deliveries]


def drain(transport: AmqpTransport, *queues: str, wait: float = 0.0, least: int = 0) -> list[Delivery]:
    """Receive and ack until *least* came, however long that takes, and nothing more comes."""
    found: list[Delivery] = []
    while deliveries := receive(transport, *queues, wait=wait if len(found) >= least else PATIENCE):
        found += deliveries
        assert not transport.settle([(each, Ack()) for each in deliveries])
    return found


def receive_all(transport: AmqpTransport, queue: str, number: int) -> list[Delivery]:
    """Receive until *number* are held; a receive returns as soon as there is one."""
    held: list[Delivery] = []
    while len(held) < number:
        arrived = receive(transport, queue, limit=number - len(held))
        assert arrived, f"only {len(held)} of {number} came"
        held += arrived
    return held


def subscription_of(transport: AmqpTransport) -> Subscription:
    """Return the subscription of *transport*."""
    assert transport._receiver is not None
    assert transport._receiver.subscription is not None
    return transport._receiver.subscription


def set_confirm_timeout(transport: AmqpTransport, seconds: float) -> None:
    """Change it for a part of a test only: a busy server may answer later than the part allows."""
    assert transport._hub is not None
    transport._hub.publisher._timeout = seconds


@pytest.fixture
def envelope(queue: str) -> Callable[..., Envelope]:
    """Give a way to make envelopes for *queue*."""

    def envelope(number: int = 0, **changes: Any) -> Envelope:
        return Envelope(
            **{"id": f"id-{number}", "source": "shop", "name": "image.created", "queue": queue, "body": b"{}"} | changes
        )

    return envelope
