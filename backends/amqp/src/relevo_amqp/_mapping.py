"""
Events and their counters as AMQP messages, and back.

AMQP's properties hold the id, the name, the source and the urgency of an event; a few headers hold the rest, and an
event that was just sent has two of them. All functions are pure; they read from any object with pika's attributes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from math import inf, isnan
from types import MappingProxyType
from typing import Any

import attrs

from relevo import MAX_ERROR, Envelope, ForeignEnvelope, Note, Unreadable
from relevo_amqp import _cloud_event as cloud_event, _header as header
from relevo_amqp._foreign import bounded, foreign
from relevo_amqp._header import (
    HIGH_PRIORITY,
    MAX_OWN,
    NO_HEADERS,
    PLAIN,
    NotePlace,
    Properties,
    fitting,
    headers_of,
    packed_place,
)
from relevo_amqp._newer import Newer, as_it_came, newer, wait_for_newer
from relevo_amqp._topology import is_word

CONTENT_TYPE = "application/cloudevents+json"

_GROWTH = 12
"""The most characters of JSON for one character."""


@attrs.frozen(kw_only=True)
class DeadLetterDetails:
    """The headers of a dead letter: its ref, why and when it became one."""

    ref: str
    reason: str
    error: str
    at: float


@attrs.frozen
class WrittenNote:
    """A note, and its place in the stream."""

    note: Note
    place: NotePlace


@attrs.frozen(kw_only=True)
class MessageRecord:
    """An event with its counters and evidence, as one message holds them."""

    envelope: Envelope | Unreadable
    queue: str
    attempt: int = 1
    lost_leases: int = 0
    state: bytes = b""
    enqueued_at: float
    due: float | None = None
    """Not handed out before this time; set only if a delay is longer than the ladder."""

    begun: Note | None = None
    begun_at: NotePlace | None = None
    """Where the note was written, and where its process may still excuse it; ``None`` if that is not known."""

    deaths: tuple[str, ...] = ()
    suspect: str = ""
    """Identifies the message in notes; empty for a newly sent event."""

    dead_letter: DeadLetterDetails | None = None

    def noted(self, written: WrittenNote | None) -> MessageRecord:
        """Return the record with the note that was *written*; unchanged if that is ``None``."""
        if written is None:
            return self
        return attrs.evolve(self, begun=written.note, begun_at=written.place, deaths=written.note.deaths)

    @property
    def excusable_at(self) -> NotePlace | None:
        """Where an excuse of the note would be; ``None`` if there is no note, or if it is excused already."""
        return None if self.begun is None or self.begun.excused else self.begun_at

    def excused_by(self, note: Note | None) -> MessageRecord:
        """
        Return the record with its note excused if *note*, the last one in its place, excuses the same process.

        The two may name different listeners, if the note was updated and only the server knows.
        """
        if self.begun is None or note is None or not note.excused or note.by != self.begun.by:
            return self
        return attrs.evolve(self, begun=attrs.evolve(self.begun, excused=True))

    def keyed(self, key: str) -> MessageRecord:
        """Return the record as a new message, identified by *key*."""
        return attrs.evolve(self, suspect=key)

    def lost(self, times: int) -> MessageRecord:
        """Return the record after *times* hand-overs that ended without a settlement."""
        return attrs.evolve(self, attempt=self.attempt + times, lost_leases=self.lost_leases + times) if times else self

    def revived(self, state: bytes, *, key: str) -> MessageRecord:
        """Return a new record with *state*, and *key* for notes; an event of a newer release keeps its own state."""
        event = self.envelope
        if isinstance(event, Newer):
            event = attrs.evolve(event, met=None)
        return attrs.evolve(
            self,
            envelope=event,
            attempt=1,
            lost_leases=0,
            begun=None,
            begun_at=None,
            deaths=(),
            suspect=key,
            state=state,
            dead_letter=None,
            due=None,
        )


@attrs.frozen
class Message:
    """A message ready to be published."""

    exchange: str
    key: str
    properties: Mapping[str, Any]
    body: bytes


class UnfitError(Exception):
    """Raised when an event does not fit into a message of AMQP."""


# --- writing -----------------------------------------------------------------------------------------


def written(record: MessageRecord, *, exchange: str, key: str, delayed: bool = False) -> Message:
    """
    Return *record* as a message.

    Args:
        record: The event with its counters.

        exchange: The exchange to which it is published.

        key: The routing key.

        delayed: Whether it goes to the ladder. There a message of high priority would hold up the others
            behind it, so a header holds the priority.

    Raises:
        UnfitError: The event does not fit into a message.
    """
    event = record.envelope
    if isinstance(event, Newer):
        properties = as_it_came(event, delayed=delayed)
        headers = properties["headers"]
        _update(headers, record)
    else:
        headers = {header.VERSION: header.WIRE_VERSION, header.SENT_AT: header.micros(record.enqueued_at)}
        properties = {"content_type": CONTENT_TYPE, "delivery_mode": 2, "headers": headers}
        if record.attempt != 1:
            headers[header.ATTEMPT] = record.attempt
        if record.lost_leases:
            headers[header.LOST_LEASES] = record.lost_leases
        if record.state:
            headers[header.STATE] = record.state
        if record.due is not None:
            headers[header.DUE] = repr(record.due)
        if record.dead_letter is None:
            _write_evidence(headers, record)
    if (delayed or record.dead_letter is not None) and header.fits_as_queue(record.queue):
        headers[header.QUEUE] = record.queue
    if record.dead_letter is not None:
        headers[header.REF] = record.dead_letter.ref
        headers[header.REASON] = record.dead_letter.reason
        headers[header.ERROR] = record.dead_letter.error
        headers[header.DIED_AT] = header.micros(record.dead_letter.at)
    if isinstance(event, Envelope):
        if (foreign_event := cloud_event.as_it_came(event, headers, delayed=delayed)) is not None:
            return Message(exchange, key, *foreign_event)
        _write_envelope(event, properties, headers, delayed=delayed)
        return Message(exchange, key, properties, event.body)
    if not isinstance(event, Newer):
        properties["content_type"] = "application/octet-stream"
        headers[header.UNREADABLE] = event.why
        headers[header.HEADERS] = json.dumps(dict(event.headers))
    return Message(exchange, key, properties, event.raw)


def fresh(envelope: Envelope, *, exchange: str, key: str, enqueued_at: float) -> Message | None:
    """
    Return an event that was just dispatched as :func:`written` does, in a tenth of the code.

    Args:
        envelope: The event.

        exchange: The exchange to which it is published.

        key: The routing key.

        enqueued_at: When it is sent, in seconds since the epoch.

    Returns:
        ``None`` if the event has more than a name, a source, an id and a body.
    """
    event_id, name, source = envelope.id, envelope.name, envelope.source
    if (
        type(envelope) is not Envelope
        or envelope.headers
        or envelope.urgency != "normal"
        or envelope.expires is not None
        or not (event_id.isascii() and name.isascii() and source.isascii())
        or len(event_id) > header.MAX_SHORT
        or len(name) > header.MAX_SHORT
        or len(source) > header.MAX_SHORT
    ):
        return None
    properties = {
        "content_type": CONTENT_TYPE,
        "delivery_mode": 2,
        "headers": {header.VERSION: header.WIRE_VERSION, header.SENT_AT: header.micros(enqueued_at)},
        "message_id": event_id,
        "type": name,
        "app_id": source,
    }
    return Message(exchange, key, properties, envelope.body)


def _write_evidence(headers: dict[str, Any], record: MessageRecord) -> None:
    if record.suspect:
        headers[header.SUSPECT] = record.suspect
    if record.begun is not None:
        packed = record.begun.packed()
        if len(packed.encode()) <= header.MAX_NOTE:
            headers[header.BEGUN] = packed
            if record.excusable_at is not None:
                headers[header.BEGUN_AT] = packed_place(record.excusable_at)
    if deaths := header.deaths(record.deaths):
        headers[header.DEATHS] = list(deaths)


def _update(headers: dict[str, Any], record: MessageRecord) -> None:
    """Update the *headers* of a newer release; those that already have the right value stay as they are."""
    if record.due is not None and header.number(headers.get(header.DUE)) != record.due:
        headers[header.DUE] = repr(record.due)
    for name, value, least in ((header.ATTEMPT, record.attempt, 1), (header.LOST_LEASES, record.lost_leases, 0)):
        if header.count(headers.get(name), least=least) != value:
            headers[name] = value


def _write_envelope(envelope: Envelope, properties: dict[str, Any], headers: dict[str, Any], *, delayed: bool) -> None:
    own = 0
    for name, spare, text in (
        ("message_id", header.LONG_ID, envelope.id),
        ("type", header.LONG_NAME, envelope.name),
        ("app_id", header.LONG_SOURCE, envelope.source),
    ):
        size = len(text) if text.isascii() else len(_utf8(text))
        if size <= header.MAX_SHORT:
            properties[name] = text
        else:
            headers[spare] = text
            own += size
    if envelope.urgency == "high":
        if delayed:
            headers[header.URGENCY] = "high"
        else:
            properties["priority"] = HIGH_PRIORITY
    if envelope.expires is not None:
        headers[header.EXPIRES] = repr(float(envelope.expires))
    if envelope.headers:
        _utf8("".join((*envelope.headers, *envelope.headers.values())))  # otherwise the receiver could not read it
        headers[header.HEADERS] = json.dumps(dict(envelope.headers))
        own += len(headers[header.HEADERS])
    if own > MAX_OWN:
        raise UnfitError(f"its headers have {own} bytes; at most {MAX_OWN} fit")


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UnfitError("one of its texts cannot be encoded as UTF-8") from error


def check_body(envelope: Envelope, limit: int) -> None:
    """
    Validate the size of a body: a larger one closes the channel.

    Raises:
        UnfitError: The body has more than *limit* bytes.
    """
    if len(envelope.body) > limit:
        raise UnfitError(f"its body has {len(envelope.body)} bytes; at most {limit} fit")


# --- reading -----------------------------------------------------------------------------------------


def read(properties: Properties, body: bytes, *, queue: str, now: float) -> MessageRecord:
    """
    Return the record in a received message; never raises, whatever the message holds.

    Args:
        properties: The properties of the message.

        body: The body.

        queue: Relevo's name of the queue from which it was received.

        now: The time to use if the message has none.
    """
    headers = headers_of(properties)
    event: Envelope | Unreadable | None = None
    sent_at = now
    if header.is_newer(headers):
        event = newer(properties, headers, body, now)
    elif cloud_event.is_foreign(headers):
        event, headers = _read_foreign(properties, headers, body, queue, now)
        sent_at = cloud_event.sent_at(properties, now)
    queue = header.queue_named(headers, queue)
    event = event or _read_envelope(properties, headers, body, queue, now)
    due = header.number(headers.get(header.DUE))
    ours = not isinstance(event, Newer)
    return MessageRecord(
        envelope=event,
        queue=queue,
        attempt=header.count(headers.get(header.ATTEMPT), least=1),
        lost_leases=header.count(headers.get(header.LOST_LEASES)),
        state=header.state(headers.get(header.STATE, b"")) if ours else b"",
        enqueued_at=header.seconds(headers.get(header.SENT_AT), sent_at),
        due=due if -inf < due <= now + header.MAX_AHEAD else None,
        begun=header.note(headers.get(header.BEGUN)) if ours else None,
        begun_at=header.note_place(headers.get(header.BEGUN_AT)) if ours else None,
        deaths=header.deaths(headers.get(header.DEATHS)) if ours else (),
        suspect=header.suspect(headers.get(header.SUSPECT)) if ours else "",
        dead_letter=_read_details(headers, now) if header.REF in headers else None,
    )


def postponed(record: MessageRecord, now: float, *, patience: float) -> tuple[MessageRecord, float]:
    """
    Return *record* and the seconds for which it is not handed out.

    Args:
        record: A received event. One of a newer release is returned with the time at which it was first met.

        now: Seconds since the epoch.

        patience: Seconds for which an event of a newer release is given back.
    """
    if record.due is not None and record.due > now:
        return record, record.due - now
    if not isinstance(record.envelope, Newer):
        return record, 0.0
    event = record.envelope.met_at(now)
    return attrs.evolve(record, envelope=event), wait_for_newer(event, now, patience=patience)


def lost_leases(properties: Properties) -> int:
    """
    Return how many hand-overs of a message ended without an ack.

    ``x-delivery-count`` counts lost connections and channels; before RabbitMQ 4.3 also nacks, so relevo never gives a
    message back by a nack that should count nothing. ``x-acquired-count`` (4.3 and later) counts every earlier
    hand-over, also those that a timeout or a lost node ended.
    """
    headers = properties.headers
    if not headers:
        return 0
    return max(header.count(headers.get(header.DELIVERY_COUNT)), header.count(headers.get(header.ACQUIRED_COUNT)))


def urgent(properties: Properties) -> bool:
    """Return whether a message is handed out before the others that arrived."""
    if properties.priority:
        return bool(properties.priority > 4)
    return bool(properties.headers) and properties.headers.get(header.URGENCY) == "high"


def _read_foreign(
    properties: Properties, headers: Mapping[Any, Any], body: bytes, queue: str, now: float
) -> tuple[Envelope | Unreadable, Mapping[Any, Any]]:
    """Return a message of another program as an event, and those of *headers* that are relevo's."""
    fresh = cloud_event.is_fresh(headers)
    if not fresh and (why := _foreign_reason(headers) or _flaw(headers, now)):
        return foreign(properties, headers, body, why), headers
    event = cloud_event.read_cloud_event(
        properties, headers, body, queue if fresh else header.queue_named(headers, queue)
    )
    return event, NO_HEADERS if fresh and isinstance(event, Envelope) else headers


