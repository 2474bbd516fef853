"""Routes by class: which declared classes there are below a class, and which class of a table covers another one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from operator import itemgetter
from typing import Protocol

from relevo._mark import MARK
from relevo.errors import shown


class Declaration(Protocol):
    """What a route has to know of the declaration of a class."""

    @property
    def name(self) -> str:
        """The name of the event."""
        ...

    @property
    def number(self) -> int:
        """Counts the declarations of this process."""
        ...


def declaration_of(cls: type) -> Declaration | None:
    """Return the declaration of *cls*; ``None`` if it is not declared. A subclass does not inherit it."""
    found: Declaration | None = vars(cls).get(MARK)
    return found


def declared_below(classes: Iterable[type]) -> dict[str, type]:
    """
    Return the declared ones of *classes* and of the classes derived from them, by the names of their events.

    Only classes of imported modules exist. Of two that declare the same name, as after a reload of their module, it is
    the later one.
    """
    found = [(declaration_of(cls), cls) for cls in _derived(classes)]
    declared = [(each.number, each.name, cls) for each, cls in found if each is not None]
    return {name: cls for _, name, cls in sorted(declared, key=itemgetter(0))}


def _derived(classes: Iterable[type]) -> Iterator[type]:
    """Yield *classes*, and those derived from them, each once."""
    seen = set(waiting := list(classes))
    while waiting:
        cls = waiting.pop()
        yield cls
        subclasses: list[type] = type.__subclasses__(cls)
        waiting += [each for each in subclasses if each not in seen]
        seen.update(subclasses)


def covering(cls: type, keys: Collection[type]) -> type | None:
    """Return the most specific of *keys* that *cls* is or derives from: the first in its method resolution order."""
    return next((each for each in cls.__mro__ if each in keys), None)


def label(cls: type) -> str:
    """Return how a table of routes names *cls*; no pattern has a space."""
    return f"class {cls.__module__}.{cls.__qualname__}"


def unfit(cls: type) -> str | None:
    """Return why *cls* cannot have a route; ``None`` if it can."""
    if cls is object:
        return 'every class is derived from object; write "*", which events without a class have too'
    if declared_below((cls,)):
        return None
    return (
        f"{shown(cls)} declares no event, and neither does a class derived from it that is imported so far; put "
        f"@relevo.event(…) above it, or import the modules of its events before the application is made"
    )


def doubled(keys: Iterable[object]) -> dict[type, str]:
    """Return those classes among *keys*, the names and classes of a table, that have another route, and why."""
    first: dict[str, object] = {}
    found: dict[type, str] = {}
    for key in sorted(keys, key=lambda each: isinstance(each, type)):
        declaration = declaration_of(key) if isinstance(key, type) else None
        names = [label(key)] if isinstance(key, type) else [str(key)]
        names += [] if declaration is None else [declaration.name]
        other = next((first[name] for name in names if name in first), None)
        if other is not None and isinstance(key, type):
            event = "" if declaration is None else f', which is the event "{declaration.name}"'
            what = label(other) if isinstance(other, type) else shown(other)
            found[key] = f"{label(key)}{event}, has another route, that of {what}; remove one of the two"
        first.update(dict.fromkeys(names, key))
    return found
