"""
CloudEvents of other programs, as envelopes: pure functions for a transport whose store anyone can write to.

The modes and names are those of the bindings for AMQP, HTTP and Kafka, and of the RabbitMQ binding of both SDKs:
https://github.com/cloudevents/spec/tree/v1.0.2/cloudevents/bindings and
https://github.com/knative-extensions/eventing-rabbitmq/blob/main/cloudevents-protocol-spec/spec.md
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

import msgspec

from relevo._event.codec import attributes_of, check_text, decoded
from relevo._transport.envelope import ForeignEnvelope, Urgency
from relevo.errors import DecodeError, shown

STRUCTURED = "application/cloudevents+json"

_ATTRIBUTE = re.compile(r"(?:cloudEvents[:_]|ce[-_])([a-z0-9]+)", re.IGNORECASE | re.ASCII)
_PARAMETER = re.compile(r';\s*charset\s*=\s*"?([^";\s]*)', re.IGNORECASE)
_UTF_8 = ("", "utf-8", "utf8", "us-ascii")
_TEXTS = frozenset({"id", "source", "type", "specversion", "subject", "dataschema", "datacontenttype"})
_TIMES = frozenset({"time", "expirytime"})
_DATA = "data"
"""Not the name of an attribute."""

_LOW, _HIGH = -(2**63), 2**63 - 1

_encode = msgspec.json.Encoder().encode
_decode_raw = msgspec.json.Decoder(msgspec.Raw).decode
_INVALID = (msgspec.MsgspecError, UnicodeError, RecursionError)
_Instant = Annotated[datetime, msgspec.Meta(tz=True)]


def foreign_envelope(
    content_type: object, headers: Mapping[Any, Any], body: bytes, *, queue: str, kept: object = None
) -> ForeignEnvelope:
    """
    Return a message of another program as an envelope, if it is a CloudEvent.

    In structured mode the body is the event. In binary mode the headers hold its attributes, and a new body is written:
    data in JSON stays byte for byte, other text becomes a string, and all other data ``data_base64``. The extensions
    ``relevourgency``, ``partitionkey`` and ``expirytime`` are the urgency, the ordering key and the expiry.

    Args:
        content_type: That of the message. If it is not text, the header ``content-type`` is used.

        headers: All headers, with values of any type. The names of attributes begin with ``cloudEvents:``,
            ``cloudEvents_``, ``ce-`` or ``ce_``, in upper or lower case. Decode percent-encoded ones of HTTP first.

        body: The body.

        queue: The queue that the message was received from.

        kept: Anything that the transport needs to store the message again as it came; see
            :attr:`relevo.ForeignEnvelope.kept`.

    Raises:
        DecodeError: It is not a CloudEvent 1.0, or has an invalid value; deliver it as :class:`relevo.Unreadable`,
            with this explanation.
    """
    declared = content_type if isinstance(content_type, str) else _text_of(_named(headers))
    media_type, charset = _media_type(declared)
    if media_type == STRUCTURED:
        if charset not in _UTF_8:
            raise DecodeError(f"it is a CloudEvent in the charset {shown(charset)}; expected utf-8")
        event = body
    elif media_type.startswith("application/cloudevents"):
        raise DecodeError(f"it is a CloudEvent in the format {shown(media_type)}; expected {STRUCTURED}")
    else:
        event = _structured(_attributes(headers), declared, body)
    document = decoded(event)
    try:
        found = attributes_of(event)
    except _INVALID as error:
        raise DecodeError(f"not a CloudEvents document: {error}") from error
    return ForeignEnvelope(
        id=document.id,
        source=document.source,
        name=document.type,
        queue=queue,
        body=event,
        urgency=_urgency(found.get("relevourgency")),
        ordering_key=_ordering_key(found.get("partitionkey")),
        expires=_expires(found.get("expirytime")),
        original=body,
        original_headers=headers,
        kept=kept,
    )


# --- the envelope's fields ---------------------------------------------------------------------------------


def _urgency(value: object) -> Urgency:
    match value:
        case None | "" | "normal":
            return "normal"
        case "high":
            return "high"
    raise DecodeError(f"its relevourgency: expected high or normal; got {shown(value)}")


def _ordering_key(value: object) -> str | None:
    if value is None or value == "":
        return None
    if type(value) not in (str, int):
        raise DecodeError(f"its partitionkey: expected text; got {shown(value)}")
    key = str(value)
    check_text("partitionkey", key)
    return key


def _expires(value: object) -> float | None:
    if value is None or value == "":
        return None
    try:
        return msgspec.convert(value, _Instant).timestamp()
    except (msgspec.ValidationError, OverflowError) as error:
        raise DecodeError(f"its expirytime: expected a time of RFC 3339; got {shown(value)}") from error


# --- binary mode ---------------------------------------------------------------------------------------------


def _named(headers: Mapping[Any, Any]) -> object:
    """Return the content type among *headers*."""
    return next((value for name, value in headers.items() if str(name).lower() == "content-type"), None)


def _text_of(value: object) -> str:
    """Return *value* as text; empty if it is neither text nor bytes."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else ""


