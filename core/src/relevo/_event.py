"""Events: facts in the past tense, either a name with arguments or an instance of a declared class."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from relevo.errors import ConfigurationError, DuplicateEventError, EventNameError

if TYPE_CHECKING:
    from relevo._retry import Retry

T = TypeVar("T", bound=type)

MAX_NAME = 200
_NAME = re.compile(r"[A-Za-z0-9_-]+(?:[./:][A-Za-z0-9_-]+)*")
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
    if not _NAME.fullmatch(name):
        raise EventNameError(name, "only A-Z a-z 0-9 _ - are allowed, with single . / : between")
    return name


def _checked(_: object, __: object, value: str) -> None:
    checked_name(value)


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
    """

    name: str = attrs.field(validator=_checked)
    arguments: Mapping[str, Any] = _NO_ARGUMENTS
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

        ConfigurationError: *subject* is not a field, or comes without *of*; *version* is below 1.
    """
    checked_name(name)
    if version < 1:
        message = f'the version of "{name}" is {version}; versions start at 1'
        raise ConfigurationError(message)
    if (subject is None) != (of is None):
        message = f'the event "{name}" needs both subject= (a field) and of= (a subject type), or neither'
        raise ConfigurationError(message)

    def mark(cls: T) -> T:
        if subject is not None and subject not in getattr(cls, "__annotations__", {}):
            message = f'the event "{name}" has no field "{subject}" to be its subject'
            raise ConfigurationError(message)
        setattr(cls, _MARK, EventType(name=name, version=version, cls=cls, subject=subject, of=of, retry=retry))
        return cls

    return mark


def declared(cls: type) -> EventType:
    """
    Return what *cls* was declared to be.

    Raises:
        ConfigurationError: It was not; a subclass does not inherit its parent's name.
    """
    found = cls.__dict__.get(_MARK)
    if not isinstance(found, EventType):
        message = f'{cls.__module__}.{cls.__qualname__} is not an event; put @relevo.event("noun.verbed") above it'
        raise ConfigurationError(message)
    return found


class EventTypes:
    """The declared classes that an application knows, by name."""

    def __init__(self) -> None:
        self._by_name: dict[str, EventType] = {}

    def add(self, cls: type) -> EventType:
        """
        Register *cls*; again is fine.

        Raises:
            DuplicateEventError: Another class has the same name.
        """
        found = declared(cls)
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
    return event.name if isinstance(event, Event) else declared(type(event)).name
