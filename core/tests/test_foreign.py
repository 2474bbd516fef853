"""CloudEvents of other programs, read from messages and headers of any kind; and no input raises anything else."""

from __future__ import annotations

import copy
import json
import pickle
from base64 import b64decode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, strategies as st

from relevo import DeadLetterEntry, Envelope, ForeignEnvelope
from relevo._event.codec import decoded, generic
from relevo.backend import foreign_envelope
from relevo.cli._event import body_of, dead_row
from relevo.errors import DecodeError
from relevo_memory import MemoryTransport

STRUCTURED = "application/cloudevents+json"
ATTRIBUTES: Mapping[str, str] = {"id": "17", "source": "/cam", "type": "image.created", "specversion": "1.0"}


def binary(prefix: str = "ce-", /, **changes: Any) -> dict[str, Any]:
    """Return the headers of an event in binary mode."""
    return {f"{prefix}{name}": value for name, value in {**ATTRIBUTES, **changes}.items() if value is not ...}


def structured(**changes: Any) -> bytes:
    return json.dumps({name: value for name, value in {**ATTRIBUTES, **changes}.items() if value is not ...}).encode()


def read(
    content_type: object = "application/json", headers: Mapping[Any, Any] | None = None, body: bytes = b"{}"
) -> ForeignEnvelope:
    return foreign_envelope(content_type, binary() if headers is None else headers, body, queue="mail")


def document(envelope: Envelope) -> Any:
    return json.loads(envelope.body)


def arguments(envelope: Envelope) -> Mapping[str, Any]:
    return generic(decoded(envelope.body)).arguments


# --- the modes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content_type",
    [
        STRUCTURED,
        "Application/CloudEvents+JSON",
        f"{STRUCTURED}; charset=utf-8",
        f'{STRUCTURED};x=y; Charset="UTF-8"',
        f"{STRUCTURED};charset=us-ascii",
    ],
)
def test_an_event_in_structured_mode_stays_byte_for_byte(content_type: str) -> None:
    body = structured(data={"a": [1, 2.50]}, extension="x").replace(b", ", b",\n ")

    envelope = read(content_type, {}, body)

    assert envelope.body is envelope.original is body
    assert (envelope.id, envelope.source, envelope.name, envelope.queue) == ("17", "/cam", "image.created", "mail")
    assert (envelope.urgency, envelope.ordering_key, envelope.expires) == ("normal", None, None)


@pytest.mark.parametrize("prefix", ["cloudEvents:", "cloudEvents_", "ce-", "ce_", "CE-", "Ce-", "CLOUDEVENTS:"])
def test_an_event_in_binary_mode_becomes_a_document(prefix: str) -> None:
    headers = binary(prefix, subject="cat.jpg", tenant="eu", unrelated=...)

    envelope = read("application/json; charset=utf-8", headers, b'{"a": 1.50}')

    assert envelope.body == (
        b'{"id":"17","source":"/cam","type":"image.created","specversion":"1.0","subject":"cat.jpg","tenant":"eu",'
        b'"datacontenttype":"application/json; charset=utf-8","data":{"a": 1.50}}'
    )
    assert (envelope.id, envelope.source, envelope.name) == ("17", "/cam", "image.created")
    assert (envelope.original, envelope.original_headers) == (b'{"a": 1.50}', headers)


def test_names_in_upper_case_are_the_same_attribute() -> None:
    headers = {"CE-ID": "17", "ce-Source": "/cam", "Cloudevents:TYPE": "image.created", "ce_specversion": "1.0"}

    assert read(headers=headers) == read(headers=headers)
    assert document(read(headers=headers))["type"] == "image.created"


def test_the_content_type_may_be_a_header() -> None:
    # amqplib takes the headers that the JavaScript SDK returns
    assert read(None, {"content-type": STRUCTURED}, structured()).id == "17"
    assert read(b"x", {"Content-Type": STRUCTURED.encode()}, structured()).id == "17"
    assert document(read(None, {**binary(), "content-type": "text/plain"}, b"x"))["data"] == "x"
    assert document(read("text/a", {**binary(), "content-type": "text/b"}, b"x"))["datacontenttype"] == "text/a"
    assert document(read(None, binary(datacontenttype="text/plain"), b"x"))["data"] == "x"


