"""Time limits: record around each call which listener runs and since when."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from functools import update_wrapper
from typing import Any, Protocol, runtime_checkable

import attrs

from relevo._listener.listener import Listener, ListenerTable
from relevo._listener.process_loop import awaited
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


async def within_limit(awaitable: Awaitable[object], listener_id: str, limit: float) -> object:
    """
    Await *awaitable*, the work of the listener with the id *listener_id*; cancel it after *limit* seconds.

    Raises:
        TimeLimitExceededError: It was cancelled, and let that out.
    """
    import asyncio  # noqa: PLC0415 - only a listener that is async needs it

    task, is_over = asyncio.current_task(), False

    def end() -> None:
        nonlocal is_over
        is_over = True
        if task is not None:
            task.cancel()

    timer = asyncio.get_running_loop().call_later(limit, end)
    try:
        return await awaitable
    except asyncio.CancelledError as error:
        if is_over:
            raise TimeLimitExceededError(listener_id, limit) from error
        raise
    finally:
        timer.cancel()


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

    def begin_on_loop(self, listener_id: str, limit: float) -> None:
        """Note that an async listener begins, which is cancelled after *limit* seconds."""
        ...


class WatchedTable(ListenerTable):
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
        super().__init__(listeners.event_types)
        self._listeners = listeners
        self._watch = watch
        self._time_limit = time_limit
        self._watched: dict[Listener, Listener] = {}
        self._found: dict[tuple[Listener, ...], tuple[Listener, ...]] = {}

    def of(self, event_name: str) -> tuple[Listener, ...]:
        return self._all(self._listeners.of(event_name))

    def in_queue(self, event_name: str, queue: str, first: str) -> tuple[Listener, ...]:
        return self._all(self._listeners.in_queue(event_name, queue, first))

    def __iter__(self) -> Iterator[Listener]:
        return iter(self._all(tuple(self._listeners)))

    def __len__(self) -> int:
        return len(self._listeners)

    def _all(self, listeners: tuple[Listener, ...]) -> tuple[Listener, ...]:
        found = self._found.get(listeners)
        if found is None:
            found = self._found[listeners] = tuple(map(self._one, listeners))
        return found

    def _one(self, listener: Listener) -> Listener:
        found = self._watched.get(listener)
        if found is None:
            limit = listener.mark.time_limit or self._time_limit
            if listener.mark.transactional:  # the flush and the commit, which may wait for others, are part of its run
                watched = _watched(_called, listener.id, limit, self._watch, is_async=listener.is_async)
                found = attrs.evolve(listener, watched=watched)
            else:
                watched = _watched(listener.function, listener.id, limit, self._watch, is_async=listener.is_async)
                found = attrs.evolve(listener, function=watched)
            self._watched[listener] = found
        return found


def _called(function: Callable[[], Any]) -> Any:
    """Return what *function* returns, which calls a transactional listener."""
    return function()


def _watched(
    function: Callable[..., object], listener_id: str, limit: float, watch: Watch, *, is_async: bool = False
) -> Callable[..., object]:
    begin, end = watch.begin, watch.end
    cancels = is_async and isinstance(watch, CancellingWatch)
    if cancels and isinstance(watch, CancellingWatch):
        begin = watch.begin_on_loop

    def call(*arguments: object) -> object:
        begin(listener_id, limit)
        try:
            result: Any = function(*arguments)
            return awaited(within_limit(result, listener_id, limit) if cancels else result, listener_id)
        except KeyboardInterrupt as error:
            raise RuntimeError("the listener raised KeyboardInterrupt") from error
        finally:
            end()

    return update_wrapper(call, function, assigned=(), updated=())  # only __wrapped__, which leads to the function
