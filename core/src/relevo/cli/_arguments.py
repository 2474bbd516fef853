"""The arguments of an event from the command line: JSON, with a place and a remedy for every error."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from math import isfinite
from typing import Any

import attrs

from relevo._event.validation import MAX_DEPTH, plain, step
from relevo.errors import EncodeError, shown

_DIGITS = 30
"""Of a whole number; longer ones fit no 64 bits, and Python takes its time to read them."""

_EXAMPLE = """write an object, as in '{"image_id": 7}'"""


@attrs.frozen
class _Fault:
    """What stands where there should be a value; its place is known once all is read."""

    why: str


def arguments_of(event_name: str, text: str) -> dict[str, Any]:
    """
    Return the object that *text* says.

    Args:
        event_name: For the error.

        text: JSON. What a reader could take in two ways is refused: a key that is there twice, NaN, a number beyond
            all others.

    Raises:
        EncodeError: It is no object in JSON, or one that has no faithful form; names the place.
    """
    try:
        found = json.loads(
            text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_number, parse_int=_whole
        )
    except json.JSONDecodeError as error:
        why = f"{error.msg[:1].lower()}{error.msg[1:]} in line {error.lineno}, column {error.colno}"
        raise EncodeError(event_name, "$", f"the arguments are not JSON: {why}; {_EXAMPLE}") from error
    except RecursionError as error:
        raise EncodeError(event_name, "$", f"deeper than {MAX_DEPTH} levels") from error
    for path, fault in _faults(found, "$", MAX_DEPTH):
        raise EncodeError(event_name, path, fault.why)
    if not isinstance(found, dict):
        raise EncodeError(
            event_name, "$", f"the arguments must be a JSON object, not {type(found).__name__}; {_EXAMPLE}"
        )
    return dict(plain(found, event_name=event_name))


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any] | _Fault:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in found if keys.count(key) > 1)
        return _Fault(f"the key {shown(twice)} stands there twice; leave one of them out")
    return found


def _constant(text: str) -> _Fault:
    return _Fault(f"{text} is not JSON; send null or text")


def _number(text: str) -> float | _Fault:
    found = float(text)
    return found if isfinite(found) else _Fault(f"{shown(text)[1:-1]} is larger than a number can be; send it as text")


def _whole(text: str) -> int:
    return int(text[:_DIGITS])


def _faults(value: object, path: str, room: int) -> Iterator[tuple[str, _Fault]]:
    """Yield the faults in *value* with their places; what is deeper than *room* is too deep anyway."""
    if isinstance(value, _Fault):
        yield path, value
    elif room and isinstance(value, (dict, list)):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _faults(each, path + (step(key) if isinstance(value, dict) else f"[{key}]"), room - 1)
