"""Subjects: the object that an event is about, as a type and an id; loaded on demand, never pickled."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable
from typing import Any

import attrs

from relevo.errors import SubjectError, did_you_mean, shown


def _is_text(_: object, attribute: Any, value: str) -> None:
    given: object = value
    if not isinstance(given, str) or not given:
        raise SubjectError(f"the {attribute.name} of a subject is text, not {shown(value)}")


@attrs.frozen
class Subject:
    """
    The name of a subject: which kind of thing, and which one.

    Raises:
        SubjectError: One of them is empty, or no text.
    """

    type: str = attrs.field(validator=_is_text)
    id: str = attrs.field(validator=_is_text)

    def __str__(self) -> str:
        from urllib.parse import quote  # noqa: PLC0415 - it takes as long as a tenth of relevo, and few need it

        return f"{quote(self.type, safe='')}/{quote(self.id, safe='')}"

    @classmethod
    def parsed(cls, text: str) -> Subject | None:
        """Return what ``str()`` made *text* of, or ``None`` if it is something else."""
        from urllib.parse import unquote  # noqa: PLC0415 - as above

        kind, _, name = text.partition("/")
        if not kind or not name or "/" in name:
            return None
        try:
            return cls(unquote(kind, errors="strict"), unquote(name, errors="strict"))
        except UnicodeDecodeError:
            return None


@attrs.frozen
class Gone(Subject):
    """What a listener with ``missing="tombstone"`` is given for a subject that could not be found."""


@attrs.frozen(kw_only=True)
class SubjectType:
    """A kind of thing that events happen to."""

    type: str
    """What travels, such as ``image``."""

    cls: builtins.type
    """Its instances (and those of subclasses) are subjects of this type."""

    name: Callable[[Any], str | None]
    """From an instance to its id; ``None`` while it has none yet, such as before the flush."""

    load: Callable[[str], Any]
    """From an id to the instance; ``None`` if it is gone or not committed yet."""


class SubjectTypes:
    """The kinds that an application registered."""

    def __init__(self, types: Iterable[SubjectType] = ()):
        self._by_type: dict[str, SubjectType] = {}
        self._by_class: dict[type, SubjectType] = {}
        for subject_type in types:
            self.add(subject_type)

    def add(self, subject_type: SubjectType) -> None:
        """
        Register *subject_type*; again is fine.

        Raises:
            SubjectError: Its type or its class is registered already.
        """
        kind, cls = subject_type.type, subject_type.cls
        for known in (self._by_type.get(kind), self._by_class.get(cls)):
            if known is not None and known != subject_type:
                raise SubjectError(
                    f'the subject type "{kind}" of {cls.__qualname__} clashes with '
                    f'"{known.type}" of {known.cls.__qualname__}'
                )
        self._by_type[kind] = self._by_class[cls] = subject_type

    def of(self, subject: object) -> SubjectType:
        """
        Return the type that *subject* is an instance of, the most derived first.

        Raises:
            SubjectError: None is registered for its class.
        """
        for cls in type(subject).__mro__:
            if cls in self._by_class:
                return self._by_class[cls]
        raise SubjectError(
            f"{type(subject).__qualname__} is not registered as a subject; "
            f"register it with app.add_subject(…), or pass relevo.Subject(type, id)"
        )

    def named(self, subject: object) -> Subject | None:
        """
        Return the name of *subject*, or ``None`` if it has none yet, such as before the flush.

        Raises:
            SubjectError: No type is registered for its class, or its type gives an invalid name.
        """
        if isinstance(subject, Subject):
            return subject
        kind = self.of(subject)
        found = kind.name(subject)
        if found == "None":
            raise SubjectError(
                f'the name= of the subject type "{kind.type}" made text of None; '
                f"let it return None while there is no id"
            )
        return None if found is None else Subject(kind.type, found)

    def load(self, subject: Subject) -> Any:
        """
        Return the instance that *subject* names, or ``None`` if there is none.

        Raises:
            SubjectError: Its type is not registered.
        """
        known = self._by_type.get(subject.type)
        if known is None:
            hint = did_you_mean(subject.type, self._by_type)
            raise SubjectError(
                f'no subject type "{subject.type}" is registered{hint}; register it with app.add_subject(…)'
            )
        return known.load(subject.id)
