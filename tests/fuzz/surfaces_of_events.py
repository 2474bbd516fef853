"""Surfaces of events: envelopes, bodies, states, signatures, a delivery as a whole, and what is told about them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from email import message_from_bytes, policy
from functools import cache
from typing import Any, Literal

import attrs
import msgspec

from mutation import packed, parts
from oversized import MANY, keys, of_json, of_texts
from relevo import (
    Ack,
    Call,
    DeadLetter,
    Delivery,
    Envelope,
    Event,
    Failure,
    ListenerTable,
    Lost,
    Nack,
    Note,
    QueueOptions,
    Release,
    Signing,
    event as declares,
)
from relevo._clock import moment
from relevo._event.codec import content_of, context_of, decoded, encoded, generic, typed
from relevo._event.context import NOTHING, Ambient
from relevo._event.event import EventTypes
from relevo._event.subject import Subject, SubjectType, SubjectTypes
from relevo._listener.listener import Mark
from relevo._process_identity import ProcessIdentity
from relevo._transport.acceptance import QueueTable
from relevo._transport.coordinator import MAX_ANNOUNCEMENT
from relevo._transport.delivery import MAX_ERROR, MAX_STATE
from relevo._transport.transport import DeadLetterEntry
from relevo._worker.acceptance import accepting
from relevo._worker.announcement import Announcement, HeldEvent, holders
from relevo._worker.caller import Caller
from relevo._worker.control import Pause, Stop, controls_in, packed as packed_control
from relevo._worker.decision import sanitised
from relevo._worker.executor import Handle, Steps, carried_out
from relevo._worker.progress import dumped, failures_of, give_back_unread, loaded, revived
from relevo._worker.transaction import Transactions
from relevo.errors import CodecError, ConfigurationError, DecodeError, EncodeError, RelevoError
from relevo.ext.mail._book import FailureGroup
from relevo.ext.mail._incident import incidents_of, loss, packed as packed_incident, retried_incident, unpacked
from relevo.ext.mail._text import WIDTH, Letterhead, MailSection, compose, summary
from relevo.testing import FakeClock
from relevo.wire import pack, unpack
from relevo_memory import MemoryTransport
from surface import DifferentError, Surface

NOW = 1_795_000_000.0
KEY = "_twslM30yJi1IYV-qOFqH0LB9Y-NG43Jalf-xVoh_Co"


@declares("image.created", version=3, subject="image_id", of="image")
@attrs.frozen
class ImageCreated:
    """A declared event with fields of many types."""

    image_id: int
    path: str = ""
    taken: datetime | None = None
    sizes: Mapping[str, float] = attrs.field(factory=dict)
    format: Literal["jpeg", "png"] = "jpeg"

    @staticmethod
    def rename(data: dict[str, Any]) -> dict[str, Any]:
        """Upcast version 2."""
        data["path"] = data.pop("file", "")
        return data


BODY: dict[str, Any] = {
    "id": "0198c3a4-6e1f-7c52-9d1e-0f6a2b3c4d5e",
    "source": "shop",
    "type": "image.created",
    "specversion": "1.0",
    "time": "2026-11-28T10:00:00Z",
    "subject": "image/7",
    "datacontenttype": "application/json",
    "dataversion": 3,
    "correlationid": "c",
    "causationid": "d",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "relevocontext": '{"base_url":"https://shop.example"}',
    "data": {"image_id": 7, "path": "sea.jpg", "sizes": {"small": 1.5}, "taken": "2026-11-28T10:00:00Z"},
}
STATE = (
    b'{"v":1,"listeners":{"take":["dead",5,0.0,"gave-up","no"],"named":["due",1,1795000000.5]},'
    b'"waiting":{"newer-version":1.0},"stopped":true,"raised":{"take":["ValueError","Traceback"]}}'
)


def _body(**changes: Any) -> bytes:
    return msgspec.json.encode({**BODY, **changes})


# --- the envelope as one blob -----------------------------------------------------------------------------


def wire(data: bytes) -> None:
    """Read a packed envelope; one that is read is packed and read again, unchanged."""
    envelope = unpack(data)
    try:
        again = unpack(pack(envelope))
    except EncodeError:  # MessagePack may hold text with a lone surrogate, and msgspec does not write it
        return
    if repr(again) != repr(envelope):  # NaN differs from itself
        raise DifferentError(again)


def _blob(**fields: Any) -> bytes:
    return pack(Envelope(**{"id": "1", "source": "shop", "name": "image.created", "body": _body(), **fields}))


# --- the body ----------------------------------------------------------------------------------------------


def body(data: bytes) -> None:
    """Read a body as an event by name and as its class."""
    document = decoded(data)
    context_of(document)
    for read in (lambda: generic(document), lambda: typed(document, _types()["image.created"])):
        with suppress(DecodeError):
            read()


@cache
def _types() -> EventTypes:
    types = EventTypes()
    types.add(ImageCreated)
    return types


# --- what an application dispatches --------------------------------------------------------------------------


def dispatched(data: bytes) -> None:
    """Write an event of arbitrary values; what is written is read back as it was given."""
    given = parts(data, list[Any])
    if given is None or len(given) != 4:
        return
    name, arguments, subject, context = given
    content = content_of(Event(name, arguments))
    about = Subject.parsed(subject) if isinstance(subject, str) else None
    around = Ambient(context) if isinstance(context, dict) else NOTHING
    written = encoded(content, event_id="1", source="shop", now=NOW, subject=about, around=around)
    read = generic(decoded(written))
    if (read.name, read.arguments, read.subject) != (name, arguments, about):
        raise DifferentError(read)


# --- moments ---------------------------------------------------------------------------------------------


def moments(data: bytes) -> None:
    """Read the time of an expiry or a delay, in any type that an application may pass."""
    given = parts(data, list[Any])
    for value in given or ():
        for each in (value, 10 ** min(len(value), 500) if isinstance(value, str) else value):
            with suppress(ConfigurationError):
                moment(each, now=NOW, what="expires")


# --- the state -----------------------------------------------------------------------------------------------


def state(data: bytes) -> None:
    """Read a state in each place that reads one; what is stored again fits, and is readable."""
    entry = DeadLetterEntry(
        ref="1", queue="default", envelope=_ENVELOPE, reason="gave-up", error="no", state=data, attempt=1,
        lost_leases=0, enqueued_at=NOW, died_at=NOW,
    )  # fmt: skip
    failures_of(entry)
    delivery = Delivery(envelope=_ENVELOPE, queue="default", receipt=None, state=data, enqueued_at=NOW)
    _check_outcome(give_back_unread(delivery, NOW + 1, detail="a later release"))
    again = revived(data)
    if len(again) > MAX_STATE:
        raise DifferentError(len(again))
    loaded(again)
    loaded(dumped(loaded(data)))


_ENVELOPE = Envelope(id="1", source="shop", name="image.created", body=_body())


# --- signatures and sealed states ------------------------------------------------------------------------------


def signed(data: bytes) -> None:
    """Verify a changed event and a changed state; only what was signed is accepted."""
    given = parts(data, list[Any])
    if given is None or len(given) != 3:
        return
    signature, stored, blob = given
    if not (isinstance(signature, str) and isinstance(stored, bytes) and isinstance(blob, bytes)):
        return
    signing = _signing()
    envelope = attrs.evolve(_ENVELOPE, body=blob, headers={"relevo-signature": signature})
    try:
        signing.verify(envelope, queue="default", source=_ENVELOPE.source)
    except DecodeError:
        pass
    else:
        if signing.signed(envelope).headers["relevo-signature"] != signature:
            raise DifferentError(signature)
    opened = signing.opened(stored, envelope)
    if opened and not stored.endswith(signing.sealed(opened, envelope)[2:]):
        raise DifferentError(opened)


@cache
def _signing() -> Signing:
    return Signing(KEY)


_SIGNATURE = _signing().signed(_ENVELOPE).headers["relevo-signature"]
_SEALED = _signing().sealed(STATE, _ENVELOPE)


# --- notes and identities --------------------------------------------------------------------------------------


def notes(data: bytes) -> None:
    """Read the note of a process, and the identities in it; both are written again as they were read."""
    for text in (data, data.decode("utf-8", "surrogateescape")):
        note = Note.unpacked(text)
        if note is None:
            continue
        if len(note.packed()) > 8192 or Note.unpacked(note.packed()) is None:
            raise DifferentError(note)
        for each in (note.by, *note.deaths):
            ProcessIdentity.parsed(each)
    identity = ProcessIdentity.parsed(data.decode("latin-1"))
    if identity is not None and ProcessIdentity.parsed(str(identity)) != identity:
        raise DifferentError(identity)


# --- a delivery, from its receipt to its outcome -----------------------------------------------------------------


class _Fields(msgspec.Struct, array_like=True):
    """What a store hands out; any program can have written it."""

    id: str
    source: str
    name: str
    queue: str
    body: bytes
    headers: dict[str, str]
    urgency: Literal["normal", "high"]
    ordering_key: str | None
    expires: float | None
    attempt: int
    lost_leases: int
    state: bytes
    enqueued_at: float


def delivery(data: bytes) -> None:
    """Handle a delivery with listeners of all kinds; it ends in an outcome that can be stored."""
    fields = parts(data, _Fields)
    if fields is None:
        return
    envelope = Envelope(
        id=fields.id, source=fields.source, name=fields.name, queue=fields.queue, body=fields.body,
        headers=fields.headers, urgency=fields.urgency, ordering_key=fields.ordering_key, expires=fields.expires,
    )  # fmt: skip
    given = Delivery(
        envelope=envelope, queue="default", attempt=fields.attempt, lost_leases=fields.lost_leases, receipt=None,
        state=fields.state, enqueued_at=fields.enqueued_at,
    )  # fmt: skip
    for handle in _handles():
        _check_outcome(handle(given))


def _check_outcome(outcome: object) -> None:
    match outcome:
        case DeadLetter(error=error, state=stored):
            if len(error.encode()) > MAX_ERROR or len(stored or b"") > MAX_STATE or sanitised(error) != error:
                raise DifferentError(outcome)
        case Nack(delay=delay, state=stored):
            if not delay >= 0 or len(stored or b"") > MAX_STATE:
                raise DifferentError(outcome)
        case Ack() | Release() | Lost():
            pass
        case _:
            raise DifferentError(outcome)


@cache
def _handles() -> tuple[Handle, ...]:
    table = ListenerTable()
    table.add(_named, Mark(event="image.created", id="named", aliases=("renamed",)))
    table.add(_take, Mark(event=ImageCreated, id="take"))
    table.add(_subject, Mark(event="image.created", id="subject"))
    table.add(_named, Mark(event="image.created", id="elsewhere", queue="feed"))
    clock = FakeClock(NOW)
    caller = Caller(
        listeners=table,
        first_queue=lambda _: "default",
        subjects=SubjectTypes([SubjectType(type="image", cls=int, name=str, load=_loaded)]),
        clock=clock,
        chance=lambda: 0.5,
        source="shop",
        transactions=Transactions(MemoryTransport()),
    )
    queues = QueueTable({"default": QueueOptions(accept=["image.created", "mail.*"])})
    accepted = accepting(caller.steps, queues, transport="main")
    verified = _signing().verifying(accepted, source="shop", clock=clock, patience=3600.0)
    return caller.outcome, _following(accepted), _following(verified)


def _following(steps: Steps) -> Handle:
    return lambda delivery: carried_out(steps(delivery, on_loop=False))


def _named(event: Event) -> None:
    if event.get("fail"):
        raise ValueError(event["fail"])


def _take(event: ImageCreated) -> None:
    if event.path == "fail":
        raise ValueError(event)


def _subject(event: Event, call: Call) -> None:
    str(call.subject)
    str(dict(call.context))


def _loaded(subject_id: str) -> int | None:
    return 7 if subject_id == "7" else None


def _headers() -> dict[str, str]:
    return {f"k{each}": "v" for each in range(MANY)}


# --- mails -------------------------------------------------------------------------------------------------------


class _Mailed(msgspec.Struct, array_like=True):
    """What a mail is made of; listeners, events and children can have written it."""

    source: str
    listener: str
    error: str
    trace: str
    output: str
    reason: str
    body: bytes


def mailed(data: bytes) -> None:
    """Write a mail about three failures; its headers stay headers, and its lines are narrow and printable."""
    given = parts(data, _Mailed)
    if given is None:
        return
    envelope = Envelope(id="1", source=given.source, name=given.listener, body=given.body)
    delivery = Delivery(envelope=envelope, queue=given.reason, receipt=None, enqueued_at=NOW)
    failure = Failure(
        listener=given.listener, kind=given.reason, error=given.error, traceback=given.trace, reason=given.reason,
        output=given.output,
    )  # fmt: skip
    incidents = [
        *incidents_of(delivery, DeadLetter(reason=given.reason, error=given.error, failures=(failure,)), at=NOW),
        retried_incident(delivery, failure, "shop.py:take", at=NOW),
        loss(delivery, given.error, at=NOW),
    ]
    sections = [
        MailSection(key=each.key, group=FailureGroup(summary(each), NOW, NOW, 1), incident=each) for each in incidents
    ]
    letterhead = Letterhead(
        source=given.source, host="web1", process=1, sender="shop@web1", recipients=["dev@example.org"], arguments=True
    )
    mail = compose(sections, letterhead, now=NOW)
    again = message_from_bytes(mail.as_bytes(), policy=policy.default)
    if sorted(again.keys()) != sorted(mail.keys()) or again["To"] != "dev@example.org":
        raise DifferentError(mail.as_bytes())
    for line in again.get_content().splitlines():
        if len(line) > WIDTH or not line.isprintable():
            raise DifferentError(line)
    for each in incidents:
        unpacked(packed_incident(each, arguments=True) or b"")


def _mailed(**changes: Any) -> bytes:
    fields = {
        "source": "shop", "listener": "take", "error": "ValueError: no", "trace": "Traceback\n  File", "output": "line",
        "reason": "gave-up", "body": _body(),
    }  # fmt: skip
    return msgspec.msgpack.encode(list({**fields, **changes}.values()))


# --- announcements of workers --------------------------------------------------------------------------------------


def announced(data: bytes) -> None:
    """Read what a worker holds; one that is read fits into an announcement again."""
    for key, holder in holders([data]).items():
        str((key, holder))
    with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        read = msgspec.json.decode(data, type=Announcement)
        if len(read.packed()) > MAX_ANNOUNCEMENT:
            raise DifferentError(read)


def controlled(data: bytes) -> None:
    """Read what an operator asks of workers; it can be shown, and one that is read can be stored again."""
    for each in controls_in([data]):
        if len(each.key) != 40 or [*controls_in([packed_control(each)])] != [each]:
            raise DifferentError(each)
        if isinstance(each, Pause):
            str(each.in_words)


def _fields(**changes: Any) -> bytes:
    base = Envelope(id=BODY["id"], source="shop", name="image.created", body=_body(), expires=4e9)
    fields = {
        "id": BODY["id"], "source": "shop", "name": "image.created", "queue": "default", "body": _body(),
        "headers": dict(_signing().signed(base).headers), "urgency": "normal", "ordering_key": None, "expires": 4e9,
        "attempt": 1, "lost_leases": 0, "state": b"", "enqueued_at": NOW,
    }  # fmt: skip
    return msgspec.msgpack.encode(list({**fields, **changes}.values()))


SURFACES = (
    Surface(
        name="wire",
        target=wire,
        shape="msgpack",
        errors=(DecodeError,),
        seeds={
            "an envelope": _blob(),
            "all fields": _blob(headers={"a": "é"}, urgency="high", ordering_key="k", expires=4e9),
            "another version": msgspec.msgpack.encode([2, "1", "s", "n", "q", b"", {}, "normal", None, None]),
            "nested too deeply": b"\x91" * 3000,
            "text that is not UTF-8": b"\x9a\x01\xa1\xff",
        },
        oversized={
            "80,000 headers": lambda: _blob(headers=_headers()),
            "100,000 levels": lambda: b"\x91" * 100_000,
            "a body of 80,000 keys": lambda: _blob(body=keys()),
        },
    ),
    Surface(
        name="body",
        target=body,
        shape="json",
        errors=(DecodeError,),
        seeds={
            "a document": _body(),
            "an earlier version": _body(dataversion=2, data={"image_id": 7, "file": "sea.jpg"}),
            "data that is null": _body(data=None),
            "binary data": _body(data_base64="AA=="),
            "a context that is no object": _body(relevocontext="[1]"),
            "an integer of 5,000 digits": _body().replace(b'"image_id":7', b'"image_id":' + b"7" * 5000),
            "a subject that is not UTF-8": _body(subject="image/%ff"),
            "nested too deeply": b'{"data":' * 3000,
            "a lone surrogate": _body().replace(b"sea.jpg", b"\\ud800"),
        },
        oversized={
            **of_json(lambda data: _body(data=None).replace(b'"data":null', b'"data":' + data)),
            **{f"{name}, as a document": make for name, make in of_json().items()},
            **{f"{name}, as a subject": make for name, make in of_texts(lambda text: _body(subject=text)).items()},
            "a context of 80,000 keys": lambda: _body(relevocontext=keys().decode()),
            "a context of 100,000 levels": lambda: _body(relevocontext="[" * 100_000),
        },
    ),
    Surface(
        name="dispatch",
        target=dispatched,
        shape="msgpack",
        errors=(CodecError, ConfigurationError, RelevoError),
        seeds={
            "an event": packed("image.created", {"a": 1, "b": [1.5, None, "é"]}, "image/7", {"user": 7}),
            "an integer of 64 bits": packed("a", {"a": 2**63 - 1}, None, None),
            "keys that are not text": packed("a", {1: 1}, None, None),
            "a NUL": packed("a", {"a": "\0"}, "image/%00", {}),
        },
        oversized={
            "80,000 arguments": lambda: packed("a", {f"k{each}": each for each in range(MANY)}, None, None),
            "a context of 80,000 keys": lambda: packed("a", {}, None, {f"k{each}": each for each in range(MANY)}),
            **of_texts(lambda text: packed(text, {"a": text}, f"image/{text}", {"a": text})),
        },
    ),
    Surface(
        name="moments",
        target=moments,
        shape="msgpack",
        seeds={
            "moments": packed(0, 1.5, "5m", "-5m", "500ms", None, True, 4e9),
            "an integer of 400 digits": packed("9" * 400),
            "infinity": packed(float("inf"), float("nan"), "9" * 400 + "d"),
        },
        oversized=of_texts(packed),
        weight=0.5,
    ),
    Surface(
        name="state",
        target=state,
        shape="json",
        errors=(CodecError,),
        seeds={
            "a state": STATE,
            "an empty one": b"",
            "of a newer release": b'{"v":2,"waiting":{"newer-version":1.0},"more":[1]}',
            "a seal without a state": b"s1" + b"0" * 40,
            "a seal that is cut": b"s1",
            "seals in seals": b"s1" * 100 + STATE,
            "a wait that began later": b'{"v":1,"waiting":{"newer-version":1e10}}',
            "runs beyond 32 bits": b'{"v":1,"listeners":{"a":["due",4294967296]}}',
            "nested too deeply": b'{"v":1,"x":' + b"[" * 5000,
            "a version that is too large": b'{"v":' + b"9" * 5000 + b"}",
        },
        oversized={
            **of_json(lambda data: b'{"v":1,"listeners":' + data + b"}"),
            **{
                f"{name}, of a newer release": make
                for name, make in of_json(lambda data: b'{"v":2,"x":' + data + b"}").items()
            },
            "80,000 listeners": lambda: (
                b'{"v":1,"listeners":' + keys().replace(b":", b':["dead",5,0.0,"gave-up","no"],"x') + b"}"
            ),
            "50,000 seals": lambda: b"s1" * 50_000 + STATE,
        },
    ),
    Surface(
        name="signature",
        target=signed,
        shape="msgpack",
        errors=(DecodeError,),
        seeds={
            "a signature and a sealed state": packed(_SIGNATURE, _SEALED, _body()),
            "of a later version": packed(_SIGNATURE.replace("v1", "v2"), b"", _body()),
            "of another key": packed(_SIGNATURE[:3] + "00000000" + _SIGNATURE[11:], b"s100000000", _body()),
            "a state without a seal": packed(_SIGNATURE, STATE, _body()),
            "a note about a key": packed(_SIGNATURE, b"s1awaiting" + b"0" * 28 + b".000" + _SEALED, _body()),
            "a note without a number": packed(_SIGNATURE, b"s1awaiting" + b"x" * 32, _body()),
        },
    ),
    Surface(
        name="notes",
        target=notes,
        shape="json",
        seeds={
            "a note": Note(by="ab:cd:1:2:3", deaths=("ab:cd:1:2:3+",) * 3, listener="take").packed().encode(),
            "an identity": b"0198c3a4:0198c3a4-6e1f:4026531836:4711:123456+",
            "a worker of 64 digits": b"a" * 64 + b"::::",
            "another alphabet's digits": "ab:cd:١:2:3".encode(),
        },
        oversized={**of_json(), **of_json(lambda data: b'["ab:cd:1:2:3",' + data + b',"take",false]'), **of_texts()},
        weight=0.5,
    ),
    Surface(
        name="delivery",
        target=delivery,
        shape="msgpack",
        seeds={
            "a delivery": _fields(),
            "a later attempt": _fields(attempt=3, lost_leases=1, state=STATE),
            "a listener that fails": _fields(body=_body(data={"image_id": 7, "path": "fail", "fail": "x" * 5000})),
            "a subject of another type": _fields(body=_body(subject="video/7")),
            "a newer version": _fields(body=_body(dataversion=4)),
            "expired": _fields(expires=1.0),
            "an expiry that is no number": _fields(expires=float("nan")),
            "sent in the future": _fields(enqueued_at=4e18, state=b'{"v":2}'),
            "sent at no time": _fields(enqueued_at=float("nan"), state=b'{"v":2}'),
            "a sealed state": _fields(state=_SEALED),
            "another event's name": _fields(name="mail.sent"),
            "sent to this queue alone": _fields(headers={"relevo-to": "first"}),
            "sent to another queue too": _fields(headers={"relevo-to": "first feed"}),
            "sent to another queue first": _fields(headers={"relevo-to": "other"}),
        },
        weight=2.0,
        oversized={
            "sent to 80,000 queues": lambda: _fields(headers={"relevo-to": "first" + " feed" * MANY}),
            "80,000 headers": lambda: _fields(headers=_headers()),
            "a body of 80,000 keys": lambda: _fields(body=_body(data={f"k{each}": each for each in range(MANY)})),
            "a state of 80,000 keys": lambda: _fields(state=b'{"v":1,"listeners":' + keys() + b"}"),
            "a state of 100,000 levels": lambda: _fields(state=b'{"v":1,"x":' + b"[" * 100_000),
            "an error of 1,000,000 characters": lambda: _fields(
                body=_body(data={"image_id": 7, "fail": "x" * 1_000_000})
            ),
            **of_texts(
                lambda text: _fields(name=text, source=text, id=text, queue=text, body=_body(data={"fail": text}))
            ),
        },
    ),
    Surface(
        name="mail",
        target=mailed,
        shape="msgpack",
        seeds={
            "a dead letter": _mailed(),
            "a subject": _mailed(body=_body(subject="image/amqp%3A%2F%2Fme%3Apw%40mq")),
            "passwords": _mailed(error="see amqp://me:pw@mq/ and password=pw", output="{'api_key': 'pw'}"),
            "control characters": _mailed(listener="a\r\nBcc: b@c", error="\x1b[31m\u202e\0", source="=?utf-8?q?a?="),
            "a lone surrogate": _mailed(body=_body().replace(b"sea.jpg", b"\\ud800")),
            "data that is no object": _mailed(body=_body(data=[1])),
        },
        weight=0.3,
        oversized={
            "80,000 arguments": lambda: _mailed(body=_body(data={f"k{each}": each for each in range(MANY)})),
            "an argument of 80,000 keys": lambda: _mailed(
                body=_body(data={"a": {f"k{each}": each for each in range(MANY)}})
            ),
            "a context of 80,000 keys": lambda: _mailed(body=_body(relevocontext=keys().decode())),
            **of_texts(lambda text: _mailed(error=text, output=text, body=_body(data={text: text}))),
        },
    ),
    Surface(
        name="control",
        target=controlled,
        shape="json",
        seeds={
            "a pause": packed_control(Pause(transport="", queue="media", since=NOW, by="ann@web-1", reason="down")),
            "a request to stop": packed_control(Stop(transport="rabbit", worker="web1:4711", request="a1", since=NOW)),
            "of a newer release": b'{"is":"slow","v":2,"transport":"","queue":"media"}',
            "a time beyond all dates": b'{"is":"pause","transport":"","queue":"q","since":1e308}',
        },
        weight=0.5,
        oversized=of_json(),
    ),
    Surface(
        name="announcement",
        target=announced,
        shape="json",
        seeds={
            "an announcement": Announcement(
                1, "web1", 4711, [HeldEvent("default", "shop", "1", "take"), HeldEvent("feed", "shop", "2")]
            ).packed(),
            "nothing that is held": b'{"v":1,"host":"web1","pid":1}',
            "of a newer release": b'{"v":2,"host":"web1","pid":1,"held":[["q","s","i","l",7]],"more":{}}',
            "a process of 5,000 digits": b'{"v":1,"host":"web1","pid":' + b"9" * 5000 + b"}",
            "a lone surrogate": b'{"v":1,"host":"\\ud800","pid":1}',
        },
        weight=0.5,
        oversized={
            **of_json(),
            **{
                f"{name}, held": make
                for name, make in of_json(lambda data: b'{"v":1,"host":"a","pid":1,"held":' + data + b"}").items()
            },
            "80,000 events": lambda: (
                b'{"v":1,"host":"a","pid":1,"held":[' + b",".join([b'["q","s","i","l"]'] * MANY) + b"]}"
            ),
        },
    ),
)
