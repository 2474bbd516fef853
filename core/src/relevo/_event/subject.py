"""Subjects: the objects that events are about, sent as type and id, and loaded on demand."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any, Protocol

import attrs

from relevo.errors import SubjectError, did_you_mean, shown


def _names(value: Iterable[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _is_text(_: object, attribute: Any, value: str) -> None:
    given: object = value
    if not isinstance(given, str) or not given:
        raise SubjectError(f"the {attribute.name} of a subject: expected text; got {shown(value)}")


@attrs.frozen
class Subject:
    """
    The name of a subject: its type and its id.

    Raises:
        SubjectError: One of them is empty, or not a string.
    """

    type: str = attrs.field(validator=_is_text)
    id: str = attrs.field(validator=_is_text)

    def __str__(self) -> str:
        from urllib.parse import quote  # noqa: PLC0415 - a tenth of relevo's import time, and rarely needed

        return f"{quote(self.type, safe='')}/{quote(self.id, safe='')}"

    @classmethod
    def parsed(cls, text: str) -> Subject | None:
        """Return the subject in *text*, as ``str()`` wrote it; ``None`` if *text* is not valid."""
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
    """Passed to a listener with ``missing="tombstone"`` in place of a subject that was not found."""


@attrs.frozen(kw_only=True)
class SubjectType:
    """A type of objects that events are about."""

    type: str
    """The name that is sent, such as ``image``."""

    cls: builtins.type
    """Its instances, and those of subclasses, are subjects of this type."""

    name: Callable[[Any], str | None]
    """Takes an instance, returns its id; ``None`` while it has no id, as before the flush."""

    load: Callable[[str], Any]
    """Takes an id, returns the instance; ``None`` if it is deleted or not committed yet."""

    release: Callable[[Any], object] | None = None
    """Takes an instance that *load* returned, when the listener that it was loaded for has ended."""

    aliases: tuple[str, ...] = attrs.field(default=(), converter=_names)
    """Earlier names of the type: events that are stored with one of them find their subject."""

    load_many: Callable[[Sequence[str]], Mapping[str, Any]] | None = None
    """
    Takes ids, returns the instances that were found, by their ids: a worker loads the subjects of a batch with it.

    Each instance is given to one listener, as one of *load*, up to a second after it was loaded, or to *release*.
    So what one listener changes in the subject of another event may be missing in that; two listeners that run at
    the same time must not get what they share.
    """

    number: int = attrs.field(factory=count().__next__, init=False, eq=False, repr=False)
    """Counts the subject types of this process, so that it is known which of two was made later."""


class SubjectLoader(Protocol):
    """Loads the subjects of events for listeners."""

    def load(self, subject: Subject) -> Any:
        """Return the instance that *subject* names; ``None`` if it was not found."""
        ...

    def release(self, subject: Subject, loaded: object) -> None:
        """Release *loaded*, which :meth:`load` returned for *subject*."""
        ...


class SubjectTypes:
    """The registered subject types of an application."""

    def __init__(self, types: Iterable[SubjectType] = ()):
        self._by_type: dict[str, SubjectType] = {}
        self._by_alias: dict[str, SubjectType] = {}
        self._by_class: dict[type, SubjectType] = {}
        for subject_type in types:
            self.add(subject_type)

    def __repr__(self) -> str:
        return f"<SubjectTypes {', '.join(self._by_type) or 'without a type'}>"

    def add(self, subject_type: SubjectType) -> None:
        """
        Register *subject_type*; registering it again does nothing.

        If it is an earlier one that was defined again, in a cell of a notebook or by ``importlib.reload``, it replaces
        that.

        Raises:
            SubjectError: Another subject type with this name, class or alias is registered.
        """
        kind, cls = subject_type.type, subject_type.cls
        former = self._by_type.get(kind)
        for known in (former, self._by_class.get(cls)):
            if known is not None and known != subject_type and not _is_redefined(known, subject_type):
                raise SubjectError(
                    f'the subject type "{kind}" of {cls.__qualname__} clashes with '
                    f'"{known.type}" of {known.cls.__qualname__}'
                )
        for name in (kind, *subject_type.aliases):
            other = self._called(name)
            if other is not None and other is not former:
                raise SubjectError(
                    f'the subject type "{kind}" of {cls.__qualname__} clashes with "{other.type}" of '
                    f'{other.cls.__qualname__}: events with a subject "{name}/…" could be about either; set type= and '
                    f"aliases= so that each name has one class"
                )
        if former is not None and former.number > subject_type.number:
            return  # the later one is registered already
        self._by_type[kind] = self._by_class[cls] = subject_type
        self._by_alias.update(dict.fromkeys(subject_type.aliases, subject_type))
        if former is not None:  # after the other, which threads may ask for meanwhile
            if former.cls is not cls:
                del self._by_class[former.cls]
            for name in set(former.aliases).difference(subject_type.aliases):
                del self._by_alias[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the types."""
        return iter(tuple(self._by_type))

    def of(self, subject: object) -> SubjectType:
        """
        Return the subject type of *subject*; that of the most derived class wins.

        Raises:
            SubjectError: Its class is not registered.
        """
        for cls in type(subject).__mro__:
            if cls in self._by_class:
                return self._by_class[cls]
        raise SubjectError(
            f"{type(subject).__qualname__} is not registered as a subject; "
            f"register it with app.add_subject(…), for a mapped class with app.add_subject(relevo_sql.orm_subject(…)), "
            f"or pass relevo.Subject(type, id)"
        )

    def named(self, subject: object) -> Subject | None:
        """
        Return the name of *subject*; ``None`` if it has no id yet, as before the flush.

        Raises:
            SubjectError: Its class is not registered, or its subject type returned an invalid id.
        """
        if isinstance(subject, Subject):
            return subject
        kind = self.of(subject)
        found: Any = kind.name(subject)
        if found == "None":
            raise SubjectError(
                f'the name= of the subject type "{kind.type}" returned the text "None"; '
                f"return None while there is no id"
            )
        if found is None:
            return None
        if not isinstance(found, str) or not found:
            code = getattr(kind.name, "__code__", None)
            place = f" ({code.co_filename}:{code.co_firstlineno})" if code else ""
            raise SubjectError(
                f'the name= of the subject type "{kind.type}"{place}: expected text, or None while there is no id; '
                f"got {shown(found)}; convert it, as in name=lambda image: str(image.id)"
            )
        return Subject(kind.type, found)

    def load(self, subject: Subject) -> Any:
        """
        Return the instance that *subject* names; ``None`` if it was not found.

        Raises:
            SubjectError: Its type is not registered.
        """
        return self.type_of(subject).load(subject.id)

    def type_of(self, subject: Subject) -> SubjectType:
        """
        Return the subject type that *subject* names.

        Raises:
            SubjectError: Its type is not registered.
        """
        known = self._called(subject.type)
        if known is None:
            hint = did_you_mean(subject.type, self._by_type)
            raise SubjectError(
                f'no subject type "{subject.type}" is registered{hint}; register it with app.add_subject(…)'
            )
        return known

    def any_loads_many(self) -> bool:
        """Return whether a type loads several subjects at once."""
        return any(each.load_many is not None for each in tuple(self._by_type.values()))

    def release(self, subject: Subject, loaded: object) -> None:
        """Release *loaded*, which :meth:`load` returned for *subject*: the listener that needed it has ended."""
        known = self._called(subject.type)
        if known is not None and known.release is not None:
            known.release(loaded)

    def _called(self, name: str) -> SubjectType | None:
        """Return the subject type that has *name* as its type or as an alias."""
        return self._by_type.get(name) or self._by_alias.get(name)


