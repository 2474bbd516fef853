"""
Events as bytes: a CloudEvents 1.0 document in JSON, and back.

The attributes are those of https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md and its
JSON format; ``correlationid``, ``causationid`` and ``traceparent`` are documented extensions,
``dataversion`` and ``relevocontext`` are relevo's own. The data stays raw until a listener asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from relevo._event import Event, EventType, declared
from relevo._subject import Subject
from relevo._validator import MAX_BODY, checked_text, plain
from relevo.errors import DecodeError, EncodeError, shown

_NO_DATA = msgspec.Raw(b"")


class Document(msgspec.Struct, omit_defaults=True):
    """The body of an envelope."""

    id: str
    source: str
    type: str
    specversion: str
    time: str | None = None
    subject: str | None = None
    datacontenttype: str | None = None
    dataversion: int | None = None
    correlationid: str | None = None
    causationid: str | None = None
    traceparent: str | None = None
    relevocontext: str | None = None
    data: msgspec.Raw = _NO_DATA


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Document).decode
_decode_any = msgspec.json.Decoder().decode
_decoders: dict[type, msgspec.json.Decoder[Any]] = {}


class Content(msgspec.Struct, frozen=True):
    """What an event says, checked and in JSON's own terms; what is left to add is who, when and where."""

    name: str
    data: bytes
    version: int | None
    subject: Subject | None


def content_of(event: object) -> Content:
    """
    Return what *event* says, except for the name of a subject that is an object.

    Raises:
        EncodeError: It cannot be written faithfully; names the place.

        ConfigurationError: It is not an event.
    """
    if isinstance(event, Event):
        data = plain(dict(event.arguments), event_name=event.name)
        subject = event.subject if isinstance(event.subject, Subject) else None
        return Content(event.name, _encode(data), None, subject)
    kind = declared(type(event))
    try:
        fields = msgspec.to_builtins(event)
    except (TypeError, ValueError, RecursionError) as error:
        raise EncodeError(kind.name, "$", str(error)) from error
    data = plain(fields, event_name=kind.name)
    subject = Subject(str(kind.of), str(getattr(event, kind.subject))) if kind.subject else None
    return Content(kind.name, _encode(data), kind.version, subject)


def encoded(
    content: Content,
    *,
    id: str,  # noqa: A002 - the attribute's own name
    source: str,
    now: float,
    subject: Subject | None = None,
    correlation: str | None = None,
    causation: str | None = None,
    context: Mapping[str, Any] | None = None,
) -> bytes:
    """
    Return the body of an envelope.

    Args:
        content: What :func:`content_of` made of the event.

        id: The event's id.

        source: The application's name.

        now: Seconds since the epoch.

        subject: If the content does not have it.

        correlation: The id that all events of one business case share.

        causation: The id of the event whose listener dispatched this one.

        context: What the application adds, such as the base URL of the request.

    Raises:
        EncodeError: The whole is too large, or the context has no faithful form.
    """
    about = subject or content.subject
    if about is not None:
        checked_text(about.id, event_name=content.name, path="subject")
    body = _encode(
        Document(
            id=id,
            source=source,
            type=content.name,
            specversion="1.0",
            time=datetime.fromtimestamp(now, UTC).isoformat().replace("+00:00", "Z"),
            subject=str(about) if about is not None else None,
            datacontenttype="application/json",
            dataversion=content.version,
            correlationid=correlation,
            causationid=causation,
            relevocontext=_context(context, content.name) if context else None,
            data=msgspec.Raw(content.data),
        )
    )
    if len(body) > MAX_BODY:
        raise EncodeError(
            content.name, "$", f"{len(body):,} bytes, {MAX_BODY:,} are allowed; store the rest and send where it is"
        )
    return body


