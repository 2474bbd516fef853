"""Configuration problems with their source locations, reported together."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import lru_cache
from typing import Any, TypeVar

import msgspec

from relevo._secret import without_secrets
from relevo._visible import visible, visible_lines
from relevo.errors import ConfigurationError, RelevoError

T = TypeVar("T")
E = TypeVar("E", bound=RelevoError)

KeyPath = tuple[str | int, ...]
"""From the outermost key inwards; a number is an index in a list."""

_LINES = "_lines"
"""The attribute of an error that holds its problems."""


def with_lines(error: E, lines: Iterable[str]) -> E:
    """Give *error* a text with one line for each of several problems, and return it."""
    error.__dict__[_LINES] = tuple(lines)
    error.args = ("\n".join(error.__dict__[_LINES]),)
    return error


def lines_of(error: RelevoError) -> Sequence[str]:
    """
    Return the problems of *error*, of which each is one line.

    Line breaks inside a problem are those of a text that it quotes, such as a name or the error of a driver. The lines
    after the first are indented, so that none looks like a problem.
    """
    text = str(error)
    lines: Sequence[str] = error.__dict__.get(_LINES, ())
    if "\n".join(lines) != text:  # its text was changed later
        lines = (text,)
    return [line for each in lines for line in visible_lines(each).removeprefix("  ").split("\n")]


_BARE = re.compile(r"[\w-]+", re.ASCII)


@lru_cache(maxsize=256)  # each value of a configuration is read in a block that could name its key
def dotted(keys: KeyPath) -> str:
    """Return *keys* as TOML writes them, with quotes where these are needed, escaped, and without passwords."""
    return ".".join(key_shown(str(key)) if _BARE.fullmatch(str(key)) else f'"{key_shown(str(key))}"' for key in keys)


def key_shown(key: str) -> str:
    """Return *key* without passwords, escaped, and cut at 80 characters."""
    text = visible(without_secrets(key[:_LONGEST_KEY]))
    return text if len(text) <= _SHOWN_KEY else f"{text[: _SHOWN_KEY - 1]}…"


_SHOWN_KEY = 80
_LONGEST_KEY = 2_000
"""Characters that are searched for passwords."""

_LAST = 1 << 30
"""Sorts after every line of a file."""


class Origin(msgspec.Struct, frozen=True):
    """Where a value was set."""

    place: str
    """A file, an environment variable, or a description of another source."""

    line: int | None = None
    """The line number in the file."""

    is_text: bool = False
    """Whether it can only be text, as in an environment variable; numbers and booleans are read from it."""

    def __str__(self) -> str:
        return self.place if self.line is None else f"{self.place}:{self.line}"


class Origins(msgspec.Struct):
    """Where each value was set; :meth:`note` and :meth:`overrule` change it."""

    default: Origin
    """The origin of values that were not set."""

    said: dict[KeyPath, Origin] = {}
    _around: dict[KeyPath, Origin] | None = None
    """For a value that has parts, the origin of the first one, as text if one of them is; made at its first use."""

    def of(self, *keys: str | int) -> Origin:
        """Return the origin of the value at *keys*: its own, else that of a value around it, else that of its parts."""
        return self.exactly(*keys) or (self._parts().get(keys, self.default) if keys else self.default)

    def exactly(self, *keys: str | int) -> Origin | None:
        """Return the origin of the value at *keys* or of a value around it; ``None`` if neither was set."""
        for length in range(len(keys), 0, -1):
            if keys[:length] in self.said:
                return self.said[keys[:length]]
        return None

    def is_text(self, *keys: str | int) -> bool:
        """Return whether the value at *keys*, or a part of it, could only be written as text."""
        own, inside = self.exactly(*keys), self._parts().get(keys)
        return (own is not None and own.is_text) or (inside is not None and inside.is_text)

    def note(self, keys: KeyPath, origin: Origin) -> None:
        """Note that the value at *keys* was set at *origin*; what is inside it keeps its own."""
        self.said[keys] = origin
        self._around = None

    def overrule(self, keys: KeyPath, origin: Origin) -> None:
        """Note that the value at *keys*, with all inside it, was overridden at *origin*."""
        for inner in [each for each in self.said if each[: len(keys)] == keys]:
            del self.said[inner]
        self.note(keys, origin)

    def _parts(self) -> Mapping[KeyPath, Origin]:
        """Return the origins of values by their parts; to search all parts for each value would take too long."""
        if self._around is None:
            self._around = {}
            for keys, origin in self.said.items():
                for length in range(len(keys) + 1):
                    first = self._around.setdefault(keys[:length], origin)
                    if origin.is_text and not first.is_text:
                        self._around[keys[:length]] = msgspec.structs.replace(first, is_text=True)
        return self._around


class Problem(msgspec.Struct, frozen=True):
    """A problem that a check found; it is raised after all checks have run."""

    keys: KeyPath
    """The configuration key that it is about."""

    error: ConfigurationError
    is_unknown: bool = False
    """The value could not be determined, so that further problems with it are consequences and not reported."""


MAX_PROBLEMS = 100
"""The largest number of problems that are reported together."""


class Problems:
    """
    Collects problems, up to :data:`MAX_PROBLEMS`.

    Args:
        found: The problems found so far.
    """

    def __init__(self, found: Iterable[Problem] = ()):
        self._found = list(found)

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[Problem]:
        return iter(self._found)

    @property
    def is_full(self) -> bool:
        """Whether no further problems are noted, so that a check can end; each may take a millisecond to describe."""
        return len(self._found) >= MAX_PROBLEMS

    @contextmanager
    def at(self, *keys: str | int) -> Iterator[None]:
        """Catch a configuration error of the block, and add it for the value at *keys*."""
        try:
            yield
        except ConfigurationError as error:
            self.add(keys, error)

    def attempt(self, key: str, make: Callable[..., T], *arguments: object, instead: Any = None) -> T:
        """Return the result of *make*; if it raises, add the error for the value at *key* and return *instead*."""
        try:
            return make(*arguments)
        except ConfigurationError as error:
            self.add((key,), error)
            return instead  # type: ignore[no-any-return]  # the caller knows the type

    def add(self, keys: KeyPath, *errors: ConfigurationError | str, is_unknown: bool = False) -> None:
        """Note *errors* of the value at *keys*."""
        made = [ConfigurationError(each) if isinstance(each, str) else each for each in errors]
        self.extend([Problem(keys, each, is_unknown) for each in made])

    def extend(self, found: Iterable[Problem]) -> None:
        """Add the problems that were *found*, except consequences of values that could not be determined."""
        unknown = [each.keys for each in self._found if each.is_unknown]
        for each in found:
            if self.is_full:
                break
            if not any(_overlap(each.keys, keys) for keys in unknown):
                self._found.append(each)

    def concern(self, *keys: str | int) -> bool:
        """Return whether there is a problem with the value at *keys*; then checks that need it cannot run."""
        return any(each.keys and _overlap(each.keys, keys) for each in self._found)

    def raise_any(self, origins: Origins | None = None) -> None:
        """
        Raise the problems as one error, in the order of the file, each with its origin if *origins* are given.

        Raises:
            ConfigurationError: The only problem's error, or one error with a line for each problem.
        """
        if not self._found:
            return
        located = [(origins.of(*each.keys) if origins else None, each.error) for each in self._found]
        located.sort(key=lambda each: (each[0] and each[0].line) or _LAST)
        lines = [line for origin, error in located for line in _located(origin, error)]
        if self.is_full:
            lines.append(f"only the first {MAX_PROBLEMS} problems are shown; fix them, and check again")
        error = with_lines(copy(located[0][1]) if len(located) == 1 else ConfigurationError(), lines)
        raise error from (located[0][1].__cause__ if len(located) == 1 else None)


def _located(origin: Origin | None, error: ConfigurationError) -> Iterator[str]:
    first, *others = lines_of(error)
    yield f"{origin}: {first}" if origin else first
    yield from others


def _overlap(one: KeyPath, other: KeyPath) -> bool:
    """Return whether two values are the same, or one is inside the other."""
    return all(mine == theirs for mine, theirs in zip(one, other, strict=False))
