"""
Strict validation of the values of an event.

Stores disagree about text and numbers: PostgreSQL refuses NUL in text, AMQP and SQLite drivers refuse
lone surrogates, JSON has no NaN, and beyond 64 bits or some hundred levels of nesting each fails in its
own way. A value that is valid here round-trips byte for byte on every transport, so that an event that works
in memory also works in production.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any

import msgspec

from relevo.errors import EncodeError, shown

MAX_BODY = 1024 * 1024
"""The longest body in bytes."""

MAX_DEPTH = 100
"""The largest number of nested objects and lists; the arguments are the first."""

_LOW, _HIGH = -(2**63), 2**63 - 1

_encode = msgspec.json.Encoder().encode


def json_of(value: Mapping[str, Any], event_name: str, path: str = "$") -> bytes:
    """
    Return *value* as JSON, after validating it as :func:`plain` does, with the same errors.

    Most events consist of JSON's own types. These are checked by one loop over a copy, so that no other thread can
    change them afterwards, and a NUL is searched for in the encoded bytes. All other events go through :func:`plain`.
    """
    if type(value) is dict and _is_simple(copy := value.copy(), MAX_DEPTH - 1):  # a subclass may copy something else
        try:
            data = _encode(copy)
        except UnicodeEncodeError:  # a lone surrogate; plain() names its place
            pass
        else:
            if b"\\u0000" not in data:
                return data
    return _encode(plain(value, event_name=event_name, path=path))


def _is_simple(copy: Any, room: int) -> bool:
    """Return whether *copy*, of an object or a list, is of JSON's own types, to the last value; each is a copy then."""
    items: Iterable[tuple[Any, Any]] = copy.items() if isinstance(copy, dict) else enumerate(copy)
    key_type = str if isinstance(copy, dict) else int
    for key, item in items:
        kind = type(item)
        if type(key) is not key_type:
            return False
        if kind is str or kind is bool or item is None:
            continue
        if kind is int:
            if not _LOW <= item <= _HIGH:
                return False
        elif kind is float:
            if not isfinite(item):
                return False
        elif not room or (kind is not dict and kind is not list):
            return False
        else:
            copy[key] = inner = item.copy()
            if not _is_simple(inner, room - 1):
                return False
    return True


def plain(value: Any, *, event_name: str, path: str = "$") -> Any:
    """
    Return a copy of *value* that consists only of JSON's own types.

    Tuples become lists. Instances of subclasses become instances of the base class; overridden methods are ignored.

    Args:
        value: The data of an event.

        event_name: The name in the error.

        path: The path of *value* in the error.

    Raises:
        EncodeError: A value has no exact form in JSON; names its path, as in ``$.a[0].b``.
    """
    try:
        return _plain(value, MAX_DEPTH)
    except _Unfaithful as fault:
        raise EncodeError(event_name, path + "".join(reversed(fault.steps)), fault.why) from None


class _Unfaithful(Exception):  # noqa: N818 - it never leaves this module
    """Collects the path while it propagates, so that valid events do not pay for it."""

    def __init__(self, why: str):
        self.why = why
        self.steps: list[str] = []


def _plain(value: Any, room: int) -> Any:
    kind = type(value)
    if kind is str:
        return _text(value)
    if value is None or kind is bool or (kind is int and _LOW <= value <= _HIGH) or (kind is float and isfinite(value)):
        return value
    if issubclass(kind, str):
        return _text(str.__str__(value))
    if issubclass(kind, int):
        number = int.__int__(value)
        if not _LOW <= number <= _HIGH:
            raise _Unfaithful("the integer does not fit 64 bits; send it as text")
        return number
    if issubclass(kind, float):
        real = float.__float__(value)
        if not isfinite(real):
            raise _Unfaithful(f"{real!r} is not JSON; write None or text")
        return real
    if not issubclass(kind, (dict, list, tuple)):
        raise _Unfaithful(
            f"{type_name(kind)} is not JSON{conversion(kind)}; send text or a number, or declare the event as a class: "
            f"its fields may be datetime, UUID, Decimal or bytes"
        )
    if not room:
        raise _Unfaithful(f"deeper than {MAX_DEPTH} levels")
    if issubclass(kind, dict):
        return _object(dict.items(value), room - 1)
    return _array((list if issubclass(kind, list) else tuple).__iter__(value), room - 1)


def type_name(kind: type) -> str:
    """Return the name of *kind*, with its module unless it is built in."""
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def conversion(kind: type, *, is_declared: bool = False) -> str:
    """
    Return how a value of *kind*, a type of NumPy or pandas, becomes one of Python's own types; empty for others.

    Args:
        kind: The type.

        is_declared: The value is in a field of a declared class, which may be a datetime.
    """
    if kind.__module__.partition(".")[0] not in ("numpy", "pandas"):
        return ""
    if kind.__name__ in _MISSING:
        return "; write None for a missing value"
    moment = "to_pydatetime" if is_declared else "isoformat"
    methods = (
        *([moment] if hasattr(kind, "to_pydatetime") else []),
        "tolist" if hasattr(kind, "__len__") else "item",
    )
    own = next((f"{each}()" for each in methods if callable(getattr(kind, each, None))), None)
    if own is None and callable(getattr(kind, "to_json", None)):  # to_dict() keeps timestamps and NaN
        return '; write json.loads(value.to_json(orient="records", date_format="iso"))'
    return f"; .{own} returns a value of Python's own" if own else ""


_MISSING = ("NaTType", "NAType")
"""The types of the missing values of pandas."""


def _object(items: Iterable[tuple[Any, Any]], room: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, item in items:
        if not issubclass(type(key), str):
            raise _Unfaithful(f"the key {shown(key)} is {type(key).__name__}; keys must be text")
        name = str.__str__(key)
        if name in result:
            raise _Unfaithful(f"duplicate key {shown(name)}")
        try:
            result[_text(name)] = _plain(item, room)
        except _Unfaithful as fault:
            fault.steps.append(step(name))
            raise
    return result


def step(key: object) -> str:
    """Return *key* as a step of a path."""
    return f".{key}" if isinstance(key, str) and key.isidentifier() and key.isascii() else f"[{shown(key)}]"


def _array(items: Iterable[Any], room: int) -> list[Any]:
    result: list[Any] = []
    for item in items:
        try:
            result.append(_plain(item, room))
        except _Unfaithful as fault:
            fault.steps.append(f"[{len(result)}]")
            raise
    return result


def _text(value: str) -> str:
    if "\0" in value:
        raise _Unfaithful("holds a NUL character, which PostgreSQL cannot store")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            found = f"U+{ord(value[error.start]):04X}"
            raise _Unfaithful(f"holds the lone surrogate {found}, which is not a character") from None
    return value
