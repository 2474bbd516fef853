from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import attrs
import pika
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from relevo import Envelope, Unreadable
from relevo_amqp._mapping import (
    MAX_HEADERS,
    Death,
    Parcel,
    Record,
    UnfitError,
    expelled,
    fitting,
    losses,
    read,
    reference,
    urgent,
    word_of,
    written,
)

NOW = 1_795_000_000.25

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=255)
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
FEW = st.dictionaries(TEXT, TEXT, max_size=3)
UNREADABLE = st.builds(Unreadable, raw=st.binary(max_size=300), headers=FEW, why=TEXT)
DEATHS = st.builds(Death, ref=TEXT, reason=TEXT, error=TEXT, at=TIMES)
RECORDS = st.builds(
    Record,
    envelope=ENVELOPES | UNREADABLE,
    queue=st.just("mail"),
    attempt=st.integers(1, 1 << 30),
    losses=st.integers(0, 1 << 30),
    state=st.binary(max_size=200),
    enqueued_at=TIMES,
    due=st.none() | st.floats(allow_nan=False),
    death=st.none() | DEATHS,
)


def over_the_wire(parcel: Parcel) -> tuple[pika.BasicProperties, bytes]:
    """Encode and decode as pika does on its way through a server."""
    encoded = b"".join(pika.BasicProperties(**parcel.properties).encode())
    properties = pika.BasicProperties()
    properties.decode(encoded)
    return properties, parcel.body


@given(RECORDS, st.booleans())
def test_whatever_is_written_is_read_again(record: Record, delayed: bool) -> None:  # noqa: FBT001
    parcel = written(record, exchange="e", key="k", delayed=delayed)

    assert read(*over_the_wire(parcel), queue="mail", now=NOW) == record


@given(RECORDS)
def test_an_urgent_event_is_urgent_on_the_way_and_in_a_delay_only_for_us(record: Record) -> None:
    high = isinstance(record.envelope, Envelope) and record.envelope.urgency == "high"

    direct, _ = over_the_wire(written(record, exchange="e", key="k"))
    delayed, _ = over_the_wire(written(record, exchange="e", key="k", delayed=True))

    assert direct.priority == (9 if high else None)
    assert delayed.priority is None
    assert urgent(direct) == urgent(delayed) == high


def test_an_event_that_was_just_sent_has_two_headers() -> None:
    envelope = Envelope(id="i", source="s", name="n", body=b"{}")

    parcel = written(Record(envelope=envelope, queue="default", enqueued_at=NOW), exchange="e", key="k")

    assert parcel.properties["headers"] == {"relevo": 1, "relevo-at": 1_795_000_000_250_000}
    assert (parcel.properties["message_id"], parcel.properties["type"], parcel.properties["app_id"]) == ("i", "n", "s")
    assert parcel.properties["content_type"] == "application/cloudevents+json"
    assert parcel.properties["delivery_mode"] == 2


WILD = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1) | TEXT | st.binary(max_size=50),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=20), inner, max_size=3),
    max_leaves=10,
)
NAMES = st.sampled_from(
    [
        "relevo",
        "relevo-at",
        "relevo-attempt",
        "relevo-losses",
        "relevo-state",
        "relevo-due",
        "relevo-queue",
        "relevo-urgency",
        "relevo-expires",
        "relevo-headers",
        "relevo-unreadable",
        "relevo-ref",
        "relevo-died-at",
        "relevo-id",
        "relevo-name",
        "x-delivery-count",
        "x-acquired-count",
        "x-death",
        "other",
    ]
)
FOREIGN = st.builds(
    pika.BasicProperties,
    content_type=st.none() | TEXT | st.binary(max_size=20),
    message_id=st.none() | TEXT | st.binary(max_size=20),
    type=st.none() | TEXT,
    app_id=st.none() | TEXT,
    priority=st.none() | st.integers(0, 255),
    headers=st.none() | st.dictionaries(NAMES, WILD, max_size=8),
)


@settings(suppress_health_check=[HealthCheck.too_slow])  # of drawing, on a busy machine
@given(FOREIGN, st.binary(max_size=100))
def test_nothing_that_others_send_makes_reading_fail(properties: Any, body: bytes) -> None:
    record = read(properties, body, queue="mail", now=NOW)

    assert losses(properties) >= 0
    assert record.attempt >= 1
    assert record.losses >= 0
    assert isinstance(record.envelope, (Envelope, Unreadable))
    assert urgent(properties) in (True, False)
    assert expelled(properties, body, word="mail", now=NOW).ref.startswith("mail/")
    # and it can be put aside again, as what it is
    parcel = written(attrs.evolve(record, queue="mail"), exchange="e", key="k")
    again = read(*over_the_wire(parcel), queue="mail", now=NOW)
    assert again.envelope == record.envelope or isinstance(record.envelope, Envelope)


def test_a_newer_version_on_the_wire_is_not_taken_for_ours() -> None:
    properties = pika.BasicProperties(message_id="i", type="n", app_id="s", headers={"relevo": 2, "relevo-at": 1})

    envelope = read(properties, b"{}", queue="mail", now=NOW).envelope

    assert isinstance(envelope, Unreadable)
    assert "version 2" in envelope.why


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
def test_losses_are_what_the_server_counted(headers: dict[str, object] | None, expected: int) -> None:
    assert losses(pika.BasicProperties(headers=headers)) == expected


@pytest.mark.parametrize(
    "envelope",
    [
        Envelope(id="lone \udc80", source="s", name="n", body=b""),
        Envelope(id="i", source="s", name="n", body=b"", headers={"h": "x" * MAX_HEADERS}),
    ],
)
def test_what_has_no_form_is_refused(envelope: Envelope) -> None:
    with pytest.raises(UnfitError):
        written(Record(envelope=envelope, queue="mail", enqueued_at=NOW), exchange="e", key="k")


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


@pytest.mark.parametrize("ref", ["", "none", "/", "a/", "a/b/c", "/x"])
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

    parcel = written(Record(envelope=envelope, queue="mail", enqueued_at=NOW), exchange="e", key="k")

    assert read(*over_the_wire(parcel), queue="mail", now=NOW).envelope == envelope
