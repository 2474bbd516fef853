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


def _is_name(_: object, __: object, value: str) -> None:
    checked_name(value)


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

    name: str = attrs.field(validator=_is_name)
    arguments: Mapping[str, Any] = attrs.field(default=_NO_ARGUMENTS, validator=_is_mapping, hash=False)
    subject: Any = attrs.field(default=None, kw_only=True)
    id: str | None = attrs.field(default=None, kw_only=True)

    def __getitem__(self, key: str) -> Any:
        return self.arguments[key]

    def get(self, key: str, default: Any = None) -> Any:
        """Return the argument *key*, or *default*."""
        return self.arguments.get(key, default)


@attrs.frozen(kw_only=True)
class EventType:
    """What a class was declared to be by :func:`event`."""

    name: str
    version: int
    cls: type
    fields: tuple[str, ...]
    subject: str | None
    of: str | None
    retry: Retry | None


def event(
    name: str, *, version: int = 1, subject: str | None = None, of: str | None = None, retry: Retry | None = None
) -> Callable[[T], T]:
    """
    Declare the decorated attrs class or dataclass to be the event *name*.

    It only marks the class; an application registers it when one of its listeners asks for it.

    Args:
        name: The stable text that travels.

        version: Of the fields; goes up when they change in a way that older listeners cannot read.

        subject: The field that holds the id of the subject.

        of: The subject's type, as registered; needed with *subject*.

        retry: For listeners of this event that say nothing themselves.

    Raises:
        EventNameError: *name* cannot name an event.

        ConfigurationError: What is decorated has no fields that travel; *subject* is none of them, or
            comes without *of*; *version* is below 1.
    """
    checked_name(name)
    if type(version) is not int or not 1 <= version <= MAX_VERSION:
        raise ConfigurationError(f'the version of "{name}" is {shown(version)}; versions are whole numbers from 1')
    if (subject is None) != (of is None):
        raise ConfigurationError(
            f'the event "{name}" needs both subject= (a field) and of= (a subject type), or neither'
        )

    def mark(cls: T) -> T:
        fields = _fields(cls)
        if fields is None:
            raise ConfigurationError(
                f"{shown(cls)} is neither an attrs class nor a dataclass; "
                f'put @relevo.event("{name}", …) above @attrs.frozen or @dataclass'
            )
        if subject is not None and subject not in fields:
            raise ConfigurationError(
                f'the event "{name}" has no field "{subject}" to be its subject{did_you_mean(subject, fields)}'
            )
        if hidden := [field for field in fields if field.startswith("_")]:
            raise ConfigurationError(
                f'the event "{name}" has a field "{hidden[0]}"; fields with a leading underscore do not travel'
            )
        declaration = EventType(name=name, version=version, cls=cls, fields=fields, subject=subject, of=of, retry=retry)
        setattr(cls, _MARK, declaration)
        return cls

    return mark


def _fields(cls: object) -> tuple[str, ...] | None:
    """Return the names of the fields of *cls*; ``None`` if it is not itself an attrs class or a dataclass."""
    own = getattr(cls, "__dict__", {})
    if "__attrs_attrs__" in own:
        return tuple(field.name for field in own["__attrs_attrs__"])
    if "__dataclass_fields__" in own:
        from dataclasses import fields  # noqa: PLC0415 - whoever has a dataclass has imported it

        return tuple(field.name for field in fields(cls))  # type: ignore[arg-type]
    return None


def declared(cls: type) -> EventType:
    """
    Return what *cls* was declared to be.

    Raises:
        ConfigurationError: It was not; a subclass does not inherit its parent's name.
    """
    found = cls.__dict__.get(_MARK)
    if not isinstance(found, EventType):
        raise ConfigurationError(
            f'{cls.__module__}.{cls.__qualname__} is not an event; put @relevo.event("noun.verbed") above it'
        )
    return found


@cache
def decoder(cls: type) -> msgspec.json.Decoder[Any]:
    """
    Return what makes instances of the declared class *cls* of JSON.

    Raises:
        ConfigurationError: A field is of a type that has no unmistakable form in JSON.
    """
    try:
        return msgspec.json.Decoder(cls)
    except Exception as error:
        raise ConfigurationError(
            f"{cls.__module__}.{cls.__qualname__} cannot be read back from JSON: {error}"
        ) from error


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
        decoder(cls)
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
