"""A record, and all that is in it, out of what JSON knows; each field says by its type what it may be."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from functools import cache
from math import isfinite
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import attrs

import relevo
from relevo.errors import shown
from relevo_conformance import history

KIND = "$"
"""The name under which stands of which class a value is."""

CLASSES: Mapping[str, type[Any]] = {
    cls.__name__: cls
    for cls in (
        *(value for value in vars(history).values() if attrs.has(value) and value.__module__ == history.__name__),
        relevo.Ack,
        relevo.DeadLetter,
        relevo.DeadLetterEntry,
        relevo.Envelope,
        relevo.Found,
        relevo.Lost,
        relevo.Nack,
        relevo.Note,
        relevo.Release,
        relevo.Stats,
        relevo.Unreadable,
    )
}
"""All that has a place in a history."""


class MisfitError(ValueError):
    """Raised by what reads a record, and says which field is wrong, and what it must be."""


def read(plain: Any, kind: Any, where: str = "") -> Any:
    """
    Return the value of type *kind* that *plain* stands for.

    Args:
        plain: What JSON made of it.

        kind: A type such as the fields of a history have: an attrs class, a union, a sequence …

        where: The field, for the error; empty for a whole record.

    Raises:
        MisfitError: It is invalid.
    """
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    for one in kinds:
        if _looks_like(plain, one):
            return _made(plain, one, where)
    raise MisfitError(f"{where or 'the record'} is {shown(plain)}; expected {' or '.join(map(_in_words, kinds))}")


def _made(plain: Any, kind: Any, where: str) -> Any:
    args = get_args(kind)
    match get_origin(kind) or kind:
        case cls if attrs.has(cls):
            return cls(**_fields(plain, cls, where))
        case cls if cls is tuple:
            return tuple(read(item, args[0], f"{where}[{position}]") for position, item in enumerate(plain))
        case cls if cls is Mapping:
            pairs = read(plain.get("items"), tuple[tuple[Any, ...], ...], f"{where}.items")
            if any(len(pair) != 2 for pair in pairs):
                raise MisfitError(f"{where}.items has an item that is no pair")
            return {
                read(key, args[0], f"a key of {where}"): read(it, args[1], f"{where}[{shown(key)}]")
                for key, it in pairs
            }
        case cls if cls is bytes:
            text = read(plain.get("base64"), str, f"{where}.base64")
            try:
                return base64.b64decode(text, validate=True)
            except ValueError as error:
                raise MisfitError(f"{where}.base64 is {shown(text)}: {error}") from error
        case cls if cls is float:
            return float(plain)  # of a whole number that is one, too
        case _:
            return plain


def _fields(plain: Mapping[str, Any], cls: Any, where: str) -> Mapping[str, Any]:
    """Return the fields of an attrs class that *plain* holds, by name."""
    kinds = _kinds(cls)
    within = f"{where}." if where else ""
    for field in attrs.fields(cls):
        if field.default is attrs.NOTHING and field.name not in plain:
            raise MisfitError(f"{within}{field.name} is missing; expected {_in_words(kinds[field.name])}")
    for name in plain:
        if name not in kinds and name != KIND:
            raise MisfitError(f"{shown(within + name)} is no field of {cls.__name__}")
    return {name: read(plain[name], kind, within + name) for name, kind in kinds.items() if name in plain}


@cache
def _kinds(cls: Any) -> Mapping[str, Any]:
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in attrs.fields(cls)}


def _looks_like(plain: Any, kind: Any) -> bool:
    """Tell whether *plain* is meant to be of *kind*, which is no union; what is within it may still be wrong."""
    if get_origin(kind) is Literal:
        return isinstance(plain, str) and plain in get_args(kind)
    cls = get_origin(kind) or kind
    if attrs.has(cls):
        return _is_marked(plain, cls.__name__)
    return kind is Any or _SHAPES[cls][1](plain)


def _in_words(kind: Any) -> str:
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(map(_in_words, get_args(kind)))
    if get_origin(kind) is Literal:
        return " or ".join(f'"{value}"' for value in get_args(kind))
    cls = get_origin(kind) or kind
    return _SHAPES[cls][0] if cls in _SHAPES else str(cls.__name__)


def _is_marked(plain: Any, name: str) -> bool:
    return isinstance(plain, dict) and plain.get(KIND) == name


def _is_whole(plain: Any) -> bool:
    return isinstance(plain, int) and not isinstance(plain, bool)


def _is_finite(plain: Any) -> bool:
    try:
        return (_is_whole(plain) or isinstance(plain, float)) and isfinite(plain)
    except OverflowError:  # no float is as large
        return False


_SHAPES: Mapping[Any, tuple[str, Callable[[Any], bool]]] = {
    NoneType: ("null", lambda plain: plain is None),
    bool: ("true or false", lambda plain: isinstance(plain, bool)),
    int: ("a whole number", _is_whole),
    float: ("a finite number", _is_finite),
    str: ("a text", lambda plain: isinstance(plain, str)),
    bytes: ("bytes", lambda plain: _is_marked(plain, "bytes")),
    tuple: ("a list", lambda plain: isinstance(plain, list)),
    Mapping: ("a map", lambda plain: _is_marked(plain, "map")),
}
"""By type that JSON has, or that is marked: how it is called, and what looks like it."""
