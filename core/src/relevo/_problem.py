"""Configuration problems with their source locations, reported together."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any, TypeVar

import attrs

from relevo.errors import ConfigurationError

T = TypeVar("T")

KeyPath = tuple[str | int, ...]
"""From the outermost key inwards; a number is a place in a list."""

_BARE = re.compile(r"[\w-]+", re.ASCII)


def dotted(keys: KeyPath) -> str:
    """Return *keys* as TOML writes them, with quotes where these are needed."""
    return ".".join(str(key) if _BARE.fullmatch(str(key)) else f'"{key}"' for key in keys)


_LAST = 1 << 30
"""Comes after every line of a file."""


@attrs.frozen
class Origin:
    """Where a value was said."""

    place: str
    """A file, a variable, or what there is instead."""

    line: int | None = None
    """Of the file."""

    def __str__(self) -> str:
        return self.place if self.line is None else f"{self.place}:{self.line}"


@attrs.define
class Origins:
    """Where all that was said comes from."""

    default: Origin
    """Where to look for what nobody said."""

    said: dict[KeyPath, Origin] = attrs.field(factory=dict)

    def of(self, *keys: str | int) -> Origin:
        """Return where the value at *keys* was said, or what it is a part of, or the first of its own parts."""
        inside = (origin for inner, origin in self.said.items() if keys and inner[: len(keys)] == keys)
        return self.exactly(*keys) or next(inside, self.default)

    def exactly(self, *keys: str | int) -> Origin | None:
        """Return the same, but ``None`` for what nobody said."""
        for length in range(len(keys), 0, -1):
            if keys[:length] in self.said:
                return self.said[keys[:length]]
        return None

    def overrule(self, keys: KeyPath, origin: Origin) -> None:
        """Note that the value at *keys*, with all inside it, was said again."""
        for inner in [each for each in self.said if each[: len(keys)] == keys]:
            del self.said[inner]
        self.said[keys] = origin


@attrs.frozen
class Problem:
    """Something that is wrong, as those who look for it tell it; nobody raises it before all have looked."""

    keys: KeyPath
    """What it is about, as configuration calls it."""

    error: ConfigurationError
    is_unknown: bool = False
    """The value is not known at all, so that what else seems wrong with it, or with the whole, is no news."""


class Problems:
    """
    Collects what is wrong.

    Args:
        found: What is known already.
    """

    def __init__(self, found: Iterable[Problem] = ()):
        self._found = list(found)

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[Problem]:
        return iter(self._found)

    @contextmanager
    def at(self, *keys: str | int) -> Iterator[None]:
        """Take the error that the block ends with as one of the value at *keys*."""
        try:
            yield
        except ConfigurationError as error:
            self.add(keys, error)

    def tried(self, key: str, make: Callable[..., T], *arguments: object, instead: Any = None) -> T:
        """Return what *make* makes of *arguments*; *instead* if it raises, which is noted of the value at *key*."""
        try:
            return make(*arguments)
        except ConfigurationError as error:
            self.add((key,), error)
            return instead  # type: ignore[no-any-return]  # whoever says it knows the type

    def add(self, keys: KeyPath, *errors: ConfigurationError | str, is_unknown: bool = False) -> None:
        """Note *errors* of the value at *keys*."""
        made = [ConfigurationError(each) if isinstance(each, str) else each for each in errors]
        self.extend([Problem(keys, each, is_unknown) for each in made])

    def extend(self, found: Iterable[Problem]) -> None:
        """Note what somebody *found*, but for what is no news."""
        unknown = [each.keys for each in self._found if each.is_unknown]
        self._found += [each for each in found if not any(_overlap(each.keys, keys) for keys in unknown)]

    def concern(self, *keys: str | int) -> bool:
        """Return whether something is wrong with the value at *keys*, so that nothing can be said of what needs it."""
        return any(each.keys and _overlap(each.keys, keys) for each in self._found)

    def raise_any(self, origins: Origins | None = None) -> None:
        """
        Raise what was found, in the order of the file, each with its place if there are *origins*.

        Raises:
            ConfigurationError: As the only one was, else one that tells them all.
        """
        if not self._found:
            return
        told = [(origins.of(*each.keys) if origins else None, each.error) for each in self._found]
        told.sort(key=lambda each: (each[0] and each[0].line) or _LAST)
        lines = [f"{origin}: {error}" if origin else str(error) for origin, error in told]
        error = copy(told[0][1]) if len(told) == 1 else ConfigurationError()
        error.args = ("\n".join(lines),)
        raise error from (told[0][1].__cause__ if len(told) == 1 else None)


def _overlap(one: KeyPath, other: KeyPath) -> bool:
    """Return whether one of two values is the other, or in it."""
    return all(mine == theirs for mine, theirs in zip(one, other, strict=False))
