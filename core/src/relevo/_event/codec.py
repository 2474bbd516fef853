"""
Encode events as CloudEvents 1.0 documents in JSON, and decode them.

The attributes are those of https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md and its
JSON format; ``correlationid``, ``causationid`` and ``traceparent`` are documented extensions,
``dataversion`` and ``relevocontext`` are relevo's own. The data stays raw until a listener asks for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, get_type_hints

import msgspec

from relevo._event.context import NOTHING, Ambient
from relevo._event.event import Event, EventType, declared, name_of, reader
from relevo._event.round_trip import difference, doubtful_fields
from relevo._event.subject import Subject
from relevo._event.validation import MAX_BODY, json_of, plain
from relevo.errors import ConfigurationError, DecodeError, EncodeError, shown

MAX_SOURCE = 255
_SOURCE = r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+"
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
    data_base64: msgspec.Raw = _NO_DATA


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Document).decode
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_MISFITS = (msgspec.DecodeError, RecursionError, ValueError)
"""The errors of invalid data; any other exception that a class raises is a bug of the class."""


def checked_source(source: object) -> str:
    """
    Return *source* if it is a valid source of events: a URI reference (RFC 3986), such as an application's name.

    Raises:
        ConfigurationError: It is not a string, is empty, too long, or has characters that are not allowed.
    """
    if isinstance(source, str) and len(source) <= MAX_SOURCE and re.fullmatch(_SOURCE, source):
        return source
    raise ConfigurationError(
        f"source: expected the application's name as text without spaces, such as shop or /shop/web; "
        f"got {shown(source)}"
    )


class Content(msgspec.Struct, frozen=True, gc=False):
    """The validated name, data and version of an event; source, time and subject are added later."""

    name: str
    data: bytes
    version: int | None


def content_of(event: Any) -> Content:
    """
    Return the content of *event*.

    Raises:
        EncodeError: A value has no exact form in JSON, or would be read back as another; names its path.

        ConfigurationError: It is not an event.
    """
    if isinstance(event, Event):
        name, arguments = str.__str__(event.name), event.arguments
        given = arguments if isinstance(arguments, dict) else dict(arguments)
        version = None if type(event) is Event else getattr(event, "dataversion", None)
        return Content(name, json_of(given, name), version)
    name = str.__str__(name_of(event))
    kind = declared(type(event))
    data = json_of({sent: _builtin(event, field, kind) for field, sent in kind.fields.items()}, name)
    read = reader(kind.cls)
    try:
        back = read(data)
    except Exception as error:  # the class's own checks may raise anything
        raise EncodeError(name, "$", f"its own class rejects the data: {_why(error)}") from error
    for field in doubtful_fields(kind.cls):
        given, found = getattr(event, field), getattr(back, field)
        if given != found and (found_difference := difference(given, found, f"$.{field}")):
            raise EncodeError(name, *found_difference)
    if kind.is_model and event.model_extra != back.model_extra:
        raise EncodeError(name, "$", "an undeclared field would be read back as another value; declare it")
    return Content(name, data, kind.version)


def subject_of(event: object) -> Any:
    """
    Return the subject of *event*: a :class:`Subject`, an object that is not named yet, or ``None``.

    Raises:
        EncodeError: The subject field of a declared class holds neither text nor an integer.
    """
    if isinstance(event, Event):
        return event.subject
    kind = declared(type(event))
    subject_id = _builtin(event, kind.subject, kind) if kind.subject else None
    if subject_id is None or kind.of is None:
        return None
    if type(subject_id) not in (str, int):
        raise EncodeError(kind.name, f"$.{kind.subject}", "the id of a subject must be text or an integer")
    return Subject(kind.of, str(subject_id))


def _builtin(event: Any, field: str, kind: EventType) -> Any:
    try:
        if kind.is_model:
            return event.model_dump(mode="json", by_alias=True, include={field}, warnings=False).popitem()[1]
        return msgspec.to_builtins(getattr(event, field), str_keys=True, enc_hook=_simple)
    except Exception as error:
        raise EncodeError(kind.name, f"$.{field}", str(error)) from error


def _simple(value: object) -> object:
    """Return *value*, of a class that msgspec does not know, as the str, int or float that it derives from."""
    if isinstance(value, (str, int, float)):
        return plain(value, event_name="")
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def encoded(
    content: Content, *, event_id: str, source: str, now: float, subject: Subject | None, around: Ambient
) -> bytes:
    """
    Return the body of an envelope.

    Args:
        content: The result of :func:`content_of` for the event.

        event_id: The event's id.

        source: The application's name.

        now: Seconds since the epoch.

        subject: The event's subject.

        around: The context that the application adds, such as the base URL of the request, and the parent event's ids.

    Raises:
        EncodeError: The body is too large, or the context or the subject has no exact form in JSON.
    """
    when: Any = datetime.fromtimestamp(now, UTC)  # encoded as text
    document = Document(
        id=event_id,
        source=source,
        type=content.name,
        specversion="1.0",
        time=when,
        datacontenttype="application/json",
        dataversion=content.version,
        data=msgspec.Raw(content.data),
    )
    if subject is not None:
        plain({"type": subject.type, "id": subject.id}, event_name=content.name, path="subject")
        document.subject = str(subject)
    if around is not NOTHING:
        document.correlationid, document.causationid = around.correlation, around.causation
        if context := dict(around.context):
            document.relevocontext = json_of(context, content.name, "context").decode()
    body = _encode(document)
    if len(body) > MAX_BODY:
        raise EncodeError(
            content.name, "$", f"{len(body):,} bytes; the limit is {MAX_BODY:,}; store the data and send a reference"
        )
    return body


def decoded(body: bytes) -> Document:
    """
    Decode *body* into a document; its data stays raw.

    Raises:
        DecodeError: It is not a CloudEvents 1.0 document in JSON.
    """
    try:
        if not body.isascii():
            body.decode()  # msgspec does not validate the text of unknown fields
        document = _decode(body)
    except _UNREADABLE as error:
        raise DecodeError(f"not a CloudEvents document: {error}") from error
    if document.specversion != "1.0":
        raise DecodeError(f"unknown CloudEvents version {shown(document.specversion)}; expected 1.0")
    if not (document.id and document.source and document.type):
        raise DecodeError("the CloudEvents document has an empty id, source or type")
    if document.data_base64 != _NO_DATA:
        raise DecodeError(f"the data of {shown(document.type)} is binary; expected JSON")
    return document


def generic(document: Document) -> Event:
    """
    Return *document* as an :class:`Event` whose subject is a :class:`Subject`.

    Raises:
        DecodeError: Its data is not an object.
    """
    subject = Subject.parsed(document.subject) if document.subject else None
    event: Event = Event.__new__(Event)  # without validating the name: foreign names need not follow our rules
    _set_name(event, document.type)
    _set_arguments(event, _data(document))
    _set_subject(event, subject)
    _set_id(event, document.id)
    return event


_set_name, _set_arguments, _set_subject, _set_id = (
    vars(Event)[name].__set__ for name in ("name", "arguments", "subject", "id")
)


def typed(document: Document, kind: EventType) -> Any:
    """
    Return *document* as an instance of the class that *kind* declares.

    A missing subject field is filled from the subject's id, so that a listener for a declared class also
    receives an event that was dispatched by name.

    Raises:
        DecodeError: The data does not fit the class; names the field.
    """
    if kind.upcasters and document.dataversion is not None and document.dataversion < kind.version:
        document = _upcast(document, document.dataversion, kind)
    if kind.subject and document.subject and kind.fields[kind.subject] not in _data(document):
        return typed_from(generic(document), kind)
    try:
        return reader(kind.cls)(bytes(document.data) or b"{}")
    except _MISFITS as error:
        raise _misfit(document.type, kind, error) from error


def typed_from(event: Event, kind: EventType) -> Any:
    """Return the named *event* as an instance of the class that *kind* declares, as :func:`typed` does."""
    data, about = dict(event.arguments), event.subject
    sent = kind.fields[kind.subject] if kind.subject else None
    try:
        if sent and sent not in data and isinstance(about, Subject) and about.type == kind.of:
            try:
                data[sent] = msgspec.convert(about.id, get_type_hints(kind.cls)[kind.subject or ""], strict=False)
            except msgspec.ValidationError as error:
                raise msgspec.ValidationError(f"{error} - at `$.{sent}`, from the subject {about}") from error
        return reader(kind.cls)(_encode(data))
    except _MISFITS as error:
        raise _misfit(event.name, kind, error) from error


def _upcast(document: Document, version: int, kind: EventType) -> Document:
    """Return *document* with its data, which has an earlier *version*, upcast to the version of *kind*."""
    data, what = _data(document), f"the data of {shown(document.type)} has version {version}"
    if version < min(kind.upcasters):
        raise DecodeError(
            f"{what}; the oldest upcaster of {kind.cls.__qualname__} is for version {min(kind.upcasters)}"
        )
    for each in range(version, kind.version):
        try:
            data = _decode_object(_encode(kind.upcasters[each](data)))
        except Exception as error:
            upcaster = getattr(kind.upcasters[each], "__qualname__", shown(kind.upcasters[each]))
            raise DecodeError(f"{what}; its upcaster from {each}, {upcaster}, failed: {error!r}") from error
    return msgspec.structs.replace(document, data=msgspec.Raw(_encode(data)))


def _misfit(name: str, kind: EventType, error: Exception) -> DecodeError:
    return DecodeError(f"the data of {shown(name)} does not fit {kind.cls.__qualname__}: {_why(error)}")


def _why(error: Exception) -> str:
    """Return the text of *error*; for an error of pydantic only the paths and reasons, without the values."""
    if not (hasattr(error, "errors") and type(error).__module__.startswith("pydantic_core")):
        return str(error)
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{each['msg']} - at `{'.'.join(map(str, ('$', *each['loc'])))}`" for each in faults)


def context_of(document: Document) -> Mapping[str, Any]:
    """Return the context that the application added at the dispatch; empty if it is invalid."""
    try:
        return _decode_object(document.relevocontext or "{}")
    except _UNREADABLE:
        return {}


def _data(document: Document) -> dict[str, Any]:
    data = bytes(document.data)
    try:
        return _decode_object(b"{}" if data in (b"", b"null") else data)
    except _UNREADABLE as error:
        raise DecodeError(f"the data of {shown(document.type)} is not a JSON object: {error}") from error
