"""The arguments of an event from the command line: JSON, with a path and a fix in every error."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from math import isfinite
from typing import Any

import attrs

from relevo._event.validation import MAX_DEPTH, plain, step
from relevo.errors import EncodeError, shown

_DIGITS = 30
"""The digits of an integer that are read; a longer one exceeds 64 bits anyway, and Python parses it slowly."""

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
    try:
        found = json.loads(
            text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_number, parse_int=_whole
        )
    except json.JSONDecodeError as error:
        why = f"{error.msg[:1].lower()}{error.msg[1:]} in line {error.lineno}, column {error.colno}"
        raise EncodeError(event_name, "", f"the arguments are not JSON: {why}; {_EXAMPLE}") from error
    except RecursionError as error:
        raise EncodeError(event_name, "", f"deeper than {MAX_DEPTH} levels") from error
    for path, fault in _faults(found, "$", MAX_DEPTH):
        raise EncodeError(event_name, "" if path == "$" else path, fault.why)
    if not isinstance(found, dict):
        raise EncodeError(
            event_name, "", f"the arguments must be a JSON object, not {type(found).__name__}; {_EXAMPLE}"
        )
    return dict(plain(found, event_name=event_name))


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any] | _Fault:
    found = dict(pairs)
    if len(found) < len(pairs):
        number = Counter(key for key, _ in pairs)
        twice = next(key for key in found if number[key] > 1)
        return _Fault(f"duplicate key {shown(twice)}; remove one of them")
    return found


def _constant(text: str) -> _Fault:
    return _Fault(f"{text} is not JSON; send null or text")


def _number(text: str) -> float | _Fault:
    found = float(text)
    return found if isfinite(found) else _Fault(f"{shown(text)[1:-1]} is larger than a number can be; send it as text")


def _whole(text: str) -> int:
    return int(text[:_DIGITS])


def _faults(value: object, path: str, room: int) -> Iterator[tuple[str, _Fault]]:
    """Yield the faults in *value* with their paths, down to *room* levels; deeper values are refused anyway."""
    if isinstance(value, _Fault):
        yield path, value
    elif room and isinstance(value, (dict, list)):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _faults(each, path + (step(key) if isinstance(value, dict) else f"[{key}]"), room - 1)
