"""
The one strict check of what an event may carry.

Stores disagree about text and numbers: PostgreSQL refuses NUL in text, AMQP and SQLite drivers refuse
lone surrogates, JSON has no NaN, and beyond 64 bits or a depth of some hundred every one fails in its
own way. What passes here round-trips byte for byte everywhere, so nothing works in memory and dies in
production.
"""

from __future__ import annotations

from math import isfinite
from typing import Any

from relevo.errors import EncodeError, shown

MAX_BODY = 1024 * 1024
"""The longest body in bytes."""

MAX_DEPTH = 100
_LOW, _HIGH = -(2**63), 2**63 - 1


def plain(value: Any, *, event_name: str, path: str = "$", depth: int = 0) -> Any:
    """
    Return a copy of *value* made of JSON's own types only.

    Args:
        value: What an event carries.

        event_name: For the error.

        path: Where *value* stands in the event, as ``$.a[0].b``.

        depth: How deep.

    Raises:
        EncodeError: Something in it has no faithful form; names its path.
    """
    kind = type(value)
    if kind is str or isinstance(value, str):
        return _text(value, event_name, path)
    if value is None or kind is bool:
        return value
    if isinstance(value, int):
        if not _LOW <= value <= _HIGH:
            raise EncodeError(event_name, path, "the integer does not fit 64 bits; send it as text")
        return int(value)
    if isinstance(value, float):
        if not isfinite(value):
            raise EncodeError(event_name, path, f"{value!r} is not JSON; send null or text")
        return float(value)
    if depth >= MAX_DEPTH:
        raise EncodeError(event_name, path, f"deeper than {MAX_DEPTH} levels")
    if isinstance(value, dict):
        return {
            _key(key, event_name, path): plain(item, event_name=event_name, path=f"{path}.{key}", depth=depth + 1)
            for key, item in dict.items(value)
        }
    if isinstance(value, (list, tuple)):
        return [
            plain(item, event_name=event_name, path=f"{path}[{index}]", depth=depth + 1)
            for index, item in enumerate(value)
        ]
    mend = (
        "send text or a number, or declare the event as a class, whose fields may be datetime, UUID, Decimal or bytes"
    )
    raise EncodeError(event_name, path, f"{kind.__name__} is not JSON; {mend}")


def checked_text(value: str, *, event_name: str, path: str) -> str:
    """Return *value* if every store can keep it; raise :class:`EncodeError` otherwise."""
    return _text(value, event_name, path)


def _text(value: str, event_name: str, path: str) -> str:
    if type(value) is not str:
        value = str.__str__(value)
    if value.isascii():
        if "\0" in value:
            raise EncodeError(event_name, path, "holds a NUL character, which PostgreSQL cannot store")
        return value
    if "\0" in value:
        raise EncodeError(event_name, path, "holds a NUL character, which PostgreSQL cannot store")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        found = f"U+{ord(value[error.start]):04X}"
        raise EncodeError(event_name, path, f"holds the lone surrogate {found}, which is not a character") from None
    return value


def _key(key: object, event_name: str, path: str) -> str:
    if not isinstance(key, str):
        raise EncodeError(event_name, path, f"the key {shown(key)} is {type(key).__name__}; keys are text")
    return _text(key, event_name, f"{path}.{shown(key)}")