def test_a_document_takes_precedence_over_headers() -> None:
    # "Implementations MAY include the same headers as defined for the binary mode."
    envelope = read(STRUCTURED, binary(id="other", type="b.c"), structured())

    assert (envelope.id, envelope.name) == ("17", "image.created")


@pytest.mark.parametrize(
    "content_type, headers, body, why",
    [
        (None, {}, b"", "it is not a CloudEvent; expected the content type application/cloudevents"),
        ("application/json", {"id": "17", "type": "a.b"}, structured(), "it is not a CloudEvent"),
        ("application/json", {"ce-": "x", "ce--id": "1", "cloudEvents": "y", b"ce-id": "1"}, b"", "not a CloudEvent"),
        (f"{STRUCTURED}; charset=utf-16", {}, structured(), "in the charset 'utf-16'; expected utf-8"),
        ("application/cloudevents-batch+json", {}, b"[]", "in the format 'application/cloudevents-batch"),
        ("application/cloudevents+avro", binary(), b"", "in the format 'application/cloudevents"),
        (STRUCTURED, {}, b"", "not a CloudEvents document"),
        (STRUCTURED, {}, b"\xef\xbb\xbf" + structured(), "not a CloudEvents document"),
        (STRUCTURED, {}, structured()[:-1] + b',"x":"\xff"}', "not a CloudEvents document"),
        (STRUCTURED, {}, structured(id=...), "missing required field `id`"),
        (STRUCTURED, {}, structured(specversion="0.3"), "unknown CloudEvents version '0.3'"),
        (STRUCTURED, {}, structured(specversion=...), "missing required field `specversion`"),
        (STRUCTURED, {}, structured(source=""), "an empty id, source or type"),
        (STRUCTURED, {}, structured(id=17), "not a CloudEvents document"),
        (STRUCTURED, {}, structured(id="i" * 256), "its id has 256 characters; at most 255"),
        (STRUCTURED, {}, structured(source="a\0b"), "its source holds a control character"),
        (STRUCTURED, {}, structured(type="a\nb"), "its type holds a control character"),
        (STRUCTURED, {}, structured(id="\x9b"), "its id holds a control character"),
        (STRUCTURED, {}, structured(id="\ud800"), "not a CloudEvents document"),
        (STRUCTURED, {}, structured(data=1, data_base64="YQ=="), "both data and data_base64"),
        (STRUCTURED, {}, structured(data_base64="?"), "is not Base64"),
        (STRUCTURED, {}, structured(relevourgency="hihg"), "its relevourgency: expected high or normal; got 'hihg'"),
        (STRUCTURED, {}, structured(partitionkey=[1]), "its partitionkey: expected text"),
        (STRUCTURED, {}, structured(partitionkey="k" * 256), "its partitionkey has 256 characters"),
        (STRUCTURED, {}, structured(expirytime="soon"), "its expirytime: expected a time of RFC 3339; got 'soon'"),
        (STRUCTURED, {}, structured(expirytime="2026-01-01T00:00:00"), "its expirytime: expected a time"),
        (STRUCTURED, {}, structured(expirytime=5), "its expirytime: expected a time"),
        ("text/plain", binary(id=...), b"", "missing required field `id`"),
        ("text/plain", binary(id=""), b"", "missing required field `id`"),
        ("text/plain", binary(specversion="0.3"), b"", "unknown CloudEvents version '0.3'"),
        ("text/plain", binary(specversion=...), b"", "missing required field `specversion`"),
        ("text/plain", {**binary(), "CE-ID": "18"}, b"", "two of its headers hold the attribute id"),
        ("text/plain", {**binary(), "cloudEvents:id": "18"}, b"", "two of its headers hold the attribute id"),
        ("text/plain", binary(extension={"a": 1}), b"", "its attribute extension: expected text, .*; got dict"),
        ("text/plain", binary(extension=["a"]), b"", "its attribute extension: expected text, .*; got list"),
        ("text/plain", binary(id=b"\xff"), b"", "its attribute id is not text in UTF-8"),
        ("text/plain", binary(time=1 << 62), b"", "its attribute time is not a valid date"),
        ("text/plain", binary(extension="\ud800"), b"", "one of its attributes is not text"),
        ("application/json", binary(), b"{", "its data is not application/json: "),
        ("application/json", binary(), b"hello", "its data is not application/json: "),
        ("a/b+json", binary(), b'"\xff"', "its data is not a/b"),
        ("application/json", binary(), b'1,"id":"18"', "its data is not application/json: "),
        ("application/json", binary(), b"[" * 100_000, "its data is not application/json: "),
    ],
    ids=range(43),
)
def test_what_is_no_event_is_explained(content_type: object, headers: Mapping[Any, Any], body: bytes, why: str) -> None:
    with pytest.raises(DecodeError, match=why):
        read(content_type, headers, body)


