"""Publishes as bytes, confirmations out of bytes, and the same by pika alone."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable

import pytest
from hypothesis import given, strategies as st
from pika import BasicProperties
from pika.frame import Body, Header, Heartbeat, Method
from pika.spec import Basic

from relevo import Envelope, SendError
from relevo_amqp import AmqpTransport
from relevo_amqp._connection import _TolerantConnection
from relevo_amqp._frame import Acks, Encoder
from relevo_amqp._mapping import CONTENT_TYPE, Message, MessageRecord, UnfitError, fresh, written

from .conftest import drain, ids
from .test_mapping import ENVELOPES

Make = Callable[..., Envelope]
Connect = Callable[..., AmqpTransport]

CHANNEL, FRAME_MAX = 3, 4096
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60).filter(lambda text: len(text.encode()) < 256)
PLAIN = st.builds(Envelope, id=WORDS, source=WORDS, name=WORDS, queue=st.just("mail"), body=st.binary(max_size=30))
ACKS = st.lists(st.tuples(st.integers(0, 1 << 63), st.booleans()), max_size=5)


def by_pika(message: Message) -> bytes:
    """Return what pika writes for *message*."""
    most = FRAME_MAX - 8
    publish = Basic.Publish(exchange=message.exchange, routing_key=message.key, mandatory=True)
    frames = [
        Method(CHANNEL, publish),
        Header(CHANNEL, len(message.body), BasicProperties(**message.properties)),
        *(Body(CHANNEL, message.body[at : at + most]) for at in range(0, len(message.body), most)),
    ]
    return b"".join(frame.marshal() for frame in frames)


def message_of(envelope: Envelope, at: float) -> Message:
    record = MessageRecord(envelope=envelope, queue=envelope.queue, enqueued_at=at)
    return written(record, exchange="shop.q", key="mail")


@given(st.lists(st.tuples(PLAIN | ENVELOPES, st.floats(0, 4e9)), max_size=5))
def test_what_is_encoded_is_what_pika_writes(sent: list[tuple[Envelope, float]]) -> None:
    encoder = Encoder(CHANNEL, FRAME_MAX)
    for envelope, at in sent * 2:  # the second time by the mould of the first
        try:
            message = message_of(envelope, at)
        except UnfitError:
            continue

        assert encoder.encoded(message) == by_pika(message)


@pytest.mark.parametrize("size", [0, 1, FRAME_MAX - 9, FRAME_MAX - 8, FRAME_MAX - 7, 3 * FRAME_MAX])
def test_a_body_of_any_size_is_what_pika_writes(size: int) -> None:
    message = message_of(Envelope(id="1", source="shop", name="a.b", queue="mail", body=bytes(size)), 1.8e9)

    assert Encoder(CHANNEL, FRAME_MAX).encoded(message) == by_pika(message)


def test_events_of_one_name_share_a_mould() -> None:
    encoder = Encoder(CHANNEL, FRAME_MAX)
    for number in range(3):
        encoder.encoded(
            message_of(Envelope(id=f"id-{number}", source="shop", name="a.b", queue="mail", body=b"{}"), 1.8e9 + number)
        )

    assert len(encoder._moulds) == 1
    assert None not in encoder._moulds.values()


@pytest.mark.parametrize(
    "text", ["0000000000000000000000relevo-mould-id", "$" + "0000000000000000000000relevo-mould-id"]
)
def test_an_event_that_looks_like_the_example_has_no_mould_or_the_right_one(text: str) -> None:
    encoder = Encoder(CHANNEL, FRAME_MAX)
    for envelope in (
        Envelope(id="1", source=text, name="a.b", queue="mail", body=b""),
        Envelope(id=text, source="shop", name=text, queue="mail", body=b""),
        Envelope(id=text, source="shop", name="\x01\x23\x45\x67\u0089", queue="mail", body=b""),
    ):
        message = message_of(envelope, 1.8e9)

        assert encoder.encoded(message) == by_pika(message)


@given(PLAIN | ENVELOPES, st.floats(0, 4e9))
def test_a_fresh_event_is_written_as_every_event(envelope: Envelope, at: float) -> None:
    message = fresh(envelope, exchange="shop.q", key="mail", enqueued_at=at)

    assert message is None or message == message_of(envelope, at)


def test_a_plain_event_is_fresh() -> None:
    envelope = Envelope(id="1", source="shop", name="a.b", queue="mail", body=b"{}")

    message = fresh(envelope, exchange="shop.q", key="mail", enqueued_at=1.8e9)

    assert message is not None
    assert message.properties["content_type"] == CONTENT_TYPE


# --- confirmations ------------------------------------------------------------------------------------------


def ack(tag: int, *, multiple: bool, channel: int = CHANNEL) -> bytes:
    return bytes(Method(channel, Basic.Ack(tag, multiple)).marshal())


@given(ACKS, st.binary(max_size=25))
def test_confirmations_are_taken_up_to_the_first_other_byte(acks: list[tuple[int, bool]], rest: bytes) -> None:
    found: list[tuple[int, bool]] = []
    data = b"".join(ack(tag, multiple=multiple) for tag, multiple in acks)

    taken = Acks(CHANNEL, lambda tag, multiple: found.append((tag, multiple))).take(data + rest)

    assert taken == len(data)
    assert found == acks


@pytest.mark.parametrize(
    "other",
    [
        ack(1, multiple=False, channel=CHANNEL + 1),
        bytes(Method(CHANNEL, Basic.Nack(1)).marshal()),
        bytes(Heartbeat().marshal()),
        ack(1, multiple=False)[:-1],
        ack(1, multiple=False)[:-1] + b"\0",
        b"",
    ],
    ids=["another channel", "nack", "heartbeat", "a part", "without its end", "nothing"],
)
def test_nothing_else_is_a_confirmation(other: bytes) -> None:
    found: list[int] = []

    assert Acks(CHANNEL, lambda tag, _: found.append(tag)).take(other) == 0
    assert found == []


def test_the_bytes_of_an_ack_are_those_of_the_specification() -> None:
    assert ack(5, multiple=True) == struct.pack(">BHLHHQBB", 1, CHANNEL, 13, 60, 80, 5, 1, 0xCE)


# --- pika alone, if it lacks what is private -----------------------------------------------------------------


def test_this_release_of_pika_has_them(transport: AmqpTransport, envelope: Make) -> None:
    transport.send([envelope(0)])
    assert transport._hub is not None
    connection = transport._hub.publisher._connection
    assert connection is not None
    frames, size = connection._raw.frames_received, connection._raw.bytes_received

    for number in range(50):
        transport.send([envelope(number)])

    assert _TolerantConnection.writes_frames
    assert connection._raw.frames_received - frames < 10, "pika read the confirmations"
    assert connection._raw.bytes_received - size >= len(ack(1, multiple=False)), "pika would miss heartbeats"


@pytest.fixture(params=["writes_frames", "acks", "both"])
def _a_pika_without(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pika write or read what it does itself in a release without its private methods."""
    if request.param in ("writes_frames", "both"):
        monkeypatch.setattr(_TolerantConnection, "writes_frames", False)
    if request.param in ("acks", "both"):
        monkeypatch.setattr(_TolerantConnection, "buffers_bytes", False)


@pytest.mark.usefixtures("_a_pika_without")
def test_without_private_methods_of_pika_all_is_sent_and_refused_as_with_them(
    connect: Connect, transport: AmqpTransport, queue: str, envelope: Make
) -> None:
    narrow = connect(window=3)
    threads = [
        threading.Thread(target=narrow.send, args=([envelope(100 * number + each) for each in range(20)],))
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with pytest.raises(SendError) as caught:
        narrow.send(
            [envelope(1000, body=bytes(300_000)), envelope(1001, queue="never-set-up"), envelope(1002, name="\udc80")]
        )

    assert (caught.value.sent, caught.value.refused, caught.value.unknown) == ((0,), (1, 2), ())
    wanted = [f"id-{100 * number + each}" for number in range(4) for each in range(20)]
    assert sorted(ids(drain(transport, queue, least=81))) == sorted([*wanted, "id-1000"])
