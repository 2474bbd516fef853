from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import attrs
import pika
import pytest
from hypothesis import HealthCheck, assume, given, settings, strategies as st

from relevo import (
    MAX_ERROR,
    MAX_STATE,
    DeadLetter,
    Delivery,
    Envelope,
    Lost,
    Nack,
    Note,
    Outcome,
    Release,
    Unreadable,
)
from relevo_amqp import _header as header
from relevo_amqp._header import MAX_AHEAD, MAX_OWN, fitting
from relevo_amqp._mapping import (
    DeadLetterDetails,
    Message,
    MessageRecord,
    UnfitError,
    expelled,
    lost_leases,
    postponed,
    read,
    reference,
    suspect_key,
    urgent,
    word_of,
    written,
)
from relevo_amqp._newer import Newer
from relevo_amqp._settlement import message_of
from relevo_amqp._topology import Topology

NOW = 1_795_000_000.25
TEXT_CHARACTERS = st.characters(exclude_categories=["Cs"])
TEXT = st.text(TEXT_CHARACTERS, max_size=255)
TIMES = st.integers(0, 1 << 50).map(lambda micros: micros / 1_000_000)
ENVELOPES = st.builds(
    Envelope,
    id=TEXT,
    source=TEXT,
    name=TEXT,
    queue=st.just("mail"),
    body=st.binary(max_size=300),
    headers=st.dictionaries(TEXT, TEXT, max_size=3),
    urgency=st.sampled_from(["normal", "high"]),
    expires=st.none() | st.floats(allow_nan=False),
)
BRIEF = st.text(TEXT_CHARACTERS, max_size=60)
SHORT = BRIEF | st.binary(max_size=20)
FEW = st.dictionaries(BRIEF, TEXT, max_size=3)
UNREADABLE = st.builds(Unreadable, raw=st.binary(max_size=300), headers=FEW, why=TEXT)
DEATHS = st.builds(DeadLetterDetails, ref=BRIEF, reason=BRIEF, error=TEXT, at=TIMES)
NOTES = st.builds(
    Note,
    by=BRIEF,
    deaths=st.lists(BRIEF, max_size=3).map(tuple),
    listener=st.text(TEXT_CHARACTERS, max_size=500),
    excused=st.booleans(),
)
LIVING = st.builds(
    MessageRecord,
    envelope=ENVELOPES | UNREADABLE,
    queue=st.just("mail"),
    lost_leases=st.integers(0, 1 << 30),
    enqueued_at=TIMES,
    begun=st.none() | NOTES,
    deaths=st.lists(BRIEF, max_size=3).map(tuple),
    suspect=st.just("") | st.builds(suspect_key, TIMES, st.just("0" * 16)),
)
"""A dead letter keeps no evidence."""

PLACES = st.builds(
    header.NotePlace,
    st.builds(suspect_key, TIMES, st.just("0" * 16)) | st.just("plain-" + "0" * 32),
    st.integers(0, (1 << 31) - 1),
)
EXCUSABLE = st.builds(
    lambda record, note, place: attrs.evolve(record, begun=attrs.evolve(note, excused=False), begun_at=place),
    LIVING,
    NOTES,
    PLACES,
)

RECORDS = (
    LIVING
    | EXCUSABLE
    | st.builds(
        MessageRecord,
        envelope=ENVELOPES | UNREADABLE,
        queue=st.just("mail"),
        attempt=st.integers(1, 1 << 30),
        lost_leases=st.integers(0, 1 << 30),
        state=st.binary(max_size=200),
        enqueued_at=TIMES,
        due=st.none() | st.floats(max_value=NOW + MAX_AHEAD, allow_nan=False, allow_infinity=False),
        dead_letter=st.none() | DEATHS,
    )
)


def over_the_wire(message: Message) -> tuple[pika.BasicProperties, bytes]:
    """Encode and decode as pika does on its way through a server."""
    encoded = b"".join(pika.BasicProperties(**message.properties).encode())
    properties = pika.BasicProperties()
    properties.decode(encoded)
    return properties, message.body


@given(RECORDS, st.booleans())
def test_whatever_is_written_is_read_again(record: MessageRecord, delayed: bool) -> None:  # noqa: FBT001
    message = written(record, exchange="e", key="k", delayed=delayed)

    assert read(*over_the_wire(message), queue="mail", now=NOW) == record


