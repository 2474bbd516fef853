"""Evidence on a private node: alarms, restarts, and a long run with all of them together."""

from __future__ import annotations

import os
import random
import secrets
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import pytest

import rabbitmq_node
import server_starter
from rabbitmq import refusal
from relevo import Ack, Delivery, Envelope, Note, Outcome, ProcessIdentity, Release, RunOptions, SystemClock, Worker
from relevo._process_identity import process_identity
from relevo._worker.suspect import Suspects
from relevo.errors import SendError, TransportError, TransportUnavailableError
from relevo_amqp import AmqpOptions, AmqpTransport
from relevo_conformance.fault.proxy import Proxy

from .conftest import wait_until

pytestmark = pytest.mark.slow("restarts a private node and raises its alarms")

Node = rabbitmq_node.PrivateNode
Opener = Callable[..., AmqpTransport]
NOTE = Note(by="a1:b0:1:10:20", listener="shop.listeners.resize")


@pytest.fixture(scope="module", name="node")
def _node() -> Iterator[Node]:
    launcher = rabbitmq_node.launcher()
    if launcher is None:
        if server_starter.in_ci():
            pytest.fail("RabbitMQ is not installed")
        pytest.skip("RabbitMQ is not installed")
    with rabbitmq_node.PrivateNode(launcher) as node:
        node.wait_until(lambda: not refusal(node.url))
        yield node


@pytest.fixture(name="opener")
def _opener(node: Node) -> Iterator[Opener]:
    """Open transports of one prefix, and close them at the end."""
    opened: list[AmqpTransport] = []
    prefix = f"relevo-test-{secrets.token_hex(4)}"

    def opener(**changes: Any) -> AmqpTransport:
        everything: dict[str, Any] = {"url": node.url, "prefix": prefix, "levels": 6} | changes
        opened.append(AmqpTransport(AmqpOptions(**everything)))
        return opened[-1]

    yield opener
    for transport in opened:
        transport.close()


@contextmanager
def alarm(node: Node) -> Iterator[None]:
    """Put the node into a memory alarm while the block runs."""
    node.control("set_vm_memory_high_watermark", "0")
    try:
        yield
    finally:
        node.control("set_vm_memory_high_watermark", "0.6")


def restart(node: Node) -> None:
    node.kill()
    node.start()
    node.wait_until(lambda: not refusal(node.url))


def envelopes(*numbers: int) -> list[Envelope]:
    return [Envelope(id=str(each), source="shop", name="image.created", queue="q", body=b"{}") for each in numbers]


def receive(transport: AmqpTransport, wait: float = 1.0) -> list[Delivery]:
    return list(transport.receive(["q"], limit=10, lease=60.0, wait=wait))


def ids(deliveries: list[Delivery]) -> list[str]:
    return [each.envelope.id for each in deliveries if isinstance(each.envelope, Envelope)]


def come(transport: AmqpTransport) -> Delivery:
    deadline = time.monotonic() + 60.0
    while time.monotonic() < deadline:
        try:
            if batch := receive(transport):
                (delivery,) = batch
                return delivery
        except TransportUnavailableError:
            time.sleep(0.1)
    raise AssertionError("nothing came")


def suspect(opener: Opener, number: int = 1) -> tuple[AmqpTransport, Delivery]:
    """Return a transport that holds an event which was lost once."""
    lost = opener()
    lost.setup(["q"])
    lost.send(envelopes(number))
    come(lost)
    lost._abort()
    other = opener()
    return other, come(other)


def test_in_an_alarm_no_suspect_is_begun_and_other_events_go_on(node: Node, opener: Opener) -> None:
    holder, delivery = suspect(opener)
    opener().send(envelopes(*range(10, 20)))
    seen: Counter[str] = Counter()

    with alarm(node):
        with pytest.raises(TransportUnavailableError, match="has stopped taking events"):
            holder.begin(delivery, NOTE)
        assert holder.settle([(delivery, Ack())]) == [delivery]  # it was given back
        while len(seen) < 10:
            batch = receive(holder)
            assert not any(each.lost_leases for each in batch)
            seen.update(ids(batch))
            assert holder.settle([(each, Ack()) for each in batch]) == []
        assert receive(holder, wait=2.0) == []

    again = come(holder)
    assert (ids([again]), again.begun) == (["1"], None)  # the note came when the alarm ended, and was withdrawn
    holder.begin(again, NOTE)
    holder.ack(again)
    assert set(seen.values()) == {1}
    assert receive(holder, wait=0.5) == []