def _read_envelope(
    properties: Properties, headers: Mapping[Any, Any], body: bytes, queue: str, now: float
) -> Envelope | Unreadable:
    if why := _foreign_reason(headers) or _flaw(headers, now):
        return foreign(properties, headers, body, why)
    packed = headers.get(header.HEADERS)
    kept = _read_headers(packed)
    if header.UNREADABLE in headers:
        return bounded(body, (kept or NO_HEADERS).items(), header.text(headers[header.UNREADABLE]) or "")
    event_id = header.text(headers.get(header.LONG_ID, properties.message_id))
    name = header.text(headers.get(header.LONG_NAME, properties.type))
    source = header.text(headers.get(header.LONG_SOURCE, properties.app_id))
    if event_id is None or name is None or source is None or kept is None:
        return foreign(
            properties, headers, body, "its id, name, source or headers are missing, not text, or hold a lone surrogate"
        )
    expires = headers.get(header.EXPIRES)
    high = (properties.priority or 0) > 4 or headers.get(header.URGENCY) == "high"
    envelope = Envelope(
        id=event_id,
        source=source,
        name=name,
        queue=queue,
        body=body,
        headers=kept,
        urgency="high" if high else "normal",
        expires=header.number(expires) if expires is not None else None,
    )
    if len(event_id) + len(name) + len(source) + len(packed or "") > MAX_OWN // _GROWTH:
        try:
            _write_envelope(envelope, {}, {}, delayed=False)
        except UnfitError as error:
            return foreign(properties, headers, body, str(error))
    return envelope


