from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer

import pika
import pytest

from relevo import App, Envelope, Event
from relevo.errors import ConfigurationError, SettleError
from relevo_amqp import AmqpTransport, TopologyError
from relevo_amqp._topology import Role

from .conftest import Server, ids, receive

Make = Callable[..., Envelope]
Connect = Callable[..., AmqpTransport]


def test_what_was_created_is_told_once(server: Server, connect: Connect, queue: str) -> None:
    transport = connect()
    connect().setup([])

    created = transport.setup([queue])

    assert [each for each in created if queue in each] == [
        f'the queue "{server.topology.queue(queue, role)}"' for role in (Role.DEAD, Role.SUSPECT, Role.MAIN)
    ]
    assert transport.setup([queue]) == []
    assert connect().setup([queue, queue]) == []


def test_a_dry_run_tells_the_same_and_creates_nothing(connect: Connect, queue: str) -> None:
    transport = connect()

    created = transport.setup([queue], dry_run=True)

    assert created == transport.setup([queue], dry_run=True) == transport.setup([queue])
    assert transport.setup([queue], dry_run=True) == []


def test_a_queue_that_is_there_and_different_is_named_with_its_argument(
    server: Server, connect: Connect, queue: str
) -> None:
    name = server.topology.queue(queue, Role.MAIN)
    server.channel().queue_declare(name, durable=True, arguments={"x-queue-type": "quorum", "x-delivery-limit": 5})

    for dry_run in (True, False):
        with pytest.raises(TopologyError, match=r"expected x-\S+ to be .*; got") as caught:
            connect().setup([queue], dry_run=dry_run)
        assert name in str(caught.value)


def test_a_classic_queue_of_that_name_is_refused(server: Server, connect: Connect, queue: str) -> None:
    server.channel().queue_declare(server.topology.queue(queue, Role.MAIN), durable=True)

    with pytest.raises(TopologyError, match=r"x-(delivery-limit|queue-type|dead-letter|overflow|consumer)"):
        connect().setup([queue])


