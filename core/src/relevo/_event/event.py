"""Events: either a name with arguments, or an instance of a declared class."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from itertools import count
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Never, get_type_hints

import attrs
import msgspec

from relevo._mark import MARK
from relevo._synonym import EVENT, missing_attribute
from relevo.errors import ConfigurationError, DuplicateEventError, EncodeError, EventNameError, no_option, shown

if TYPE_CHECKING:
    from relevo._retry import Retry

MAX_NAME = 200
MAX_VERSION = 2**31 - 1
"""The largest integer in CloudEvents."""

_NAME = r"[A-Za-z0-9_-]+(?:[./:][A-Za-z0-9_-]+)*"


def checked_name(name: object) -> str:
    """
    Return *name* if it is a valid name of an event.

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


def _own(value: object) -> object:
    """Return a copy of the arguments *value*: listeners may change those of an event, and nothing else."""
    if isinstance(value, dict):
        return dict.copy(value)  # also of a subclass, whatever it overrides
    return dict(value) if isinstance(value, Mapping) else value


def own_values(event: Event) -> None:
    """
    Replace the lists and dictionaries in the arguments of *event*, at any depth, by copies.

    Then a listener that is called in process changes the event, and not what the caller passed. An event that is only
    sent does not need the copies. Other objects are not copied.
    """
    arguments = event.arguments
    if isinstance(arguments, dict) and any(type(each) in _CONTAINERS for each in arguments.values()):
        seen: dict[int, Any] = {}
        with suppress(RecursionError):  # they stay the caller's; nothing that deep can be sent either
            arguments.update({key: _copied(each, seen) for key, each in arguments.items()})


_CONTAINERS = frozenset((dict, list))


def _copied(value: Any, seen: dict[int, Any]) -> Any:
    """Return a copy of *value*, a list or a dictionary, or another object itself; *seen* has what was copied, by id."""
    kind = type(value)
    if kind not in _CONTAINERS:
        return value
    if id(value) in seen:  # the same object twice, or one inside of itself
        return seen[id(value)]
    copy = seen[id(value)] = kind()
    if kind is list:
        copy.extend(_copied(each, seen) for each in value)
    else:
        copy.update((key, _copied(each, seen)) for key, each in value.items())
    return copy


def _is_mapping(event: Any, _: object, value: object) -> None:
    if not isinstance(value, Mapping):
        if isinstance(type(value).__dict__.get(MARK), EventType):
            fields = (
                'event.model_dump(mode="json", by_alias=True)'
                if is_model(type(value))
                else "msgspec.to_builtins(event)"
            )
            raise EncodeError(
                event.name,
                "",
                f"arguments: expected a mapping; got an instance of {type(value).__name__}, which is an event by "
                f"itself; to dispatch it with an id, pass {fields} as the arguments",
            )
        kind = type(value)
        fix = ""
        if kind.__module__.partition(".")[0] == "pandas" and hasattr(kind, "to_dict"):
            is_row = hasattr(kind, "tolist")  # a Series; a DataFrame has no such method
            fix = f"; write {'value.to_dict()' if is_row else _ROWS}"
        raise EncodeError(event.name, "", f"arguments: expected a mapping with text keys; got {kind.__name__}{fix}")


_ROWS = '{"rows": json.loads(value.to_json(orient="records", date_format="iso"))}'
"""The rows of a DataFrame in the types of JSON: without NaN and timestamps."""


