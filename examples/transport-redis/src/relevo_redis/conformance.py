"""The harness of the Redis transport for ``relevo-conformance``; needs ``relevo-redis[conformance]``."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import attrs
import redis

from relevo import Capabilities, Secret, Transport
from relevo.errors import ConfigurationError, shown
from relevo_conformance import Harness
from relevo_conformance.fault import Countdown, Fault
from relevo_conformance.harness import HookMissing
from relevo_redis._options import RedisOptions
from relevo_redis._server import Server
from relevo_redis._transport import RedisTransport

__all__ = ["RedisHarness"]

VARIABLE = "RELEVO_TEST_REDIS"
STANDARD = "redis://127.0.0.1:6379/0"


class RedisHarness(Harness):
    """
    Drives the Redis transport on a running server.

    All its keys have a random prefix, and are deleted at the end.
    """

    takes = MappingProxyType(
        {
            "url": f"the server; by default that of {VARIABLE}, else {STANDARD}",
            "durability": "host by default; process if the server answers before the data is on disk",
        }
    )
    transport: ClassVar[type[Transport]] = RedisTransport

    def __init__(self) -> None:
        super().__init__()
        url = self.options.get("url") or os.environ.get(VARIABLE) or STANDARD
        self._options = RedisOptions(
            url=Secret(url),
            prefix=f"relevo-suite-{secrets.token_hex(8)}",
            durability=_durability(self.options.get("durability", "host")),
        )

    @cached_property
    def capabilities(self) -> Capabilities:
        return attrs.evolve(RedisTransport.capabilities, durability=self._options.durability)

    def open(self) -> Transport:
        transport = RedisTransport.open(self._options, name="redis", clock=self.clock)
        # A separate class for each, so that one can be broken without the others.
        _server(transport).pool.connection_class = type("Connection", (_BreakableConnection,), {})
        return transport

    def kill(self, transport: Transport) -> None:
        _server(transport).pool.disconnect()  # as the end of a process does, without notice

    def put_raw(self, queue: str, raw: bytes, headers: Mapping[str, str]) -> None:
        if headers:
            raise HookMissing("put_raw with headers, which this store does not have")
        with self.open() as transport:
            _server(transport).run("send", b"", 0, queue.encode(), b"", b"", b"", b"", raw)

    @contextmanager
    def broken(self, transport: Transport, fault: Fault) -> Iterator[None]:
        connections: Any = _server(transport).pool.connection_class
        connections.countdown = Countdown(fault)
        try:
            yield
        finally:
            connections.countdown = None

    @contextmanager
    def turnstile(self, transport: Transport, stop: Callable[[], None]) -> Iterator[None]:
        connections: Any = _server(transport).pool.connection_class
        connections.stop = staticmethod(stop)
        try:
            yield
        finally:
            connections.stop = None

    def close(self) -> None:
        # On an unreachable server nothing was created, or nothing can be deleted.
        with suppress(redis.ConnectionError), redis.Redis.from_url(self._options.url.reveal()) as client:
            for key in client.scan_iter(match=f"{self._options.prefix}:*", count=1000):
                client.delete(key)


class _BreakableConnection(redis.Connection):
    """A connection that can be cut before a script is sent, or before its answer."""

    countdown: ClassVar[Countdown | None] = None
    stop: ClassVar[Any] = None
    _runs_a_script = False

    def send_command(self, *args: Any, **kwargs: Any) -> None:
        if self.stop is not None:
            self.stop()
        self._runs_a_script = args[0] in ("EVALSHA", "EVAL")
        if self._runs_a_script and self.countdown is not None and self.countdown.begins(lasting=True):
            self.disconnect()  # type: ignore[no-untyped-call]
            raise redis.ConnectionError("the line was cut")
        super().send_command(*args, **kwargs)  # type: ignore[no-untyped-call]

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        answer = super().read_response(*args, **kwargs)
        if self._runs_a_script and self.countdown is not None and self.countdown.ends(lasting=True):
            self.disconnect()  # type: ignore[no-untyped-call]
            raise redis.ConnectionError("the line was cut")
        return answer


def _durability(said: str) -> Literal["host", "process"]:
    match said:
        case "host" | "process":
            return said
        case _:
            raise ConfigurationError(f"durability = {shown(said)} is invalid; write host or process")


def _server(transport: Transport) -> Server:
    assert isinstance(transport, RedisTransport)  # noqa: S101 - it came from open()
    return transport._server  # noqa: SLF001 - deliberately below the public interface
