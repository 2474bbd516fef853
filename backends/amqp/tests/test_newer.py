"""Law 6: relevo N and N+1 run side by side; what a newer release sends is given back until patience runs out."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Mapping
from typing import Any

import pika
import pytest
from hypothesis import given, strategies as st

from relevo import DeadLetter, Delivery, Envelope, Nack, Release, Unreadable
from relevo.testing import FakeClock
from relevo_amqp import AmqpTransport
from relevo_amqp._mapping import MessageRecord, postponed, read, written
from relevo_amqp._newer import Newer
from relevo_amqp._topology import Role

from .conftest import PATIENCE, Server, drain, ids, receive
from .test_mapping import over_the_wire

Make = Callable[..., Envelope]
Connect = Callable[..., AmqpTransport]

NOW = 1_795_000_000.25
BODY = b"\x00 in a later form"
CAME_WITH: Mapping[str, Any] = {
    "relevo": 2,
    "relevo-at": {"seconds": 1_795_000_000},
    "relevo-state": "in another form",
    "relevo-something": [1, b"\xff", None, {"a": True}],
    "relevo-attempt": 3,
    "relevo-due": 5,
}


def properties(**changes: Any) -> pika.BasicProperties:
    return pika.BasicProperties(
        content_type="application/later",
        content_encoding="zstd",
        correlation_id="c",
        timestamp=1,
        message_id="i",
        type="n",
        app_id="s",
        delivery_mode=2,
        headers={**CAME_WITH, **changes},
    )


def came(**changes: Any) -> MessageRecord:
    return read(properties(**changes), BODY, queue="mail", now=NOW)


def publish(server: Server, queue: str, role: Role = Role.MAIN, *, lost_leases: int = 0) -> None:
    channel = server.channel()
    channel.confirm_delivery()
    sent = properties(**{"relevo-lost-leases": lost_leases}) if lost_leases else properties()
    channel.basic_publish(server.topology.exchange(role), queue, BODY, sent, mandatory=True)


def taken(server: Server, name: str) -> tuple[pika.BasicProperties, bytes]:
    """Take one out of the server's queue *name* as another release would."""
    channel = server.channel()
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        method, found, body = channel.basic_get(name, auto_ack=True)
        if method is not None:
            return found, body
        time.sleep(0.05)
    pytest.fail(f"nothing came to {name}")


def receive_nothing(server: Server, transport: AmqpTransport, queue: str) -> None:
    """Receive until *transport* has met all that is in *queue* and given it back, with a delay."""
    deadline = time.monotonic() + PATIENCE
    is_met = False
    while not is_met:
        assert time.monotonic() < deadline
        assert receive(transport, queue, wait=0.5) == []
        is_met = not any(server.ready(server.topology.queue(queue, role)) for role in (Role.MAIN, Role.SUSPECT))


def as_it_came(found: pika.BasicProperties) -> dict[str, Any]:
    """Return what *found* has of what was sent."""
    return {name: value for name, value in found.headers.items() if name in CAME_WITH}


# --- decided purely -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3, 1 << 40])
def test_a_higher_version_is_of_a_newer_release(version: int) -> None:
    assert isinstance(came(relevo=version).envelope, Newer)


@pytest.mark.parametrize("version", [1, 0, -1, True, "2", None])
def test_another_version_is_not(version: object) -> None:
    assert not isinstance(came(relevo=version).envelope, Newer)


@pytest.mark.parametrize("header", ["x" * 100_000, 1 << 63, -(1 << 64)], ids=["long", "large", "small"])
def test_what_could_not_be_published_again_as_it_came_is_plainly_unreadable(header: object) -> None:
    record = came(other=header)  # a double in a header is read as an integer of any size

    assert type(record.envelope) is Unreadable
    assert "version 2" in record.envelope.why


@pytest.mark.parametrize("kind", [b"d", b"f"])
def test_a_number_that_the_driver_reads_and_cannot_write_makes_it_unreadable(kind: bytes) -> None:
    encoded = kind + struct.pack(">d" if kind == b"d" else ">f", 1e30)
    number, _ = pika.data.decode_value(encoded, 0)

    record = came(more=[number])

    assert type(record.envelope) is Unreadable
    pika.BasicProperties(**written(record, exchange="e", key="k").properties).encode()