def _foreign_reason(headers: Mapping[Any, Any]) -> str:
    """Return why *headers* are not of this wire version; empty if they are."""
    if (error := headers.get(header.UNDECODABLE)) is not None:
        return f"its headers cannot be decoded: {header.shown(error)}"
    version = headers.get(header.VERSION)
    if not header.whole(version):
        return "it was not sent by relevo"
    if version != header.WIRE_VERSION:
        return f"it has wire version {version}; this relevo reads version {header.WIRE_VERSION}"
    return ""


def _flaw(headers: Mapping[Any, Any], now: float) -> str:
    """Return which of relevo's headers is invalid and must not be lost; empty if all are valid."""
    due, expires = headers.get(header.DUE, 0), headers.get(header.EXPIRES, 0)
    if not -inf < header.number(due) <= now + header.MAX_AHEAD:
        return f"its due time: expected seconds, at most a century ahead; got {fitting(header.shown(due), 40)}"
    if isnan(header.number(expires)):
        return f"its expiry: expected seconds; got {fitting(header.shown(expires), 40)}"
    return ""


def _read_headers(value: object) -> Mapping[str, str] | None:
    """Return the envelope's own headers; ``None`` if *value* is invalid."""
    if value is None:
        return NO_HEADERS
    try:
        headers = json.loads(value) if isinstance(value, str) else None
        if not isinstance(headers, dict) or not all(isinstance(each, str) for each in headers.values()):
            return None
        "".join((*headers, *headers.values())).encode()  # an escape such as \ud800 is valid JSON, but not a character
    except (ValueError, RecursionError):
        return None
    return MappingProxyType(headers)


