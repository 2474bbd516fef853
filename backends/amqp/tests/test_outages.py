"""Outages on a private node: alarms, rights that are taken away, a server that does not answer."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pika
import pika.exceptions
import pytest

import rabbitmq_node
import relevo
import server_starter
from rabbitmq import refusal
from relevo import Ack, Delivery, Envelope, Nack, Outcome, RunOptions, SystemClock, Worker
from relevo.errors import ConfigurationError, SendError, TransportError, TransportUnavailableError
from relevo_amqp import AmqpOptions, AmqpTransport
from relevo_amqp._mapping import MessageRecord, written
from relevo_amqp._publisher import PublishResult
from relevo_conformance.fault.proxy import Proxy

from .conftest import HEARTBEAT_FRAME, wait_until

pytestmark = pytest.mark.slow("about a server, and some seconds for each outage")

PAGES = Path(__file__).parents[3] / "docs" / "how-to"

Node = rabbitmq_node.PrivateNode
Opener = Callable[..., AmqpTransport]


@pytest.fixture(scope="module", name="node")
def _node() -> Iterator[Node]:
    launcher = rabbitmq_node.launcher()
    if launcher is None:
        if server_starter.in_ci():
            pytest.fail("RabbitMQ is not installed")
        pytest.skip("RabbitMQ is not installed")
    with rabbitmq_node.PrivateNode(launcher) as node:
        node.wait_until(lambda: not refusal(node.url))
        node.control("add_user", "clerk", "clerk")
        yield node


@pytest.fixture(name="prefix")
def _prefix() -> str:
    return f"relevo-test-{secrets.token_hex(4)}"


@pytest.fixture(name="opener")
def _opener(node: Node, prefix: str) -> Iterator[Opener]:
    """Open transports of one prefix as a user of the node, and close them at the end."""
    opened: list[AmqpTransport] = []

    def opener(user: str = "guest", **changes: Any) -> AmqpTransport:
        url = node.url.replace("guest:guest", f"{user}:{user}")
        everything: dict[str, Any] = {"url": url, "prefix": prefix, "levels": 4} | changes
        opened.append(AmqpTransport(AmqpOptions(**everything)))
        return opened[-1]

    yield opener
    for transport in opened:
        transport.close()


def _allow(node: Node, *, configure: str = ".*", write: str = ".*", read: str = ".*") -> None:
    node.control("set_permissions", "clerk", configure, write, read)


@contextmanager
def _alarm(node: Node) -> Iterator[None]:
    """Put the node into a memory alarm while the block runs."""
    node.control("set_vm_memory_high_watermark", "0")
    try:
        yield
    finally:
        node.control("set_vm_memory_high_watermark", "0.6")


def _envelopes(number: int) -> list[Envelope]:
    return [Envelope(id=str(i), source="shop", name="image.created", queue="media", body=b"{}") for i in range(number)]


class _Running:
    """A patient worker in a thread, and how often it handled which event."""

    def __init__(self, transport: AmqpTransport, outcome: Callable[[Delivery], Outcome] = lambda _: Ack()):
        self.handled: Counter[str] = Counter()
        self._outcome = outcome
        self._errors: list[BaseException] = []
        self._worker = Worker(
            transport=transport,
            handle=self._handle,
            queues=["media"],
            clock=SystemClock(),
            chance=lambda: 0.0,
            options=RunOptions(),
            patient=True,
        )
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def done(self) -> int:
        """Return how many events are acked."""
        return self._worker._ledger.counts[Ack]

    def wait_until(self, met: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 90
        while not met():
            assert time.monotonic() < deadline, (self.handled, self.done())
            assert self._thread.is_alive(), self._errors
            time.sleep(0.01)

    def stop(self) -> None:
        self._worker.stop()
        self._thread.join(90)

    def _run(self) -> None:
        try:
            self._worker.run()
        except BaseException as error:  # noqa: BLE001 - the test tells it
            self._errors.append(error)

    def _handle(self, delivery: Delivery) -> Outcome:
        assert isinstance(delivery.envelope, Envelope)
        self.handled[delivery.envelope.id] += 1
        return self._outcome(delivery)


@contextmanager
def _running(transport: AmqpTransport, **how: Any) -> Iterator[_Running]:
    running = _Running(transport, **how)
    try:
        yield running
    finally:
        running.stop()


def _logged(caplog: pytest.LogCaptureFixture, logger: str = "relevo") -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith(logger)]


# --- an alarm -----------------------------------------------------------------------------------------------


def test_in_an_alarm_plain_events_are_done_and_each_retry_waits_and_is_published_once(
    node: Node, opener: Opener
) -> None:
    sender = opener()
    sender.setup(["media"])
    sender.send(_envelopes(60))

    def outcome(delivery: Delivery) -> Outcome:
        assert isinstance(delivery.envelope, Envelope)
        return Nack() if int(delivery.envelope.id) % 3 == 0 and delivery.attempt == 1 else Ack()

    transport = opener(confirm_timeout=600.0)
    with _alarm(node):
        with _running(transport, outcome=outcome) as running:
            running.wait_until(lambda: running.done() >= 40)
        while_alarmed = running.done()
        transport.close()
    with _running(opener()) as rest:
        rest.wait_until(lambda: while_alarmed + rest.done() >= 60)

    assert set(running.handled + rest.handled) == {str(number) for number in range(60)}


def _send_suspect(transport: AmqpTransport, envelope: Envelope) -> None:
    """Put *envelope* among those that were not lost, with the counters of one that was, as a delay leaves it there."""
    with transport._in_use() as hub:
        route = hub.topology.route(envelope.queue)
        record = MessageRecord(
            envelope=envelope, queue=envelope.queue, enqueued_at=time.time(), attempt=2, lost_leases=1
        )
        message = written(record, exchange=route.exchange, key=route.key, delayed=False)
        assert hub.publisher.send([message]).positions(PublishResult.CONFIRMED)


def test_processes_that_begin_in_an_alarm_leave_no_copies_of_a_suspect(node: Node, opener: Opener) -> None:
    first = opener()
    first.setup(["media"])
    _send_suspect(first, *_envelopes(1))

    with _alarm(node):
        for _ in range(3):
            late = opener()
            with suppress(TransportUnavailableError):
                late.receive(["media"], limit=1, lease=60, wait=2)
            late._abort()

    with _running(opener()) as running:
        running.wait_until(lambda: running.done() >= 1)
    assert not opener().receive(["media"], limit=9, lease=60, wait=2), "a copy was left"
    assert running.handled == {"0": 1}


def test_after_an_alarm_what_waited_is_settled_by_the_worker_that_held_it(node: Node, opener: Opener) -> None:
    sender = opener()
    sender.setup(["media"])
    sender.send(_envelopes(9))

    def outcome(delivery: Delivery) -> Outcome:
        return Nack() if delivery.attempt == 1 else Ack()

    with _alarm(node):
        running = _Running(opener(), outcome=outcome)
        running.wait_until(lambda: running.handled.total() >= 9)
        time.sleep(1.5)  # it is tried again each second, and must not become a further copy each time
    try:
        running.wait_until(lambda: running.done() == 9)
    finally:
        running.stop()

    assert running.handled == {str(number): 2 for number in range(9)}
    assert sender.stats("media").ready == 0


def test_a_dispatch_waits_for_the_end_of_an_alarm_and_its_heartbeats_go_on(node: Node, opener: Opener) -> None:
    proxy = Proxy(node.url)
    transport = opener(url=proxy.url, heartbeat=1, confirm_timeout=600.0)
    transport.setup(["media"])
    transport.send(_envelopes(1))
    assert transport._hub is not None
    publisher = transport._hub.publisher
    connection, errors = publisher._connection, []

    def send() -> None:
        try:
            transport.send(_envelopes(3))
        except TransportError as error:
            errors.append(error)

    with _alarm(node):
        sending = threading.Thread(target=send)
        sending.start()
        wait_until(lambda: publisher.blocked is not None)
        before = proxy.requested
        wait_until(lambda: proxy.requested >= before + 10 * HEARTBEAT_FRAME)
        assert sending.is_alive()
    sending.join(90)

    assert not sending.is_alive()
    assert errors == []
    assert publisher._connection is connection
    transport.close()
    proxy.close()


_LISTENERS = """
import pathlib, time
import relevo