# --- values of headers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, value, expected",
    [
        ("time", "2026-11-18T11:06:40Z", "2026-11-18T11:06:40Z"),
        ("time", 1_795_000_000_123, "2026-11-18T11:06:40.123Z"),  # milliseconds: AMQP 1.0, and the Python SDK
        ("time", datetime(2026, 11, 18, 11, 6, 40, tzinfo=UTC), "2026-11-18T11:06:40Z"),
        ("time", datetime(2026, 11, 18, 11, 6, 40), "2026-11-18T11:06:40Z"),  # noqa: DTZ001 - a driver may return it
        ("time", datetime(2026, 11, 18, tzinfo=timezone(timedelta(hours=1))), "2026-11-18T00:00:00+01:00"),
        ("id", 5, "5"),
        ("subject", True, "true"),
        ("subject", b"caf\xc3\xa9", "café"),
        ("extension", b"\xff\x00", "/wA="),
        ("extension", 5, 5),
        ("extension", True, True),
        ("extension", 1 << 64, str(1 << 64)),
        ("extension", 1.5, "1.5"),
        ("extension", float("nan"), "nan"),
        ("extension", Decimal("1.50"), "1.50"),
        ("extension", "", None),
        ("extension", None, None),
        ("extension", b"", None),
        ("data", '{"a":2}', {}),
        ("data_base64", "eyJhIjoxfQ==", None),
        ("under_score", "x", None),
    ],
    ids=range(21),
)
def test_a_header_of_any_type_has_a_form_in_json(name: str, value: object, expected: object) -> None:
    assert document(read(headers=binary(**{name: value}))).get(name) == expected


# --- data -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content_type, data, expected",
    [
        ("application/json", b'{"a": 1}', {"a": 1}),
        ("application/json", b" [1, 2] ", {"data": [1, 2]}),
        ("application/vnd.x+json", b'"text"', {"data": "text"}),
        ("application/json", b"null", {}),
        ("application/json", b"", {}),
        ("application/json; charset=iso-8859-1", b'{"a": "\xe9"}', {"data": b'{"a": "\xe9"}'}),
        (None, b'{"a": 1}', {"a": 1}),
        (None, b"5", {"data": 5}),
        (None, b"hello", {"data": b"hello"}),
        (None, b"\x89PNG", {"data": b"\x89PNG"}),
        ("text/plain", b'caf\xc3\xa9 "x"', {"data": 'café "x"'}),
        ("text/plain; charset=latin-1", b"caf\xe9", {"data": b"caf\xe9"}),
        ("text/plain", b"caf\xe9", {"data": b"caf\xe9"}),
        ("text/csv", b"5", {"data": "5"}),
        ("application/xml", b"<a/>", {"data": b"<a/>"}),
        ("image/png", b"\x89PNG", {"data": b"\x89PNG"}),
        ("", b"\x00", {"data": b"\x00"}),
    ],
    ids=range(17),
)
def test_data_of_each_kind(content_type: str | None, data: bytes, expected: Mapping[str, Any]) -> None:
    assert arguments(read(content_type, None, data)) == expected


@given(st.binary(min_size=1))
def test_binary_data_is_read_back_exactly(data: bytes) -> None:
    envelope = read("application/octet-stream", None, data)

    assert b64decode(document(envelope)["data_base64"]) == data
    assert arguments(envelope) == {"data": data}


@pytest.mark.lengthy("tries many cases")
@given(st.text(min_size=1))
def test_text_is_read_back_exactly(data: str) -> None:
    raw = data.encode("utf-8", "replace")

    assert arguments(read("text/plain", None, raw)) == {"data": raw.decode()}


def test_large_data_is_no_obstacle() -> None:
    data = b"\xff" * (5 << 20)

    assert arguments(read("image/png", None, data)) == {"data": data}


# --- what a transport needs -------------------------------------------------------------------------------------


