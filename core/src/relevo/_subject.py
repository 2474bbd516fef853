"""Subjects: what an event happened to, as a type and an id; loaded when asked for, never pickled."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote, unquote

import attrs

from relevo.errors import SubjectError, did_you_mean


@attrs.frozen
class Subject:
    """The name of a subject: which kind of thing, and which one."""

    type: str
    id: str

    def __str__(self) -> str:
        return f"{quote(self.type, safe='')}/{quote(self.id, safe='')}"

    @classmethod
    def parsed(cls, text: str) -> Subject | None:
        """Return what ``str()`` made *text* of, or ``None`` if it is something else."""
        kind, slash, name = text.partition("/")
        return cls(unquote(kind), unquote(name)) if kind and slash and "/" not in name else None


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
        for subject_type in types:
            self.add(subject_type)

    def add(self, subject_type: SubjectType) -> None:
        """
        Raises:
            SubjectError: The type is registered already.
        """
        if self._by_type.setdefault(subject_type.type, subject_type) is not subject_type:
            message = f'the subject type "{subject_type.type}" is registered twice'
            raise SubjectError(message)

    def of(self, subject: object) -> SubjectType:
        """
        Return the type that *subject* is an instance of, the most derived first.

        Raises:
            SubjectError: None is registered for its class.
        """
        matching = {known.cls: known for known in self._by_type.values()}
        for cls in type(subject).__mro__:
            if cls in matching:
                return matching[cls]
        message = (
            f"{type(subject).__qualname__} is not registered as a subject; "
            f"register it with app.add_subject(…), or pass relevo.Subject(type, id)"
        )
        raise SubjectError(message)

    def load(self, subject: Subject) -> Any:
        """
        Return the instance that *subject* names, or ``None`` if there is none.

        Raises:
            SubjectError: Its type is not registered.
        """
        known = self._by_type.get(subject.type)
        if known is None:
            hint = did_you_mean(subject.type, self._by_type)
            message = f'no subject type "{subject.type}" is registered{hint}; register it with app.add_subject(…)'
            raise SubjectError(message)
        return known.load(subject.id)
