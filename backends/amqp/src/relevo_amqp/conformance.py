"""The harness of the RabbitMQ transport for ``relevo-conformance``; needs ``relevo-amqp[conformance]``."""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import ClassVar

import pika
from pika.frame import Body, Header, Method, decode_frame
from pika.spec import Basic

from relevo import SystemClock, Transport, masked_url
from relevo.errors import ConfigurationError, TransportUnavailableError
from relevo_amqp._options import Address, AmqpOptions
from relevo_amqp._topology import Role, Topology, word
from relevo_amqp._transport import AmqpTransport
from relevo_conformance import Harness
from relevo_conformance.fault import Breakage, Fault
from relevo_conformance.fault.proxy import Proxy, Request

__all__ = ["AmqpHarness"]

VARIABLE = "RELEVO_TEST_AMQP"
STANDARD = "amqp://guest:guest@127.0.0.1:5672/"
LEVELS = 8

_PATIENCE = 30.0
"""Seconds for an answer of a server on a busy machine."""

_MUTE = 1.0
"""Seconds of waiting for an answer that cannot come."""

_REST = 1.0
"""Seconds between the last use of a queue and its deletion."""

_PUBLISHING = b": publish"
"""Part of the name that a transport gives to its publishing connection."""

_LASTING = (Basic.Publish, Basic.Ack, Basic.Nack, Basic.Reject)
"""The methods that add an event to a queue or remove one."""

_WRITING = (*_LASTING, Basic.Consume, Basic.Get, Basic.Cancel)
"""The same, and those that start and end deliveries; a declaration changes nothing that exists."""

_SENT = 0.02
"""Seconds in which the proxy gets what a transport's thread has written."""


class Requests:
    """Splits the bytes of one connection into requests: a publish with its body is one."""

    def __init__(self) -> None:
        self._rest = b""
        self._publishing = b""
        self._missing = 0
        """The bytes of a body that are still to come."""

    def __call__(self, data: bytes) -> Iterable[Request]:
        self._rest += data
        while True:
            size, frame = decode_frame(self._rest)
            if frame is None:
                return
            raw, self._rest = self._rest[:size], self._rest[size:]
            yield from self._requests(frame, raw)

    def _requests(self, frame: object, raw: bytes) -> Iterable[Request]:
        match frame:
            case Method(method=Basic.Publish()):
                self._publishing = raw
            case Header(body_size=missing):
                self._missing = missing
                yield from self._take_published(raw)
            case Body(fragment=fragment):
                self._missing -= len(fragment)
                yield from self._take_published(raw)
            case Method(method=method):
                yield Request(raw, writes=isinstance(method, _WRITING), lasting=isinstance(method, _LASTING))
            case _:
                yield Request(raw)

    def _take_published(self, raw: bytes) -> Iterable[Request]:
        self._publishing += raw
        if not self._missing:
            yield Request(self._publishing, writes=True, lasting=True)


class AmqpHarness(Harness):
    """
    Drives the RabbitMQ transport on a running server.

    All its exchanges and queues have a random prefix, and are deleted at the end.
    """

    takes = MappingProxyType(
        {
            "url": f"the server; by default what {VARIABLE} names, else {STANDARD}",
            "prefetch": "how many events are fetched ahead; as the transport likes by default",
        }
    )
    transport: ClassVar[type[AmqpTransport]] = AmqpTransport
    new_clock = SystemClock
    glance = 0.1  # a receive that would return nothing asks the server first

    def __init__(self) -> None:
        super().__init__()
        options = type(self).options
        self._url = options.get("url") or os.environ.get(VARIABLE) or STANDARD
        self._prefetch = _whole_number(options.get("prefetch"))
        self._prefix = f"relevo-suite-{secrets.token_hex(4)}"
        self._topology = Topology(self._prefix, 0.1, LEVELS)
        self._connection = _connect(self._url)
        self._proxies: dict[Transport, Proxy] = {}
        self._dropped: deque[tuple[float, str]] = deque()

    @classmethod
    def may_run_beside(cls) -> bool:
        return cls.__module__ == __name__  # what another one changes is not known here

    def open(self) -> Transport:
        proxy = Proxy(self._url, port=5672, marks=lambda data: _PUBLISHING in data, splits=Requests)
        options = AmqpOptions(
            url=proxy.url,
            prefix=self._prefix,
            levels=LEVELS,
            prefetch=self._prefetch,
            settle_in=0.0,  # each example makes new queues, and the server is not killed
            confirm_timeout=_PATIENCE,
            connect_timeout=_PATIENCE,
        )
        transport = AmqpTransport.open(options, name="amqp", clock=self.clock)
        self._proxies[transport] = proxy
        return transport

    def kill(self, transport: Transport) -> None:
        assert isinstance(transport, AmqpTransport)  # noqa: S101 - it came from open()
        transport._abort()  # noqa: SLF001 - as the end of a killed process

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
        # Later: RabbitMQ 4.0.5 loses the supervisor of its dead-letter workers when a queue is deleted while the
        # queue, or its leader, starts.
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
        assert isinstance(transport, AmqpTransport)  # noqa: S101 - it came from open()
        proxy = self._proxies[transport]
        # Nothing else may be sent while it is broken: an idle receiver gives back what it fetched ahead, and if the
        # answer to that is lost, there may be a copy that the suite does not expect.
        with transport._turn_to_receive(_PATIENCE):  # noqa: SLF001 - beneath the transport, on purpose
            yield from self._break_send(transport, proxy, breakage)

    @contextmanager
    def broken(self, transport: Transport, fault: Fault) -> Iterator[None]:
        assert isinstance(transport, AmqpTransport)  # noqa: S101 - it came from open()
        with self._proxies[transport].broken(fault):
            yield
            # A thread of the transport sends the acks, soon.
            hub = transport._hub  # noqa: SLF001 - beneath the transport, on purpose
            if hub is not None and hub.loop.alive:
                written = threading.Event()
                hub.loop.soon(lambda: hub.loop.soon(written.set))
                written.wait(_PATIENCE)
                time.sleep(_SENT)

    def _break_send(self, transport: AmqpTransport, proxy: Proxy, breakage: Breakage) -> Iterator[None]:
        with transport._in_use() as hub:  # noqa: SLF001 - the same
            if breakage == "before":
                proxy.refuse_marked = True
                proxy.cut(marked_only=True)
            else:
                hub.publisher._open_channel()  # noqa: SLF001 - the same
                proxy.mute_marked()
                hub.publisher._timeout = _MUTE  # noqa: SLF001 - the answer does not come
        try:
            yield
        finally:
            proxy.refuse_marked = False
            hub.publisher._timeout = _PATIENCE  # noqa: SLF001 - as it was


def _connect(url: str) -> pika.BlockingConnection:
    """
    Return a connection for the harness itself, to publish raw messages and to clean up.

    Raises:
        TransportUnavailableError: The server cannot be reached.
    """
    Address.parse(url)
    parameters = pika.URLParameters(url)
    parameters.heartbeat = 0
    parameters.connection_attempts = 1
    try:
        return pika.BlockingConnection(parameters)
    except (pika.exceptions.AMQPError, OSError) as error:
        # The error that pika raises while it connects has no text; its repr names the cause.
        why = f"{masked_url(url)}: {str(error) or repr(error)}; check that the server runs and that the port is right"
        raise TransportUnavailableError("amqp", why) from error


def _whole_number(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal():
        raise ConfigurationError(f'prefetch cannot be "{text}"; write a whole number')
    return int(text)
