"""Law 3: a listener may kill its process; its neighbours don't pay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable

import pytest

from relevo import Ack, DeadLetter, Delivery, Envelope, Note, RunOptions, SystemClock, Worker
from relevo_amqp import AmqpTransport
from relevo_amqp._connection import Channel
from relevo_amqp._receiver import Receiver
from relevo_amqp._topology import Role

from .conftest import LEVELS, PATIENCE, Server, drain, ids, receive, receive_all, wait_until

Make = Callable[..., Envelope]
Connect = Callable[..., AmqpTransport]

HOLDER = """
import sys, time
from relevo_amqp import AmqpOptions, AmqpTransport
url, prefix, levels, queue, limit = sys.argv[1:]
transport = AmqpTransport(AmqpOptions(url=url, prefix=prefix, levels=int(levels)))
held = 0
while held < int(limit):
    held += len(transport.receive([queue], limit=int(limit) - held, lease=60.0, wait=60.0))
print(held, flush=True)
time.sleep(60)
"""


def hold_and_die(server: Server, queue: str, limit: int) -> int:
    """
    Have a process receive, kill it with -9, and wait until the server has noticed; return how many it held.

    Until then the server hands out further events to it, and these are lost too.
    """
    main = server.topology.queue(queue, Role.MAIN)
    others = server.consumers(main)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, server.url, server.prefix, str(LEVELS), queue, str(limit)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    held = int(process.stdout.readline())
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    wait_until(lambda: server.consumers(main) == others)
    return held


def counting(function: Callable[..., object], calls: Counter[str]) -> Callable[..., object]:
    """Return *function*, with each call of it counted in *calls*."""

    def counted(*args: object, **kwargs: object) -> object:
        calls[function.__name__] += 1
        return function(*args, **kwargs)

    return counted


def test_what_a_killed_process_held_comes_back_alone_and_with_its_lost_leases(
    server: Server, transport: AmqpTransport, queue: str, envelope: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relevo_amqp._phase.CLEAR_WITHIN", 60.0)
    transport.send([envelope(number) for number in range(20)])
    assert hold_and_die(server, queue, limit=5) == 5

    received: list[Delivery] = []
    while len(received) < 20:
        batch = receive(transport, queue)
        if any(each.lost_leases for each in batch):
            assert len(batch) == 1
            assert receive(transport, queue, wait=0.05) == []  # nothing else while it is held
        received += batch
        assert transport.settle([(each, Ack()) for each in batch]) == []

    assert sorted(ids(received)) == sorted(f"id-{number}" for number in range(20))
    suspects = [each for each in received if each.lost_leases]
    assert len(suspects) >= 5
    assert {(each.lost_leases, each.attempt) for each in suspects} == {(1, 2)}


def test_an_event_that_kills_every_holder_gathers_lost_leases_and_its_neighbours_do_not(
    server: Server, connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    """A minimal worker, which gives up after three lost leases; see test_crash_loops for relevo's own."""
    transport.send([envelope(number) for number in range(50)])
    transport.send([envelope(999)])
    transport.send([envelope(number) for number in range(50, 100)])
    done: set[str] = set()
    lost_leases: dict[str, int] = {}
    deaths = 0
    worker = connect()
    while len(done) < 100:
        batch = receive(worker, queue, limit=30)
        for each in batch:
            (event_id,) = ids([each])
            lost_leases[event_id] = max(lost_leases.get(event_id, 0), each.lost_leases)
            if event_id == "id-999" and each.lost_leases < 3:
                deaths += 1
                worker._abort()
                worker = connect()
                break
            if event_id == "id-999":
                worker.dead_letter(each, reason="poison")
            else:
                done.add(event_id)  # twice if its ack was on the way when the worker died
                worker.ack(each)

    assert deaths == 3
    assert len(done) == 100
    assert max(count for event_id, count in lost_leases.items() if event_id != "id-999") == 1
    worker.close()
    (entry,) = transport.dead_letters([queue])
    assert (entry.reason, entry.lost_leases, entry.attempt) == ("poison", 3, 4)
    assert drain(connect(), queue, wait=0.5) == []


