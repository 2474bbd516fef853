"""The arguments of an event from the command line: JSON, with a path and a fix in every error."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from math import isfinite
from typing import Any

import attrs

from relevo._event.validation import MAX_DEPTH, plain, step
from relevo.errors import EncodeError, shown

_DIGITS = 30
"""The digits of an integer that are read; a longer one exceeds 64 bits anyway, and Python parses it slowly."""

MAX_LINE = 16 * 1024 * 1024
"""Bytes of a line, which may have more white space than the event that it becomes."""

_SAFE = 18
"""The digits of an integer that fits 64 bits."""

_EXAMPLE = """write an object, as in '{"image_id": 7}'"""


@attrs.frozen
class _Fault:
    """Takes the place of an invalid value; its path is known when everything is read."""

    why: str


def arguments_of(event_name: str, text: str) -> dict[str, Any]:
    """
    Parse *text* as a JSON object.

    Args:
        event_name: The name in the error.

        text: JSON. Ambiguous values are refused: duplicate keys, NaN, and numbers that are too large.

    Raises:
        EncodeError: It is not a JSON object, or a value has no exact form; names its path.
    """
    return ArgumentParser(event_name).of_text(text)


class ArgumentParser:
    """
    Parses the arguments of many events, as :func:`arguments_of` does.

    Args:
        event_name: The name in the errors.
    """

    def __init__(self, event_name: str):
        self._event_name = event_name
        self._is_doubtful = False
        """Whether a value may be invalid."""
        # One for all: json.loads() would make one for each text.
        self._decode = json.JSONDecoder(
            object_pairs_hook=self._object,
            parse_constant=self._constant,
            parse_float=self._number,
            parse_int=self._whole,
        ).decode

    def of_text(self, text: str) -> dict[str, Any]:
        """Parse *text*."""
        return self._parsed(text, lambda error: f"line {error.lineno}, column {error.colno}")

    def of_line(self, line: bytes) -> dict[str, Any]:
        """
        Parse *line*, one of several that are JSON.

        Raises:
            EncodeError: As for a text; or it is too long, or not UTF-8.
        """
        if len(line) > MAX_LINE:
            raise self._error("", f"longer than {MAX_LINE // 1024**2} MiB")
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise self._error(
                "", f"the arguments are not JSON: byte {error.start + 1} is not UTF-8; send UTF-8"
            ) from error
        return self._parsed(text, lambda error: f"column {error.colno}")

    def _parsed(self, text: str, place: Callable[[json.JSONDecodeError], str]) -> dict[str, Any]:
        self._is_doubtful = "\\u" in text  # an escaped NUL, or half of a character
        try:
            found = self._decode(text)
        except json.JSONDecodeError as error:
            what = error.msg.removesuffix(" at")  # "Invalid control character at"
            why = f"{what[:1].lower()}{what[1:]} in {place(error)}"
            raise self._error("", f"the arguments are not JSON: {why}; {_EXAMPLE}") from error
        except RecursionError as error:
            raise self._error("", f"deeper than {MAX_DEPTH} levels") from error
        if self._is_doubtful:
            for path, fault in _faults(found, "$", MAX_DEPTH):
                raise self._error("" if path == "$" else path, fault.why)
        if not isinstance(found, dict):
            raise self._error("", f"the arguments must be a JSON object, not {type(found).__name__}; {_EXAMPLE}")
        return dict(plain(found, event_name=self._event_name)) if self._is_doubtful else found

    def _error(self, path: str, why: str) -> EncodeError:
        return EncodeError(self._event_name, path, why)

    def _object(self, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any] | _Fault:
        found = dict(pairs)
        if len(found) < len(pairs):
            number = Counter(key for key, _ in pairs)
            twice = next(key for key in found if number[key] > 1)
            return self._fault(f"duplicate key {shown(twice)}; remove one of them")
        return found

    def _constant(self, text: str) -> _Fault:
        return self._fault(f"{text} is not JSON; send null or text")

    def _number(self, text: str) -> float | _Fault:
        found = float(text)
        if isfinite(found):
            return found
        return self._fault(f"{shown(text)[1:-1]} is too large for a number; send it as text")

    def _whole(self, text: str) -> int:
        if len(text) > _SAFE:
            self._is_doubtful = True
        return int(text[:_DIGITS])

    def _fault(self, why: str) -> _Fault:
        self._is_doubtful = True
        return _Fault(why)


def _faults(value: object, path: str, room: int) -> Iterator[tuple[str, _Fault]]:
    """Yield the faults in *value* with their paths, down to *room* levels; deeper values are refused anyway."""
    if isinstance(value, _Fault):
        yield path, value
    elif room and isinstance(value, (dict, list)):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _faults(each, path + (step(key) if isinstance(value, dict) else f"[{key}]"), room - 1)
