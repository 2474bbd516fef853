"""Servers that are unusable: unreachable, full, not durable, or of another release."""

from __future__ import annotations

import attrs
import pytest
import redis

from relevo import Envelope, Nack, Secret
from relevo.errors import ConfigurationError, SendError, TransportError, TransportUnavailableError
from relevo.testing import FakeClock
from relevo_redis import RedisOptions, RedisTransport


def envelope(number: int = 1, **fields: str) -> Envelope:
    return Envelope(id=f"e{number}", source="shop", name="image.created", queue="media", body=b"{}", **fields)  # type: ignore[arg-type]


def test_a_server_that_is_away_is_unavailable_and_nothing_was_sent() -> None:
    with RedisTransport(RedisOptions(url=Secret("redis://:secret@127.0.0.1:1")), name="main") as transport:
        with pytest.raises(
            TransportUnavailableError, match=r'"main" is unavailable: redis://\S*127\.0\.0\.1:1'
        ) as caught:
            transport.send([envelope()])

        assert "secret" not in str(caught.value)


def test_a_wrong_password_is_an_error_of_the_program_and_is_not_shown(own_url: str, admin: redis.Redis) -> None:
    admin.config_set("requirepass", "right")
    options = RedisOptions(url=Secret(own_url.replace("://", "://:wrong@")))

    with RedisTransport(options) as transport, pytest.raises(ConfigurationError, match="user or password") as caught:
        transport.setup(["media"])

    assert "wrong" not in str(caught.value).replace("WRONGPASS", "")


def test_a_server_that_wants_a_password_says_so(own: RedisTransport, admin: redis.Redis) -> None:
    admin.config_set("requirepass", "right")

    with pytest.raises(ConfigurationError, match="password"):
        own.setup(["media"])


@pytest.mark.parametrize(
    "name, value", [("appendonly", "no"), ("appendfsync", "everysec"), ("no-appendfsync-on-rewrite", "yes")]
)
def test_a_server_that_answers_before_its_disk_has_it_is_refused_unless_that_is_all_one_wants(
    own: RedisTransport, own_url: str, admin: redis.Redis, name: str, value: str
) -> None:
    admin.config_set(name, value)

    with pytest.raises(ConfigurationError, match=rf'set {name} \w+ there, or write durability = "process"'):
        own.send([envelope()])

    with RedisTransport(RedisOptions(url=Secret(own_url), durability="process")) as modest:
        modest.send([envelope()])


def test_a_server_that_throws_keys_away_is_refused_whatever_is_claimed(own_url: str, admin: redis.Redis) -> None:
    admin.config_set("maxmemory-policy", "allkeys-lru")
    options = RedisOptions(url=Secret(own_url), durability="process")

    with RedisTransport(options) as transport, pytest.raises(ConfigurationError, match="noeviction"):
        transport.setup(["media"])


def test_keys_of_a_newer_release_are_left_alone(own: RedisTransport, admin: redis.Redis) -> None:
    admin.set("relevo:version", "2")

    with pytest.raises(ConfigurationError, match="another release"):
        own.send([envelope()])

    assert admin.keys("*") == [b"relevo:version"]


def test_a_server_that_comes_back_as_another_one_is_looked_at_again(own: RedisTransport, admin: redis.Redis) -> None:
    own.send([envelope()])
    admin.config_set("appendfsync", "no")
    admin.client_kill_filter(_type="normal", skipme=True)

    for _ in range(3):
        with pytest.raises(ConfigurationError, match="appendfsync"):
            own.send([envelope(2)])


def test_a_server_that_forgot_the_script_is_given_it_again(own: RedisTransport, admin: redis.Redis) -> None:
    own.send([envelope()])
    admin.script_flush()

    (delivery,) = own.receive(["media"], limit=1, lease=60.0, wait=0.0)
    own.ack(delivery)


def test_a_full_server_takes_nothing_in_and_what_it_has_is_handled(own: RedisTransport, admin: redis.Redis) -> None:
    own.send([envelope(number) for number in range(4)])
    (lost,) = own.receive(["media"], limit=1, lease=0.01, wait=0.0)
    admin.config_set("maxmemory", "1")

    with pytest.raises(TransportUnavailableError, match="memory is full"):
        own.send([envelope(5)])

    again = list(own.receive(["media"], limit=3, lease=60.0, wait=0.0))
    while len(again) < 4:
        again += own.receive(["media"], limit=1, lease=60.0, wait=2.0)
    assert [one.lost_leases for one in again if one.envelope == lost.envelope] == [1]
    assert own.settle([(again[0], Nack(delay=60.0, state=b"later"))]) == []
    own.dead_letter(again[1], reason="spoilt")
    for delivery in again[2:]:
        own.ack(delivery)
    assert own.stats("media").scheduled == 1
    assert own.stats("media").dead == 1


def test_a_replica_says_that_it_is_one(own: RedisTransport, admin: redis.Redis) -> None:
    own.setup(["media"])
    admin.replicaof("127.0.0.1", "1")

    with pytest.raises(TransportUnavailableError, match="replica"):
        own.send([envelope()])


def test_what_a_stranger_did_to_the_keys_ends_in_an_error_of_relevo(own: RedisTransport, admin: redis.Redis) -> None:
    own.send([envelope()])
    admin.delete("relevo:turn:media")
    admin.set("relevo:turn:media", "not ours")

    for call in (
        lambda: own.send([envelope(2)]),
        lambda: own.receive(["media"], limit=1, lease=60.0, wait=0.0),
    ):
        with pytest.raises(TransportError, match="WRONGTYPE"):
            call()


