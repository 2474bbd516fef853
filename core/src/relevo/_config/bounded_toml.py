"""
TOML of bounded depth and size.

:mod:`tomllib` takes minutes and gigabytes for a key of 100,000 parts. So the tokens are checked first, then the values.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any

from relevo._config.toml_line import tokens

MAX_DEPTH = 32
"""The largest number of nested lists and tables, and of the parts of a key."""

MAX_KEYS = 10_000
"""The largest number of keys and members of lists."""

_LONGEST = 1000
"""Characters of a number or of a key without quotes."""

_PLACE = re.compile(r"(.*) \((?:at line (\d+), (column \d+)|at (end of document))\)", re.DOTALL)
"""How an error of tomllib is written."""


class TomlError(Exception):
    """Raised for text that is not TOML, or exceeds a limit."""

    def __init__(self, what: str, line: int | None = None, column: str = ""):
        super().__init__(what)
        self.what = what
        self.line = line
        self.column = column


def loads(text: str) -> dict[str, Any]:
    """
    Return the values of *text*, which are nested at most :data:`MAX_DEPTH` deep.

    Raises:
        TomlError: It is not TOML, or nested too deeply.
    """
    _check_tokens(text)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        match = _PLACE.fullmatch(str(error))
        if match is None:
            raise TomlError(str(error)) from error
        line = int(match[2] or text.count("\n") + 1)
        raise TomlError(match[1], line, match[3] or match[4]) from error
    except (ValueError, RecursionError) as error:  # such as a date that does not exist
        raise TomlError(str(error)) from error
    if _depth(values) > MAX_DEPTH:
        raise TomlError(f"it is nested too deeply; expected at most {MAX_DEPTH} levels")
    return values


def check_number(values: dict[str, Any]) -> None:
    """
    Refuse more *values* than a configuration has, since each may take a millisecond to check.

    Raises:
        TomlError: There are too many.
    """
    level: list[Any] = [values]
    number = 0
    while level:
        inside = [each for value in level for each in _parts(value)]
        number += len(inside)
        if number > MAX_KEYS:
            raise TomlError(f"it has too many keys; expected at most {MAX_KEYS}")
        level = inside


def _check_tokens(text: str) -> None:
    depth = parts = 0
    for token, line in tokens(text):
        match token:
            case "[" | "{":
                depth, parts = depth + 1, 0
            case "]" | "}":
                depth, parts = max(0, depth - 1), 0
            case "=" | "," | "\n":
                parts = 0
            case ".":
                parts += 1
            case _ if len(token) > _LONGEST and token[0] not in "\"'":
                raise TomlError(f"a number or a key has more than {_LONGEST} characters; write text in quotes", line)
        if depth > MAX_DEPTH or parts >= MAX_DEPTH:
            what = "a key has too many parts" if parts else "it is nested too deeply"
            raise TomlError(f"{what}; expected at most {MAX_DEPTH}", line)


def _depth(values: dict[str, Any]) -> int:
    """Return how many tables and lists are nested, without recursion."""
    level: list[Any] = [values]
    depth = 0
    while level := [each for value in level for each in _parts(value) if isinstance(each, (dict, list))]:
        depth += 1
    return depth


def _parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value.values()]
    return value if isinstance(value, list) else []