def test_extensions_are_the_urgency_the_ordering_key_and_the_expiry() -> None:
    extensions = {"relevourgency": "high", "partitionkey": "cat 7", "expirytime": "2026-11-18T12:06:40.5+01:00"}

    for envelope in (read(STRUCTURED, {}, structured(**extensions)), read(headers=binary(**extensions))):
        assert (envelope.urgency, envelope.ordering_key, envelope.expires) == ("high", "cat 7", 1_795_000_000.5)


@pytest.mark.parametrize("extensions", [{"relevourgency": "normal"}, {"partitionkey": None}, {"expirytime": ""}])
def test_an_extension_that_says_nothing_is_none(extensions: Mapping[str, Any]) -> None:
    envelope = read(STRUCTURED, {}, structured(**extensions))

    assert (envelope.urgency, envelope.ordering_key, envelope.expires) == ("normal", None, None)


def test_a_number_is_a_key() -> None:
    assert read(STRUCTURED, {}, structured(partitionkey=7)).ordering_key == "7"
    assert read(headers=binary(partitionkey=7)).ordering_key == "7"


@pytest.mark.parametrize("subject", ["cat.jpg", "a/b/c", "/", "%", "%ff/1", "\0", "\n", "x" * 5000, "é/ß", "a//b", " "])
def test_any_text_is_a_subject(subject: str) -> None:
    for envelope in (read(STRUCTURED, {}, structured(subject=subject)), read(headers=binary(subject=subject))):
        generic(decoded(envelope.body))
        assert document(envelope)["subject"] == subject


@pytest.mark.parametrize("journey", [lambda one: pickle.loads(pickle.dumps(one)), copy.copy, copy.deepcopy])  # noqa: S301
def test_a_copy_is_an_envelope(journey: Any) -> None:
    envelope = foreign_envelope("text/plain", binary(relevourgency="high"), b"x", queue="mail", kept=lambda: None)

    again = journey(envelope)

    assert type(again) is Envelope
    assert again.body == envelope.body
    assert (again.id, again.queue, again.urgency, again.headers) == ("17", "mail", "high", {})


def test_a_dead_letter_is_shown_with_what_came() -> None:
    envelope = read("text/plain", {**binary(), "x": 5}, b"caf\xc3\xa9")
    entry = DeadLetterEntry(
        ref="1",
        queue="mail",
        envelope=envelope,
        reason="gave-up",
        error="",
        state=b"",
        attempt=1,
        lost_leases=0,
        enqueued_at=0.0,
        died_at=0.0,
    )

    row = dead_row(MemoryTransport(), entry)

    assert (row["event"], row["id"], row["body"], row["size"]) == ("image.created", "17", "café", 5)
    assert row["headers"] == {**binary(), "x": "5"}
    assert body_of(entry) == b"caf\xc3\xa9"


# --- hostile input ------------------------------------------------------------------------------------------------

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.decimals()
    | st.binary()
    | st.text(st.characters())
    | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
prefixes = st.sampled_from(["cloudEvents:", "cloudEvents_", "ce-", "ce_", "CE-", ""])
known = "time subject data data_base64 datacontenttype dataversion relevocontext relevourgency partitionkey expirytime"
attributes = st.sampled_from([*ATTRIBUTES, *known.split(), "correlationid", "x", ""])
content_types = st.sampled_from(
    [STRUCTURED, f"{STRUCTURED}; charset=x", "application/json", "text/plain", "image/png", "", None]
)


@given(
    content_types | anything,
    st.dictionaries(st.builds(str.__add__, prefixes, attributes) | st.text() | st.binary(), anything, max_size=6),
    st.sampled_from([{}, binary()]),
    st.binary() | anything.map(lambda value: json.dumps(value, default=str).encode("utf-8", "backslashreplace")),
)
def test_whatever_comes_is_an_event_or_explained(
    content_type: object, headers: dict[Any, Any], valid: dict[str, Any], body: bytes
) -> None:
    try:
        envelope = read(content_type, {**valid, **headers}, body)
    except DecodeError:
        pass
    else:
        found = decoded(envelope.body)
        assert (found.id, found.source, found.type) == (envelope.id, envelope.source, envelope.name)
        assert envelope.original == body


@given(st.dictionaries(attributes.filter(bool), anything, max_size=6))
def test_whatever_document_comes_is_an_event_or_explained(members: dict[str, Any]) -> None:
    body = json.dumps({**ATTRIBUTES, **members}, default=str).encode("utf-8", "backslashreplace")

    try:
        envelope = read(STRUCTURED, {}, body)
    except DecodeError:
        pass
    else:
        assert envelope.body == body
