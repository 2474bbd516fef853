"""The conformance suite for all transports, on a real server."""

from __future__ import annotations

import attrs
import pytest
import redis

from relevo.errors import ConfigurationError
from relevo_conformance import suite
from relevo_conformance.profile import PROFILES
from relevo_conformance.trial import ServerMissingError, reach
from relevo_redis.conformance import RedisHarness


@pytest.fixture(autouse=True, scope="module")
def _server(redis_url: str) -> str:
    """Set RELEVO_TEST_REDIS, which the harness reads, to the server."""
    return redis_url


SHORT = attrs.evolve(PROFILES["quick"], rows=60)
"""The quick profile with fewer pairs of features: on a server all of them take minutes."""

TestRedis = suite(RedisHarness, profile=SHORT)


def test_a_server_that_is_not_there_is_said_to_be_missing() -> None:
    harness = RedisHarness.with_options({"url": "redis://me:secret@127.0.0.1:1/0"})

    with pytest.raises(ServerMissingError, match=r"127\.0\.0\.1:1") as caught:
        reach(harness)

    assert "secret" not in str(caught.value)
    harness().close()


def test_a_server_that_promises_less_is_examined_by_what_it_promises(own_url: str) -> None:
    with redis.Redis.from_url(own_url) as admin:
        admin.config_set("appendfsync", "everysec")
    modest = RedisHarness.with_options({"url": own_url, "durability": "process"})

    with pytest.raises(ConfigurationError, match='write durability = "process"'):
        reach(RedisHarness.with_options({"url": own_url}))
    assert reach(modest).durability == "process"
    with pytest.raises(ConfigurationError, match="write host or process"):
        reach(RedisHarness.with_options({"url": own_url, "durability": "none"}))
