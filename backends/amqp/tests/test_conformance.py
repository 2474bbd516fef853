"""The suite that every transport is held to, on a real server, fetching ahead and not."""

from __future__ import annotations

import os
import secrets
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

import pika
import pytest

from relevo import SystemClock, Transport
from relevo_amqp import AmqpOptions, AmqpTransport
from relevo_amqp._topology import Role, Topology, word
from relevo_conformance import Harness, suite
from relevo_conformance.harness import Breakage

from .proxy import Proxy

LEVELS = 8

_PATIENCE = 30.0
"""Seconds for an answer of a server on a busy machine."""

_MUTE = 1.0
"""Seconds after which an answer is given up that is known not to come."""

_REST = 1.0
"""Seconds between the last use of a queue and its deletion."""


@pytest.fixture(autouse=True, scope="module")
def _server(rabbitmq_url: str) -> str:
    """Name the server in RELEVO_TEST_AMQP, where the harness looks."""
    return rabbitmq_url


class AmqpHarness(Harness):
    transport: ClassVar[type[AmqpTransport]] = AmqpTransport
    new_clock = SystemClock
    prefetch: ClassVar[int | None] = None

    def __init__(self) -> None:
        super().__init__()
        self._url = os.environ["RELEVO_TEST_AMQP"]
        self._prefix = f"relevo-suite-{secrets.token_hex(4)}"
        self._topology = Topology(self._prefix, 0.1, LEVELS)
        parameters = pika.URLParameters(self._url)
        parameters.heartbeat = 0
        self._connection = pika.BlockingConnection(parameters)
        self._proxies: dict[Transport, Proxy] = {}
        self._dropped: deque[tuple[float, str]] = deque()

    def open(self) -> Transport:
        proxy = Proxy(self._url)
        options = AmqpOptions(
            url=proxy.url,
            prefix=self._prefix,
            levels=LEVELS,
            prefetch=type(self).prefetch,
            confirm_timeout=_PATIENCE,
            connect_timeout=_PATIENCE,
        )
        transport = AmqpTransport.open(options, name="amqp", clock=self.clock)
        self._proxies[transport] = proxy
        return transport

    def kill(self, transport: Transport) -> None:
        assert isinstance(transport, AmqpTransport)
        transport._abort()

    def put_raw(self, queue: str, raw: bytes, headers: Mapping[str, str]) -> None:
        channel = self._connection.channel()
        channel.confirm_delivery()
        channel.basic_publish(
            self._topology.exchange(Role.MAIN),
            word(queue),
            raw,
            pika.BasicProperties(headers=dict(headers), delivery_mode=2),
            mandatory=True,
        )
        channel.close()

    def drop(self, queue: str) -> None:
        # Not at once: RabbitMQ 4.0.5 loses the supervisor of its dead-letter workers when a queue is deleted
        # in the moment in which it, or its leader, is made.
        self._dropped.append((time.monotonic(), queue))
        self._delete(before=time.monotonic() - _REST)

    def _delete(self, *, before: float) -> None:
        channel = self._connection.channel()
        while self._dropped and self._dropped[0][0] <= before:
            for own in self._topology.own_queues(self._dropped.popleft()[1]):
                channel.queue_delete(own.name)
        channel.close()

    def close(self) -> None:
        for proxy in self._proxies.values():
            proxy.close()
        time.sleep(_REST)
        self._delete(before=time.monotonic())
        channel = self._connection.channel()
        for queue in self._topology.shared_queues():
            channel.queue_delete(queue.name)
        for exchange in self._topology.exchanges():
            channel.exchange_delete(exchange.name)
        self._connection.close()

    @contextmanager
    def broken_send(self, transport: Transport, breakage: Breakage) -> Iterator[None]:
        assert isinstance(transport, AmqpTransport)
        proxy = self._proxies[transport]
        # Nothing else is to be sent while it is broken: an idle receiver gives back what it fetched ahead, and if
        # the answer to that is lost there may be a copy more, of which nobody tells the suite.
        with transport._receiving:
            yield from self._broken(transport, proxy, breakage)

    def _broken(self, transport: AmqpTransport, proxy: Proxy, breakage: Breakage) -> Iterator[None]:
        with transport._in_use() as hub:
            if breakage == "before":
                proxy.refuse_publishing = True
                proxy.cut(publishing_only=True)
            else:
                hub.publisher._ready()
                proxy.mute_publishing()
                hub.publisher._timeout = _MUTE
        try:
            yield
        finally:
            proxy.refuse_publishing = False
            hub.publisher._timeout = _PATIENCE


class OneByOneHarness(AmqpHarness):
    prefetch = 1


TestAmqp = suite(AmqpHarness)
TestAmqpOneByOne = suite(OneByOneHarness)
