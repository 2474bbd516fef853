"""A sender can write anything into headers: the message is kept with its bytes, and holds up no other."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pika
import pytest

from relevo import MAX_ERROR, MAX_STATE, DeadLetter, Delivery, Envelope, Nack, Release, Unreadable
from relevo.errors import ConfigurationError
from relevo_amqp import AmqpTransport
from relevo_amqp._topology import Role

from .conftest import PATIENCE, Server, drain, ids, receive, receive_all

Make = Callable[..., Envelope]
Connect = Callable[..., AmqpTransport]

OURS = {"relevo": 1, "relevo-at": 1_795_000_000_000_000}
RAW = b'{"specversion": "1.0"}'


class RawProperties(pika.BasicProperties):  # type: ignore[misc]  # pika has no types
    """Properties whose header table is written by hand, since pika would not write such a one."""

    def __init__(self, fields: bytes):
        super().__init__()
        self.fields = fields

    def encode(self) -> list[bytes]:
        return [struct.pack(">H", 1 << 13), struct.pack(">I", len(self.fields)), self.fields]


def field(name: str, value: bytes) -> bytes:
    return bytes([len(name)]) + name.encode() + value


def nested(kind: bytes, times: int) -> bytes:
    value = b"V"
    for _ in range(times):
        inner = value if kind == b"A" else field("", value)
        value = kind + struct.pack(">I", len(inner)) + inner
    return value


def ours(**headers: object) -> pika.BasicProperties:
    """Return the properties of an event of relevo's, with *headers* besides."""
    named = {f"relevo-{name.replace('_', '-')}": value for name, value in headers.items()}
    return pika.BasicProperties(message_id="bad", type="image.created", app_id="shop", headers={**OURS, **named})


TAMPERED: dict[str, pika.BasicProperties] = {
    "due at infinity": ours(due="inf"),
    "due at minus infinity": ours(due="-inf"),
    "due at no number": ours(due="nan"),
    "due beyond all time": ours(due="1e300"),
    "due in the far future": ours(due="1e18"),
    "due far off and lost": ours(due="1e18", lost_leases=2),
    "due by a table": ours(due={"a": 1}),
    "expires at no number": ours(expires="nan"),
    "headers that fill the frame": ours(headers='{"a": "' + "x" * 115_000 + '"}'),
    "headers that grow when they are escaped": ours(headers='{"a": "' + "\U0001f600" * 25_000 + '"}'),
    "headers that are nested": ours(headers="[" * 50_000),
    "an id that fills the frame": ours(id="i" * 115_000),
    "a name that is a number": ours(name=5),
    "foreign headers that fill the frame": pika.BasicProperties(headers={"a": "b", "long": "\x01" * 119_000}),
    "many foreign headers": pika.BasicProperties(headers={f"header-{number}": "\x01" * 60 for number in range(1500)}),
    "unreadable, as relevo says so itself": ours(unreadable="w" * 60_000, headers='{"a": "' + "é" * 25_000 + '"}'),
}
UNDECODABLE: dict[str, pika.BasicProperties] = {
    "a time that no calendar has": RawProperties(field("t", b"T" + b"\x7f" * 8)),
    "arrays in arrays": RawProperties(field("a", nested(b"A", 5_000))),
    "tables in tables": RawProperties(field("a", nested(b"F", 5_000))),
}
LENIENT: dict[str, pika.BasicProperties] = {
    "a state of 120,500 bytes": ours(state=b"s" * 120_500),
    "a state that is no bytes": ours(state="text"),
    "a state that is a table": ours(state={"v": 1}),
    "sent at the end of numbers": ours(at=(1 << 63) - 1),
    "sent before all time": ours(at=-(1 << 63)),
    "an attempt that is none": ours(attempt=-(1 << 62), lost_leases="many"),
    "a queue that fills the frame": ours(queue="q" * 119_000),
    "a queue that fills the frame, and due": ours(queue="q" * 119_000, due="1795000000.0"),
}
"""Read as if the header were not there; a state is read as bytes, as many as fit."""


def publish(server: Server, queue: str, properties: pika.BasicProperties) -> None:
    channel = server.channel()
    channel.confirm_delivery()
    channel.basic_publish(server.topology.exchange(Role.MAIN), queue, RAW, properties, mandatory=True)


def ended(transport: AmqpTransport, queue: str, *, least: int) -> list[Delivery]:
    """Do as a worker does: what is unreadable is dead-lettered, the rest is done; until nothing comes after *least*."""
    found: list[Delivery] = []
    while batch := receive(transport, queue, wait=0.5 if len(found) >= least else PATIENCE):
        found += batch
        unreadable = [each for each in batch if isinstance(each.envelope, Unreadable)]
        died = [(each, DeadLetter(reason="unreadable", error=each.envelope.why)) for each in unreadable]  # type: ignore[union-attr]
        assert transport.settle(died) == []
        for each in batch:
            if each not in unreadable:
                transport.ack(each)
    return found


@pytest.mark.parametrize("properties", [*TAMPERED.values(), *UNDECODABLE.values()], ids=[*TAMPERED, *UNDECODABLE])
def test_what_was_tampered_with_dies_with_its_bytes_and_the_reason_and_its_neighbours_do_not(
    server: Server, transport: AmqpTransport, queue: str, envelope: Make, properties: pika.BasicProperties
) -> None:
    transport.send([envelope(1)])
    publish(server, queue, properties)
    transport.send([envelope(2)])

    found = ended(transport, queue, least=3)

    assert sorted(ids(found)) == ["id-1", "id-2", "unreadable"]
    (entry,) = transport.dead_letters([queue])
    assert isinstance(entry.envelope, Unreadable)
    assert entry.envelope.raw == RAW
    assert entry.error == entry.envelope.why != ""
    assert server.ready(server.topology.queue(queue, Role.MAIN)) == 0
    assert transport.revive({entry.ref: b""}) == []
    (again,) = receive(transport, queue)
    assert again.envelope == entry.envelope