def test_what_was_lost_in_an_alarm_is_set_apart_and_comes_once_when_it_is_over(node: Node, opener: Opener) -> None:
    lost, holder = opener(prefetch=5), opener()
    lost.setup(["q"])
    lost.send(envelopes(*range(5)))
    assert receive(lost)
    seen: Counter[str] = Counter()

    with alarm(node):
        lost._abort()
        assert receive(holder, wait=3.0) == []
        assert receive(holder, wait=1.0) == []
        wait_until(lambda: holder.stats("q").ready == 5)

    while len(seen) < 5:
        batch = receive(holder)
        seen.update(ids(batch))
        assert {each.lost_leases for each in batch} <= {1}
        holder.settle([(each, Ack()) for each in batch])
    assert set(seen.values()) == {1}
    assert receive(holder, wait=0.5) == []


def test_a_note_survives_a_restart_of_the_server(node: Node, opener: Opener) -> None:
    holder, delivery = suspect(opener)
    time.sleep(1.5)  # a queue that was just made is not safe yet on RabbitMQ 4.0
    holder.begin(delivery, NOTE)

    restart(node)

    again = come(holder)
    assert (again.begun, again.deaths) == (NOTE, ())
    assert again.lost_leases >= 2  # more, if a stream that is not up yet cost a connection
    holder.ack(again)


def test_a_worker_is_seen_again_after_a_restart(node: Node, opener: Opener) -> None:
    worker = secrets.token_hex(16)
    one, other = opener(), opener()
    one.setup(["q"])
    receive(one, wait=0.0)
    one.appear(worker)
    time.sleep(1.5)  # as above

    restart(node)

    deadline = time.monotonic() + 60.0
    found: list[str] = []
    while not found and time.monotonic() < deadline:
        try:
            receive(one, wait=0.2)
            found = list(other.presence([worker]))
        except TransportError:
            time.sleep(0.1)
    assert found == [worker]


def test_without_the_right_to_appear_suspects_wait_and_other_events_go_on(node: Node, opener: Opener) -> None:
    owner = opener()
    owner.setup(["q"])
    prefix = owner._options.prefix
    node.control("add_user", "clerk", "clerk")
    own = rf"^{prefix}\."
    node.control("set_permissions", "clerk", rf"^{prefix}\.q\.", own, own)
    owner.send(envelopes(1))
    lost = opener()
    come(lost)
    lost._abort()
    owner.send(envelopes(2))
    clerk = opener(url=node.url.replace("guest:guest", "clerk:clerk"))
    met: list[str] = []

    while len(met) < 2:
        for delivery in receive(clerk):
            met += ids([delivery])
            outcome = Suspects(clerk, SystemClock()).outcome(delivery) if delivery.lost_leases else Ack()
            assert isinstance(outcome, Release if delivery.lost_leases else Ack)
            assert clerk.settle([(delivery, outcome)]) == []

    assert sorted(met) == ["1", "2"]
    assert owner.dead_letters(["q"]) == []


# --- all of it together ----------------------------------------------------------------------------------

SCALE = float(os.environ.get("RELEVO_TEST_SOAK", "1"))
"""The part of the long run that is done."""

SEED = secrets.randbits(32)
DICE = random.Random(SEED)  # noqa: S311 - no secret

KILLED = """
import os, signal, sys
from relevo import Ack, RunOptions, SystemClock, Worker
from relevo_amqp import AmqpOptions, AmqpTransport
url, prefix = sys.argv[1:]
def handle(delivery):
    if delivery.envelope.id == "killer":
        os.kill(os.getpid(), signal.SIGKILL)
    return Ack()
transport = AmqpTransport(AmqpOptions(url=url, prefix=prefix, levels=6))
options = RunOptions(until_empty=True, settle=5.0)
Worker(transport=transport, handle=handle, queues=["q"], clock=SystemClock(), chance=lambda: 0.5, options=options).run()
transport.close()
"""


