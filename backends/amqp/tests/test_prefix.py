"""The prefix that comes from the source, and queues of the former default."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator

import pytest

from relevo import App, Event, RunOptions
from relevo_amqp import AmqpOptions, AmqpTransport
from relevo_amqp._options import FORMER_PREFIX
from relevo_amqp._topology import Role, Topology

from .conftest import LEVELS, Server

Made = Callable[..., App]


@pytest.fixture(name="made")
def _made(rabbitmq_url: str) -> Iterator[Made]:
    """Make applications on one virtual host; what they declare is deleted at the end."""
    servers: list[Server] = []
    apps: list[App] = []

    def made(*, source: str = "", queue: str = "default", prefix: str | None = None) -> App:
        server = Server(rabbitmq_url)
        server.prefix = source or server.prefix
        server.topology = Topology(server.prefix, 0.1, LEVELS)
        server.queue(queue)
        servers.append(server)
        transport = AmqpTransport(AmqpOptions(url=rabbitmq_url, levels=LEVELS, settle_in=0.0, prefix=prefix))
        apps.append(App(transports={"main": transport}, routes={"*": f"main/{queue}"}, source=server.prefix))
        return apps[-1]

    yield made
    for app in apps:
        app.close()
    for server in servers:
        server.clean()


@pytest.fixture(name="former")
def _former(rabbitmq_url: str) -> Iterator[str]:
    """Give the name of a queue in which an event waits under the former default prefix."""
    server = Server(rabbitmq_url)
    queue = server.queue()
    topology = Topology(FORMER_PREFIX, 0.1, LEVELS)
    options = AmqpOptions(url=rabbitmq_url, prefix=FORMER_PREFIX, levels=LEVELS, settle_in=0.0)
    with App(transports={"main": AmqpTransport(options)}, routes={"*": f"main/{queue}"}) as app:
        app.dispatch(Event("a.b"))
    yield queue
    channel = server.channel()
    rungs = [shared for shared in topology.shared_queues() if shared.role is Role.RUNG]  # of this number of levels
    for own in (*topology.own_queues(queue), *rungs):
        channel.queue_delete(own.name)
    for exchange in (topology.mark(queue), *topology.exchanges()):
        if exchange.name.startswith((topology.ladder, topology.mark(queue).name)):
            channel.exchange_delete(exchange.name)
    server.connections.pop().close()


def test_two_applications_on_one_virtual_host_do_not_take_each_others_events(made: Made) -> None:
    shop, blog = made(), made()
    shop.dispatch(Event("a.b"))
    blog.setup()

    assert (shop.transport().stats("default").ready, blog.transport().stats("default").ready) == (1, 0)
    assert blog.worker(RunOptions(until_empty=True)).run().handled == 0
    assert Server(made().transport()._options.url).ready(f"{shop.source}.q.default") == 1  # type: ignore[attr-defined]


def test_a_queue_of_the_former_default_prefix_is_reported(
    made: Made, former: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "relevo.amqp")
    source = f"shop-{secrets.token_hex(4)}"
    app = made(source=source, queue=former)

    created = app.setup()
    app.setup()
    problems = app.transport().problems([former])

    name = Topology(FORMER_PREFIX).queue(former, Role.MAIN)
    (line,) = [record.getMessage() for record in caplog.records if name in record.getMessage()]
    assert f'"{source}.q.{former}"' in " ".join(created)
    assert f'the queue "{name}" exists, with 1 event: the default prefix was "relevo", and is now the source' in line
    assert line.endswith(f'if it is another one\'s, write prefix = "{source}"')
    assert [problem for problem in problems if name in problem and problem in line]


@pytest.mark.parametrize("prefix", ["relevo", "own"])
def test_a_prefix_of_ones_own_is_not_asked_about(
    prefix: str, made: Made, former: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "relevo.amqp")
    source = f"shop-{secrets.token_hex(4)}"
    app = made(source=source, queue=former, prefix=source if prefix == "own" else prefix)

    app.setup()

    assert [record for record in caplog.records if "the default prefix was" in record.getMessage()] == []


def test_a_new_application_is_not_told_of_a_former_prefix(made: Made, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "relevo.amqp")

    made(queue=f"queue-{secrets.token_hex(4)}").setup()

    assert caplog.records == []


@pytest.mark.parametrize(
    "source, prefix, is_warned",
    [("", "", True), ("app", "", True), ("shop", "", False), ("", "app", False), ("", "shop", False)],
)
def test_a_prefix_that_every_application_without_a_source_has_is_a_risk(
    *, source: str, prefix: str, is_warned: bool
) -> None:
    transport = AmqpTransport(AmqpOptions(url="amqp://localhost", prefix=prefix or None))
    options = {"source": source} if source else {}
    app = App(transports={"main": transport}, routes={"*": "main"}, **options)  # type: ignore[arg-type]

    risks = app.transport("main").risks()

    assert any("another application without one on this virtual host" in each for each in risks) is is_warned
    app.close()


@pytest.mark.parametrize(
    "url, prefix, is_same",
    [
        ("amqp://me:a-password@127.0.0.1/shop", "shop", True),
        ("amqp://[::1]:5672/shop", "shop", True),
        ("amqp://localhost/other", "shop", False),
        ("amqp://localhost/shop", "other", False),
        ("amqp://localhost:5673/shop", "shop", False),
        ("amqp://me:a-password@broker.example/shop", "shop", False),
    ],
)
def test_transports_with_the_same_queues_have_the_same_id(url: str, prefix: str, is_same: bool) -> None:  # noqa: FBT001
    one, other = (
        AmqpTransport(AmqpOptions(url="amqp://localhost/shop", prefix="shop")),
        AmqpTransport(AmqpOptions(url=url, prefix=prefix)),
    )

    assert (one.store_id() == other.store_id()) is is_same
    assert "a-password" not in other.store_id()
