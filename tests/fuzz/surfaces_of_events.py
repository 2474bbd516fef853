"""Surfaces of events: envelopes, their headers and bodies, states, signatures, and a delivery as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from functools import cache
from typing import Any, Literal

import attrs
import msgspec

from mutation import packed, parts
from relevo import (
    Ack,
    Call,
    DeadLetter,
    Delivery,
    Envelope,
    Event,
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
from relevo._transport.delivery import MAX_ERROR, MAX_STATE
from relevo._transport.transport import DeadLetterEntry
from relevo._worker.acceptance import accepting
from relevo._worker.caller import Caller
from relevo._worker.decision import sanitised
from relevo._worker.executor import Handle
from relevo._worker.progress import dumped, failures_of, give_back_unread, loaded, revived
from relevo.errors import CodecError, ConfigurationError, DecodeError, EncodeError, RelevoError
from relevo.testing import FakeClock
from relevo.wire import pack, unpack
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
    clock = FakeClock(NOW)
    caller = Caller(
        listeners=table,
        first_queue=lambda _: "default",
        subjects=SubjectTypes([SubjectType(type="image", cls=int, name=str, load=_loaded)]),
        clock=clock,
        chance=lambda: 0.5,
    )
    queues = QueueTable({"default": QueueOptions(accept=["image.created", "mail.*"])})
    accepted = accepting(caller.outcome, queues, transport="main")
    verified = _signing().verifying(accepted, source="shop", clock=clock, patience=3600.0)
    return caller.outcome, accepted, verified


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
        },
        weight=2.0,
    ),
)