def decoded(body: bytes) -> Document:
    """
    Return the document that *body* is, its data still raw.

    Raises:
        DecodeError: It is not a CloudEvents 1.0 document in JSON.
    """
    try:
        document = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"not a CloudEvents document: {error}"
        raise DecodeError(message) from error
    if document.specversion != "1.0":
        message = f"CloudEvents version {shown(document.specversion)} is not known, only 1.0"
        raise DecodeError(message)
    return document


def generic(document: Document) -> Event:
    """
    Return *document* as an :class:`Event`, its subject by name.

    Raises:
        DecodeError: Its data is not an object.
    """
    arguments = _data(document)
    subject = Subject.parsed(document.subject) if document.subject else None
    return _received(document.type, arguments, subject, document.id)


def typed(document: Document, kind: EventType) -> Any:
    """
    Return *document* as an instance of the class that *kind* declares.

    A subject field that the data lacks is filled from the subject's id, so that a listener with a
    declared class also hears an event that was dispatched by name.

    Raises:
        DecodeError: The data does not fit; names the field.
    """
    decoder = _decoders.get(kind.cls)
    if decoder is None:
        decoder = _decoders[kind.cls] = msgspec.json.Decoder(kind.cls)
    raw = bytes(document.data) or b"{}"
    try:
        if kind.subject is None or document.subject is None:
            return decoder.decode(raw)
        try:
            return decoder.decode(raw)
        except msgspec.ValidationError:
            filled = _with_subject(document, kind)
            if filled is None:
                raise
            return msgspec.convert(filled, kind.cls, strict=False)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        message = f'the data of "{document.type}" does not fit {kind.cls.__qualname__}: {error}'
        raise DecodeError(message) from error


def typed_from(event: Event, kind: EventType) -> Any:
    """Return *event*, dispatched by name, as an instance of the class that *kind* declares."""
    fields = dict(event.arguments)
    if kind.subject and kind.subject not in fields and isinstance(event.subject, Subject):
        fields[kind.subject] = event.subject.id
    try:
        return msgspec.convert(fields, kind.cls, strict=False)
    except (msgspec.ValidationError, ValueError) as error:
        message = f'the arguments of "{event.name}" do not fit {kind.cls.__qualname__}: {error}'
        raise DecodeError(message) from error


def generic_from(event: object) -> Event:
    """Return *event*, an instance of a declared class, as an :class:`Event`."""
    content = content_of(event)
    return _received(content.name, _decode_any(content.data), content.subject, None)


def context_of(document: Document) -> Mapping[str, Any]:
    """Return what the application added at the dispatch; empty if it is not readable."""
    if not document.relevocontext:
        return {}
    try:
        context = msgspec.json.decode(document.relevocontext)
    except (msgspec.DecodeError, RecursionError):
        return {}
    return context if isinstance(context, dict) else {}


def _received(name: str, arguments: dict[str, Any], subject: Subject | None, event_id: str | None) -> Event:
    """Foreign names are not ours to judge, so the validator is not run on them."""
    event: Event = Event.__new__(Event)
    put = object.__setattr__
    put(event, "name", name)
    put(event, "arguments", arguments)
    put(event, "subject", subject)
    put(event, "id", event_id)
    return event


def _data(document: Document) -> dict[str, Any]:
    raw = bytes(document.data)
    try:
        arguments = _decode_any(raw) if raw else {}
    except (msgspec.DecodeError, RecursionError) as error:
        message = f'the data of "{document.type}" is not JSON: {error}'
        raise DecodeError(message) from error
    if arguments is None:
        return {}
    if not isinstance(arguments, dict):
        message = f'the data of "{document.type}" is {type(arguments).__name__}, not an object'
        raise DecodeError(message)
    return arguments


def _with_subject(document: Document, kind: EventType) -> dict[str, Any] | None:
    subject = Subject.parsed(document.subject or "")
    fields = _data(document)
    if subject is None or subject.type != kind.of or kind.subject in fields:
        return None
    return {**fields, str(kind.subject): subject.id}


def _context(context: Mapping[str, Any], name: str) -> str:
    return _encode(plain(dict(context), event_name=name, path="context")).decode()