def test_an_event_whose_body_a_stranger_deleted_holds_nobody_up(own: RedisTransport, admin: redis.Redis) -> None:
    own.send([envelope(1), envelope(2)])
    (first,) = [key for key in admin.keys("relevo:event:*") if admin.hget(key, "id") == b"e1"]
    admin.delete(first)

    (delivery,) = own.receive(["media"], limit=10, lease=60.0, wait=0.0)

    assert isinstance(delivery.envelope, Envelope)
    assert delivery.envelope.id == "e2"


def test_what_a_stranger_deleted_is_in_the_way_of_no_purge(own: RedisTransport, admin: redis.Redis) -> None:
    own.send([envelope(1), envelope(2)])
    own.send([envelope(3)], delay=60.0)
    admin.delete(*admin.keys("relevo:event:*"))

    own.purge("media")

    assert admin.zcard("relevo:ready:media") + admin.zcard("relevo:scheduled:media") == 0


def test_a_batch_that_would_hold_the_server_up_is_refused_whole(transport: RedisTransport) -> None:
    with pytest.raises(SendError, match="10000 at most") as caught:
        transport.send([envelope(number) for number in range(10_001)])

    assert len(caught.value.refused) == 10_001
    assert transport.stats("media").ready == 0


def test_ten_thousand_go_in_and_out(transport: RedisTransport) -> None:
    transport.send([envelope(number) for number in range(10_000)])

    came = 0
    while deliveries := transport.receive(["media"], limit=10_000, lease=60.0, wait=0.0):
        assert transport.settle([(delivery, Nack(delay=60.0)) for delivery in deliveries]) == []
        came += len(deliveries)

    assert came == 10_000
    assert transport.purge("media") == 10_000


# --- no script blocks others for long ------------------------------------------------------------

MOST = 1000
"""Events that one script handles at most."""


def scripts(admin: redis.Redis) -> int:
    """Return how many scripts the server has run."""
    return int(admin.info("commandstats")["cmdstat_evalsha"]["calls"])


def test_a_receive_hands_out_no_more_than_one_script_may_do(transport: RedisTransport) -> None:
    transport.send([envelope(number) for number in range(MOST + 1)])

    assert len(transport.receive(["media"], limit=10_000, lease=60.0, wait=0.0)) == MOST
    assert len(transport.receive(["media"], limit=10_000, lease=60.0, wait=0.0)) == 1


def test_a_receive_hands_out_no_more_bytes_than_one_script_may_copy(transport: RedisTransport) -> None:
    large = [attrs.evolve(envelope(number), body=b'"%s"' % (b"x" * 9_000_000)) for number in range(3)]
    transport.send(large)

    came = [transport.receive(["media"], limit=10, lease=60.0, wait=0.0) for _ in range(2)]

    assert [len(deliveries) for deliveries in came] == [2, 1]
    assert [one.envelope for deliveries in came for one in deliveries] == large


def test_what_is_due_comes_though_much_that_somebody_deleted_was_due_before(
    options: RedisOptions, redis_url: str
) -> None:
    clock = FakeClock()
    with RedisTransport(options, clock=clock) as transport, redis.Redis.from_url(redis_url) as client:
        for queue in ("feed", "media"):
            batch = [attrs.evolve(envelope(number), queue=queue) for number in range(MOST)]
            transport.send(batch, delay=10.0)
        client.delete(*client.keys(f"{options.prefix}:event:*"))
        transport.send([envelope(MOST)], delay=20.0)
        clock.advance(30.0)

        (delivery,) = transport.receive(["feed", "media"], limit=1, lease=60.0, wait=0.0)

    assert delivery.envelope == envelope(MOST)


def test_what_has_one_id_is_found_and_cancelled_by_scripts_that_are_short(
    own: RedisTransport, admin: redis.Redis
) -> None:
    alike = [attrs.evolve(envelope(), source=f"shop {number}") for number in range(2 * MOST + 1)]
    own.send(alike)
    (held,) = own.receive(["media"], limit=1, lease=60.0, wait=0.0)
    before = scripts(admin)

    found = own.find("e1")

    assert [one.envelope for one in found] == alike
    assert scripts(admin) - before == 3
    assert own.cancel("e1") == 2 * MOST
    assert [one.envelope for one in own.find("e1")] == [held.envelope]


def test_dead_letters_with_much_in_them_are_listed_by_scripts_that_are_short(
    own: RedisTransport, admin: redis.Redis
) -> None:
    large = [attrs.evolve(envelope(number), body=b'"%s"' % (b"x" * 9_000_000)) for number in range(3)]
    for one in large:
        own.send([one])
        own.dead_letter(own.receive(["media"], limit=1, lease=60.0, wait=0.0)[0], reason="spoilt")
    before = scripts(admin)

    entries = own.dead_letters(["media"])

    assert [entry.envelope for entry in entries] == large
    assert scripts(admin) - before > 2


def test_nothing_is_left_of_what_is_done(own: RedisTransport, admin: redis.Redis) -> None:
    own.setup(["media"])
    own.send([envelope(1, ordering_key="a"), envelope(2, ordering_key="a", urgency="high")])
    own.send([envelope(3)], delay=60.0)

    for _ in range(2):
        (delivery,) = own.receive(["media"], limit=1, lease=60.0, wait=0.0)
        own.nack(delivery)
        (delivery,) = own.receive(["media"], limit=1, lease=60.0, wait=0.0)
        own.dead_letter(delivery, reason="spoilt")
    own.discard([entry.ref for entry in own.dead_letters(["media"])])
    own.cancel("e3")
    own.receive(["media"], limit=1, lease=60.0, wait=0.0)

    assert sorted(admin.keys("*")) == [b"relevo:tick", b"relevo:version"]