def _read_details(headers: Mapping[Any, Any], now: float) -> DeadLetterDetails:
    return DeadLetterDetails(
        ref=fitting(header.text(headers.get(header.REF)) or "", header.MAX_REF),
        reason=fitting(header.text(headers.get(header.REASON)) or "", header.MAX_REASON),
        error=fitting(header.text(headers.get(header.ERROR)) or "", MAX_ERROR),
        at=header.seconds(headers.get(header.DIED_AT), now),
    )


def expelled(properties: Properties, body: bytes, *, word: str, now: float) -> DeadLetterDetails:
    """
    Return the details of a dead letter that the server itself made; it has no headers of relevo's.

    The ref is a digest of the contents, so that each listing returns the same one.
    """
    headers = headers_of(properties)
    deaths = headers.get("x-death")
    last = deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], Mapping) else {}
    when = last.get("time")
    stamp = when.timestamp() if isinstance(when, datetime) else 0.0
    reason = fitting(header.shown(last.get("reason", "unknown")), 64).replace("_", "-")
    known = "\0".join((str(properties.message_id), header.shown(headers.get(header.SENT_AT)), str(when)))
    digest = sha256(known.encode("utf-8", "backslashreplace") + body).hexdigest()[:16]
    return DeadLetterDetails(
        ref=reference(word, stamp, digest),
        reason=f"server-{reason}",
        error=f"RabbitMQ dead-lettered it: {reason}",
        at=stamp if isinstance(when, datetime) else now,
    )


