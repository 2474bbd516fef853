"""A lease that lasts as long as its connection is lost at the proxy, by a harness that knows nothing of RabbitMQ."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from relevo import Ack, Envelope
from relevo_amqp import AmqpTransport
from relevo_conformance._generic import generic_harness

from .conftest import Server, receive

Make = Callable[..., Envelope]


def test_what_a_worker_held_that_was_cut_off_comes_to_another_one(server: Server, queue: str, envelope: Make) -> None:
    parts = urlsplit(server.url)
    url = server.url if parts.port else parts._replace(netloc=f"{parts.netloc}:5672").geturl()
    options = {"url": url, "prefix": server.prefix, "levels": "6"}
    harness = generic_harness(AmqpTransport, "amqp").with_options(options)()
    first, second = harness.open(), harness.open()
    assert isinstance(first, AmqpTransport)
    assert isinstance(second, AmqpTransport)
    first.setup([queue])
    first.send([envelope()])
    assert len(receive(first, queue)) == 1

    harness.kill(first)

    (again,) = receive(second, queue, wait=20.0)
    assert again.lost_leases == 1
    assert not second.settle([(again, Ack())])
    second.close()
    harness.close()
    first.close()
