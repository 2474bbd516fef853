"""The annotations of listeners and lifespans, each evaluated alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints
from uuid import UUID

_PLAIN = {int, str, float, bool, bytes, list, tuple, set, frozenset, dict, NoneType, object}
_DATA = frozenset({*_PLAIN, date, datetime, time, timedelta, Decimal, UUID})


def evaluated(
    function: Callable[..., object],
    annotation: object,
    names: Mapping[str, Any] | None = None,
    *,
    is_whole: bool = False,
) -> Any:
    """
    Return *annotation*, which stands in *function*; raise any error if it cannot be evaluated.

    Args:
        function: The function.

        annotation: One of its annotations, which may be text.

        names: Local names where it is defined.

        is_whole: Return an ``Annotated`` type as it is; by default the type in it.
    """

    def alone() -> None: ...  # the other annotations may be of modules that are only imported for type checkers

    alone.__annotations__ = {"it": annotation}
    return get_type_hints(alone, _names_of(function), None if names is None else dict(names), is_whole)["it"]


def _names_of(function: Callable[..., object]) -> dict[str, Any] | None:
    """Return the global names of *function*."""
    found: Any = inspect.unwrap(function)
    while isinstance(found, partial):
        found = inspect.unwrap(found.func)
    if not hasattr(found, "__globals__"):
        found = getattr(type(found), "__call__", None)  # noqa: B004 - the function, of an object that is called
    return getattr(found, "__globals__", None)


def is_data(kind: object) -> bool:
    """Return whether values of the type *kind* are data, such as text, which say nothing about what they are for."""
    origin = get_origin(kind)
    if origin is Union or isinstance(kind, UnionType):
        return any(map(is_data, get_args(kind)))
    return kind is Any or (origin or kind) in _DATA


def type_name(kind: object) -> str:
    """Return the name of the type *kind*, for an error."""
    return kind.__qualname__ if isinstance(kind, type) and not get_args(kind) else str(kind).replace("typing.", "")