@given(EXCUSABLE, NOTES)
def test_an_excuse_counts_for_the_process_that_began_whatever_listener_it_names(
    record: MessageRecord, note: Note
) -> None:
    assert record.begun is not None
    excuse = attrs.evolve(note, by=record.begun.by, excused=True)

    assert record.excused_by(excuse) == attrs.evolve(record, begun=attrs.evolve(record.begun, excused=True))
    for other in (attrs.evolve(excuse, by=f"{excuse.by}+"), attrs.evolve(excuse, excused=False), None):
        assert record.excused_by(other) is record


@given(RECORDS)
def test_an_urgent_event_is_urgent_on_the_way_and_in_a_delay_only_for_us(record: MessageRecord) -> None:
    high = isinstance(record.envelope, Envelope) and record.envelope.urgency == "high"

    direct, _ = over_the_wire(written(record, exchange="e", key="k"))
    delayed, _ = over_the_wire(written(record, exchange="e", key="k", delayed=True))

    assert direct.priority == (9 if high else None)
    assert delayed.priority is None
    assert urgent(direct) == urgent(delayed) == high


def test_an_event_that_was_just_sent_has_two_headers() -> None:
    envelope = Envelope(id="i", source="s", name="n", body=b"{}")

    message = written(MessageRecord(envelope=envelope, queue="default", enqueued_at=NOW), exchange="e", key="k")

    assert message.properties["headers"] == {"relevo": 1, "relevo-at": 1_795_000_000_250_000}
    assert (message.properties["message_id"], message.properties["type"], message.properties["app_id"]) == (
        "i",
        "n",
        "s",
    )
    assert message.properties["content_type"] == "application/cloudevents+json"
    assert message.properties["delivery_mode"] == 2


LONG = st.builds(
    lambda unit, size: unit * (size // len(unit.encode())),
    st.sampled_from(["x", "\x01", "é", "\U0001f600", '"', "[", '{"a": "']),
    st.integers(1000, 110_000),
)
WILD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.sampled_from([(1 << 63) - 1, 1 << 62, -(1 << 63), 0, 1])
    | TEXT
    | st.sampled_from(["inf", "-inf", "nan", "1e300", "1e18", "-1e300", "high", '{"a": "b"}', '{"a": "\\ud800"}'])
    | st.binary(max_size=50)
    | st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31)).map(lambda at: at.replace(tzinfo=UTC, microsecond=0))  # noqa: DTZ001
    | st.decimals(-1000, 1000, places=2),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(TEXT_CHARACTERS, max_size=20), inner, max_size=3)
    ),
    max_leaves=10,
)
NAMES = st.sampled_from(
    [
        *(value for name, value in vars(header).items() if name.isupper() and str(value).startswith(("relevo-", "x-"))),
        "x-death",
        "CC",
        "other",
    ]
)
WORST: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [
        {"relevo-state": b"s" * 120_500},
        {"relevo-at": (1 << 63) - 1},
        {"relevo-queue": "q" * 110_000},
        {"relevo-id": "i" * 110_000},
        {"relevo-headers": '{"a": "' + "\U0001f600" * 25_000 + '"}'},
        {"relevo-headers": '{"a": "\\ud800"}'},
        {"relevo-unreadable": "w" * 110_000},
        {"relevo-unreadable": "w", "relevo-headers": '{"a": "' + "\x7f" * 60_000 + '"}'},
        {"relevo-ref": "r" * 60_000, "relevo-reason": "r" * 30_000, "relevo-error": "e" * 30_000},
        {"relevo-begun": "[" * 110_000},
        {"relevo-begun": '["\\ud800",[],"",false]'},
        {"relevo-begun": '["by",["one","two"],"",false]', "relevo-deaths": ["d" * 30_000] * 3},
        {"relevo-deaths": ["d"] * 1000},
        {"relevo-deaths": [1, None, b"d", ["d"], "d"]},
        {"relevo-suspect": "f" * 16 + "-" + "0" * 64},
        {"relevo-suspect": "0" * 110_000},
        {"relevo-begun": '["by",[],"",false]', "relevo-begun-at": "9999999999@plain-" + "0" * 32},
        {"relevo-begun": '["by",[],"",false]', "relevo-begun-at": "0@" + "f" * 16 + "-" + "0" * 64},
        {"relevo-begun": '["by",[],"",false]', "relevo-begun-at": "0" * 110_000},
        {"relevo-begun-at": "0@plain-" + "0" * 32},
        {"relevo-due": "1e300"},
        {"relevo-expires": "nan"},
        {"other": "\x01" * 110_000},
    ]
)
FIT_IN_A_FRAME = 125_000
VERSIONS = st.none() | st.sampled_from([1, 1, 2, 3, 0, -1, 1 << 62, True, "1"])