@relevo.listener("image.created", queue="media", retry=relevo.Retry(5, first="1h", cap="1h"))
def fail(event):
    pathlib.Path("begun").touch()
    while not pathlib.Path("go").exists():
        time.sleep(0.01)
    raise ValueError
"""


def _draining(folder: Path, url: str, prefix: str) -> subprocess.Popen[str]:
    """
    Start a drain whose listener waits for the file ``go`` and fails, and return it when the listener has begun.

    All that it may wait for by its configuration is longer than this test.
    """
    (folder / "failing.py").write_text(_LISTENERS)
    (folder / "relevo.toml").write_text(
        f"""
source = "shop"
listeners = ["failing"]
[transports]
main = {{ url = "{url}", prefix = "{prefix}", levels = 4, confirm_timeout = 600.0, connect_timeout = 600.0 }}
[routes]
"*" = "main/media"
"""
    )
    with relevo.App.from_config(folder / "relevo.toml", environ={}) as app:
        app.dispatch_many([relevo.Event("image.created")] * 20)
    errors = []
    for limit in ("2s", "10s", "50s"):  # a busy machine may not come to the listener within a short one
        process = subprocess.Popen(
            [sys.executable, "-m", "relevo", "drain", "--max-time", limit],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        while process.poll() is None:
            if (folder / "begun").exists():
                return process
            time.sleep(0.01)
        errors.append(process.communicate())
    raise AssertionError(errors)


def test_a_drain_ends_soon_after_its_limit_with_69_in_an_alarm(node: Node, prefix: str, tmp_path: Path) -> None:
    process = _draining(tmp_path, node.url, prefix)

    with _alarm(node):
        (tmp_path / "go").touch()
        _, errors = process.communicate(timeout=120)

    assert process.returncode == 69, errors
    assert "pika" not in errors


def test_a_drain_ends_soon_after_its_limit_with_69_when_the_server_is_silent(
    node: Node, prefix: str, tmp_path: Path
) -> None:
    proxy = Proxy(node.url)

    try:
        process = _draining(tmp_path, proxy.url, prefix)
        proxy.swallow_requests = proxy.swallow_answers = True
        (tmp_path / "go").touch()
        _, errors = process.communicate(timeout=120)
    finally:
        proxy.close()

    assert process.returncode == 69, errors
    assert "pika" not in errors


# --- rights -------------------------------------------------------------------------------------------------


def test_without_the_right_to_write_an_event_is_refused_with_the_reason(node: Node, opener: Opener) -> None:
    opener().setup(["media"])
    _allow(node, write="^$")

    with pytest.raises(
        SendError, match=r"403 ACCESS_REFUSED - write access .* needs the permission to write"
    ) as caught:
        opener("clerk").send(_envelopes(3))

    assert caught.value.refused == (0, 1, 2)


def test_the_permissions_of_the_pages_are_enough_for_other_programs(node: Node, opener: Opener, prefix: str) -> None:
    producer, receiver = _permissions("exchange-cloudevents", prefix)
    (own,) = _permissions("harden-a-deployment", prefix)
    opener().setup(["default", "feed"])

    _allow(node, **producer)
    _as_clerk(node, lambda channel: _publish(channel, f"{prefix}.q.feed"))
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="read access"):
        _as_clerk(node, lambda channel: channel.basic_get(f"{prefix}.q.feed"))
    _allow(node, **own)
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match=r"write access to exchange 'amq\.default'"):
        _as_clerk(node, lambda channel: _publish(channel, f"{prefix}.q.feed"))
    _allow(node, **receiver)
    _, _, body = _as_clerk(node, lambda channel: channel.basic_get(f"{prefix}.q.feed", auto_ack=True))

    assert body == b"an event"
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="read access"):
        _as_clerk(node, lambda channel: channel.basic_get(f"{prefix}.q.default"))


def _permissions(page: str, prefix: str) -> list[dict[str, str]]:
    """Return what each ``set_permissions`` of *page*, whose application is the shop, permits for *prefix*."""
    text = (PAGES / f"{page}.md").read_text().replace("^shop\\.", f"^{prefix}\\.")
    found = re.findall(r"set_permissions -p shop \w+ '(.*)' '(.*)' '(.*)'", text)
    return [{"configure": configure, "write": write, "read": read} for configure, write, read in found]


def _as_clerk(node: Node, use: Callable[[Any], Any]) -> Any:
    """Return the result of *use* with a channel of the user whose permissions are tested."""
    with pika.BlockingConnection(pika.URLParameters(node.url.replace("guest:guest", "clerk:clerk"))) as connection:
        return use(connection.channel())


def _publish(channel: Any, queue: str) -> None:
    channel.confirm_delivery()
    channel.basic_publish("", queue, b"an event", mandatory=True)


def test_without_the_right_to_read_or_to_configure_it_is_a_configuration_error(node: Node, opener: Opener) -> None:
    opener().setup(["media"])

    _allow(node, read="^$")
    with pytest.raises(ConfigurationError, match="403 ACCESS_REFUSED - read access"):
        opener("clerk").receive(["media"], limit=1, lease=60.0, wait=0.0)
    _allow(node, configure="^$")
    with pytest.raises(ConfigurationError, match="403 ACCESS_REFUSED - configure access"):
        opener("clerk").setup(["other"])


def test_a_worker_without_the_right_to_write_says_so_in_one_line_and_goes_on_with_plain_events(
    node: Node, opener: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    sender = opener()
    sender.setup(["media"])
    _allow(node, write="^$")
    sender.send(_envelopes(10))

    def outcome(delivery: Delivery) -> Outcome:
        assert isinstance(delivery.envelope, Envelope)
        return Nack() if delivery.envelope.id == "0" else Ack()

    with _running(opener("clerk"), outcome=outcome) as running:
        running.wait_until(lambda: running.done() == 9)
        sender.send(_envelopes(11)[10:])
        running.wait_until(lambda: running.done() == 10)
        lines = _logged(caplog)

    assert len(lines) == 1
    assert "403 ACCESS_REFUSED - write access" in lines[0]


def test_a_worker_that_loses_its_virtual_host_waits_and_resumes(
    node: Node, opener: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    sender = opener()
    sender.setup(["media"])
    _allow(node)
    sender.send(_envelopes(1))

    with _running(opener("clerk")) as running:
        running.wait_until(lambda: running.done() == 1)
        node.control("clear_permissions", "clerk")
        node.control("close_all_user_connections", "clerk", "for a test")
        running.wait_until(lambda: any("it worked before" in line for line in _logged(caplog)))
        _allow(node)
        sender.send(_envelopes(2)[1:])
        running.wait_until(lambda: running.done() == 2)

    told = [each.created for each in caplog.records if "waiting until it is back" in each.getMessage()]
    assert told
    assert all(later - earlier >= 59.0 for earlier, later in pairwise(told))


# --- queues and connections ---------------------------------------------------------------------------------


def test_a_queue_that_is_deleted_under_a_worker_is_named_and_made_again(
    node: Node, opener: Opener, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    transport = opener()
    transport.setup(["media"])
    transport.send(_envelopes(1))

    with _running(transport) as running:
        running.wait_until(lambda: running.done() == 1)
        node.control("delete_queue", f"{prefix}.q.media")
        running.wait_until(lambda: len(_logged(caplog, "relevo.amqp")) == 2)
        opener().send(_envelopes(2)[1:])
        running.wait_until(lambda: running.done() == 2)

    cancelled, declared = _logged(caplog, "relevo.amqp")
    assert f'"{prefix}.q.media"' in cancelled
    assert f'"{prefix}.q.media"' in declared
    assert _logged(caplog) == [cancelled, declared]


def test_a_lost_connection_repeats_what_ran_and_four_flushes_and_not_all_that_was_received(
    node: Node, opener: Opener
) -> None:
    sender = opener()
    sender.setup(["media"])
    sender.send(_envelopes(600))
    transport = opener()

    def outcome(_: Delivery) -> Outcome:
        time.sleep(0.002)
        if running.handled.total() == 300:
            assert transport._hub is not None
            assert transport._hub._consuming is not None
            transport._hub._consuming.abort(60.0)
        return Ack()

    with _running(transport, outcome=outcome) as running:
        running.wait_until(lambda: len(running.handled) == 600)

    assert running.handled.total() - 600 <= 1 + 4 * 6
