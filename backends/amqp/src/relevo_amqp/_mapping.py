"""
How an event and what relevo knows of it look on the wire.

The properties that AMQP has are used: message id, type, application id, priority, timestamp. The rest
stands in a few headers, of which an event that was just sent has two. Pure functions of values; any
object with pika's attributes is good enough to read from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from types import MappingProxyType
from typing import Any, Protocol

import attrs

from relevo import Envelope, Unreadable

NO_HEADERS: Mapping[str, str] = MappingProxyType({})
WIRE_VERSION = 1
CONTENT_TYPE = "application/cloudevents+json"
HIGH_PRIORITY = 9
"""Above every default: below 4.3 there are two classes from 5 on, later 32 levels and 4 is the default."""

MAX_SHORT = 255
"""Bytes in a short string of AMQP."""

MAX_HEADERS = 120_000
"""Bytes; all headers must fit into one frame of 128 KiB, else the server closes the connection."""

MAX_FOREIGN = 32 * 1024
"""Bytes of foreign headers that are kept."""

MAX_ERROR = 16 * 1024
MAX_REASON = 255
MAX_WHY = 1000

# The headers; those that are not said have their default.
VERSION, SENT_AT, QUEUE = "relevo", "relevo-at", "relevo-queue"
ATTEMPT, LOSSES, STATE, DUE = "relevo-attempt", "relevo-losses", "relevo-state", "relevo-due"
URGENCY, EXPIRES, HEADERS, UNREADABLE = "relevo-urgency", "relevo-expires", "relevo-headers", "relevo-unreadable"
REF, REASON, ERROR, DIED_AT = "relevo-ref", "relevo-reason", "relevo-error", "relevo-died-at"
LONG_ID, LONG_NAME, LONG_SOURCE = "relevo-id", "relevo-name", "relevo-source"

DELIVERY_COUNT, ACQUIRED_COUNT = "x-delivery-count", "x-acquired-count"


class Properties(Protocol):
    """What is read of the properties that came with a message."""

    content_type: Any
    message_id: Any
    type: Any
    app_id: Any
    priority: Any
    headers: Any


@attrs.frozen(kw_only=True)
class Death:
    """Why and when an event died."""

    ref: str
    reason: str
    error: str
    at: float


@attrs.frozen(kw_only=True)
class Record:
    """An event with all that travels beside it."""

    envelope: Envelope | Unreadable
    queue: str
    attempt: int = 1
    losses: int = 0
    state: bytes = b""
    enqueued_at: float
    due: float | None = None
    """Not to be handed out before; said only if a delay was longer than the ladder."""

    death: Death | None = None

    def lost(self, times: int) -> Record:
        """Return it after *times* hand-overs that ended without a settlement."""
        return attrs.evolve(self, attempt=self.attempt + times, losses=self.losses + times) if times else self


@attrs.frozen
class Parcel:
    """A message ready to be published."""

    exchange: str
    key: str
    properties: Mapping[str, Any]
    body: bytes


class UnfitError(Exception):
    """Raised when an event cannot be written in AMQP."""


# --- writing -----------------------------------------------------------------------------------------


def written(record: Record, *, exchange: str, key: str, delayed: bool = False) -> Parcel:
    """
    Return *record* as a message.

    Args:
        record: What is written.

        exchange: Where it is published.

        key: Its routing key.

        delayed: It goes up the ladder. There a message of high priority would hold up the others
            behind it, so the priority waits in a header.

    Raises:
        UnfitError: It has no form in AMQP; says why.
    """
    headers: dict[str, Any] = {VERSION: WIRE_VERSION, SENT_AT: _micros(record.enqueued_at)}
    properties: dict[str, Any] = {"content_type": CONTENT_TYPE, "delivery_mode": 2, "headers": headers}
    if record.attempt != 1:
        headers[ATTEMPT] = record.attempt
    if record.losses:
        headers[LOSSES] = record.losses
    if record.state:
        headers[STATE] = record.state
    if record.due is not None:
        headers[DUE] = repr(record.due)
    if delayed or record.death is not None:
        headers[QUEUE] = record.queue
    if record.death is not None:
        headers[REF] = record.death.ref
        headers[REASON] = record.death.reason
        headers[ERROR] = record.death.error
        headers[DIED_AT] = _micros(record.death.at)
    if isinstance(record.envelope, Envelope):
        body = record.envelope.body
        _write_envelope(record.envelope, properties, headers, delayed=delayed)
    else:
        body = record.envelope.raw
        properties["content_type"] = "application/octet-stream"
        headers[UNREADABLE] = record.envelope.why
        headers[HEADERS] = json.dumps(dict(record.envelope.headers))
    if len(headers) > 2:
        _check_size(headers)
    return Parcel(exchange, key, properties, body)


def _write_envelope(envelope: Envelope, properties: dict[str, Any], headers: dict[str, Any], *, delayed: bool) -> None:
    for name, spare, text in (
        ("message_id", LONG_ID, envelope.id),
        ("type", LONG_NAME, envelope.name),
        ("app_id", LONG_SOURCE, envelope.source),
    ):
        if (text.isascii() and len(text) <= MAX_SHORT) or len(_utf8(text)) <= MAX_SHORT:
            properties[name] = text
        else:
            headers[spare] = text
    if envelope.urgency == "high":
        if delayed:
            headers[URGENCY] = "high"
        else:
            properties["priority"] = HIGH_PRIORITY
    if envelope.expires is not None:
        headers[EXPIRES] = repr(float(envelope.expires))
    if envelope.headers:
        headers[HEADERS] = json.dumps(dict(envelope.headers))


def _micros(seconds: float) -> int:
    return round(seconds * 1_000_000)


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UnfitError("a text in it has no form in UTF-8") from error


def _check_size(headers: Mapping[str, Any]) -> None:
    size = sum(
        len(value if isinstance(value, bytes) else _utf8(value))
        for value in headers.values()
        if not isinstance(value, int)
    )
    if size > MAX_HEADERS:
        raise UnfitError(f"its headers have {size} bytes; at most {MAX_HEADERS} fit")


def check_body(envelope: Envelope, limit: int) -> None:
    """
    Refuse a body that would close the channel.

    Raises:
        UnfitError: It has more than *limit* bytes.
    """
    if len(envelope.body) > limit:
        raise UnfitError(f"its body has {len(envelope.body)} bytes; at most {limit} fit")


def fitting(text: str, limit: int) -> str:
    """Return *text* with lone surrogates escaped, cut at *limit* bytes of UTF-8; whoever shows it escapes the rest."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) > limit:
        return data[: limit - 3].decode("utf-8", "ignore") + "…"
    return data.decode("utf-8")