# --- keys of notes -------------------------------------------------------------------------------------


def suspect_key(now: float, unique: str) -> str:
    """Return a key for the message of a suspect that is written at *now*."""
    return f"{max(0, header.micros(now)):013x}-{unique}"


def plain_key(envelope: Envelope | Unreadable, queue: str, attempt: int, enqueued_at: float) -> str:
    """
    Return a key for a message that carries none; its first hand-over has no lost leases.

    Args:
        envelope: The content of the message.

        queue: Relevo's name of the queue; copies of an event in several queues are different messages.

        attempt: The attempt of the first hand-over; a retry is another message.

        enqueued_at: When it was sent, in seconds since the epoch.
    """
    if isinstance(envelope, ForeignEnvelope):
        parts = [envelope.source, envelope.id, sha256(envelope.original).hexdigest()]
    elif isinstance(envelope, Envelope):
        parts = [envelope.source, envelope.id, str(header.micros(enqueued_at))]
    else:
        parts = [sha256(envelope.raw).hexdigest()]  # the time at which it was sent may be missing
    digest = sha256()
    for part in (queue, str(attempt), *parts):
        data = part.encode("utf-8", "backslashreplace")
        digest.update(b"%d:%b" % (len(data), data))
    return PLAIN + digest.hexdigest()[:32]


# --- references of dead letters ------------------------------------------------------------------------


def reference(word: str, at: float, unique: str) -> str:
    """Return the ref of a dead letter: it begins with the queue's *word* and sorts by the time *at*."""
    return f"{word}/{max(0, header.micros(at)):016x}-{unique}"


def word_of(ref: str) -> str | None:
    """Return the queue's word in *ref*; ``None`` if it is not a ref of this transport."""
    word, slash, rest = ref.rpartition("/")
    return word if slash and rest and is_word(word) else None