@pytest.mark.parametrize("properties", LENIENT.values(), ids=LENIENT)
def test_what_can_be_read_all_the_same_is_handed_out_and_goes_any_way(
    server: Server, transport: AmqpTransport, connect: Connect, queue: str, properties: pika.BasicProperties
) -> None:
    publish(server, queue, properties)

    (delivery,) = receive(transport, queue)
    assert ids([delivery]) == ["bad"]
    transport.nack(delivery, delay=0.1, state=b"s" * MAX_STATE)
    (delivery,) = receive(transport, queue)
    transport.settle([(delivery, Release())])
    (delivery,) = receive(transport, queue)
    transport._abort()
    worker = connect()
    (suspect,) = receive(worker, queue)
    assert (suspect.lost_leases, suspect.state) == (1, b"s" * MAX_STATE)
    worker.dead_letter(suspect, reason="r", error="e" * MAX_ERROR)

    (entry,) = worker.dead_letters([queue])
    assert isinstance(entry.envelope, Envelope)
    assert entry.error == "e" * MAX_ERROR


def test_all_of_them_together_come_to_an_end_also_when_their_holder_died(
    server: Server, connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    everything = {**TAMPERED, **UNDECODABLE}
    for number, properties in enumerate(everything.values()):
        transport.send([envelope(number)])
        publish(server, queue, properties)
    holder = connect(prefetch=100)
    assert receive(holder, queue, limit=20)
    holder._abort()

    found = ended(connect(), queue, least=2 * len(everything))

    assert ids(found).count("unreadable") == len(everything)
    assert {each for each in ids(found) if each != "unreadable"} == {f"id-{n}" for n in range(len(everything))}
    entries = transport.dead_letters([queue])
    assert len(entries) == len(everything)
    assert transport.discard([entry.ref for entry in entries]) == []
    assert drain(transport, queue, wait=0.5) == []


@pytest.mark.parametrize(
    "headers",
    [
        {"relevo-ref": "elsewhere/0-0", "relevo-reason": "r" * 60_000, "relevo-error": "e" * 50_000},
        {"relevo-ref": 5, "relevo-died-at": "never"},
        {"relevo-ref": "r" * 100_000},
        {"relevo-ref": "", "relevo-died-at": (1 << 63) - 1},
        {"x-death": [{"reason": {"a": 1}, "time": "now"}]},
        {"relevo-state": b"s" * 115_000},
    ],
)
def test_a_dead_letter_that_was_tampered_with_is_listed_revived_and_discarded(
    server: Server, transport: AmqpTransport, queue: str, headers: dict[str, Any]
) -> None:
    channel = server.channel()
    channel.confirm_delivery()
    for _ in range(2):
        properties = pika.BasicProperties(message_id="i", type="n", app_id="s", headers={**OURS, **headers})
        channel.basic_publish(server.topology.exchange(Role.DEAD), queue, RAW, properties, mandatory=True)

    entry, *_ = transport.dead_letters([queue])

    assert transport.revive({entry.ref: b""}) == []
    assert transport.discard([each.ref for each in transport.dead_letters([queue])]) == []
    assert transport.dead_letters([queue]) == []
    assert len(ended(transport, queue, least=1)) in (1, 2)  # two that are the same in everything have one ref


def test_what_has_full_headers_can_be_dead_lettered_with_a_full_state_and_a_full_error(
    transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    sent = envelope(1, headers={"h": "x" * 79_000})
    transport.send([sent])
    (delivery,) = receive(transport, queue)

    transport.dead_letter(delivery, reason="r", error="e" * MAX_ERROR, state=b"s" * MAX_STATE)

    (entry,) = transport.dead_letters([queue])
    assert (entry.envelope, entry.error, entry.state) == (sent, "e" * MAX_ERROR, b"s" * MAX_STATE)


@pytest.mark.parametrize("outcome", [Nack(state=bytes(MAX_STATE + 1)), DeadLetter(reason="r", state=bytes(120_000))])
def test_a_state_that_is_too_long_is_the_programs_error_and_changes_nothing(
    transport: AmqpTransport, queue: str, envelope: Make, outcome: Nack | DeadLetter
) -> None:
    transport.send([envelope(1), envelope(2)])
    first, second = receive_all(transport, queue, 2)

    with pytest.raises(ConfigurationError, match="16384"):
        transport.settle([(first, Release()), (second, outcome)])

    transport.ack(first)
    transport.nack(second, state=bytes(MAX_STATE))
    assert receive(transport, queue)[0].state == bytes(MAX_STATE)


def test_nothing_is_revived_with_a_state_that_is_too_long(transport: AmqpTransport, queue: str, envelope: Make) -> None:
    transport.send([envelope(1)])
    transport.dead_letter(receive(transport, queue)[0], reason="r")
    (entry,) = transport.dead_letters([queue])

    with pytest.raises(ConfigurationError, match="16384"):
        transport.revive({entry.ref: bytes(MAX_STATE + 1)})

    assert [each.ref for each in transport.dead_letters([queue])] == [entry.ref]
