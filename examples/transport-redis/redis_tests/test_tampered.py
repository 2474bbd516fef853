"""Data that another program wrote to the store blocks neither other events nor other dead letters."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from relevo import Ack, Envelope
from relevo_redis import RedisOptions, RedisTransport


@pytest.fixture(name="client")
def _client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def envelope(number: int) -> Envelope:
    return Envelope(id=f"e{number}", source="shop", name="image.created", queue="media", body=b"{}")


@pytest.mark.parametrize("field", ["attempt", "lost_leases", "sent", "died", "reason", "error", "envelope", "state"])
def test_a_dead_letter_with_a_damaged_field_is_listed_beside_the_others(
    transport: RedisTransport, options: RedisOptions, client: redis.Redis, field: str
) -> None:
    transport.send([envelope(1), envelope(2)])
    for delivery in transport.receive(["media"], limit=2, lease=60, wait=0):
        transport.dead_letter(delivery, reason="broken")
    client.hset(f"{options.prefix}:event:1", field, b"\xff")

    entries = transport.dead_letters(["media"])

    assert len(entries) == 2
    assert entries[1].envelope == envelope(2)


def test_a_dead_letter_without_its_event_is_listed_beside_the_others(
    transport: RedisTransport, options: RedisOptions, client: redis.Redis
) -> None:
    transport.send([envelope(1)])
    transport.dead_letter(transport.receive(["media"], limit=1, lease=60, wait=0)[0], reason="broken")
    client.zadd(f"{options.prefix}:dead:media", {"none": 0})

    assert [entry.reason for entry in transport.dead_letters(["media"])] == ["", "broken"]


@pytest.mark.parametrize("field", ["attempt", "lost_leases"])
def test_an_event_whose_counters_are_damaged_is_handed_out(
    transport: RedisTransport, options: RedisOptions, client: redis.Redis, field: str
) -> None:
    transport.send([envelope(1), envelope(2)])
    client.hset(f"{options.prefix}:event:1", field, "many")
    held = transport.receive(["media"], limit=2, lease=60, wait=0)
    for delivery in held:
        transport.nack(delivery)

    again = transport.receive(["media"], limit=2, lease=60, wait=0)

    assert len(held) == len(again) == 2


def test_a_lease_that_ends_later_than_any_that_is_given_is_over(
    transport: RedisTransport, options: RedisOptions, client: redis.Redis
) -> None:
    transport.send([envelope(1)])
    (held,) = transport.receive(["media"], limit=1, lease=1e12, wait=0)
    early = transport.receive(["media"], limit=1, lease=60, wait=0)
    client.zadd(f"{options.prefix}:leased:media", {"1": 32503680000000000})

    (again,) = transport.receive(["media"], limit=1, lease=60, wait=0)

    assert not early
    assert transport.settle([(held, Ack())]) == [held]
    assert again.lost_leases == 1