def test_a_drain_has_done_everything_else_before_it_begins_a_suspect(
    server: Server, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    transport.send([envelope(number) for number in range(3)])
    assert hold_and_die(server, queue, limit=3) == 3
    transport.send([envelope(number) for number in range(3, 30)])
    handled: list[Delivery] = []

    def handle(delivery: Delivery) -> Ack:
        handled.append(delivery)
        time.sleep(0.005)
        return Ack()

    options = RunOptions(until_empty=True)
    clock = SystemClock()
    Worker(transport=transport, handle=handle, queues=[queue], clock=clock, chance=lambda: 0.0, options=options).run()

    assert [each.lost_leases > 0 for each in handled] == [False] * 27 + [
        True
    ] * 3  # RabbitMQ counts at least what was lost


def test_suspects_that_others_left_are_found_while_working(
    server: Server, connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    worker = connect()
    assert receive(worker, queue, wait=0.0) == []
    transport.send([envelope(1)])
    (first,) = receive(worker, queue)
    other = connect()
    receive(other, queue, wait=0.0)
    transport.send([envelope(2)])
    server.hand_out(queue)
    other._abort()

    worker.ack(first)
    received: list[Delivery] = []
    deadline = time.monotonic() + PATIENCE
    while not received and time.monotonic() < deadline:
        received = receive(worker, queue, wait=0.5)

    assert ids(received) == ["id-2"]


def test_a_suspect_waits_until_all_that_is_held_is_settled(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relevo_amqp._phase.CLEAR_WITHIN", 60.0)
    transport.send([envelope(1), envelope(2)])
    (poison,) = receive(transport, queue, limit=1)
    other = connect()
    (held,) = receive(other, queue, limit=1)
    transport._abort()

    assert receive(other, queue, wait=2.5) == []
    other.ack(held)
    (suspect,) = receive(other, queue)

    assert ids([suspect]) == ids([poison])
    assert suspect.lost_leases == 1


def test_nothing_else_is_fetched_while_a_suspect_is_held(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    transport.send([envelope(1)])
    lost = connect()
    receive(lost, queue)
    worker = connect()
    assert receive(worker, queue, wait=0.0) == []
    lost._abort()
    (suspect,) = receive(worker, queue)

    transport.send([envelope(number) for number in range(2, 7)])
    time.sleep(0.3)
    worker._abort()

    assert suspect.lost_leases == 1
    found = drain(transport, queue, wait=0.5, least=6)
    assert {event_id: each.lost_leases for event_id, each in zip(ids(found), found, strict=True)} == {
        "id-1": 2,
        **{f"id-{number}": 0 for number in range(2, 7)},
    }


def test_what_was_settled_before_a_suspect_is_begun_is_not_lost_with_it(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = Channel.commit

    def late(self: Channel, answered: Callable[[], None]) -> None:  # as by a loop that has much to do
        self.loop.later(0.5, lambda: commit(self, answered))

    monkeypatch.setattr(Channel, "commit", late)
    transport.send([envelope(1), envelope(2)])
    receive(transport, queue, limit=1)
    worker = connect()
    (held,) = receive(worker, queue, limit=1)
    transport._abort()
    (suspect,) = receive(worker, queue)

    worker.settle([(held, Ack())])
    worker.begin(suspect, Note(by="worker"))
    worker._abort()  # as if the suspect ended the process

    assert ids(drain(connect(), queue, wait=1.0, least=1)) == ids([suspect])


def test_a_suspect_does_not_wait_for_ever_for_a_long_listener(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    transport.send([envelope(1), envelope(2)])
    receive(transport, queue, limit=1)
    other = connect()
    (held,) = receive(other, queue, limit=1)
    transport._abort()

    (suspect,) = receive(other, queue)

    assert suspect.lost_leases == 1
    assert other.settle([(suspect, Ack()), (held, Ack())]) == []


def test_ready_events_have_their_turn_between_many_suspects(
    server: Server, connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    transport.send([envelope(number) for number in range(30)])
    lost = connect(prefetch=30)
    receive_all(lost, queue, 30)
    lost._abort()
    worker = connect()
    turn = receive(worker, queue)
    transport.send([envelope(100)])

    order: list[str] = []
    while turn:
        order += ids(turn)
        if len(order) < 12:
            time.sleep(0.6)
        worker.settle([(each, Ack()) for each in turn])
        turn = receive(worker, queue, wait=0.0 if len(order) >= 31 else PATIENCE)

    assert order.index("id-100") < 20


def test_each_of_a_thousand_suspects_costs_a_few_round_trips_and_no_pause(
    server: Server,
    connect: Connect,
    transport: AmqpTransport,
    queue: str,
    envelope: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    transport.send([envelope(number) for number in range(1000)])
    lost = connect(prefetch=1000)
    receive_all(lost, queue, 1000)
    lost._abort()
    worker = connect()
    calls: Counter[str] = Counter()
    for owner, name in ((Channel, "_run"), (Channel, "commit"), (Receiver, "_sleep")):
        monkeypatch.setattr(owner, name, counting(getattr(owner, name), calls))

    done = drain(worker, queue, wait=0.5, least=1000)

    assert len(set(ids(done))) == 1000
    assert {each.lost_leases for each in done} == {1}
    assert calls["_run"] + calls["commit"] < 4000
    assert calls["_sleep"] < 100


def test_what_a_lost_process_left_is_moved_together_for_one_who_asks_for_one(
    server: Server, connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    transport.send([envelope(number) for number in range(200)])
    lost = connect(prefetch=200)
    receive_all(lost, queue, 200)
    lost._abort()
    worker = connect()

    (suspect,) = receive(worker, queue, limit=1)

    assert suspect.lost_leases == 1
    assert server.ready(server.topology.queue(queue, Role.MAIN)) == 0
    assert server.ready(server.topology.queue(queue, Role.SUSPECT)) == 199
    worker.ack(suspect)
    assert {each.lost_leases for each in drain(worker, queue, wait=0.5, least=199)} == {1}


def test_what_lies_among_the_lost_is_not_held_beside_a_suspect(
    server: Server, connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    transport.send([envelope(number) for number in range(30)])
    lost = connect(prefetch=30)
    receive_all(lost, queue, 30)
    transport.send([envelope(number) for number in range(100, 140)])
    lost._abort()
    worker = connect()
    done: list[str] = []
    while not (delivery := receive(worker, queue, limit=1)[0]).lost_leases:
        worker.ack(delivery)
        done += ids([delivery])
    assert len(done) <= 2  # what is brought ahead for one who asks for one, and not forty

    given_back = 69 - len(done)
    ready = sum(server.ready(server.topology.queue(queue, role)) for role in (Role.MAIN, Role.SUSPECT))
    assert ready == given_back  # less: others are held beside the suspect; more: what was moved is there twice
    worker._abort()

    rest = drain(transport, queue, wait=0.5, least=given_back + 1)
    assert len(rest) == given_back + 1
    lost_leases = {event_id: each.lost_leases for event_id, each in zip(ids(rest), rest, strict=True)}
    assert lost_leases.pop(ids([delivery])[0]) == 2
    assert {count for event_id, count in lost_leases.items() if int(event_id[3:]) < 100} == {1}
    assert {count for event_id, count in lost_leases.items() if int(event_id[3:]) >= 100} == {0}
    assert len(lost_leases) == given_back


def test_moving_to_the_suspects_and_back_leaves_nothing_behind(
    server: Server, connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    transport.send([envelope(number) for number in range(10)])
    lost = connect()
    receive_all(lost, queue, 10)
    lost._abort()
    worker = connect()
    (first,) = receive(worker, queue)

    worker.settle([(first, DeadLetter(reason="r"))])
    done = drain(worker, queue, wait=0.5, least=9)
    worker.close()

    assert len(done) == 9
    assert server.ready(server.topology.queue(queue, Role.MAIN)) == 0
    assert server.ready(server.topology.queue(queue, Role.SUSPECT)) == 0
    assert server.ready(server.topology.queue(queue, Role.DEAD)) == 1