class Crew:
    """Workers in threads, as if each were a process of its own, behind a proxy of its own."""

    def __init__(self, node: Node, opener: Opener):
        self.handled: Counter[str] = Counter()
        self.proxies: list[Proxy] = []
        self._lock = threading.Lock()
        self._running: list[tuple[Worker, threading.Thread]] = []
        self._processes = [subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) for _ in range(2)]
        here = [process_identity(process.pid) for process in self._processes]
        elsewhere = [
            ProcessIdentity(worker=secrets.token_hex(16), boot=f"{number:032x}", namespace="1", pid=1, started=1)
            for number in range(2)
        ]
        for identity in (*here, *elsewhere):
            proxy = Proxy(node.url, port=5672)
            self.proxies.append(proxy)
            transport = opener(url=proxy.url)
            each = Worker(
                transport=transport,
                handle=self._handle,
                queues=["q"],
                clock=SystemClock(),
                chance=DICE.random,
                options=RunOptions(),
                patient=True,
                suspects=Suspects(transport, SystemClock(), identity),
            )
            thread = threading.Thread(target=each.run, daemon=True)
            self._running.append((each, thread))
            thread.start()

    def _handle(self, delivery: Delivery) -> Outcome:
        time.sleep(DICE.uniform(0.0, 0.02))
        (event_id,) = ids([delivery])
        with self._lock:
            self.handled[event_id] += 1
        return Ack()

    def held(self) -> int:
        return sum(each.held() for each, _ in self._running)

    def stop(self) -> None:
        for each, _ in self._running:
            each.stop()
        for _, thread in self._running:
            thread.join(60.0)
            assert not thread.is_alive()
        for proxy in self.proxies:
            proxy.close()
        for process in self._processes:
            process.kill()
            process.communicate()


def send(transport: AmqpTransport, sending: list[Envelope]) -> None:
    """Send until all of it is confirmed; what is unknown is sent again."""
    while sending:
        try:
            transport.send(sending)
        except SendError as error:
            sent = set(error.sent)
            sending = [each for position, each in enumerate(sending) if position not in sent]
        except TransportUnavailableError:
            time.sleep(0.2)
        else:
            return


@pytest.mark.soak
def test_cuts_restarts_and_alarms_make_no_dead_letter_and_three_deaths_do(node: Node, opener: Opener) -> None:
    total = round(10_000 * SCALE)
    actions = ["cut"] * round(100 * SCALE) + ["restart"] * round(20 * SCALE) + ["alarm"] * max(1, round(5 * SCALE))
    DICE.shuffle(actions)
    own = opener()
    own.setup(["q"])
    time.sleep(1.5)  # a queue that was just made is not safe yet on RabbitMQ 4.0
    crew = Crew(node, opener)
    began = time.monotonic()

    for number, action in enumerate(actions):
        send(own, envelopes(*range(total * number // len(actions), total * (number + 1) // len(actions))))
        time.sleep(DICE.uniform(0.0, 0.3))
        if action == "cut":
            for proxy in DICE.sample(crew.proxies, DICE.randint(1, len(crew.proxies))):
                proxy.cut()
        elif action == "restart":
            restart(node)
        else:
            with alarm(node):
                DICE.choice(crew.proxies).cut()
                time.sleep(2.0)
    deadline = time.monotonic() + 240.0
    while len(crew.handled) < total or crew.held() or own.stats("q").ready or own.stats("q").scheduled != 0:
        assert time.monotonic() < deadline, (len(crew.handled), crew.held(), own.stats("q"))
        time.sleep(0.2)
    crew.stop()

    again = sum(crew.handled.values()) - total
    print(f"seed {SEED}: {total} events, {Counter(actions)}, {again} calls more, {time.monotonic() - began:.0f} s")
    assert own.dead_letters(["q"]) == []
    cleaner = opener()
    while copies := receive(cleaner, wait=2.0):  # of what was moved or given back when the server was killed
        assert cleaner.settle([(each, Ack()) for each in copies]) == []
    cleaner.close()

    send(own, [*envelopes(*range(10)), attrs.evolve(envelopes(0)[0], id="killer"), *envelopes(*range(10, 20))])
    codes: list[int] = []
    while len(codes) < 10 and (not codes or codes[-1] < 0):
        command = [sys.executable, "-c", KILLED, node.url, own._topology().prefix]
        codes.append(subprocess.run(command, check=False, timeout=120).returncode)
    assert codes[-1] == 0
    assert len(codes) <= 5, codes
    dead_letters = own.dead_letters(["q"])
    assert len(dead_letters) == 1, (codes, own.stats("q"))
    (dead,) = dead_letters
    assert isinstance(dead.envelope, Envelope)
    assert (dead.envelope.id, dead.reason) == ("killer", "crash-loop")
    assert receive(opener(), wait=1.0) == []