@attrs.frozen(init=False)
class Event:
    """
    An event with a name and arguments.

    Args:
        name: ``noun.past-participle``, as in ``image.created``.

        arguments: Its data, in the types of JSON. Other types need a declared class. They are copied.

        subject: The object that the event is about: an instance of a registered subject type, or a
            :class:`Subject`. Only its type and id are sent, never the object. In process, where nothing is sent, it
            may be any object, and listeners get that object.

        id: Generated at the dispatch by default; pass it only to dispatch the same event again after an unknown
            outcome. Events with the same id, source and queue are duplicates: while one is kept, a transport that
            claims ``dedupe`` silently ignores others, even if their data differs.

    Raises:
        EventNameError: *name* is invalid.

        EncodeError: *arguments* is not a mapping.

        TypeError: An argument is unknown; the error says what to write instead.
    """

    name: str = attrs.field(validator=lambda _, __, value: checked_name(value))
    arguments: Mapping[str, Any] = attrs.field(factory=dict, converter=_own, validator=_is_mapping, hash=False)
    subject: Any = attrs.field(default=None, kw_only=True)
    id: str | None = attrs.field(default=None, kw_only=True)

    def __init__(
        self,
        name: str,
        arguments: Mapping[str, Any] = MappingProxyType({}),
        *,
        subject: Any = None,
        id: str | None = None,  # noqa: A002 - part of the public signature
        **unknown: Never,
    ):
        if unknown:
            wrong = next(iter(unknown))
            data = f'its arguments are one mapping: relevo.Event("image.created", {{"{wrong}": …}})'
            raise no_option("Event", wrong, attrs.fields_dict(Event), EVENT, otherwise=data)
        Event.__attrs_init__(self, name, arguments, subject=subject, id=id)  # a subclass has one of its own

    def __getitem__(self, key: str) -> Any:
        return self.arguments[key]

    def __contains__(self, key: object) -> bool:
        return key in self.arguments

    __iter__ = None  # otherwise an event passed instead of a list of events would iterate as an empty list

    def get(self, key: str, default: Any = None) -> Any:
        """Return the argument *key*, or *default*."""
        return self.arguments.get(key, default)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> object:
            """Raise :class:`AttributeError`, for an attribute of another tool with what there is instead."""
            __tracebackhide__ = True
            return missing_attribute(self, "Event", name)


@attrs.frozen
class VersionedEvent(Event):
    """A named event that was validated with its class; later versions of the class upcast its data."""

    dataversion: int | None = attrs.field(default=None, kw_only=True)


def event_from(event: object, arguments: Mapping[str, Any] | None, subject: object) -> object:
    """
    Return what the arguments of a dispatch describe: *event* itself, or the event of this name.

    Raises:
        EventNameError: The name is invalid.

        EncodeError: *arguments* is not a mapping.

        ConfigurationError: *event* is not a name, so it has its own arguments and subject.
    """
    if isinstance(event, str):
        return Event(event, {} if arguments is None else arguments, subject=subject)
    if arguments is not None or subject is not None:
        what = "arguments" if arguments is not None else "subject="
        raise ConfigurationError(
            f"dispatch: {what} can only be passed with the name of an event; got {shown(event)}; write "
            f'dispatch("image.created", {{…}}, subject=…), or put them into the event'
        )
    return event


Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
"""Takes the data of one version of an event, returns the data of the next version."""


class EventType(msgspec.Struct, frozen=True, kw_only=True):
    """The declaration of a class by :func:`relevo.event`."""

    name: str
    version: int
    cls: type
    fields: Mapping[str, str]
    """From the name of a field in Python to its name in the event's data."""

    subject: str | None
    of: str | None
    retry: Retry | None
    upcasters: Mapping[int, Upcaster]
    is_model: bool
    """Whether the class is a pydantic model."""

    number: int = msgspec.field(default_factory=count().__next__)
    """Counts the declarations of this process, so that it is known which of two is the later one."""

    def replaces(self, other: EventType) -> bool:
        """Return whether this is a later definition of the class, as after a reload of its module."""
        place = (self.cls.__module__, self.cls.__qualname__)
        is_same_place = place == (other.cls.__module__, other.cls.__qualname__)
        return is_same_place and place[1].replace(".", "").isidentifier() and self.number > other.number


def fields_of(cls: Any) -> dict[str, str] | None:
    """Return the fields of *cls* and their names in the event's data; ``None`` if *cls* has no named fields."""
    own = getattr(cls, "__dict__", {})
    if is_model(cls):
        sent = {name: field.serialization_alias or name for name, field in cls.model_fields.items()}
        return None if cls.__pydantic_root_model__ else sent
    if isinstance(cls, type(msgspec.Struct)) and not cls.__struct_config__.array_like:
        return dict(zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True))
    if "__attrs_attrs__" in own:
        return {field.name: field.name for field in own["__attrs_attrs__"]}
    if "__dataclass_fields__" in own:
        from dataclasses import fields  # noqa: PLC0415 - a dataclass has imported it already

        return {field.name: field.name for field in fields(cls)}
    return None