# --- reading -----------------------------------------------------------------------------------------


def read(properties: Properties, body: bytes, *, queue: str, now: float) -> Record:
    """
    Return what a message says; never raises, since anybody can send anything.

    Args:
        properties: What came with it.

        body: Its bytes.

        queue: The one it was received from, in relevo's words.

        now: Stands in where the message does not say when it was sent.
    """
    headers = properties.headers if isinstance(properties.headers, Mapping) else NO_HEADERS
    queue = _text(headers.get(QUEUE)) or queue
    due = headers.get(DUE)
    state = headers.get(STATE, b"")
    return Record(
        envelope=_read_envelope(properties, headers, body, queue),
        queue=queue,
        attempt=_count(headers.get(ATTEMPT), least=1),
        losses=_count(headers.get(LOSSES)),
        state=state if isinstance(state, bytes) else b"",
        enqueued_at=_seconds(headers.get(SENT_AT), now),
        due=_number(due) if due is not None else None,
        death=_read_death(headers, now) if REF in headers else None,
    )


def losses(properties: Properties) -> int:
    """
    Return how often the server handed a message out without hearing of it again.

    ``x-delivery-count`` counts lost connections and channels; below RabbitMQ 4.3 also nacks, which relevo
    therefore never uses for giving back. ``x-acquired-count`` (4.3 and later) counts every hand-over before
    this one, also those that a time-out or a lost node ended.
    """
    headers = properties.headers
    if not headers:
        return 0
    return max(_count(headers.get(DELIVERY_COUNT)), _count(headers.get(ACQUIRED_COUNT)))


def urgent(properties: Properties) -> bool:
    """Return whether a message is to be handed out before the others that lie here."""
    if properties.priority:
        return bool(properties.priority > 4)
    return bool(properties.headers) and properties.headers.get(URGENCY) == "high"


