"""What the harness makes of bytes on their way to RabbitMQ, and that the faults it makes are real."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pika
import pytest
from pika import spec
from pika.frame import Body, Header, Heartbeat, Method, ProtocolHeader

from relevo import Ack, Envelope, Nack, Transport
from relevo.errors import SendError, TransportError
from relevo_amqp.conformance import AmqpHarness, Requests
from relevo_conformance.fault import Fault

PUBLISH = Method(1, spec.Basic.Publish(exchange="x", routing_key="q")).marshal()
ACK = Method(1, spec.Basic.Ack(7)).marshal()
LOOK = Method(1, spec.Queue.Declare(queue="q", passive=True)).marshal()


def content(*parts: bytes) -> bytes:
    header: bytes = Header(1, sum(map(len, parts)), pika.BasicProperties()).marshal()
    return header + b"".join(Body(1, part).marshal() for part in parts)


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_requests_are_whole_however_they_arrive(size: int) -> None:
    hello, beat = ProtocolHeader().marshal(), Heartbeat().marshal()
    wanted = [hello, LOOK, PUBLISH + content(b"a" * 300, b"b"), beat, ACK, PUBLISH + content()]
    stream = b"".join(wanted)
    split = Requests()

    came = [one for at in range(0, len(stream), size) for one in split(stream[at : at + size])]

    assert [one.data for one in came] == wanted
    assert [one.writes for one in came] == [False, False, True, False, True, True]
    assert [one.lasting for one in came] == [False, False, True, False, True, True]


@pytest.mark.parametrize(
    "method, writes, lasting",
    [
        (spec.Basic.Consume(queue="q"), True, False),
        (spec.Basic.Get(queue="q"), True, False),
        (spec.Basic.Nack(7), True, True),
        (spec.Basic.Qos(), False, False),
        (spec.Queue.Declare(queue="q"), False, False),
    ],
    ids=lambda one: type(one).__name__,
)
def test_what_moves_events_is_a_write(method: spec.Basic.Consume, *, writes: bool, lasting: bool) -> None:
    (request,) = Requests()(Method(1, method).marshal())

    assert (request.writes, request.lasting) == (writes, lasting)


@pytest.fixture(name="harness")
def _harness(rabbitmq_url: str) -> Iterator[AmqpHarness]:
    harness: AmqpHarness = AmqpHarness.with_options({"url": rabbitmq_url})()
    yield harness
    harness.drop("media")
    harness.close()


@pytest.fixture(name="transport")
def _transport(harness: AmqpHarness) -> Iterator[Transport]:
    with harness.open() as transport:
        transport.setup(["media"])
        yield transport


def envelope(number: int) -> Envelope:
    return Envelope(id=f"e{number}", source="shop", name="image.created", queue="media", body=b"{}")


def holds(harness: AmqpHarness, number: int) -> bool:
    """Return whether the queue comes to hold so many events: what a server has heard may take a moment to be there."""
    deadline = time.monotonic() + 10.0
    with harness.open() as other:
        while other.stats("media").ready != number:
            if time.monotonic() >= deadline:
                return False
    return True


@pytest.mark.amqp
@pytest.mark.parametrize("fault, there", [(Fault("before", 1), 0), (Fault("before", 2), 1), (Fault("after", 2), 2)])
def test_a_publishing_is_lost_before_or_after_it_arrived(
    harness: AmqpHarness, transport: Transport, fault: Fault, there: int
) -> None:
    with harness.broken(transport, fault), pytest.raises(SendError) as caught:
        transport.send([envelope(1), envelope(2)])

    assert caught.value.unknown
    assert holds(harness, there)
    transport.send([envelope(3)])


@pytest.mark.amqp
def test_an_ack_that_never_arrives_leaves_the_event_there(harness: AmqpHarness, transport: Transport) -> None:
    transport.send([envelope(1)])
    (delivery,) = transport.receive(["media"], limit=1, lease=60.0, wait=10.0)

    with harness.broken(transport, Fault("before", 1)):
        assert transport.settle([(delivery, Ack())]) == []

    (again,) = transport.receive(["media"], limit=1, lease=60.0, wait=10.0)
    assert (again.envelope, again.lost_leases) == (delivery.envelope, 1)


@pytest.mark.amqp
def test_what_is_moved_is_in_both_places_when_the_answer_is_lost(harness: AmqpHarness, transport: Transport) -> None:
    transport.send([envelope(1)])
    (delivery,) = transport.receive(["media"], limit=1, lease=60.0, wait=10.0)

    with harness.broken(transport, Fault("after", 1)), pytest.raises(TransportError):
        transport.settle([(delivery, Nack(state=b"moved"))])

    assert holds(harness, 1)
    assert transport.settle([(delivery, Ack())]) == []
    (moved,) = transport.receive(["media"], limit=1, lease=60.0, wait=10.0)
    assert moved.state == b"moved"
