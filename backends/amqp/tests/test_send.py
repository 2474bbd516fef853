from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pika
import pytest

from relevo import Envelope, SendError, TransportUnavailableError, UnsupportedError
from relevo_amqp import AccessRefusedError, AmqpTransport
from relevo_amqp._connection import Connection
from relevo_amqp._mapping import Message
from relevo_amqp._publisher import PublishBatch, PublishResult
from relevo_amqp._topology import Role
from relevo_conformance.fault.proxy import Proxy

from .conftest import PATIENCE, Server, drain, ids, receive, set_confirm_timeout, wait_until

Make = Callable[..., Envelope]
Connect = Callable[..., AmqpTransport]


def test_what_is_sent_is_received_unchanged(transport: AmqpTransport, queue: str, envelope: Make) -> None:
    sent = envelope(1, body=bytes(range(256)), headers={"signature": "é\n"}, urgency="high", expires=1.5)

    before = time.time()
    transport.send([sent])
    (delivery,) = receive(transport, queue)

    assert delivery.envelope == sent
    assert (delivery.queue, delivery.attempt, delivery.lost_leases, delivery.state) == (queue, 1, 0, b"")
    assert before - 0.001 <= delivery.enqueued_at <= time.time()


def test_a_queue_that_was_never_set_up_refuses(transport: AmqpTransport, envelope: Make) -> None:
    batch = [envelope(1), envelope(2, queue="never-set-up"), envelope(3)]

    with pytest.raises(SendError, match=r'lacks the queue "never-set-up"; run relevo setup') as caught:
        transport.send(batch)

    assert (caught.value.sent, caught.value.refused, caught.value.unknown) == ((0, 2), (1,), ())


def test_a_queue_that_was_never_set_up_refuses_delayed_events_too(transport: AmqpTransport, envelope: Make) -> None:
    with pytest.raises(SendError) as caught:
        transport.send([envelope(1, queue="never-set-up"), envelope(2)], delay=0.1)

    assert (caught.value.sent, caught.value.refused) == ((1,), (0,))


def test_a_prefix_of_which_nothing_is_declared_refuses(connect: Connect, envelope: Make) -> None:
    transport = connect(prefix="relevo-test-undeclared")

    with pytest.raises(SendError, match="run relevo setup") as caught:
        transport.send([envelope(1), envelope(2)])

    assert (caught.value.sent, caught.value.refused, caught.value.unknown) == ((), (0, 1), ())


def test_after_a_refusal_the_transport_sends_again(transport: AmqpTransport, queue: str, envelope: Make) -> None:
    with pytest.raises(SendError):
        transport.send([envelope(1, queue="never-set-up")])

    transport.send([envelope(2)])

    assert ids(receive(transport, queue)) == ["id-2"]


def test_what_the_server_does_not_accept_is_refused(server: Server, transport: AmqpTransport, envelope: Make) -> None:
    channel = server.channel()
    channel.queue_declare(
        "relevo-test-full",
        durable=True,
        arguments={"x-queue-type": "classic", "x-max-length": 1, "x-overflow": "reject-publish"},
    )
    channel.queue_bind("relevo-test-full", f"{server.prefix}.q", "full")
    try:
        with pytest.raises(SendError) as caught:
            transport.send([envelope(number, queue="full") for number in range(3)])
    finally:
        channel.queue_delete("relevo-test-full")

    assert caught.value.sent == (0,)
    assert caught.value.refused == (1, 2)