def _read_envelope(
    properties: Properties, headers: Mapping[Any, Any], body: bytes, queue: str
) -> Envelope | Unreadable:
    version = headers.get(VERSION)
    if not _whole(version):
        return _foreign(properties, headers, body, "it was not sent by relevo")
    if version != WIRE_VERSION:
        return _foreign(
            properties, headers, body, f"it has version {version} on the wire; this relevo reads {WIRE_VERSION}"
        )
    kept = _read_headers(headers.get(HEADERS))
    if UNREADABLE in headers:
        return Unreadable(raw=body, headers=kept or NO_HEADERS, why=_text(headers[UNREADABLE]) or "")
    event_id = _text(headers.get(LONG_ID, properties.message_id))
    name = _text(headers.get(LONG_NAME, properties.type))
    source = _text(headers.get(LONG_SOURCE, properties.app_id))
    if event_id is None or name is None or source is None or kept is None:
        return _foreign(properties, headers, body, "its id, name, source or headers are missing or no text")
    expires = headers.get(EXPIRES)
    high = (properties.priority or 0) > 4 or headers.get(URGENCY) == "high"
    return Envelope(
        id=event_id,
        source=source,
        name=name,
        queue=queue,
        body=body,
        headers=kept,
        urgency="high" if high else "normal",
        expires=_number(expires) if expires is not None else None,
    )


def _read_headers(value: object) -> Mapping[str, str] | None:
    """Return the envelope's own headers, or ``None`` if they are no such thing."""
    if value is None:
        return NO_HEADERS
    try:
        headers = json.loads(value) if isinstance(value, str) else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(headers, dict) or not all(isinstance(each, str) for each in headers.values()):
        return None
    return MappingProxyType(headers)


def _foreign(properties: Properties, headers: Mapping[Any, Any], body: bytes, why: str) -> Unreadable:
    """Return what is not ours, with its headers as text as far as they are small."""
    kept: dict[str, str] = {}
    room = MAX_FOREIGN
    own = {name: getattr(properties, name) for name in ("content_type", "message_id", "type", "app_id")}
    for name, value in (*((key, value) for key, value in own.items() if value is not None), *headers.items()):
        if name in (DELIVERY_COUNT, ACQUIRED_COUNT):
            continue
        key = fitting(name if isinstance(name, str) else ascii(name), MAX_SHORT)
        text = fitting(value if isinstance(value, str) else repr(value), MAX_FOREIGN)
        room -= len(key) + len(text.encode())
        if room < 0:
            break
        kept[key] = text
    return Unreadable(raw=body, headers=kept or NO_HEADERS, why=why)


def _read_death(headers: Mapping[Any, Any], now: float) -> Death:
    return Death(
        ref=_text(headers.get(REF)) or "",
        reason=_text(headers.get(REASON)) or "",
        error=_text(headers.get(ERROR)) or "",
        at=_seconds(headers.get(DIED_AT), now),
    )


def expelled(properties: Properties, body: bytes, *, word: str, now: float) -> Death:
    """
    Return the death of an event that the server itself put aside, without a word of relevo's.

    Its ref is made from its contents, so that it is the same whenever it is listed.
    """
    headers = properties.headers if isinstance(properties.headers, Mapping) else NO_HEADERS
    deaths = headers.get("x-death")
    last = deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], Mapping) else {}
    when = last.get("time")
    at = when.timestamp() if isinstance(when, datetime) else now
    reason = fitting(str(last.get("reason", "unknown")), 64).replace("_", "-")
    known = "\0".join((str(properties.message_id), str(headers.get(SENT_AT)), str(when)))
    digest = sha256(known.encode("utf-8", "backslashreplace") + body).hexdigest()[:16]
    stamp = at if isinstance(when, datetime) else 0.0
    return Death(
        ref=reference(word, stamp, digest),
        reason=f"server-{reason}",
        error=f"RabbitMQ put it aside: {reason}",
        at=at,
    )


# --- references of dead letters ------------------------------------------------------------------------


def reference(word: str, at: float, unique: str) -> str:
    """Return the ref of a dead letter: it names its queue on the server, and sorts by the time of death."""
    return f"{word}/{max(0, _micros(at)):016x}-{unique}"


def word_of(ref: str) -> str | None:
    """Return the queue's word in *ref*, or ``None`` if it is no ref of ours."""
    word, slash, rest = ref.rpartition("/")
    return word if slash and word and "/" not in word and rest else None


# --- what anybody may have sent --------------------------------------------------------------------------


def _seconds(micros: object, otherwise: float) -> float:
    return (micros if isinstance(micros, int) else _micros(otherwise)) / 1_000_000


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _count(value: object, *, least: int = 0) -> int:
    """Return a counter, as far as it can be one."""
    return int(value) if isinstance(value, int) and not isinstance(value, bool) and least <= value < 1 << 31 else least


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: object) -> float | None:
    try:
        return float(value) if isinstance(value, (str, int)) else None
    except (ValueError, OverflowError):
        return None
