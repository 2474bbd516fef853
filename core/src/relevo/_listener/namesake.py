"""Functions of the same name: a mistake in one module, and a new definition in another run of its code."""

from __future__ import annotations

import linecache
from collections.abc import Iterable, Iterator
from inspect import unwrap
from types import CodeType
from typing import Any

import msgspec

from relevo.errors import ConfigurationError

HIDES = "__relevo_hides__"
"""The attribute of a function that holds the marked function whose name it took."""


class Definition(msgspec.Struct, frozen=True):
    """
    Where a function is defined, the function, and its code.

    The code differs if a cell or a module was run again. Functions that a loop defines have the same code. So have an
    old function and a new one if a program such as IPython's autoreload put the parts of the new one into the old one,
    but those share their attributes too.
    """

    module: str
    name: str
    """The qualified name."""

    function: object
    code: CodeType

    @classmethod
    def of(cls, function: Any) -> Definition | None:
        """Return the definition of *function*; ``None`` unless its name leads to it: it is local, or has no name."""
        inner = unwrap(getattr(function, "__func__", function))
        module, name = getattr(inner, "__module__", None), getattr(inner, "__qualname__", None)
        code = getattr(inner, "__code__", None)
        if not isinstance(module, str) or not isinstance(name, str) or not isinstance(code, CodeType):
            return None
        return cls(module, name, inner, code) if all(part.isidentifier() for part in name.split(".")) else None

    @property
    def place(self) -> tuple[str, str]:
        """The module and the qualified name."""
        return self.module, self.name

    @property
    def is_in_cell(self) -> bool:
        """Whether it is in a cell of a notebook, and not in a file, which defines a name once."""
        return "__file__" not in getattr(self.function, "__globals__", {})

    def replaces(self, other: Definition | None) -> bool:
        """Return whether this is another definition at the same place, as after a reload of its module."""
        if other is None or self.place != other.place:
            return False
        is_patched = self.function is not other.function and vars(self.function) is vars(other.function)
        return is_patched or self.code is not other.code


def in_one_cell(one: CodeType, other: CodeType) -> bool:
    """
    Return whether both functions are at the top of one cell, so that each run of the cell defines both.

    IPython compiles each statement of a cell by itself, with a name of the file that it makes from the cell's text; it
    keeps the text where tracebacks find it, without the time of a file.
    """
    if one.co_filename != other.co_filename or one.co_firstlineno == other.co_firstlineno:
        return False
    kept = linecache.cache.get(one.co_filename)
    if kept is None or len(kept) == 1 or kept[1] is not None:  # a file, or text that is loaded later
        return False
    numbers = (one.co_firstlineno, other.co_firstlineno)
    return all(number <= len(kept[2]) and kept[2][number - 1].startswith("@") for number in numbers)


def are_different(one: Iterable[str | None], other: Iterable[str | None]) -> bool:
    """Return whether two functions of one name are two listeners by their explicit ids; ``None`` is a default id."""
    first, second = {*one}, {*other}
    return bool(first and second) and None not in first | second and first.isdisjoint(second)


class Generation:
    """Counts how often marked functions were defined again, so that tables look for new ones only after that."""

    number = 0


generation = Generation()
_REPLACED_BY = "__relevo_replaced_by__"
"""The attribute of a function that holds the marked function which was defined at its place later."""


def note_replaced(before: Any, function: object) -> None:
    """Note that the marked *function* was defined at the place of *before*."""
    before.__dict__[_REPLACED_BY] = function
    generation.number += 1


def latest(function: Any) -> Any:
    """Return the latest marked function that was defined at the place of *function*; itself if there is none."""
    found = function
    while (later := getattr(unwrap(found), "__dict__", {}).get(_REPLACED_BY)) is not None:
        found = later
    return found


def hidden_by(function: object) -> Iterator[Any]:
    """Yield the marked functions that *function* replaced, the latest first."""
    found = getattr(function, "__dict__", {}).get(HIDES)
    if found is not None:
        yield found
        yield from hidden_by(found)


def hidden(before: Any, function: Any) -> ConfigurationError:
    """Return the error for *function* replacing *before*, with the lines of both."""
    first, later = before.__code__.co_firstlineno, unwrap(function).__code__.co_firstlineno
    return ConfigurationError(
        f'"{function.__qualname__}" in line {later} replaces the listener of the same name in line {first}, '
        f"which would never be called; rename one of them"
    )
