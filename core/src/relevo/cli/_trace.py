"""Tracebacks for ``--debug``."""

from __future__ import annotations

import traceback
from collections.abc import Iterator

from relevo.errors import RelevoError


def tracebacks(error: BaseException) -> str:
    """
    Return the tracebacks of *error* and its causes, the first cause first.

    For errors of other packages only the type is shown, since a driver's text may contain a part of a password.
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
    text = f": {error}" if isinstance(error, RelevoError) else ""
    frames = "".join(traceback.format_tb(error.__traceback__))
    return f"Traceback (most recent call last):\n{frames}{kind.__module__}.{kind.__qualname__}{text}\n"
