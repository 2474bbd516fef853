"""
Check that an event of a declared class reads back equal.

Most types say all that it takes, such as ``int``, ``list[date]`` or ``UUID | None``. Others say less: ``Any``, ``dict``
and ``list`` also take what JSON has no form for, ``Sequence`` takes tuples, a class takes instances of its subclasses,
``float`` takes integers that it cannot hold, and an offset of a datetime may have seconds. Which fields are of
such types is found out once for a class. Only their values are compared, at the dispatch, with what is read back.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from relevo._event.event import declared, fields_of
from relevo._event.validation import step

_EXACT = {NoneType, bool, int, str, bytes, bytearray, date, timedelta, UUID, Decimal}
_HOLDERS = {Union, UnionType, list, tuple, set, frozenset, dict}
_NOWHERE = object()
_OWN_CODE = ("__post_init__", "__attrs_post_init__", "model_fields")


@cache
def doubtful_fields(cls: type) -> tuple[str, ...]:
    """Return the fields of the declared class *cls* whose values might be read back as others."""
    fields = declared(cls).fields
    if any(hasattr(cls, name) for name in _OWN_CODE):  # it has a say in what is read
        return tuple(fields)
    hints = get_type_hints(cls)
    return tuple(field for field in fields if not _is_exact(hints.get(field)))


def _is_exact(hint: Any) -> bool:
    """Return whether all that is of the type *hint* is read back as it was."""
    origin, within = get_origin(hint), get_args(hint)
    if origin is None:
        return hint in _EXACT or (isinstance(hint, type) and issubclass(hint, Enum))
    if origin is dict and get_origin(within[0]):
        return False  # keys are text on their way, and of a union's types the first that fits is read
    return origin is Literal or (origin in _HOLDERS and all(each is ... or _is_exact(each) for each in within))


def difference(given: Any, back: Any, path: str) -> tuple[str, str] | None:
    """Return where in *given*, which is at *path*, *back* is another value, and why; ``None`` if it is the same."""
    parts = _parts(given, back, path)
    if parts is not None:
        return next(filter(None, (difference(*part) for part in parts)), None)
    why = _why(given, back)
    return (path, why) if why else None


def _parts(given: Any, back: Any, path: str) -> Iterable[tuple[Any, Any, str]] | None:
    """Return the parts of both, if they are of one kind that has parts, each with its path."""
    kind = type(given)
    if isinstance(given, dict) and isinstance(back, dict):
        return ((value, back.get(key, _NOWHERE), path + step(key)) for key, value in given.items())
    if kind is type(back) and kind in (list, tuple):
        return ((one, other, f"{path}[{place}]") for place, (one, other) in enumerate(zip(given, back, strict=True)))
    if kind is type(back) and (names := fields_of(kind)):
        return ((getattr(given, name), getattr(back, name), path + step(name)) for name in names)
    return None


def _why(given: Any, back: Any) -> str | None:
    """Return why *back*, which is not looked into, is not the same as *given*, and what there is to do."""
    kind, other = type(given), type(back)
    if isinstance(given, (datetime, time)) and isinstance(back, (datetime, time)):
        # Not compared as moments: where a zone has an hour twice, Python calls none of them equal to that of an offset.
        if (given.replace(tzinfo=None), given.utcoffset()) == (back.replace(tzinfo=None), back.utcoffset()):
            return None
        return f"the offset {given.utcoffset()} has seconds, which RFC 3339 has not; give it in UTC"
    if given == back or (kind is other is Decimal and str(given) == str(back)):
        return None
    if back is _NOWHERE:
        return "the key would be read back as text, or not at all; give the field a precise type"
    if kind is other:
        return f"{kind.__name__} would be read back as another one; let its class read what it writes"
    return f"{kind.__name__} would be read back as {other.__name__}; give the field a precise type"
