"""
Encode events as CloudEvents 1.0 documents in JSON, and decode them.

The attributes are those of https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md and its
JSON format; ``correlationid``, ``causationid`` and ``traceparent`` are documented extensions,
``dataversion`` and ``relevocontext`` are relevo's own. The data stays raw until a listener asks for it.

relevo writes an object as data. Data of another kind, which other programs publish, is the argument ``data``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, date, time
from typing import Any, get_type_hints

import msgspec

from relevo._event.context import NOTHING, Ambient
from relevo._event.event import Event, EventType, VersionedEvent, declared, name_of, reader
from relevo._event.round_trip import difference, doubtful_fields
from relevo._event.subject import Subject
from relevo._event.validation import MAX_BODY, conversion, json_of, plain, type_name
from relevo._secret import masked
from relevo.errors import ConfigurationError, DecodeError, EncodeError, shown

MAX_SOURCE = 255
MAX_TEXT = 255
"""Characters of an id, a source, a type and a partition key, as every transport stores them."""

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md#type-system"""

_SOURCE = r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+"
_datetime_at = type(msgspec.msgpack.decode(b"\xd6\xff\0\0\0\0")).fromtimestamp
"""
A method of Python's own datetime: freezegun replaces the class in each module by one that msgspec does not encode.

https://github.com/msgpack/msgpack/blob/master/spec.md#timestamp-extension-type
"""

_NO_DATA = msgspec.Raw(b"")
_NULL = msgspec.Raw(b"null")
_NOTHING = (b"", b"null")

DATA = "data"
"""The name of the argument for data that is not an object."""


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
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_raw = msgspec.json.Decoder(msgspec.Raw).decode
_decode_value = msgspec.json.Decoder().decode
_decode_bytes = msgspec.json.Decoder(bytes).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_MISFITS = (msgspec.DecodeError, RecursionError, ValueError)
"""The errors of invalid data; any other exception that a class raises is a bug of the class."""


DEFAULT_SOURCE = "app"
"""The source of an application that has none of its own; several may share it."""


def checked_source(source: object) -> str:
    """
    Return *source* if it is a valid source of events: a URI reference (RFC 3986), such as an application's name.

    Raises:
        ConfigurationError: It is not a string, is empty, too long, or has a password or characters that are not
            allowed.
    """
    if isinstance(source, str) and len(source) <= MAX_SOURCE and re.fullmatch(_SOURCE, source):
        if masked(source) != source:
            raise ConfigurationError(
                f"source: {shown(source)} has a password, which each event would carry; write the name of the "
                f"application, such as shop"
            )
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


def content_of(event: Any, version: int | None = None) -> Content:
    """
    Return the content of *event*; that of a named one has *version*, unless it has its own.

    Raises:
        EncodeError: A value has no exact form in JSON, or would be read back as another; names its path.

        ConfigurationError: It is not an event.
    """
    if isinstance(event, Event):
        name, arguments = str.__str__(event.name), event.arguments
        given = arguments if isinstance(arguments, dict) else dict(arguments)
        own = None if type(event) is Event else getattr(event, "dataversion", None)
        return Content(name, json_of(given, name), version if own is None else own)
    name = str.__str__(name_of(event))
    kind = declared(type(event))
    values = ((sent, _builtin(event, field, kind)) for field, sent in kind.fields.items())
    data = json_of({sent: value for sent, value in values if value is not msgspec.UNSET}, name)
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
        value = getattr(event, field)
        return value if value is msgspec.UNSET else msgspec.to_builtins(value, str_keys=True, enc_hook=built_in)
    except Exception as error:
        raise EncodeError(kind.name, f"$.{field}", str(error)) from error