def _media_type(content_type: str) -> tuple[str, str]:
    """Return the media type and the charset of *content_type*, in lower case; each may be empty."""
    charset = _PARAMETER.search(content_type)
    return content_type.partition(";")[0].strip().lower(), charset[1].lower() if charset else ""


def _attributes(headers: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the attributes in *headers*, as values of JSON."""
    found: dict[str, Any] = {}
    for header, value in headers.items():
        match = _ATTRIBUTE.fullmatch(header) if isinstance(header, str) else None
        name = match[1].lower() if match else _DATA
        attribute = None if name == _DATA else _attribute(name, value)
        if attribute is not None and found.setdefault(name, attribute) != attribute:
            raise DecodeError(f"two of its headers hold the attribute {name}, with different values")
    if not found:
        raise DecodeError(
            f"it is not a CloudEvent; expected the content type {STRUCTURED}, or headers that begin with "
            f"cloudEvents:, cloudEvents_ or ce-"
        )
    return found


def _attribute(name: str, value: object) -> object:
    """Return the *value* of a header as a value of JSON; ``None`` if it is empty."""
    match value:
        case None | "" | b"":
            return None
        case str():
            return value
        case bool():
            return str(value).lower() if name in _TEXTS else value
        case int() if name in _TIMES:  # a timestamp of AMQP 1.0
            return _time(name, value / 1000)
        case int():
            return str(int(value)) if name in _TEXTS or not _LOW <= value <= _HIGH else int(value)
        case datetime():
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat().replace("+00:00", "Z")
        case float() | Decimal():
            return str(value)
        case bytes():
            return _decoded_text(name, value)
    raise DecodeError(f"its attribute {name}: expected text, a number or a time; got {type(value).__name__}")


def _decoded_text(name: str, value: bytes) -> str:
    """Return *value* as text, or in Base64, as the JSON format has binary attributes."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        if name in _TEXTS:
            raise DecodeError(f"its attribute {name} is not text in UTF-8") from None
        return b64encode(value).decode()


def _time(name: str, seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        raise DecodeError(f"its attribute {name} is not a valid date: {shown(seconds)}") from None


def _structured(attributes: dict[str, Any], content_type: str, body: bytes) -> bytes:
    """Return the event with *attributes*, and *body* as its data, as a document in JSON."""
    if content_type:
        attributes["datacontenttype"] = content_type
    declared = str(attributes.get("datacontenttype", ""))
    data = _data(body, *_media_type(declared)) if body else b""
    try:
        document = _encode(attributes)
    except _INVALID as error:
        raise DecodeError(f"one of its attributes is not text: {error}") from error
    return b"%b,%b}" % (document[:-1], data) if data else document


def _data(body: bytes, media_type: str, charset: str) -> bytes:
    """Return *body* as the member of a document: ``data`` if it is JSON or text, else ``data_base64``."""
    is_utf_8 = charset in _UTF_8
    if is_utf_8 and (not media_type or media_type.endswith(("/json", "+json"))):
        try:
            body.decode()
            _decode_raw(body)
        except _INVALID as error:
            if media_type:
                raise DecodeError(f"its data is not {media_type}: {error}") from error
        else:
            return b'"data":%b' % body
    elif is_utf_8 and media_type.startswith("text/"):
        try:
            return b'"data":%b' % _encode(body.decode())
        except UnicodeDecodeError:
            pass
    return b'"data_base64":"%b"' % b64encode(body)
