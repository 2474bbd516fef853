"""Where in the code of an application something happens."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

_NOT_THE_APPLICATION = frozenset(
    {
        "_pytest", "asyncio", "concurrent", "contextlib", "contextvars", "flask_sqlalchemy", "functools", "greenlet",
        "pluggy", "relevo", "relevo_amqp", "relevo_memory", "relevo_sql", "sqlalchemy", "sqlmodel", "threading",
    }
)  # fmt: skip
"""The packages that come between the application and what it does."""


def place(*, of: CodeType | None = None) -> str:
    """
    Return the file and line of the application that runs now in this thread, or in the task that waits for this.

    Of its frames it is the one that runs *of*, if there is one; else the innermost one. It is empty if there is none.
    """
    own = [frame for frame in frames() if package_of(frame) not in _NOT_THE_APPLICATION]
    here = next((frame for frame in own if frame.f_code is of), None) or next(iter(own), None)
    return "" if here is None else f"{_shortened(here.f_code.co_filename)}:{here.f_lineno}"


def frames() -> Iterator[FrameType]:
    """Return the frames that run now, the innermost first; also those that wait for a greenlet of SQLAlchemy's."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - documented, and inspect.stack() reads the source
    greenlet: Any = sys.modules.get("greenlet")
    inner = None if greenlet is None else greenlet.getcurrent()
    while frame is not None:
        yield frame
        frame = frame.f_back
        if frame is None and inner is not None and (inner := inner.parent) is not None:
            frame = inner.gr_frame


def package_of(frame: FrameType) -> str:
    """Return the package that the code of *frame* is in."""
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _shortened(file: str) -> str:
    """Return *file* relative to the working directory, if it is in that."""
    try:
        return str(Path(file).relative_to(Path.cwd()))
    except (ValueError, OSError):
        return file