def built_in(value: object) -> object:
    """Return *value*, of a class that msgspec does not know, in the form of the built-in class that it derives from."""
    if isinstance(value, (str, int, float)):
        return plain(value, event_name="")
    advice = conversion(type(value), is_declared=True)
    if isinstance(value, (date, time)) and not advice:  # freezegun has such classes, and Pendulum
        text = value.isoformat()
        return f"{text.removesuffix('+00:00')}Z" if text.endswith("+00:00") else text
    raise TypeError(f"{type_name(type(value))} has no form in JSON{advice}")


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
    when: Any = _datetime_at(now, UTC)  # encoded as text
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
        try:
            document = _decode(body)
        except msgspec.ValidationError:
            document = _decode(_without_others_extensions(body))
    except _UNREADABLE as error:
        raise DecodeError(f"not a CloudEvents document: {error}") from error
    if document.specversion != "1.0":
        raise DecodeError(f"unknown CloudEvents version {shown(document.specversion)}; expected 1.0")
    if not (document.id and document.source and document.type):
        raise DecodeError("the CloudEvents document has an empty id, source or type")
    for name, text in (("id", document.id), ("source", document.source), ("type", document.type)):
        if len(text) > MAX_TEXT or not text.isprintable():
            check_text(name, text)
    if document.data_base64 is not _NO_DATA:
        _settle_data(document)
    return document


def check_text(name: str, text: str) -> None:
    """
    Check an attribute of an event that another program may have written.

    Args:
        name: The name of the attribute: the id, the source, the type or the partition key.

        text: Its value.

    Raises:
        DecodeError: It is too long, or holds control characters, with which it could forge a line where it is shown.
    """
    if len(text) > MAX_TEXT:
        raise DecodeError(f"its {name} has {len(text)} characters; at most {MAX_TEXT} are allowed")
    if _CONTROL.search(text):
        raise DecodeError(f"its {name} holds a control character: {shown(text)}")


def _settle_data(document: Document) -> None:
    """
    Make the binary data of *document* its data if that is JSON, as its content type says; remove it if it is null.

    https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md#312-payload-deserialization
    """
    if bytes(document.data_base64) == b"null":
        document.data_base64 = _NO_DATA
        return
    if bytes(document.data) not in _NOTHING:
        raise DecodeError("the CloudEvents document has both data and data_base64; expected one of them")
    try:
        data = _decode_bytes(document.data_base64)
    except _UNREADABLE as error:
        raise DecodeError(f"the data_base64 of the CloudEvents document is not Base64: {error}") from error
    if (document.datacontenttype or "").partition(";")[0].strip().lower().endswith(("/json", "+json")):
        with suppress(*_UNREADABLE):
            data.decode()
            document.data, document.data_base64 = _decode_raw(data), _NO_DATA


def _without_others_extensions(body: bytes) -> bytes:
    """
    Return the document *body* without extensions that have the name of one that relevo reads, and another type.

    Other programs choose the names of their extensions themselves.
    """
    members = _decode_members(body)
    for name, kind in _EXTENSIONS.items():
        value = _decode_value(members.get(name, _NULL))
        if name == "dataversion" and isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value, re.ASCII):
            members[name] = msgspec.Raw(str(int(value)).encode())
        elif value is not None and type(value) is not kind:
            del members[name]
    return _encode(members)


_EXTENSIONS = {
    "dataversion": int,
    **dict.fromkeys(("correlationid", "causationid", "traceparent", "relevocontext"), str),
}


def attributes_of(body: bytes) -> Mapping[str, Any]:
    """Return all attributes of the document *body*, without its data, and without those that are null."""
    members = _decode_members(body)
    values = {name: _decode_value(raw) for name, raw in members.items() if name not in (DATA, "data_base64")}
    return {name: value for name, value in values.items() if value is not None}


