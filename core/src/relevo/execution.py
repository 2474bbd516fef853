"""Execution of listeners outside the worker's own thread: threads, processes, time limits."""

from relevo._execution.asynchronous import AsyncExecutor
from relevo._execution.process import ProcessExecutor
from relevo._execution.recipe import recipe
from relevo._execution.threads import ThreadExecutor
from relevo._worker.execution import Execution
from relevo._worker.time_limit import TimeLimitExceededError, WatchedTable

__all__ = ["AsyncExecutor", "Execution", "ProcessExecutor", "ThreadExecutor"]
__all__ += ["TimeLimitExceededError", "WatchedTable", "recipe"]
