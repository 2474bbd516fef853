"""Time limits: record around each call which listener runs and since when."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import update_wrapper
from typing import Any, Protocol, runtime_checkable

import attrs

from relevo._listener.derived import DerivedTable
from relevo._listener.listener import Listener, ListenerTable
from relevo._listener.process_loop import Owner, awaited
from relevo.errors import RelevoError


class TimeLimitExceededError(RelevoError):
    """
    Raised for a listener that exceeds its time limit; its retry policy treats it as any other error.

    If listeners run in threads, which cannot be ended, it ends the worker.

    Args:
        listener_id: The id of the listener.

        limit: Its time limit in seconds.

        trace: The frames in which the listener was, as lines of a traceback, if it ran in a child process.

        output: The last output of that process.
    """

    def __init__(self, listener_id: str, limit: float, *, trace: str = "", output: str = ""):
        self.listener_id = listener_id
        self.limit = limit
        self.trace = trace
        self.output = output
        super().__init__(
            f"{listener_id} ran for longer than its time limit of {limit:g} s; "
            f"raise the limit with listener(…, time_limit=…), or make the listener faster"
        )


class Abandoned(KeyboardInterrupt):
    """Ends the handling of a delivery that the worker has given up, which does not count as a failure."""


class OnLoop(Owner, Protocol):
    """What an executor notes of an async listener that runs."""

    listener_id: str
    limit: float
    is_given_up: bool

    def is_over_limit(self) -> bool:
        """Return whether the listener was cancelled at its limit."""
        ...

    async def timed(self, work: Awaitable[object]) -> object:
        """Await *work*; cancel it at the limit, although the worker's thread may not be able to."""
        ...


def raise_if_ended(run: OnLoop, error: BaseException) -> None:
    """
    Do nothing if *error*, the ``CancelledError`` of the listener of *run*, is its own.

    Raises:
        TimeLimitExceededError: It was cancelled at its limit.

        Abandoned: It was cancelled since the worker has given it up.
    """
    if run.is_given_up:
        raise Abandoned from error
    if run.is_over_limit():
        raise TimeLimitExceededError(run.listener_id, run.limit) from error


class Watch(Protocol):
    """Is notified when a listener begins and ends."""

    def begin(self, listener_id: str, limit: float) -> None:
        """Note that the listener begins, and may run for *limit* seconds; an error raised here replaces the call."""
        ...

    def end(self) -> None:
        """Note that it has ended."""
        ...


@runtime_checkable
class CancellingWatch(Protocol):
    """A watch for which async listeners are cancelled at their limits."""

    def begin_on_loop(self, listener_id: str, limit: float) -> OnLoop:
        """Note that an async listener begins, which is cancelled after *limit* seconds."""
        ...

    def end(self) -> None:
        """Note that it has ended."""
        ...


class WatchedTable(DerivedTable):
    """
    The listeners of another table, each recorded by *watch* while it runs.

    If that is a :class:`CancellingWatch`, the async ones are cancelled at their limits.

    A ``KeyboardInterrupt`` that a listener raises is its own failure, since no terminal interrupts it where it runs.

    Args:
        listeners: The listeners to watch, with those that are added later.

        watch: Is notified when a listener begins and ends.

        time_limit: Seconds for listeners without a time limit of their own.
    """

    def __init__(self, listeners: ListenerTable, watch: Watch, *, time_limit: float):
        super().__init__(listeners)
        self._watch = watch
        self._time_limit = time_limit

    def _derived(self, listener: Listener) -> Listener:
        limit = listener.mark.time_limit or self._time_limit
        # Of a transactional one, the flush and the commit, which may wait for others, are part of the run.
        is_whole = bool(listener.mark.transactional)
        function = _called if is_whole else listener.function
        if listener.is_async and isinstance(self._watch, CancellingWatch):
            watched = _watched_on_loop(function, listener.id, limit, self._watch, is_timed=is_whole)
        else:
            watched = _watched(function, listener.id, limit, self._watch)
        return attrs.evolve(listener, watched=watched) if is_whole else attrs.evolve(listener, function=watched)


def _called(function: Callable[[], Any]) -> Any:
    """Return what *function* returns, which calls a transactional listener."""
    return function()


def _watched(function: Callable[..., object], listener_id: str, limit: float, watch: Watch) -> Callable[..., object]:
    def call(*arguments: object, **given: object) -> object:
        watch.begin(listener_id, limit)
        try:
            return awaited(function(*arguments, **given), listener_id)
        except KeyboardInterrupt as error:
            raise RuntimeError("the listener raised KeyboardInterrupt") from error
        finally:
            watch.end()

    return update_wrapper(call, function, assigned=(), updated=())  # only __wrapped__, which leads to the function


def _watched_on_loop(
    function: Callable[..., Any], listener_id: str, limit: float, watch: CancellingWatch, *, is_timed: bool
) -> Callable[..., object]:
    from asyncio import CancelledError  # noqa: PLC0415 - only a listener that is async needs it

    def call(*arguments: object, **given: object) -> object:
        run = watch.begin_on_loop(listener_id, limit)
        try:
            result = function(*arguments, **given)
            return awaited(run.timed(result) if is_timed else result, listener_id, run)
        except CancelledError as error:
            raise_if_ended(run, error)
            raise
        except KeyboardInterrupt as error:
            raise RuntimeError("the listener raised KeyboardInterrupt") from error
        finally:
            watch.end()

    return update_wrapper(call, function, assigned=(), updated=())
