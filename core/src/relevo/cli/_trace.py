"""Tracebacks for ``--debug``."""

from __future__ import annotations

import traceback
from collections.abc import Iterator

from relevo.errors import RelevoError


def traced(error: BaseException) -> str:
    """
    Return the way to *error* and to what caused it, the first cause first.

    Of errors that are not relevo's the kind alone is told, since a driver's may hold a part of a password.
    """
    return "\n".join(_traceback_text(each) for each in reversed([*_causes(error)]))


def _causes(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    seen: set[int] = set()
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)


def _traceback_text(error: BaseException) -> str:
    kind = type(error)
    said = f": {error}" if isinstance(error, RelevoError) else ""
    frames = "".join(traceback.format_tb(error.__traceback__))
    return f"Traceback (most recent call last):\n{frames}{kind.__module__}.{kind.__qualname__}{said}\n"
