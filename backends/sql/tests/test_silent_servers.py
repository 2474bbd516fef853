"""Servers that accept a connection and do not answer: a call fails after the timeout of the address, or the default."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import sqlalchemy as sa

from relevo import Envelope
from relevo.errors import TransportUnavailableError
from relevo_sql import SqlTransport

Opener = Callable[..., SqlTransport]
Maker = Callable[..., Envelope]


class Silence:
    """A server on loopback to which the system connects, and which neither reads nor writes."""

    def __init__(self, listening: socket.socket):
        self._listening = listening
        self.port = listening.getsockname()[1]

    def connections(self) -> int:
        """Return how many connections were opened since the last call."""
        found = 0
        self._listening.setblocking(False)  # noqa: FBT003 - the socket's method
        try:
            while True:
                self._listening.accept()[0].close()
                found += 1
        except BlockingIOError:
            return found


@pytest.fixture
def silence() -> Iterator[Silence]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield Silence(listening)


ADDRESSES = {
    "postgresql": "postgresql://shop@127.0.0.1:{port}/shop?connect_timeout=2",
    "mariadb": "mariadb://shop@127.0.0.1:{port}/shop?read_timeout=1",
    "mysql": "mysql://shop@127.0.0.1:{port}/shop?read_timeout=1",
}


@pytest.mark.parametrize("scheme", ADDRESSES)
@pytest.mark.parametrize("dialect", [None, "portable"])
def test_a_server_that_accepts_a_connection_and_stays_silent_is_unavailable(
    opener: Opener, an_envelope: Maker, silence: Silence, scheme: str, dialect: str | None
) -> None:
    transport = opener(url=ADDRESSES[scheme].format(port=silence.port), setup=False, dialect=dialect)

    with pytest.raises(TransportUnavailableError, match=r"timed out|timeout expired"):
        transport.send([an_envelope()])

    assert silence.connections() == 1  # a second attempt would wait for as long


LIMITS = {"connect_timeout": 10, "read_timeout": 70, "write_timeout": 70}


@pytest.mark.parametrize("scheme", ["mariadb", "mysql", "mariadb+pymysql", "mysql+pymysql"])
@pytest.mark.parametrize("dialect", [None, "portable"])
def test_a_server_that_is_silent_is_waited_for_no_longer_than_a_default(
    opener: Opener, scheme: str, dialect: str | None
) -> None:
    transport = opener(url=f"{scheme}://shop@127.0.0.1:1/shop", setup=False, dialect=dialect)
    chosen = opener(url=f"{scheme}://shop@127.0.0.1:1/shop?read_timeout=300", setup=False, dialect=dialect)

    assert LIMITS.items() <= arguments(transport).items()
    assert (LIMITS | {"read_timeout": 300}).items() <= arguments(chosen).items()


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg"])
def test_the_portable_dialect_waits_for_postgresql_no_longer_either(opener: Opener, scheme: str) -> None:
    own = opener(url=f"{scheme}://shop@127.0.0.1:1/shop", setup=False)
    portable = opener(url=f"{scheme}://shop@127.0.0.1:1/shop", setup=False, dialect="portable")

    assert arguments(portable)["connect_timeout"] == arguments(own)["connect_timeout"] == 10


@pytest.mark.parametrize("scheme", ["postgresql", "mariadb", "mysql"])
@pytest.mark.parametrize("dialect", [None, "portable"])
def test_the_limits_are_no_part_of_the_address_that_an_application_uses(
    opener: Opener, scheme: str, dialect: str | None
) -> None:
    transport = opener(url=f"{scheme}://shop:pw@127.0.0.1:1/shop?connect_timeout=3", setup=False, dialect=dialect)

    assert dict(transport.url.query) == {"connect_timeout": "3"}


class _RefusedError(Exception):
    pass


def arguments(transport: SqlTransport) -> dict[str, Any]:
    """Return what the driver of *transport* is called with."""
    found: dict[str, Any] = {}

    def connect(_: object, __: object, ___: object, given: dict[str, Any]) -> None:
        found.update(given)
        raise _RefusedError

    engine = transport._database.engine
    sa.event.listen(engine, "do_connect", connect)
    with suppress(_RefusedError):
        engine.connect()
    return found
