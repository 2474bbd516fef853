"""When a new queue counts as safe against a crash of its server; test_private_node.py has the crashes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pika

from relevo import Envelope
from relevo.errors import SendError, TransportUnavailableError
from relevo_amqp import AmqpTransport
from relevo_amqp._topology import Exchange, Role

from .conftest import Server, drain, ids, receive

Make = Callable[..., Envelope]
Connect = Callable[..., AmqpTransport]

LONG = 30.0
"""A value of ``settle_in`` in seconds that no test waits for."""


def is_there(server: Server, mark: Exchange) -> bool:
    """Return whether the server has *mark*."""
    try:
        server.channel().exchange_declare(mark.name, passive=True)
    except pika.exceptions.ChannelClosedByBroker:
        return False
    return True


def eventually(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + LONG
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def failing(action: Callable[[], object]) -> tuple[threading.Thread, list[BaseException]]:
    """Run *action* in a thread, and collect what it raises."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, raised


def test_a_process_that_makes_queues_leaves_a_mark_when_they_have_settled(
    server: Server, connect: Connect, queue: str
) -> None:
    transport = connect(settle_in=0.01)

    transport.setup([queue])

    assert is_there(server, server.topology.mark(queue))
    assert is_there(server, server.topology.mark(None))


def test_queues_whose_process_was_lost_before_they_settled_have_no_mark(
    server: Server, connect: Connect, queue: str
) -> None:
    transport = connect(settle_in=LONG)
    thread, raised = failing(lambda: transport.setup([queue]))
    assert eventually(lambda: not connect().setup([queue], dry_run=True))

    transport._abort()
    thread.join()

    assert isinstance(raised[0], TransportUnavailableError)
    assert not is_there(server, server.topology.mark(queue))


def test_what_is_confirmed_by_queues_without_a_mark_is_believed_once_they_have_settled(
    server: Server, connect: Connect, queue: str, envelope: Make
) -> None:
    connect().setup([queue])
    other = connect(settle_in=0.01)
    assert other.setup([queue], dry_run=True) == []
    assert not is_there(server, server.topology.mark(queue))

    other.send([envelope(1)])

    assert is_there(server, server.topology.mark(queue))
    assert ids(drain(other, queue, wait=5.0)) == ["id-1"]


def test_what_was_confirmed_by_queues_without_a_mark_is_unknown_if_the_connection_is_lost(
    server: Server, connect: Connect, queue: str, envelope: Make
) -> None:
    connect().setup([queue])
    other = connect(settle_in=LONG)
    other.setup([queue])
    thread, raised = failing(lambda: other.send([envelope(1), envelope(2)]))
    assert eventually(lambda: server.ready(server.topology.queue(queue, Role.MAIN)) == 2)

    other._abort()
    thread.join()

    assert isinstance(raised[0], SendError)
    assert raised[0].unknown == (0, 1)
    assert not is_there(server, server.topology.mark(queue))


def test_a_queue_that_is_made_again_has_no_mark_until_it_has_settled_again(
    server: Server, connect: Connect, queue: str
) -> None:
    connect(settle_in=0.01).setup([queue])
    name = server.topology.queue(queue, Role.MAIN)
    server.rest()
    server.channel().queue_delete(name)
    transport = connect(settle_in=LONG)

    thread, _ = failing(lambda: transport.setup([queue]))
    assert eventually(lambda: not connect().setup([queue], dry_run=True))
    marked = is_there(server, server.topology.mark(queue))
    transport._abort()
    thread.join()

    assert not marked


def test_a_worker_does_not_settle_by_what_a_queue_without_a_mark_confirms(
    server: Server, connect: Connect, queue: str, envelope: Make
) -> None:
    connect().setup([queue])
    connect().send([envelope(1)])
    worker = connect(settle_in=LONG)
    worker.setup([queue])
    (delivery,) = receive(worker, queue)
    thread, raised = failing(lambda: worker.dead_letter(delivery, reason="r"))
    assert eventually(lambda: server.ready(server.topology.queue(queue, Role.DEAD)) == 1)

    worker._abort()
    thread.join()

    assert raised
    assert ids(receive(connect(), queue)) == ["id-1"]
