"""The verdict on RabbitMQ: three processes that began an event and ended, and nothing else, make a crash loop."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import pytest

from relevo import Ack, DeadLetter, Delivery, Envelope, Lost, Outcome, ProcessIdentity, Release, RunOptions, Worker
from relevo._process_identity import process_identity
from relevo._worker.evidence import GRACE
from relevo._worker.suspect import Suspects
from relevo.testing import FakeClock
from relevo_amqp import AmqpTransport
from relevo_conformance.fault.proxy import Proxy

from .conftest import Server, ids, receive, wait_until

Make = Callable[..., Envelope]
Connect = Callable[..., AmqpTransport]

ELSEWHERE = ProcessIdentity(worker="e" * 32, boot="0ff1ce", namespace="1", pid=10, started=20)


def come(transport: AmqpTransport, queue: str) -> Delivery:
    """Receive one event of *queue*."""
    deadline = time.monotonic() + 30.0
    while time.monotonic() < deadline:
        if batch := receive(transport, queue, wait=1.0):
            (delivery,) = batch
            return delivery
    raise AssertionError("nothing came")


def suspect(connect: Connect, queue: str, envelope: Envelope) -> tuple[AmqpTransport, Delivery]:
    """Return a transport that holds *envelope* after it was lost once."""
    first, other = connect(), connect()
    first.send([envelope])
    come(first, queue)
    first._abort()
    return other, come(other, queue)


def ended_process() -> ProcessIdentity:
    """Return the identity of a process of this host that was killed."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = process_identity(process.pid)
    process.kill()
    process.communicate()
    return identity


class Listener:
    """Records its calls, and runs an action during them."""

    def __init__(self, meanwhile: Callable[[], object] = lambda: None):
        self.calls: Counter[str] = Counter()
        self.meanwhile = meanwhile
        self.called = threading.Event()

    def __call__(self, delivery: Delivery) -> Outcome:
        (event_id,) = ids([delivery])
        self.calls[event_id] += 1
        self.called.set()
        self.meanwhile()
        return Ack()


def worker(transport: AmqpTransport, listener: Listener, queue: str, suspects: Suspects | None = None) -> Worker:
    clock = transport._clock
    return Worker(
        transport=transport,
        handle=listener,
        queues=[queue],
        clock=clock,
        chance=lambda: 0.5,
        options=RunOptions(),
        patient=True,
        suspects=suspects or Suspects(transport, clock),
    )


class Running:
    """Workers in threads of their own, which are stopped at the end."""

    def __init__(self) -> None:
        self._running: list[tuple[Worker, threading.Thread]] = []

    def start(self, *workers: Worker) -> None:
        for each in workers:
            thread = threading.Thread(target=each.run, daemon=True)
            self._running.append((each, thread))
            thread.start()

    def stop(self) -> None:
        for each, _ in self._running:
            each.stop()
        for _, thread in self._running:
            thread.join(60.0)
            assert not thread.is_alive()


@pytest.fixture(name="running")
def _running() -> Iterator[Running]:
    running = Running()
    yield running
    running.stop()


@pytest.fixture(name="proxied")
def _proxied(server: Server, connect: Connect) -> Iterator[Callable[[], tuple[AmqpTransport, Proxy]]]:
    """Give a way to open transports whose connections can be cut."""
    proxies: list[Proxy] = []

    def open_() -> tuple[AmqpTransport, Proxy]:
        proxies.append(Proxy(server.url, port=5672))
        return connect(url=proxies[-1].url), proxies[-1]

    yield open_
    for proxy in proxies:
        proxy.close()


def cut_off(transport: AmqpTransport, proxy: Proxy) -> None:
    """Cut *transport* off and wait until it has noticed; an ack that is sent before would be lost."""
    receiver = transport._receiver
    assert receiver is not None
    proxy.cut()
    wait_until(lambda: receiver.stale)


def done(worker: Worker) -> int:
    """Return how many events *worker* has settled as done."""
    return worker._ledger.counts[Ack]


def wait_until_away(transport: AmqpTransport, process: ProcessIdentity) -> None:
    """Wait until the server has noticed that the connection of *process* ended, which takes some milliseconds."""
    wait_until(lambda: not transport.presence([process.worker]))


def test_bystanders_that_were_held_and_lost_six_times_are_handled(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make, running: Running
) -> None:
    transport.send([envelope(number) for number in range(10)])
    for _ in range(6):
        holder = connect()
        assert receive(holder, queue)
        holder._abort()
    listener = Listener()

    running.start(worker(connect(), listener, queue))

    wait_until(lambda: len(listener.calls) == 10)
    running.stop()
    assert listener.calls == {f"id-{number}": 1 for number in range(10)}
    assert transport.dead_letters([queue]) == []