def test_setting_up_again_gives_a_binding_back_that_was_lost(
    server: Server, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    server.channel().queue_unbind(server.topology.queue(queue, Role.MAIN), server.topology.exchange(Role.MAIN), queue)

    transport.setup([queue])
    transport.send([envelope(1)])

    assert ids(receive(transport, queue)) == ["id-1"]


def test_two_prefixes_on_one_server_know_nothing_of_each_other(
    server: Server, connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    transport.send([envelope(1)])

    assert transport.stats(queue).ready == 1
    assert connect(prefix=f"{server.prefix}-other").stats(queue).ready == 0


# --- setup = "explicit": look, and make nothing ----------------------------------------------------------


def test_an_application_that_only_checks_names_what_is_missing_and_makes_nothing(
    server: Server, connect: Connect, queue: str
) -> None:
    transport = connect(prefix=f"{server.prefix}-explicit")
    app = App(transports={"main": transport}, routes={"*": f"main/{queue}"}, source="shop", setup="explicit")

    with pytest.raises(ConfigurationError) as caught:
        app.dispatch(Event("image.created"))

    missing = transport.setup([queue], dry_run=True)
    assert len(missing) > 20  # exchanges, rungs, queues: all are still missing
    assert str(caught.value).startswith(
        'the transport "main" is not set up; run relevo setup, or set setup = "auto"; it lacks '
        f"{len(missing)} things, such as {missing[0]}; "
    )
    assert len(str(caught.value)) < 1000


def test_receiving_makes_no_queue_that_was_only_checked(
    server: Server, connect: Connect, transport: AmqpTransport, queue: str
) -> None:
    missing = server.queue()
    other = connect()
    other.setup([queue, missing], dry_run=True)

    for _ in range(2):
        with pytest.raises(ConfigurationError, match=f'lacks the queue "{missing}"; run relevo setup'):
            receive(other, queue, missing, wait=0.0)

    assert len(other.setup([missing], dry_run=True)) == 3
    assert receive(other, queue, wait=0.0) == []


def test_a_queue_that_is_deleted_under_one_who_only_checks_is_not_made_again(
    server: Server, connect: Connect, transport: AmqpTransport, queue: str
) -> None:
    other = connect()
    other.setup([queue], dry_run=True)
    receive(other, queue, wait=0.0)
    server.rest()
    server.channel().queue_delete(server.topology.queue(queue, Role.MAIN))

    with pytest.raises(ConfigurationError, match=f'lacks the queue "{queue}"'):
        receive(other, queue, wait=10.0)

    with pytest.raises(pika.exceptions.ChannelClosedByBroker):
        server.channel().queue_declare(server.topology.queue(queue, Role.MAIN), passive=True)


def test_a_dead_letter_without_a_place_stays_held_by_one_who_only_checks(
    server: Server, connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    transport.send([envelope(1)])
    other = connect()
    (delivery,) = receive(other, queue)
    server.rest()
    server.channel().queue_delete(server.topology.queue(queue, Role.DEAD))

    with pytest.raises(SettleError, match=f'lacks the queue "{queue}"'):
        other.dead_letter(delivery, reason="r")

    transport.setup([queue])
    other.dead_letter(delivery, reason="r")
    assert [entry.reason for entry in transport.dead_letters([queue])] == ["r"]


# --- what is wrong on the server ---------------------------------------------------------------------------


class Elsewhere(BaseHTTPRequestHandler):
    """Answers as a web server that is not a management plugin."""

    def do_GET(self) -> None:
        self.send_response(302)
        self.send_header("Location", "/login")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_policies_that_cannot_be_looked_at_are_told_with_the_command_that_enables_it(
    connect: Connect, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    transport = connect(management="http://127.0.0.1:1")

    assert transport.problems([queue]) == ()

    (record,) = caplog.records
    assert "could not be checked" in record.getMessage()
    assert "rabbitmq-plugins enable rabbitmq_management" in record.getMessage()


def test_what_answers_and_is_no_management_plugin_is_told_and_never_followed(
    connect: Connect, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    with HTTPServer(("127.0.0.1", 0), Elsewhere) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        try:
            assert connect(management=f"http://127.0.0.1:{web.server_port}").problems([queue]) == ()
        finally:
            web.shutdown()
            thread.join()

    assert "is not a management plugin: 302 Found" in caplog.text


def test_queues_of_the_prefix_that_have_no_route_are_told(
    server: Server, connect: Connect, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    prefix = server.prefix
    queues = [
        {"name": f"{prefix}.q.{queue}", "messages": 3},
        {"name": f"{prefix}.q.old", "messages": 2},
        {"name": f"{prefix}.suspect.old", "messages": 1},
        {"name": f"{prefix}.dead.l%C3%A4den", "messages": 1},
        {"name": f"{prefix}.q.empty", "messages": 0},
        {"name": f"{prefix}.q.new"},  # no statistics yet
        {"name": f"{prefix}.here.worker", "messages": 1},
        {"name": "other.q.old", "messages": 9},
    ]

    class Plugin(Elsewhere):
        """Answers as the management plugin."""

        def do_GET(self) -> None:
            answers: dict[bool, object] = {
                self.path.endswith("/status"): [{"Raft State": "leader"}],
                "?columns=" in self.path: queues,
            }
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answers.get(True, {"effective_policy_definition": {}})).encode())

    with HTTPServer(("127.0.0.1", 0), Plugin) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        try:
            assert connect(management=f"http://127.0.0.1:{web.server_port}").problems([queue]) == []
        finally:
            web.shutdown()
            thread.join()

    told = "and no route leads to it; move them: relevo move --from"
    assert [record.getMessage() for record in caplog.records] == [
        f'"amqp/läden" holds 1 events, {told} amqp/läden --to …; or add a route',
        f'"amqp/old" holds 3 events, {told} amqp/old --to …; or add a route',
    ]
