"""Events: facts in the past tense, either a name with arguments or an instance of a declared class."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from relevo.errors import ConfigurationError, DuplicateEventError, EncodeError, EventNameError, shown

if TYPE_CHECKING:
    from relevo._retry import Retry

MAX_NAME = 200
MAX_VERSION = 2**31 - 1
"""The greatest integer that CloudEvents has."""

_NAME = r"[A-Za-z0-9_-]+(?:[./:][A-Za-z0-9_-]+)*"
MARK = "__relevo_event__"
"""Under which a class has what it was declared to be."""
_NO_ARGUMENTS: Mapping[str, Any] = MappingProxyType({})


def checked_name(name: object) -> str:
    """
    Return *name* if it can name an event.

    Raises:
        EventNameError: It is not text, too long, or has characters outside ``A-Z a-z 0-9 _ - . / :``.
    """
    if not isinstance(name, str):
        raise EventNameError(name, f"it is {type(name).__name__}, not text")
    if len(name) > MAX_NAME:
        raise EventNameError(name, f"it has {len(name)} characters, {MAX_NAME} are allowed")
    if not re.fullmatch(_NAME, name):
        raise EventNameError(name, "only A-Z a-z 0-9 _ - are allowed, with single . / : between")
    return name


def _is_mapping(event: Any, _: object, value: object) -> None:
    if not isinstance(value, Mapping):
        raise EncodeError(event.name, "$", f"the arguments are {type(value).__name__}, not a mapping from text")


@attrs.frozen
class Event:
    """
    An event by its name.

    Args:
        name: ``noun.past-participle``, as in ``image.created``.

        arguments: What happened, in the types of JSON. Richer types belong in a declared class.

        subject: What it happened to: an object of a registered subject type, or a :class:`Subject`.
            Its type and id travel, never the object.

        id: Only to dispatch the same event again after an unknown outcome; made at the dispatch otherwise.
            Whatever has it, with the same source and in the same queue, *is* this event: while one waits, a
            transport that claims ``dedupe`` drops another without a word, even if it says something else.

    Raises:
        EventNameError: *name* cannot name an event.

        EncodeError: *arguments* is no mapping.
    """

    name: str = attrs.field(validator=lambda _, __, value: checked_name(value))
    arguments: Mapping[str, Any] = attrs.field(default=_NO_ARGUMENTS, validator=_is_mapping, hash=False)
    subject: Any = attrs.field(default=None, kw_only=True)
    id: str | None = attrs.field(default=None, kw_only=True)

    def __getitem__(self, key: str) -> Any:
        return self.arguments[key]

    def __contains__(self, key: object) -> bool:
        return key in self.arguments

    __iter__ = None  # else one without arguments, given where several events are expected, would be no event

    def get(self, key: str, default: Any = None) -> Any:
        """Return the argument *key*, or *default*."""
        return self.arguments.get(key, default)


Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
"""Takes the data of one version of an event, and returns that of the next."""


@attrs.frozen(kw_only=True)
class EventType:
    """What a class was declared to be by :func:`relevo.event`."""

    name: str
    version: int
    cls: type
    fields: Mapping[str, str]
    """From the name of a field in Python to the name under which it travels."""

    subject: str | None
    of: str | None
    retry: Retry | None
    upcasters: Mapping[int, Upcaster]
    is_model: bool = attrs.field(init=False, default=attrs.Factory(lambda made: _is_model(made.cls), takes_self=True))
    """It is one of pydantic's."""


def fields_of(cls: Any) -> dict[str, str] | None:
    """Return the fields of *cls* and what they travel as; ``None`` if it is itself no class with fields by name."""
    own = getattr(cls, "__dict__", {})
    if _is_model(cls):
        sent = {name: field.serialization_alias or name for name, field in cls.model_fields.items()}
        return None if cls.__pydantic_root_model__ else {**sent, **dict.fromkeys(cls.__private_attributes__, "")}
    if isinstance(cls, type(msgspec.Struct)) and not cls.__struct_config__.array_like:
        return dict(zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True))
    if "__attrs_attrs__" in own:
        return {field.name: field.name for field in own["__attrs_attrs__"]}
    if "__dataclass_fields__" in own:
        from dataclasses import fields  # noqa: PLC0415 - whoever has a dataclass has imported it

        return {field.name: field.name for field in fields(cls)}
    return None


def _is_model(cls: object) -> bool:
    """Return whether *cls* is a pydantic model, which is known without importing pydantic."""
    return isinstance(cls, type) and all(hasattr(cls, each) for each in ("model_fields", "model_validate_json"))


def declared(cls: type) -> EventType:
    """
    Return what *cls* was declared to be.

    Raises:
        ConfigurationError: It was not; a subclass does not inherit its parent's name.
    """
    found = cls.__dict__.get(MARK)
    if not isinstance(found, EventType):
        raise ConfigurationError(f"{cls.__module__}.{cls.__qualname__} is not an event; put @relevo.event(…) above it")
    return found


@cache
def reader(cls: type) -> Callable[[bytes], Any]:
    """
    Return what makes instances of the declared class *cls* of JSON.

    Raises:
        ConfigurationError: A field is of a type that has no unmistakable form in JSON.
    """
    try:
        if _is_model(cls):
            return _model_reader(cls)
        msgspec.json.schema(cls)  # a decoder alone meets a class that it does not know at the first event
        return msgspec.json.Decoder(cls).decode
    except Exception as error:
        why = str(error).partition("\n\nFor")[0].strip().splitlines()[-1]
        raise ConfigurationError(f"{cls.__module__}.{cls.__qualname__} cannot be read back from JSON: {why}") from error


def _model_reader(cls: Any) -> Callable[[bytes], Any]:
    for mode in ("serialization", "validation"):  # raises if a field has no form in JSON
        schema = cls.model_json_schema(mode=mode)
        own = schema.get("$defs", {}).get(cls.__name__, schema).get("properties", ())
        if lost := [name for name, sent in declared(cls).fields.items() if sent not in own]:
            raise ValueError(f'"{lost[0]}" is not written and read under one name; give it one alias, and no exclude')
        if b'"format":"binary"' in msgspec.json.encode(schema):
            raise ValueError('bytes need ser_json_bytes="base64" and val_json_bytes="base64" in model_config')
    return cls.model_validate_json  # type: ignore[no-any-return]  # pydantic is not imported here


class EventTypes(dict[str, EventType]):
    """The declared classes that an application knows, by name."""

    def add(self, cls: type) -> EventType:
        """
        Register *cls*; again is fine.

        Raises:
            DuplicateEventError: Another class has the same name.

            ConfigurationError: It is not declared, or a field is of a type that cannot be read back.
        """
        found = declared(cls)
        reader(cls)
        first = self.setdefault(found.name, found)
        if first.cls is not cls:
            raise DuplicateEventError(found.name, first.cls, cls)
        return found


def name_of(event: object) -> str:
    """
    Return the name of *event*, by name or declared.

    Raises:
        ConfigurationError: It is neither.
    """
    if isinstance(event, Event):
        return event.name
    if isinstance(event, (str, type)):
        mend = "an instance of it" if isinstance(event, type) else "relevo.Event(name, arguments)"
        raise ConfigurationError(f"{shown(event)} is not an event; dispatch {mend}")
    return declared(type(event)).name
