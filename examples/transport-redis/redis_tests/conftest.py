"""A Redis that all tests share, with a prefix for each; and a private one for a test that disturbs it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import pytest
import redis

import redis_server
from relevo import Secret
from relevo_redis import RedisOptions, RedisTransport


@pytest.fixture(name="options")
def _options(redis_url: str) -> Iterator[RedisOptions]:
    """Yield a prefix for the test on the shared server."""
    options = RedisOptions(url=Secret(redis_url), prefix=f"test-{secrets.token_hex(8)}")
    yield options
    with redis.Redis.from_url(redis_url) as client:
        for key in client.scan_iter(match=f"{options.prefix}:*"):
            client.delete(key)


@pytest.fixture(name="transport")
def _transport(options: RedisOptions) -> Iterator[RedisTransport]:
    with RedisTransport(options) as transport:
        transport.setup(["media"])
        yield transport


@pytest.fixture(name="own_url")
def _own_url() -> Iterator[str]:
    """Yield the URL of a server that only this test uses."""
    environ = {**os.environ, "RELEVO_TEST_REDIS": "", "RELEVO_TEST_REDIS_STANDARD": "redis://127.0.0.1:1/0"}
    if redis_server.KIND.program(environ) is None:
        pytest.skip("no Redis is installed from which a private one could be started")
    with redis_server.KIND.server(environ=environ) as url:
        yield url


@pytest.fixture(name="admin")
def _admin(own_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(own_url) as client:
        yield client


@pytest.fixture(name="own")
def _own(own_url: str) -> Iterator[RedisTransport]:
    """Yield a transport on the server that only this test uses."""
    with RedisTransport(RedisOptions(url=Secret(own_url)), name="main") as transport:
        yield transport