@pytest.mark.parametrize("lost_leases", [0, 1])
def test_an_event_whose_connection_is_cut_while_it_is_handled_is_handled_once(
    connect: Connect,
    transport: AmqpTransport,
    proxied: Callable[[], tuple[AmqpTransport, Proxy]],
    queue: str,
    envelope: Make,
    running: Running,
    lost_leases: int,
) -> None:
    transport.send([envelope(1)])
    if lost_leases:
        holder = connect()
        come(holder, queue)
        holder._abort()
    own, proxy = proxied()
    listener = Listener(lambda: cut_off(own, proxy))

    one = worker(own, listener, queue)
    running.start(one)

    wait_until(lambda: done(one) == 1)
    running.stop()
    assert listener.calls == {"id-1": 1}
    assert transport.dead_letters([queue]) == []
    assert receive(transport, queue, wait=0.5) == []


def test_six_cuts_while_an_event_is_handled_are_no_crash_loop(
    transport: AmqpTransport,
    proxied: Callable[[], tuple[AmqpTransport, Proxy]],
    queue: str,
    envelope: Make,
    running: Running,
) -> None:
    transport.send([envelope(number) for number in range(3)])
    pairs = [proxied(), proxied()]

    def cut() -> None:
        for _ in range(6):
            for _, proxy in pairs:
                proxy.cut()
            time.sleep(0.15)  # so that the other worker connects, receives and is cut off in between

    listener = Listener(cut)
    workers = [worker(own, listener, queue) for own, _ in pairs]

    running.start(*workers)

    wait_until(lambda: len(listener.calls) == 3 and sum(map(done, workers)) >= 3)
    running.stop()
    assert set(listener.calls) == {"id-0", "id-1", "id-2"}
    assert transport.dead_letters([queue]) == []


def test_a_suspect_is_left_to_the_worker_that_still_has_its_outcome(
    connect: Connect,
    transport: AmqpTransport,
    proxied: Callable[[], tuple[AmqpTransport, Proxy]],
    queue: str,
    envelope: Make,
    running: Running,
) -> None:
    transport.send([envelope(1)])
    lost = connect()
    come(lost, queue)
    lost._abort()
    own, proxy = proxied()
    goes_on = threading.Event()

    def meanwhile() -> None:
        cut_off(own, proxy)
        goes_on.wait(60.0)

    listener, other = Listener(meanwhile), Listener()
    first = worker(own, listener, queue)
    here = process_identity(os.getppid())

    running.start(first)
    wait_until(listener.called.is_set)
    beside = connect()
    running.start(worker(beside, other, queue, Suspects(beside, beside._clock, here)))
    wait_until(lambda: bool(beside._receiver) and transport.stats(queue).scheduled != 0)  # it was put back with a delay
    goes_on.set()

    wait_until(lambda: done(first) == 1)
    running.stop()
    assert (dict(listener.calls), dict(other.calls)) == ({"id-1": 1}, {})
    assert receive(transport, queue, wait=0.5) == []


# --- one process after the other, which begin the event and end ----------------------------------------------


def fates(
    connect: Connect, queue: str, envelope: Envelope, processes: Sequence[ProcessIdentity], *, excused: bool = False
) -> tuple[AmqpTransport, Delivery]:
    """Let each of *processes* begin the event and end; return the transport that holds it then."""
    holder, delivery = suspect(connect, queue, envelope)
    for process in processes:
        suspects = Suspects(holder, holder._clock, process)
        assert suspects.outcome(delivery) is None
        suspects.runs(delivery, "shop.listeners.resize")
        if excused:
            suspects.excuse()
        holder._abort()
        holder = connect()
        wait_until_away(holder, process)
        delivery = come(holder, queue)
    return holder, delivery