def test_the_waits_double_and_the_last_one_ends_where_patience_does() -> None:
    record, now, waits = came(), NOW, []
    while True:
        record, wait = postponed(record, now, patience=200.0)
        if not wait:
            break
        waits.append(wait)
        now += wait
        record = read(*over_the_wire(written(record, exchange="e", key="k", delayed=True)), queue="mail", now=now)

    assert waits[:7] == [1.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    assert max(waits) <= 60.0
    assert now - NOW == pytest.approx(200.0, abs=0.01)


def test_without_patience_it_is_handed_out_at_once() -> None:
    assert postponed(came(), NOW, patience=0.0)[1] == 0.0


def test_who_met_it_by_a_clock_that_runs_ahead_does_not_make_it_wait_for_ever() -> None:
    record, _ = postponed(came(**{"relevo-met": 9_000_000_000_000_000}), NOW, patience=10.0)

    assert postponed(record, NOW + 10.0, patience=10.0)[1] == 0.0


def test_what_is_not_due_yet_is_not_waited_for_yet() -> None:
    record, wait = postponed(came(**{"relevo-due": repr(NOW + 7200.0)}), NOW, patience=10.0)

    assert wait == 7200.0
    assert postponed(record, NOW + 7200.0, patience=10.0)[1] > 0.0


@given(st.lists(st.sampled_from(["wait", "lost", "again"]), max_size=6))
def test_on_its_way_nothing_changes_but_what_every_version_knows(steps: list[str]) -> None:
    record = came()
    for step in steps:
        if step == "wait":
            record, _ = postponed(record, NOW, patience=10.0)
        if step == "lost":
            record = record.lost(1)
        message = written(record, exchange="e", key="k", delayed=step == "wait")
        record = read(*over_the_wire(message), queue="mail", now=NOW)

    found, body = over_the_wire(written(record, exchange="e", key="k"))
    lost = steps.count("lost")
    expected = {**CAME_WITH, "relevo-attempt": 3 + lost} | ({"relevo-lost-leases": lost} if lost else {})
    assert {
        name: value for name, value in found.headers.items() if name not in ("relevo-met", "relevo-queue")
    } == expected
    assert body == BODY
    assert (found.content_type, found.content_encoding, found.correlation_id) == ("application/later", "zstd", "c")
    assert (found.message_id, found.type, found.app_id, found.timestamp) == ("i", "n", "s", 1)


# --- on the server --------------------------------------------------------------------------------------------


def test_what_a_newer_release_sent_waits_and_a_newer_worker_gets_it_as_it_came(
    server: Server, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    transport.send([envelope(1)])
    publish(server, queue)
    transport.send([envelope(2)])

    found = drain(transport, queue, wait=0.5, least=2)
    transport.close()

    assert sorted(ids(found)) == ["id-1", "id-2"]
    came_back, body = taken(server, server.topology.queue(queue, Role.MAIN))
    assert body == BODY
    assert as_it_came(came_back) == CAME_WITH
    assert (came_back.content_type, came_back.message_id, came_back.priority) == ("application/later", "i", None)
    assert server.ready(server.topology.queue(queue, Role.DEAD)) == 0


def test_when_patience_has_run_out_it_dies_and_is_kept_and_revived_as_it_came(
    server: Server, connect: Connect, transport: AmqpTransport, queue: str
) -> None:
    worker = connect(patience=1.5)
    publish(server, queue)
    began = time.monotonic()

    (delivery,) = receive(worker, queue)

    assert time.monotonic() - began >= 1.5
    assert isinstance(delivery.envelope, Unreadable)
    assert (delivery.envelope.raw, delivery.attempt, delivery.lost_leases) == (BODY, 3, 0)
    assert "version 2" in delivery.envelope.why
    worker.dead_letter(delivery, reason="unreadable", error=delivery.envelope.why)
    worker.close()
    (entry,) = transport.dead_letters([queue])
    assert (entry.reason, entry.error) == ("unreadable", delivery.envelope.why)
    assert transport.revive({entry.ref: b""}) == []
    revived, body = taken(server, server.topology.queue(queue, Role.MAIN))
    assert body == BODY
    assert as_it_came(revived) == {**CAME_WITH, "relevo-attempt": 1}
    assert not {"relevo-met", "relevo-ref", "relevo-reason", "relevo-error"} & set(revived.headers)


def test_giving_it_back_after_that_does_not_begin_the_patience_again(
    server: Server, queue: str, transport: AmqpTransport
) -> None:
    clock = FakeClock()
    with AmqpTransport(server.options(patience=600.0), clock=clock) as worker:
        publish(server, queue)
        held: list[Delivery] = []
        for _ in range(60):
            if held := receive(worker, queue, wait=0.5):
                break
            clock.advance(600.0)

        worker.settle([(held[0], Release())])
        (again,) = receive(worker, queue)
        worker.settle([(again, Nack(delay=0.1))])
        (last,) = receive(worker, queue)

        assert (again.attempt, last.attempt) == (3, 4)
        assert isinstance(last.envelope, Unreadable)
        assert last.envelope.raw == BODY
        worker.settle([(last, DeadLetter(reason="unreadable"))])


def test_one_whose_holder_died_keeps_its_lost_leases_for_a_newer_worker(
    server: Server, connect: Connect, queue: str, transport: AmqpTransport
) -> None:
    publish(server, queue, lost_leases=1)
    publish(server, queue, Role.SUSPECT, lost_leases=2)

    receive_nothing(server, transport, queue)
    transport.close()

    name = server.topology.queue(queue, Role.MAIN)
    assert sorted(taken(server, name)[0].headers["relevo-lost-leases"] for _ in range(2)) == [1, 2]
    assert server.ready(server.topology.queue(queue, Role.SUSPECT)) == 0


def test_an_urgent_one_does_not_hold_up_what_is_delayed_and_stays_urgent(
    server: Server, queue: str, transport: AmqpTransport
) -> None:
    urgent = properties()
    urgent.priority = 9
    channel = server.channel()
    channel.confirm_delivery()
    channel.basic_publish(server.topology.exchange(Role.MAIN), queue, BODY, urgent, mandatory=True)

    receive_nothing(server, transport, queue)
    transport.close()

    found, _ = taken(server, server.topology.queue(queue, Role.MAIN))
    assert (found.priority, found.headers["relevo-urgency"]) == (None, "high")