def test_what_does_not_fit_is_refused_and_the_rest_is_sent(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    small = connect(max_body=100)
    batch = [
        envelope(1),
        envelope(2, body=b"x" * 101),
        envelope(3, headers={"h": "x" * 200_000}),
        envelope(4, name="lone \udc80 surrogate"),
        envelope(5),
    ]

    with pytest.raises(SendError) as caught:
        small.send(batch)

    assert (caught.value.sent, caught.value.refused, caught.value.unknown) == ((0, 4), (1, 2, 3), ())
    assert sorted(ids(drain(transport, queue, least=2))) == ["id-1", "id-5"]


def test_ids_longer_than_a_short_string_arrive_whole(transport: AmqpTransport, queue: str, envelope: Make) -> None:
    sent = envelope(id="ü" * 255, name="n" * 300, source="s" * 300)

    transport.send([sent])

    assert receive(transport, queue)[0].envelope == sent


def test_a_large_body_arrives_whole(transport: AmqpTransport, queue: str, envelope: Make) -> None:
    sent = envelope(body=b"x" * transport.capabilities.max_body)  # type: ignore[operator]

    transport.send([sent])
    (delivery,) = receive(transport, queue)

    assert delivery.envelope == sent
    transport.ack(delivery)


def test_an_ordering_key_is_not_supported(transport: AmqpTransport, envelope: Make) -> None:
    with pytest.raises(UnsupportedError, match="order"):
        transport.send([envelope(1), envelope(2, ordering_key="k")])


def test_an_empty_batch_does_nothing(connect: Connect) -> None:
    connect(url="amqp://127.0.0.1:1").send([])


def test_many_threads_send_over_one_window(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    narrow = connect(window=3)
    threads = [
        threading.Thread(target=narrow.send, args=([envelope(100 * number + each) for each in range(50)],))
        for number in range(8)
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(ids(drain(transport, queue, wait=0.5, least=400))) == sorted(
        f"id-{100 * number + each}" for number in range(8) for each in range(50)
    )


def test_a_batch_that_is_given_up_knows_what_was_on_its_way() -> None:
    batch = PublishBatch([Message("e", "k", {}, b"") for _ in range(4)])
    batch.begun = 3
    batch.settle(1, PublishResult.CONFIRMED)

    batch.give_up("because")

    assert batch.is_done()
    assert batch.results == [
        PublishResult.UNKNOWN,
        PublishResult.CONFIRMED,
        PublishResult.UNKNOWN,
        PublishResult.UNSENT,
    ]
    assert batch.why == "because"


# --- when the server is not there -----------------------------------------------------------------------


def test_a_server_that_is_not_there_is_unavailable(connect: Connect, envelope: Make) -> None:
    transport = connect(url="amqp://user:canary@127.0.0.1:1/")

    with pytest.raises(TransportUnavailableError, match="refused") as caught:
        transport.send([envelope(1)])

    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("where", ["user", "vhost"])
def test_a_wrong_password_or_vhost_is_an_error_of_the_configuration(
    connect: Connect, server: Server, envelope: Make, where: str
) -> None:
    url = pika.URLParameters(server.url)
    place = f"{url.host}:{url.port}"
    wrong = f"amqp://nobody:canary@{place}/" if where == "user" else f"{server.url.rstrip('/')}/no-such-vhost"

    for attempt in ("send", "receive"):
        transport = connect(url=wrong)
        with pytest.raises(AccessRefusedError) as caught:
            transport.send([envelope(1)]) if attempt == "send" else receive(transport, "default")
        assert "canary" not in str(caught.value)
        assert where in str(caught.value)


def test_a_connection_lost_while_sending_leaves_the_outcome_unknown(
    server: Server, connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    proxy = Proxy(server.url, port=5672)
    distant = connect(url=proxy.url)
    distant.send([envelope(0)])
    proxy.swallow_answers = True
    requested = proxy.requested

    def cut_when_it_was_asked() -> None:
        wait_until(lambda: server.ready(server.topology.queue(queue, Role.MAIN)) == 6)
        proxy.cut()

    cutting = threading.Thread(target=cut_when_it_was_asked)
    cutting.start()

    with pytest.raises(SendError) as caught:
        distant.send([envelope(number) for number in range(1, 6)])

    assert proxy.requested > requested
    assert caught.value.unknown == (0, 1, 2, 3, 4)
    assert (caught.value.sent, caught.value.refused) == ((), ())
    assert len(drain(transport, queue, least=6)) == 6  # they had arrived: unknown, not refused
    proxy.close()


def test_a_silent_server_is_given_up_after_the_confirm_timeout(
    server: Server, connect: Connect, transport: AmqpTransport, envelope: Make
) -> None:
    proxy = Proxy(server.url, port=5672)
    distant = connect(url=proxy.url)
    distant.send([envelope(0)])
    set_confirm_timeout(distant, 0.5)
    proxy.swallow_answers = True

    with pytest.raises(SendError, match=r"no confirmation in 0.5 s") as caught:
        distant.send([envelope(1)])

    assert caught.value.unknown == (0,)
    proxy.swallow_answers = False
    set_confirm_timeout(distant, 30.0)
    distant.send([envelope(2)])
    proxy.close()


def test_the_time_that_connecting_takes_is_not_a_silence_of_the_server(
    connect: Connect, transport: AmqpTransport, envelope: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_at_once = Connection.open

    def open_slowly(connection: Connection, timeout: float) -> None:
        open_at_once(connection, timeout)
        time.sleep(5.0)

    monkeypatch.setattr(Connection, "open", open_slowly)
    distant = connect(confirm_timeout=4.5)

    distant.send([envelope(1)])


def test_what_waits_behind_a_full_window_was_not_sent(
    server: Server, connect: Connect, transport: AmqpTransport, envelope: Make
) -> None:
    proxy = Proxy(server.url, port=5672)
    distant = connect(url=proxy.url, window=2)
    distant.send([envelope(0)])
    set_confirm_timeout(distant, 0.5)
    proxy.swallow_answers = True

    with pytest.raises(SendError) as caught:
        distant.send([envelope(number) for number in range(1, 6)])

    assert (caught.value.unknown, caught.value.refused) == ((0, 1), (2, 3, 4))
    proxy.close()


def test_sending_recovers_by_itself_after_a_cut(
    server: Server, connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    proxy = Proxy(server.url, port=5672)
    distant = connect(url=proxy.url)
    distant.send([envelope(1)])
    assert distant._hub is not None
    connection = distant._hub.publisher._connection
    assert connection is not None
    proxy.cut()
    wait_until(lambda: connection.lost is not None)

    distant.send([envelope(2)])

    assert sorted(ids(drain(transport, queue, least=2))) == ["id-1", "id-2"]
    proxy.close()


def test_a_busy_io_thread_holds_up_no_dispatch(connect: Connect, queue: str, envelope: Make) -> None:
    transport = connect()
    transport.setup([queue])
    go_on = threading.Event()

    def busy() -> None:
        go_on.wait(PATIENCE)

    with transport._in_use() as hub:
        hub.loop.soon(busy)
    try:
        transport.send([envelope(1)])
    finally:
        go_on.set()

    assert ids(receive(transport, queue)) == ["id-1"]
