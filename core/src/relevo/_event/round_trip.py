"""
Check that an event of a declared class reads back equal.

The values of precise types, such as ``int``, ``list[date]`` or ``UUID | None``, always do. Other types are imprecise:
``Any``, ``dict`` and ``list`` accept values without a form in JSON, ``Sequence`` accepts tuples, a class accepts
instances of its subclasses, ``float`` accepts integers that it cannot hold, and the offset of a datetime may have
seconds. The fields of imprecise types are determined once for each class. A dispatch compares only their values with
those that are read back.
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
    """Return the fields of the declared class *cls* whose values might be read back differently."""
    fields = declared(cls).fields
    if any(hasattr(cls, name) for name in _OWN_CODE):  # its own code may change what is read
        return tuple(fields)
    hints = get_type_hints(cls)
    return tuple(field for field in fields if not _is_exact(hints.get(field)))


def _is_exact(hint: Any) -> bool:
    """Return whether every value of the type *hint* is read back equal."""
    origin, within = get_origin(hint), get_args(hint)
    if origin is None:
        return hint in _EXACT or (isinstance(hint, type) and issubclass(hint, Enum))
    if origin is dict and get_origin(within[0]):
        return False  # keys are text in JSON, and a union is read as the first of its types that fits
    return origin is Literal or (origin in _HOLDERS and all(each is ... or _is_exact(each) for each in within))


def difference(given: Any, back: Any, path: str) -> tuple[str, str] | None:
    """Return the path at which *given* and *back* differ, and why; ``None`` if they are equal. *given* is at *path*."""
    parts = _parts(given, back, path)
    if parts is not None:
        return next(filter(None, (difference(*part) for part in parts)), None)
    why = _why(given, back)
    return (path, why) if why else None


def _parts(given: Any, back: Any, path: str) -> Iterable[tuple[Any, Any, str]] | None:
    """Return the parts of both values with their paths; ``None`` if the values are not of one kind with parts."""
    kind = type(given)
    if isinstance(given, dict) and isinstance(back, dict):
        return ((value, back.get(key, _NOWHERE), path + step(key)) for key, value in given.items())
    if kind is type(back) and kind in (list, tuple):
        return ((one, other, f"{path}[{place}]") for place, (one, other) in enumerate(zip(given, back, strict=True)))
    if kind is type(back) and (names := fields_of(kind)):
        return ((getattr(given, name), getattr(back, name), path + step(name)) for name in names)
    return None


def _why(given: Any, back: Any) -> str | None:
    """Return how *back* differs from *given* and how to fix it; ``None`` if they are equal. Compares no parts."""
    kind, other = type(given), type(back)
    if isinstance(given, (datetime, time)) and isinstance(back, (datetime, time)):
        # Not compared with ==: a datetime in the repeated hour of a zone never equals one of another zone (PEP 495).
        if (given.replace(tzinfo=None), given.utcoffset()) == (back.replace(tzinfo=None), back.utcoffset()):
            return None
        return f"the offset {given.utcoffset()} has seconds, which RFC 3339 does not allow; use UTC"
    if given == back or (kind is other is Decimal and str(given) == str(back)):
        return None
    if back is _NOWHERE:
        return "the key would be read back as text or be lost; give the field a precise type"
    if kind is other:
        return f"{kind.__name__} would be read back as a different value; make its class read what it writes"
    return f"{kind.__name__} would be read back as {other.__name__}; give the field a precise type"