def generic(document: Document) -> Event:
    """
    Return *document* as an :class:`Event` whose subject is a :class:`Subject`.

    Its arguments are the data, if that is an object. Any other data is the argument ``data``: a value of JSON, or the
    bytes of binary data.

    Raises:
        DecodeError: Its data cannot be decoded.
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


def with_id(event: Event, event_id: str) -> Event:
    """Return a copy of *event* with the id *event_id*, which shares the arguments: a listener may change them."""
    copied: Event = type(event).__new__(type(event))
    _set_name(copied, event.name)
    _set_arguments(copied, event.arguments)
    _set_subject(copied, event.subject)
    _set_id(copied, event_id)
    return copied


def generic_from(event: object) -> Event:
    """Return *event* as an :class:`Event`; that of an instance of a declared class has its data in JSON's types."""
    if isinstance(event, Event):
        return event
    return Event(name_of(event), msgspec.json.decode(content_of(event).data), subject=subject_of(event))


def typed(document: Document, kind: EventType) -> Any:
    """
    Return *document* as an instance of the class that *kind* declares.

    A missing subject field is filled from the subject's id, so that a listener for a declared class also
    receives an event that was dispatched by name. Data that is not an object is the value of the field ``data``.

    Raises:
        DecodeError: The data does not fit the class; names the field.
    """
    if kind.upcasters and document.dataversion is not None and document.dataversion < kind.version:
        document = _upcast(document, document.dataversion, kind)
    if kind.subject and document.subject and kind.fields[kind.subject] not in _data(document):
        return typed_from(generic(document), kind)
    try:
        return reader(kind.cls)(_object_of(document, kind))
    except _MISFITS as error:
        raise _misfit(document.type, kind, error) from error


def _object_of(document: Document, kind: EventType) -> bytes:
    """
    Return the data of *document* as an object in JSON.

    Raises:
        ValueError: It is not an object, and the class that *kind* declares has no field ``data``.
    """
    data, base64 = bytes(document.data), bytes(document.data_base64)
    if data.startswith(b"{"):
        return data
    if data in _NOTHING and not base64:
        return b"{}"
    if DATA not in kind.fields.values():
        raise ValueError(f"expected an object, or a field {DATA} for other data; got {_kind_of(data or base64)}")
    return b'{"data":%b}' % (base64 or data)


def _kind_of(raw: bytes) -> str:
    return type(_decode_value(raw)).__name__


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


def version_of(event: Event, kind: EventType) -> int | None:
    """
    Return the version of *kind* after validating the data of the named *event* with the class.

    It is ``None`` if the event has its own, or if its subject is an object of the application: the id may be known only
    at the commit, and is a part of the data.

    Raises:
        EncodeError: The data does not fit the class, or a value has no form in JSON.
    """
    about = event.subject
    if isinstance(event, VersionedEvent) or (kind.subject and about is not None and not isinstance(about, Subject)):
        return None
    try:
        typed_from(event, kind)
    except Exception as error:  # the class's own checks may raise anything
        content_of(event)  # which names a value that has no form in JSON
        cause = error.__cause__ if isinstance(error, DecodeError) else error
        why = _why(cause) if isinstance(cause, _MISFITS) else repr(cause)
        raise EncodeError(event.name, "", f"the data does not fit {kind.cls.__qualname__}: {why}") from error
    return kind.version


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
    if not document.relevocontext:
        return {}
    try:
        return _decode_object(document.relevocontext)
    except _UNREADABLE:
        return {}


def _data(document: Document) -> dict[str, Any]:
    try:
        return _decode_object(document.data)
    except _UNREADABLE as error:
        return _unusual_data(document, error)


def _unusual_data(document: Document, why_no_object: Exception) -> dict[str, Any]:
    """Return data that is not a JSON object under the name :data:`DATA`; nothing if there is none."""
    data, base64 = bytes(document.data), bytes(document.data_base64)
    try:
        if base64:
            return {DATA: _decode_bytes(base64)}
        if data in _NOTHING:
            return {}
        if data.startswith(b"{"):
            raise why_no_object
        return {DATA: _decode_value(data)}
    except _UNREADABLE as error:
        raise DecodeError(f"the data of {shown(document.type)} cannot be decoded: {error}") from error