@st.composite
def tampered(draw: st.DrawFn) -> pika.BasicProperties:
    """Return properties as the driver decodes them, with any content."""
    sound = draw(st.booleans())  # but for one header
    headers: dict[str, Any] = {} if sound else dict(draw(st.dictionaries(NAMES, WILD, max_size=4)))
    headers.update(draw(WORST | st.dictionaries(NAMES, LONG | LONG.map(str.encode), max_size=1)))
    version = draw(st.sampled_from([1, 2]) if sound else VERSIONS)
    if version is not None:
        headers["relevo"] = version
    text = st.just("said") if sound else st.just("said") | st.none() | SHORT
    properties = pika.BasicProperties(
        content_type=draw(st.none() | SHORT),
        message_id=draw(text),
        type=draw(text),
        app_id=draw(text),
        priority=draw(st.none() | st.integers(0, 255)),
        headers=headers,
    )
    encoded = b"".join(properties.encode())
    assume(len(encoded) < FIT_IN_A_FRAME)
    decoded = pika.BasicProperties()
    decoded.decode(encoded)
    return decoded


OUTCOMES = st.sampled_from(
    [
        Nack(state=b"s" * MAX_STATE),
        Nack(delay=1.0),
        Nack(delay=1e6),
        Release(),
        Release(delay=1.0),
        Lost(),
        Lost(death="d" * 2000),
        DeadLetter(reason="r" * 300, error="é" * MAX_ERROR, state=b"s" * MAX_STATE),
    ]
)


def moved(record: MessageRecord) -> Message:
    """Return the message by which a receiver moves *record* that it may not hand out."""
    postponed_, wait = postponed(record, NOW, patience=10.0)
    return written(postponed_, exchange="e", key="k", delayed=wait > 0.0)


def settled(record: MessageRecord, outcome: Outcome) -> Message:
    """Return what is published when *record* was handed out and ended as *outcome* says."""
    delivery = Delivery(
        envelope=record.envelope,
        queue=record.queue,
        attempt=record.attempt,
        lost_leases=record.lost_leases,
        begun=record.begun,
        deaths=record.deaths,
        receipt=None,
        state=record.state,
        enqueued_at=record.enqueued_at,
    )
    message = message_of(
        delivery,
        outcome,
        topology=Topology("relevo"),
        now=NOW,
        unique="0" * 16,
        begun_at=record.excusable_at,
    )
    assert message is not None
    return message


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
@given(tampered(), st.binary(max_size=100), st.integers(0, 3), OUTCOMES)
def test_whatever_others_send_is_read_and_can_be_moved_and_settled_and_is_read_again(
    properties: Any, body: bytes, lost: int, outcome: Outcome
) -> None:
    record = read(properties, body, queue="mail", now=NOW).lost(lost)

    assert lost_leases(properties) >= 0
    assert record.attempt >= 1
    assert record.lost_leases >= lost
    assert len(record.state) <= MAX_STATE
    assert len(record.queue.encode()) <= header.MAX_QUEUE
    assert len(record.deaths) <= 3
    assert all(len(death.encode()) <= header.MAX_DEATH for death in record.deaths)
    assert record.begun is None or len(record.begun.packed()) <= header.MAX_NOTE
    assert not record.suspect or header.suspected_at(record.suspect) >= 0
    assert record.begun_at is None or header.noted_since(record.begun_at.key, record.enqueued_at) >= 0
    assert isinstance(record.envelope, Envelope) or len(record.envelope.why.encode()) <= header.MAX_WHY
    assert record.due is None or record.due < NOW + 101 * 366 * 86_400
    assert urgent(properties) in (True, False)
    assert expelled(properties, body, word="mail", now=NOW).ref.startswith("mail/")
    for message in (moved(record), settled(record, outcome)):
        assert 20 + len(b"".join(pika.BasicProperties(**message.properties).encode())) <= 128 * 1024
        assert message.body == body
        again = read(*over_the_wire(message), queue=record.queue, now=NOW)
        assert type(again.envelope) is type(record.envelope)
        if isinstance(record.envelope, Newer):
            assert isinstance(again.envelope, Newer)
            assert own_headers(again.envelope) == own_headers(record.envelope)
        else:
            assert again.envelope == record.envelope
        assert again.lost_leases >= min(record.lost_leases, 1)
        once_more = written(again, exchange="e", key="k")
        assert read(*over_the_wire(once_more), queue=record.queue, now=NOW) == again


