from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import combinations

import pika
import pytest

from relevo import Ack, Delivery, Envelope, Nack, TransportClosedError, TransportUnavailableError, Unreadable
from relevo.errors import TransportError
from relevo_amqp import AmqpTransport
from relevo_amqp._topology import Role
from relevo_conformance.fault.proxy import Proxy

from .conftest import PATIENCE, Server, drain, ids, receive, wait_until, wait_until_it_waits

Make = Callable[..., Envelope]
Connect = Callable[..., AmqpTransport]

ATTEMPTS = 5

_CLEARLY = 0.08
"""Seconds by which one event is due before another, so that it must come first."""


def test_the_first_look_without_waiting_finds_what_is_there(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    for number in range(5):
        transport.send([envelope(number)])
        looker = connect()

        (delivery,) = receive(looker, queue, wait=0.0)

        looker.ack(delivery)
        looker.close()


def test_a_look_without_waiting_finds_what_was_just_sent(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    sender = connect()
    receive(transport, queue, wait=0.0)
    for number in range(100):
        sender.send([envelope(number)])

        assert ids(drain(transport, queue)) == [f"id-{number}"]


def test_two_thousand_events_are_received_once_each_and_leave_nothing(
    server: Server, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    transport.send([envelope(number) for number in range(2000)])

    received = drain(transport, queue, wait=1.0, least=2000)

    assert sorted(ids(received)) == sorted(f"id-{number}" for number in range(2000))
    assert {each.lost_leases for each in received} == {0}
    transport.close()
    assert [server.ready(each.name) for each in server.topology.own_queues(queue)] == [0, 0, 0]


def test_no_more_than_the_limit_is_handed_out(transport: AmqpTransport, queue: str, envelope: Make) -> None:
    transport.send([envelope(number) for number in range(10)])

    sizes: list[int] = []
    while sum(sizes) < 10:
        sizes.append(len(receive(transport, queue, limit=3)))
        assert sizes[-1]

    assert max(sizes) == 3
    assert sum(sizes) == 10
    assert receive(transport, queue, wait=0.0) == []


def test_a_receiver_that_asks_for_one_fetches_no_other(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    transport.send([envelope(number) for number in range(3)])
    other = connect()

    held = [receive(transport, queue, limit=1), receive(transport, queue, limit=1)]

    assert len(ids(receive(other, queue))) == 1
    assert all(len(each) == 1 for each in held)


def test_an_idle_receiver_ends_its_consumer_only_to_give_something_back(
    server: Server,
    connect: Connect,
    transport: AmqpTransport,
    queue: str,
    envelope: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is sent in the moment in which a consumer ends would count as lost."""
    monkeypatch.setattr("relevo_amqp._transport.IDLE", 0.1)
    name = server.topology.queue(queue, Role.MAIN)
    receive(transport, queue, wait=0.0)
    time.sleep(0.5)
    assert server.consumers(name) == 1

    connect().send([envelope(1)])

    wait_until(lambda: server.consumers(name) == 0)
    (delivery,) = receive(connect(), queue)
    assert delivery.lost_leases == 0


def test_what_is_held_is_hidden_from_others(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    transport.send([envelope(1)])
    receive(transport, queue)

    assert receive(connect(), queue, wait=0.3) == []


def test_a_blocked_receive_is_woken_by_a_send(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    sender = connect()
    receive(transport, queue, wait=0.0)
    received: list[Delivery] = []
    thread = threading.Thread(target=lambda: received.extend(receive(transport, queue, wait=600.0)))
    thread.start()
    wait_until_it_waits(thread)

    sender.send([envelope(1)])
    thread.join(PATIENCE)

    assert ids(received) == ["id-1"]


def test_an_empty_receive_blocks_no_longer_than_it_may(transport: AmqpTransport, queue: str) -> None:
    receive(transport, queue, wait=0.0)

    started = time.monotonic()

    assert receive(transport, queue, wait=0.4) == []
    assert 0.4 <= time.monotonic() - started < 30.0


def test_the_queue_named_first_is_preferred(transport: AmqpTransport, server: Server, envelope: Make) -> None:
    first, second = server.queue(), server.queue()
    transport.setup([first, second])
    transport.send([envelope(1, queue=second), envelope(2, queue=first)])
    receive(transport, first, second, limit=1)
    transport.send([envelope(3, queue=second), envelope(4, queue=first), envelope(5, queue=second)])

    assert ids(receive(transport, first, second, limit=2))[0] == "id-4"


def test_a_queue_that_is_no_longer_asked_for_is_given_back(
    connect: Connect, transport: AmqpTransport, server: Server, envelope: Make
) -> None:
    first, second = server.queue(), server.queue()
    transport.setup([first, second])
    transport.send([envelope(number, queue=second) for number in range(4)])
    transport.send([envelope(9, queue=first)])
    while ids(receive(transport, first, second, limit=1)) != ["id-9"]:
        pass

    receive(transport, first, limit=5, wait=0.0)

    others = drain(connect(), second, wait=0.5, least=3)
    assert {each.lost_leases for each in others} == {0}


def test_urgent_events_overtake_the_others(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    transport.send([envelope(number) for number in range(20)])
    transport.send([envelope(99, urgency="high")])

    order: list[str] = []
    while len(order) < 21:
        (delivery,) = receive(transport, queue, limit=1)
        order += ids([delivery])
        transport.ack(delivery)

    assert len(set(order)) == 21
    assert order.index("id-99") < 5


def test_an_urgent_event_of_a_later_queue_overtakes_none_of_the_queue_named_first(
    transport: AmqpTransport, server: Server, envelope: Make
) -> None:
    first, second = server.queue(), server.queue()
    transport.setup([first, second])
    transport.send([envelope(1, queue=first), envelope(9, queue=second, urgency="high")])

    order = [*ids(receive(transport, first, second, limit=1)), *ids(receive(transport, first, second, limit=1))]

    assert order == ["id-1", "id-9"]


@pytest.mark.parametrize(
    "name", ["a.b.c", "with/slash", "stars*and#hashes", "größe 漢字 🐇", "q" * 250, "ü" * 200, "a%2Eb"]
)
def test_any_name_of_a_queue_works(server: Server, connect: Connect, envelope: Make, name: str) -> None:
    transport = connect()
    server.queue(name)
    transport.setup([name])

    transport.send([envelope(1, queue=name)])
    transport.send([envelope(2, queue=name)], delay=0.1)

    received = drain(transport, name, wait=1.0, least=2)
    assert ids(received) == ["id-1", "id-2"]
    assert {each.queue for each in received} == {name}


# --- delays --------------------------------------------------------------------------------------------


def test_delayed_events_come_in_the_order_of_their_delays_and_never_early(
    transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    """A pause of the machine on the way can change the order, so the test has some attempts."""

    def wrong() -> list[tuple[str, str]]:
        """Return which events came after one that is due clearly later."""
        due, due_by = {}, {}
        for number, delay in enumerate((2.0, 0.1, 0.75, 0.0, 1.23, 0.5)):
            due[f"id-{number}"] = time.monotonic() + delay
            transport.send([envelope(number)], delay=delay)
            due_by[f"id-{number}"] = time.monotonic() + delay + _CLEARLY

        found: list[str] = []
        while len(found) < len(due):
            arrived = receive(transport, queue)
            assert arrived, f"only {found} came"
            for each in arrived:
                found += ids([each])
                assert due[found[-1]] <= time.monotonic() < due[found[-1]] + 30.0
                transport.ack(each)
        assert sorted(found) == sorted(due)
        return [(first, then) for first, then in combinations(found, 2) if due_by[then] < due[first]]

    assert any(wrong() == [] for _ in range(ATTEMPTS))


def test_a_delay_longer_than_the_ladder_passes_it_again(connect: Connect, server: Server, envelope: Make) -> None:
    transport = connect(levels=2)
    queue = server.queue()
    transport.setup([queue])
    try:
        started = time.monotonic()
        transport.send([envelope(1, queue=queue)], delay=1.0)

        (delivery,) = receive(transport, queue)

        assert time.monotonic() - started >= 1.0
        assert (delivery.attempt, delivery.lost_leases) == (1, 0)
        transport.ack(delivery)
    finally:
        other = type(server.topology)(server.prefix, 0.1, 2)
        channel = server.channel()
        for rung in other.shared_queues():
            if rung.role is Role.RUNG:
                channel.queue_delete(rung.name)
        for exchange in other.exchanges():
            if exchange.name.startswith(other.ladder):
                channel.exchange_delete(exchange.name)


def test_urgency_survives_a_delay(transport: AmqpTransport, queue: str, envelope: Make) -> None:
    sent = envelope(1, urgency="high")

    transport.send([sent], delay=0.3)

    assert receive(transport, queue)[0].envelope == sent


def test_an_urgent_event_does_not_hold_up_another_that_is_delayed(
    transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    """After a pause of the machine all three come together, so the test has some attempts."""

    def first_ones() -> list[str]:
        transport.send([envelope(1)], delay=0.8)
        time.sleep(0.7)
        transport.send([envelope(2, urgency="high"), envelope(3, urgency="high")], delay=0.8)
        found = receive(transport, queue)
        rest = drain(transport, queue, least=3 - len(found))
        assert len(found + rest) == 3
        assert transport.settle([(each, Ack()) for each in found]) == []
        return ids(found)

    receive(transport, queue, wait=0.0)

    assert any(first_ones() == ["id-1"] for _ in range(ATTEMPTS))


def test_what_comes_out_of_a_delay_when_its_queue_is_gone_is_kept(
    server: Server, transport: AmqpTransport, envelope: Make
) -> None:
    channel = server.channel()
    delay = 0.3
    while True:
        queue = server.queue()
        transport.setup([queue])
        sent_at = time.monotonic()
        transport.send([envelope(1, queue=queue)], delay=delay)
        channel.queue_delete(server.topology.queue(queue, Role.MAIN))
        if time.monotonic() - sent_at < delay:
            break
        delay *= 2  # it came before the queue was gone, and went with it

    wait_until(lambda: bool(transport.dead_letters([queue])))

    (entry,) = transport.dead_letters([queue])
    assert isinstance(entry.envelope, Envelope)
    assert entry.envelope.id == "id-1"
    transport.setup([queue])
    assert transport.revive({entry.ref: b""}) == []

    assert ids(receive(transport, queue)) == ["id-1"]


# --- what others send ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "properties",
    [
        pika.BasicProperties(),
        pika.BasicProperties(headers={}),
        pika.BasicProperties(headers={"relevo": "1"}, message_id="x", type="y", app_id="z"),
        pika.BasicProperties(headers={"relevo": 1}),
        pika.BasicProperties(headers={"relevo": 1, "relevo-headers": "[1]"}, message_id="x", type="y", app_id="z"),
        pika.BasicProperties(
            headers={"relevo": 1, "relevo-headers": '{"a":"\\ud800"}'}, message_id="x", type="y", app_id="z"
        ),
        pika.BasicProperties(
            headers={"deep": {"a": [1, None, b"\xff", {"b": True}]}, "x-delivery-count": "many"}, priority=200
        ),
        pika.BasicProperties(content_type=b"\xff\xfe", message_id="\x1b[31m\n", timestamp=2**63),
    ],
)
def test_foreign_bytes_come_as_unreadable_and_can_be_put_aside(
    server: Server, transport: AmqpTransport, queue: str, properties: pika.BasicProperties
) -> None:
    raw = b"\x00\xff not ours"
    channel = server.channel()
    channel.confirm_delivery()
    channel.basic_publish(f"{server.prefix}.q", queue, raw, properties, mandatory=True)

    (delivery,) = receive(transport, queue)

    assert isinstance(delivery.envelope, Unreadable)
    assert delivery.envelope.raw == raw
    assert (delivery.attempt, delivery.lost_leases) == (1, 0)
    transport.nack(delivery)
    (again,) = receive(transport, queue)
    assert again.envelope == delivery.envelope
    transport.dead_letter(again, reason="unreadable")
    (entry,) = transport.dead_letters([queue])
    assert entry.envelope == delivery.envelope
    assert transport.revive({entry.ref: b""}) == []
    (revived,) = receive(transport, queue)
    assert revived.envelope == delivery.envelope


def test_foreign_headers_are_kept_as_text(server: Server, transport: AmqpTransport, queue: str) -> None:
    server.channel().basic_publish(
        f"{server.prefix}.q", queue, b"x", pika.BasicProperties(content_type="text/plain", headers={"a": "b", "n": 5})
    )

    (delivery,) = receive(transport, queue)

    assert isinstance(delivery.envelope, Unreadable)
    assert dict(delivery.envelope.headers) == {"content_type": "text/plain", "a": "b", "n": "5"}


# --- when the subscription is lost ---------------------------------------------------------------------------


def test_a_queue_deleted_under_the_receiver_is_made_again(
    server: Server, transport: AmqpTransport, connect: Connect, queue: str, envelope: Make
) -> None:
    receive(transport, queue, wait=0.0)
    received: list[Delivery] = []
    thread = threading.Thread(target=lambda: received.extend(receive(transport, queue)))
    thread.start()
    wait_until_it_waits(thread)
    server.channel().queue_delete(server.topology.queue(queue, Role.MAIN))
    sender = connect()

    def is_sent() -> bool:
        try:
            sender.send([envelope(1)])
        except TransportError:  # refused until the receiver has made the queue again
            return False
        return True

    wait_until(is_sent)

    thread.join(PATIENCE)

    assert ids(received) == ["id-1"]


def test_a_connection_cut_under_a_blocked_receiver_is_made_again(
    server: Server, transport: AmqpTransport, connect: Connect, queue: str, envelope: Make
) -> None:
    proxy = Proxy(server.url, port=5672)
    distant = connect(url=proxy.url)
    receive(distant, queue, wait=0.0)
    received: list[Delivery] = []
    thread = threading.Thread(target=lambda: received.extend(receive(distant, queue)))
    thread.start()
    wait_until_it_waits(thread)
    proxy.cut()
    transport.send([envelope(1)])

    thread.join(PATIENCE)

    assert ids(received) == ["id-1"]
    proxy.close()


def test_a_server_that_is_gone_is_unavailable_until_it_is_back(
    server: Server, transport: AmqpTransport, connect: Connect, queue: str, envelope: Make
) -> None:
    proxy = Proxy(server.url, port=5672)
    distant = connect(url=proxy.url)
    receive(distant, queue, wait=0.0)
    proxy.refuse = True
    proxy.cut()

    with pytest.raises(TransportUnavailableError):
        receive(distant, queue)
    with pytest.raises(TransportUnavailableError):
        receive(distant, queue, wait=0.0)

    proxy.refuse = False
    transport.send([envelope(1)])
    assert ids(receive(distant, queue)) == ["id-1"]
    proxy.close()


def test_what_was_held_when_the_connection_was_cut_is_stale(
    server: Server, transport: AmqpTransport, connect: Connect, queue: str, envelope: Make
) -> None:
    proxy = Proxy(server.url, port=5672)
    distant = connect(url=proxy.url)
    transport.send([envelope(1)])
    (stale,) = receive(distant, queue)
    proxy.cut()
    (again,) = receive(distant, queue)

    assert distant.settle([(stale, Ack())]) == [stale]
    assert distant.settle([(stale, Nack())]) == [stale]
    assert (again.lost_leases, again.attempt) == (1, 2)
    assert distant.settle([(again, Ack())]) == []
    assert receive(distant, queue, wait=0.3) == []
    proxy.close()


def test_close_wakes_a_blocked_receive(transport: AmqpTransport, queue: str) -> None:
    receive(transport, queue, wait=0.0)
    errors: list[BaseException] = []

    def block() -> None:
        try:
            receive(transport, queue, wait=600.0)
        except TransportClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=block)
    thread.start()
    wait_until_it_waits(thread)

    transport.close()
    thread.join(PATIENCE)

    assert len(errors) == 1


@pytest.mark.usefixtures("transport")  # which makes the queues
def test_a_call_without_time_says_so_and_accuses_no_server(server: Server, connect: Connect, queue: str) -> None:
    proxy = Proxy(server.url, port=5672)
    distant = connect(url=proxy.url)
    receive(distant, queue, wait=0.0)
    proxy.swallow_answers = True  # else an answer may come before the thread looks at its limit
    distant.hurry(0.0)

    with pytest.raises(TransportUnavailableError) as raised:
        distant.stats(queue)

    assert raised.value.hurried
    assert raised.value.why.endswith("no answer in the 0.0 s that the time limit left")
    distant.hurry(None)
    proxy.close()
