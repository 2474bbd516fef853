"""Where listeners run other than in the worker's own thread, how many at once, and for how long at most."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from relevo.execution._terms import Execution
from relevo.execution._watch import TimeLimitExceededError, WatchedTable

if TYPE_CHECKING:
    from relevo.execution._channel import Hello as Hello
    from relevo.execution._process import ProcessExecutor
    from relevo.execution._recipe import recipe
    from relevo.execution._threads import ThreadExecutor

__all__ = ["Execution", "ProcessExecutor", "ThreadExecutor", "TimeLimitExceededError", "WatchedTable", "recipe"]

_ROOMS = {
    "Hello": "relevo.execution._channel",
    "ProcessExecutor": "relevo.execution._process",
    "ThreadExecutor": "relevo.execution._threads",
    "recipe": "relevo.execution._recipe",
}


def __getattr__(name: str) -> Any:
    """Give an executor, which is imported when somebody asks for it: whoever only dispatches does without."""
    if name in _ROOMS:
        return getattr(import_module(_ROOMS[name]), name)
    raise AttributeError(f"module 'relevo.execution' has no attribute {name!r}")