def own_headers(event: Newer) -> dict[str, object]:
    """Return the headers that only the sender writes."""
    changing = {"relevo-attempt", "relevo-lost-leases", "relevo-queue", "relevo-due", "relevo-urgency"}
    return {name: value for name, value in event.came_with["headers"].items() if name not in changing}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (None, 0),
        ({}, 0),
        ({"x-delivery-count": 2}, 2),
        ({"x-delivery-count": 1, "x-acquired-count": 3}, 3),  # 4.3: a time-out is only in the second
        ({"x-delivery-count": "many"}, 0),
        ({"x-delivery-count": -1}, 0),
        ({"x-delivery-count": True}, 0),
        ({"x-delivery-count": 1 << 62}, 0),
    ],
)
def test_lost_leases_are_what_the_server_counted(headers: dict[str, object] | None, expected: int) -> None:
    assert lost_leases(pika.BasicProperties(headers=headers)) == expected


@pytest.mark.parametrize(
    "envelope",
    [
        Envelope(id="lone \udc80", source="s", name="n", body=b""),
        Envelope(id="i", source="s", name="n", body=b"", headers={"h": "x" * MAX_OWN}),
        Envelope(id="i", source="s", name="n", body=b"", headers={"h": "\ud800"}),
        Envelope(id="i", source="s", name="n", body=b"", headers={"\udfff": "h"}),
    ],
)
def test_what_has_no_form_is_refused(envelope: Envelope) -> None:
    with pytest.raises(UnfitError):
        written(MessageRecord(envelope=envelope, queue="mail", enqueued_at=NOW), exchange="e", key="k")


@given(st.text(max_size=300), st.integers(10, 100))
def test_a_text_is_made_to_fit_and_to_encode(text: str, limit: int) -> None:
    result = fitting(text, limit)

    assert len(result.encode("utf-8")) <= limit
    if len(text.encode("utf-8", "backslashreplace")) <= limit and not any("\ud800" <= c <= "\udfff" for c in text):
        assert result == text


@given(TIMES, TIMES)
def test_refs_sort_by_the_time_of_death(one: float, other: float) -> None:
    refs = [reference("mail%2Eeu", at, "x") for at in (one, other)]

    assert (refs[0] <= refs[1]) == (one <= other)
    assert {word_of(ref) for ref in refs} == {"mail%2Eeu"}


@pytest.mark.parametrize("ref", ["", "none", "/", "a/", "a/b/c", "/x", "a b/1", "\ud800/1", "x" * 101 + "/1"])
def test_what_is_no_ref_names_no_queue(ref: str) -> None:
    assert word_of(ref) is None


def test_what_the_server_put_aside_by_itself_has_a_ref_that_stays_the_same() -> None:
    death = {"reason": "delivery_limit", "time": datetime(2026, 11, 24, tzinfo=UTC), "queue": "q", "count": 1}
    properties = pika.BasicProperties(message_id="i", headers={"x-death": [death]})

    one = expelled(properties, b"x", word="mail", now=NOW)
    other = expelled(properties, b"x", word="mail", now=NOW + 100)

    assert one == other
    assert one.reason == "server-delivery-limit"
    assert one.at == death["time"].timestamp()  # type: ignore[attr-defined]


def test_an_expiry_that_is_infinite_survives() -> None:
    envelope = Envelope(id="i", source="s", name="n", queue="mail", body=b"", expires=math.inf)

    message = written(MessageRecord(envelope=envelope, queue="mail", enqueued_at=NOW), exchange="e", key="k")

    assert read(*over_the_wire(message), queue="mail", now=NOW).envelope == envelope