def _is_redefined(former: SubjectType, later: SubjectType) -> bool:
    """
    Return whether *later* is *former* as it was defined again: its class and the function *load* have the same names.

    A function that another one made has no name by which it is known, unless that gave it one, as ``orm_subject`` does.
    Of one class, two functions that are in different lines of one file are two, and not one that was defined again.
    """
    pairs = [(former.load, later.load)]
    if former.cls is not later.cls:
        pairs.append((former.cls, later.cls))
    if former.type != later.type or not all(_name_of(one) == _name_of(other) is not None for one, other in pairs):
        return False
    return former.cls is not later.cls or _is_same_place(former.load, later.load)


def _name_of(thing: Any) -> tuple[str, str] | None:
    """Return the module and the name of *thing*, a class or a function; ``None`` if its name does not lead to it."""
    name = getattr(thing, "__qualname__", "").replace("<lambda>", "lambda_")
    return (thing.__module__, name) if all(part.isidentifier() for part in name.split(".")) else None


def _is_same_place(one: Any, other: Any) -> bool:
    """Return whether a function may be the other one in another run: each cell of a notebook is a file of its own."""
    first, second = (getattr(each, "__code__", None) for each in (one, other))
    if first is None or second is None:
        return one is other
    return bool(first.co_filename != second.co_filename or first.co_firstlineno == second.co_firstlineno)
