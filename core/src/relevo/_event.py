"""Events: facts in the past tense, either a name with arguments or an instance of a declared class."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import msgspec

from relevo.errors import ConfigurationError, DuplicateEventError, EncodeError, EventNameError, did_you_mean, shown

if TYPE_CHECKING:
    from relevo._retry import Retry

T = TypeVar("T", bound=type)

MAX_NAME = 200
MAX_VERSION = 2**31 - 1
"""The greatest integer that CloudEvents has."""

_NAME = r"[A-Za-z0-9_-]+(?:[./:][A-Za-z0-9_-]+)*"
_MARK = "__relevo_event__"
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

        id: Only to dispatch the same event again after an unknown outcome; made at the dispatch
            otherwise.

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

    def get(self, key: str, default: Any = None) -> Any:
        """Return the argument *key*, or *default*."""
        return self.arguments.get(key, default)


Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
"""Takes the data of one version of an event, and returns that of the next."""


@attrs.frozen(kw_only=True)
class EventType:
    """What a class was declared to be by :func:`event`."""

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


def event(
    name: str,
    *,
    version: int = 1,
    subject: str | None = None,
    of: str | None = None,
    retry: Retry | None = None,
    upcasters: Mapping[int, Upcaster] | None = None,
) -> Callable[[T], T]:
    """
    Declare the decorated class to be the event *name*: an attrs class, a dataclass, a Struct or a pydantic model.

    It only marks the class; an application registers it when one of its listeners asks for it.

    A field travels under its name in Python, unless its class says otherwise: a :class:`msgspec.Struct` by
    ``rename`` or ``field(name=…)``, a pydantic model by an alias. An alias of attrs is the name of an
    argument, which does not travel; nor does the tag of a Struct, since the event has a name.

    What is read must fit the fields' types. A pydantic model decides itself how strict that is; its bytes
    need ``ser_json_bytes`` and ``val_json_bytes`` to be ``base64``, which pydantic knows from 2.9 on.

    Args:
        name: The stable text that travels.

        version: Of the fields; goes up when they change in a way that older listeners cannot read.

        subject: The field that holds the id of the subject.

        of: The subject's type, as registered; needed with *subject*.

        retry: For listeners of this event that say nothing themselves.

        upcasters: From an earlier version to what makes data of the next one of its data; one for every
            version from the oldest that still may come. Without any, earlier data is read as it is.

    Raises:
        EventNameError: *name* cannot name an event.

        ConfigurationError: What is decorated has no fields that travel, or one that is not read under the
            name under which it travels; *subject* is none of them, or comes without *of*; *version* is
            below 1; *upcasters* are not callables for consecutive versions up to the one before *version*.
    """
    checked_name(name)
    if type(version) is not int or not 1 <= version <= MAX_VERSION:
        raise ConfigurationError(f'the version of "{name}" is {shown(version)}; versions are whole numbers from 1')
    if (subject is None) != (of is None):
        raise ConfigurationError(f'the event "{name}" needs both subject= (a field) and of= (its type), or neither')
    steps = dict(upcasters or {})
    consecutive = range(max(1, version - len(steps)), version)
    if {*map(shown, steps)} != {*map(shown, consecutive)} or not all(map(callable, steps.values())):
        raise ConfigurationError(
            f'the upcasters of "{name}" are {shown(steps)}; name functions for consecutive versions up to {version - 1}'
        )

    def mark(cls: T) -> T:
        fields = _fields(cls)
        if fields is None:
            raise ConfigurationError(
                f"{shown(cls)} has no fields; put @relevo.event(…) above @attrs.frozen, @dataclass, a Struct or a model"
            )
        if subject is not None and subject not in fields:
            raise ConfigurationError(
                f'the event "{name}" has no field "{subject}" to be its subject{did_you_mean(subject, fields)}'
            )
        if hidden := [field for field in fields if field.startswith("_")]:
            raise ConfigurationError(f'"{name}" has "{hidden[0]}"; fields with a leading underscore do not travel')
        declaration = EventType(
            name=name, version=version, cls=cls, fields=fields, subject=subject, of=of, retry=retry, upcasters=steps
        )
        setattr(cls, _MARK, declaration)
        return cls

    return mark


def _fields(cls: Any) -> dict[str, str] | None:
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
    found = cls.__dict__.get(_MARK)
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
    return cls.model_validate_json  # type: ignore[no-any-return]


class EventTypes:
    """The declared classes that an application knows, by name."""

    def __init__(self) -> None:
        self._by_name: dict[str, EventType] = {}

    def add(self, cls: type) -> EventType:
        """
        Register *cls*; again is fine.

        Raises:
            DuplicateEventError: Another class has the same name.

            ConfigurationError: It is not declared, or a field is of a type that cannot be read back.
        """
        found = declared(cls)
        reader(cls)
        first = self._by_name.setdefault(found.name, found)
        if first.cls is not cls:
            raise DuplicateEventError(found.name, first.cls, cls)
        return found

    def get(self, name: str) -> EventType | None:
        """Return the class declared for *name*, if one is known."""
        return self._by_name.get(name)


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