def is_model(cls: object) -> bool:
    """Return whether *cls* is a pydantic model, without importing pydantic."""
    return isinstance(cls, type) and all(hasattr(cls, each) for each in ("model_fields", "model_validate_json"))


def declared(cls: type) -> EventType:
    """
    Return the declaration of *cls*.

    Raises:
        ConfigurationError: *cls* is not declared; a subclass does not inherit the declaration of its parent.
    """
    found = cls.__dict__.get(MARK)
    if not isinstance(found, EventType):
        raise ConfigurationError(f"{cls.__module__}.{cls.__qualname__} is not an event; put @relevo.event(…) above it")
    return found


@cache
def reader(cls: type) -> Callable[[bytes], Any]:
    """
    Return a function that decodes JSON into instances of the declared class *cls*.

    Raises:
        ConfigurationError: A field has a type that cannot be read back from JSON unambiguously.
    """
    try:
        if is_model(cls):
            return _model_reader(cls)
        msgspec.json.schema(cls)  # raises for an unsupported class now; a decoder would raise at the first event
        return msgspec.json.Decoder(cls).decode
    except Exception as error:
        why = str(error).partition("\n\nFor")[0].strip().splitlines()[-1]
        raise ConfigurationError(
            f"{cls.__module__}.{cls.__qualname__} cannot be read back from JSON: {_culprit(cls)}{why}"
        ) from error


def _culprit(cls: type) -> str:
    """Return ``the field name: `` for the first field of *cls* whose type cannot be read; empty if there is none."""
    try:
        hints = {} if is_model(cls) else get_type_hints(cls)
    except Exception:  # noqa: BLE001 - the error that is reported says more
        return ""
    for name in fields_of(cls) or ():
        try:
            msgspec.json.schema(hints.get(name, Any))
        except Exception:  # noqa: BLE001 - msgspec and hooks of the type may raise anything
            return f"the field {name}: "
    return ""


def _model_reader(cls: Any) -> Callable[[bytes], Any]:
    for mode in ("serialization", "validation"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a default without a form in JSON, which only the schema lacks
            schema = cls.model_json_schema(mode=mode)  # raises if a field has no form in JSON
        own = schema.get("$defs", {}).get(cls.__name__, schema).get("properties", ())
        if lost := [name for name, sent in declared(cls).fields.items() if sent not in own]:
            raise ValueError(f'"{lost[0]}" is written and read under different names; use one alias, and no exclude')
        if b'"format":"binary"' in msgspec.json.encode(schema):
            raise ValueError('bytes need ser_json_bytes="base64" and val_json_bytes="base64" in model_config')
    return cls.model_validate_json  # type: ignore[no-any-return]  # pydantic is not imported here


class EventTypes(dict[str, EventType]):
    """The declared classes of an application, by event name."""

    def add(self, cls: type) -> EventType:
        """
        Register *cls*; registering it again does nothing.

        If it is an earlier class that was defined again, in a cell of a notebook or by ``importlib.reload``, it
        replaces that. If it is the earlier one, the later one stays.

        Returns:
            Its declaration, or the later one.

        Raises:
            DuplicateEventError: Another class declares the same name.

            ConfigurationError: It is not declared, or a field has a type that cannot be read back.
        """
        found = declared(cls)
        reader(cls)
        first = self.setdefault(found.name, found)
        if first.cls is cls or first.replaces(found):
            return first
        if not found.replaces(first):
            raise DuplicateEventError(found.name, first.cls, cls)
        self[found.name] = found
        return found


def name_of(event: object) -> str:
    """
    Return the name of *event*, an :class:`Event` or an instance of a declared class.

    Raises:
        ConfigurationError: It is neither.
    """
    if isinstance(event, Event):
        return event.name
    if isinstance(event, (str, type)):
        expected = "an instance of it" if isinstance(event, type) else f"relevo.Event({shown(event)}, {{…}})"
        raise ConfigurationError(f"{shown(event)} is not an event; dispatch {expected}")
    if type(event).__module__ == "builtins":
        expected = "a name, relevo.Event(name, arguments), or an instance of a class marked with @relevo.event(…)"
        raise ConfigurationError(f"{shown(event)} is not an event; dispatch {expected}")
    return declared(type(event)).name