def test_three_processes_that_began_an_event_and_ended_are_a_crash_loop(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    holder, delivery = fates(connect, queue, envelope(1), [ended_process() for _ in range(3)])

    outcome = Suspects(holder, holder._clock).outcome(delivery)

    assert delivery.lost_leases == 4
    assert isinstance(outcome, DeadLetter)
    assert outcome.reason == "crash-loop"
    assert "3 processes died while they held it" in outcome.error
    assert "while shop.listeners.resize ran" in outcome.error


def test_two_deaths_are_no_crash_loop(connect: Connect, transport: AmqpTransport, queue: str, envelope: Make) -> None:
    holder, delivery = fates(connect, queue, envelope(1), [ended_process() for _ in range(2)])

    assert Suspects(holder, holder._clock).outcome(delivery) is None
    assert len(delivery.deaths) == 1  # and the last one is in the note


def test_processes_that_were_told_to_end_and_then_killed_are_no_crash_loop(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    holder, delivery = fates(connect, queue, envelope(1), [ended_process() for _ in range(4)], excused=True)

    assert Suspects(holder, holder._clock).outcome(delivery) is None
    assert delivery.deaths == ()


@pytest.mark.parametrize("is_excused", [True, False])
def test_a_process_that_lost_the_event_and_ended_later_died_of_it_unless_it_said_otherwise(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make, *, is_excused: bool
) -> None:
    holder, delivery = suspect(connect, queue, envelope(1))
    for process in [ended_process() for _ in range(3)]:
        suspects = Suspects(holder, holder._clock, process)
        assert suspects.outcome(delivery) is None
        assert holder._hub is not None
        assert holder._hub._consuming is not None
        holder._hub._consuming.abort(5.0)
        between = connect()
        assert between.settle([(come(between, queue), Release())]) == []
        if is_excused:
            suspects.excuse()
        holder._abort()
        between.close()
        holder = connect()
        wait_until_away(holder, process)
        delivery = come(holder, queue)

    outcome = Suspects(holder, holder._clock).outcome(delivery)

    assert delivery.lost_leases == 4
    assert (outcome is None) == is_excused
    if not is_excused:
        assert isinstance(outcome, DeadLetter)
        assert outcome.reason == "crash-loop"


def test_a_process_that_lost_its_connection_three_times_and_lives_is_no_crash_loop(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    living = [process_identity(os.getppid(), worker=f"{number:032x}") for number in range(3)]
    holder, delivery = suspect(connect, queue, envelope(1))
    clock = FakeClock()
    for process in living:
        suspects = Suspects(holder, clock, process)
        outcome = suspects.outcome(delivery)
        for _ in range(40):  # the process that began it last is alive, and the event is left to it
            if outcome is None:
                break
            assert isinstance(outcome, Release)
            clock.advance(1.0)
            outcome = suspects.outcome(delivery)
        assert outcome is None
        holder._abort()
        holder = connect()
        delivery = come(holder, queue)

    assert isinstance(Suspects(holder, clock).outcome(delivery), Release)
    assert delivery.deaths == ()


def test_a_death_that_a_parent_saw_is_kept(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    holder, delivery = suspect(connect, queue, envelope(1))
    suspects = Suspects(holder, holder._clock)
    for _ in range(2):
        assert suspects.outcome(delivery) is None
        ended = Lost(death=str(ended_process().as_witnessed()), error="the process was killed by SIGKILL")
        outcome = suspects.conclude(delivery, ended)
        assert outcome == ended
        assert holder.settle([(delivery, outcome)]) == []
        delivery = come(holder, queue)
    assert len(delivery.deaths) == 2

    assert suspects.outcome(delivery) is None
    last = suspects.conclude(delivery, Lost(death=str(ended_process().as_witnessed()), error="killed"))

    assert isinstance(last, DeadLetter)
    assert last.reason == "crash-loop"


# --- another host: only its connection tells -----------------------------------------------------------------


def test_a_process_of_another_host_lives_as_long_as_its_connection(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    clock = FakeClock()
    holder, delivery = suspect(connect, queue, envelope(1))
    assert Suspects(holder, clock, ELSEWHERE).outcome(delivery) is None
    its_presence = connect()
    its_presence.appear(ELSEWHERE.worker)
    holder._abort()  # as when only the connection with the event was lost
    other = connect()
    delivery = come(other, queue)
    suspects = Suspects(other, clock)

    assert suspects.outcome(delivery) == Release(delay=1.0)
    clock.advance(5.0)
    assert suspects.outcome(delivery) == Release(delay=1.0)
    its_presence._abort()
    wait_until_away(other, ELSEWHERE)
    assert suspects.outcome(delivery) is None

    other._abort()
    third = connect()
    assert [ProcessIdentity.parsed(each) for each in come(third, queue).deaths] == [ELSEWHERE]


def test_the_verdict_on_processes_of_other_hosts_waits_for_the_grace(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    clock = FakeClock()
    hosts = [
        ProcessIdentity(worker=f"{number:032x}", boot="0ff1ce", namespace="1", pid=10, started=20)
        for number in range(3)
    ]
    holder, delivery = fates(connect, queue, envelope(1), hosts)
    suspects = Suspects(holder, clock)

    outcomes = []
    for _ in range(round(GRACE / 5.0) + 1):
        outcomes.append(suspects.outcome(delivery))
        clock.advance(5.0)

    assert set(map(type, outcomes[:-1])) == {Release}
    assert isinstance(outcomes[-1], DeadLetter)


def test_one_that_is_back_before_the_verdict_is_struck_off(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    hosts = [
        ProcessIdentity(worker=f"{number:031x}a", boot="0ff1ce", namespace="1", pid=10, started=20)
        for number in range(3)
    ]
    holder, delivery = fates(connect, queue, envelope(1), hosts)
    connect().appear(hosts[1].worker)

    assert Suspects(holder, FakeClock()).outcome(delivery) is None
    holder._abort()
    other = connect()

    again = come(other, queue)
    assert again.begun is not None
    assert [ProcessIdentity.parsed(each) for each in again.deaths] == [hosts[0], hosts[2]]
