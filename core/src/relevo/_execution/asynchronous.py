"""Listeners on the event loop of the worker's process, many at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from functools import partial, update_wrapper
from typing import TYPE_CHECKING, Any

import attrs

from relevo._clock import Clock
from relevo._execution.limited import GRACE, PATIENCE, Ended, LimitedExecutor, Run
from relevo._listener.listener import Listener, ListenerTable
from relevo._listener.process_loop import SMALL_WORK, DaemonPool, in_thread, process_loop
from relevo._process_identity import this_process
from relevo._transport.delivery import Delivery, Lost, Outcome, Release
from relevo._worker.execution import TIME_LIMIT
from relevo._worker.executor import Flow, Handle, Handling, Work
from relevo._worker.time_limit import TimeLimitExceededError, WatchedTable, within_limit

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task
    from queue import SimpleQueue

_THREADS = 32
"""The most threads for plain listeners, beside the async ones."""


@attrs.define(eq=False)
class _Run(Run):
    task: Task[Outcome] | None = None
    fault: BaseException | None = None
    """An interrupt, which the worker's thread raises."""

    cancelled_at: float | None = None
    """The beginning of the call that was cancelled at its limit."""

    is_given_up: bool = False
    """Whether the worker has stopped and does not take its outcome."""


_current: ContextVar[_Run] = ContextVar("relevo_run")
"""The run of this task, and of the thread in which it has something done."""


class AsyncExecutor(LimitedExecutor):
    """
    Handles as many deliveries at once as *concurrency* says, on the event loop of this process.

    An async listener runs on the loop. All work that may block has threads: plain listeners at most 32, and progress
    that is stored, events that listeners dispatch and subjects that they load a few more.

    A listener that is cancelled at its time limit has failed. If it does not end within a few seconds, or blocks the
    loop, or is a plain one, it cannot be ended, and the worker ends as with threads.

    Args:
        concurrency: The number of deliveries.

        time_limit: Seconds for listeners without a time limit of their own.

        grace: Seconds for the other listeners, when one has exceeded its time limit and cannot be ended.

        patience: Seconds for a listener to end that was cancelled.

        clock: The source of time.
    """

    def __init__(
        self,
        concurrency: int,
        *,
        time_limit: float = TIME_LIMIT,
        grace: float = GRACE,
        patience: float = PATIENCE,
        clock: Clock | None = None,
    ):
        self._concurrency = concurrency
        self._patience = patience
        super().__init__(time_limit=time_limit, grace=grace, clock=clock)

    def _reset(self) -> None:
        super()._reset()
        self._inbox: deque[_Run] = deque()

    def _most(self) -> int:
        return self._concurrency

    def watch(self, listeners: ListenerTable) -> ListenerTable:
        return _WatchedTable(listeners, self, time_limit=self._time_limit)

    # --- in the worker's thread ----------------------------------------------------------------------

    def start(self, handle: Handle) -> None:
        self._reset()
        self._handling = handle if isinstance(handle, Handling) else Handling(partial(_in_one_step, handle))
        self._loop = process_loop.loop()
        self._pool = DaemonPool(min(self._concurrency, _THREADS), "relevo")

    def submit(self, delivery: Delivery) -> None:
        run = _Run(delivery)
        self._runs[delivery] = run
        self._inbox.append(run)
        if len(self._inbox) == 1:  # else the loop is awake, and takes this one too
            self._loop.call_soon_threadsafe(self._begin, self._loop, self._inbox, self._ended)

    def stalled(self) -> Sequence[Delivery]:
        return ()

    def stop(self) -> None:
        left = [run for run in self._runs.values() if isinstance(run, _Run)]
        self._runs = {}
        self._pool.close()
        if left:
            self._loop.call_soon_threadsafe(_give_up, left)

    def _check_limits(self, now: float) -> list[tuple[Delivery, Outcome]]:
        """Have what exceeds its limit cancelled where that is possible; return what is given up."""
        for run in self._runs.values():
            since = run.since
            if since is not None and run.patience and now - since > run.limit:
                self._loop.call_soon_threadsafe(_cancel, run, since)
        return super()._check_limits(now)

    # --- on the loop -----------------------------------------------------------------------------------

    def _begin(self, loop: AbstractEventLoop, inbox: deque[_Run], ended: SimpleQueue[Ended]) -> None:
        while inbox:
            run = inbox.popleft()
            run.task = loop.create_task(self._handle(run))
            run.task.add_done_callback(partial(_report, run, ended))

    async def _handle(self, run: _Run) -> Outcome:
        if self._is_stopping():
            return Release()
        run.is_begun = True
        _current.set(run)
        try:
            return await self._handling.on_loop(run.delivery, partial(self._do, run))
        except (KeyboardInterrupt, SystemExit) as error:  # a defect, such as of a plugin; here it would end the loop
            run.fault = error
            return Lost(death=str(this_process().as_witnessed()))

    async def _do(self, run: _Run, work: Work) -> Any:
        if not isinstance(work, tuple):
            return await in_thread(SMALL_WORK, work, is_given_up=partial(getattr, run, "is_given_up"))
        function, arguments, on_loop = work
        if on_loop is None:
            return await in_thread(self._pool, function, *arguments, is_given_up=partial(getattr, run, "is_given_up"))
        try:
            return await on_loop(*arguments)
        finally:
            await _without_cancellation(run)

    def begin(self, listener_id: str, limit: float, patience: float = 0.0) -> None:
        """Note that the listener begins in this task."""
        run = _current.get()
        run.listener_id, run.limit, run.patience = listener_id, limit, patience
        run.since = self._clock.monotonic()

    def begin_on_loop(self, listener_id: str, limit: float) -> None:
        """Note that the async listener begins, which is cancelled at its limit."""
        self.begin(listener_id, limit, self._patience)

    def is_over_limit(self) -> bool:
        """Return whether the listener of this task was cancelled at its limit."""
        run = _current.get()
        return run.cancelled_at is not None and run.cancelled_at == run.since

    def end(self) -> None:
        """Note that it has ended."""
        _current.get().since = None


class _WatchedTable(WatchedTable):
    """A table whose async listeners stay async, and are cancelled at their limits."""

    def __init__(self, listeners: ListenerTable, executor: AsyncExecutor, *, time_limit: float):
        super().__init__(listeners, executor, time_limit=time_limit)
        self._executor = executor

    def _one(self, listener: Listener) -> Listener:
        if not listener.is_async:
            return super()._one(listener)
        found = self._watched.get(listener)
        if found is None:
            limit = listener.mark.time_limit or self._time_limit
            watched = partial(_watched_on_loop, listener_id=listener.id, limit=limit, executor=self._executor)
            if listener.mark.transactional:  # the flush and the commit are part of its run
                timed = partial(_with_timer, listener_id=listener.id, limit=limit)
                found = attrs.evolve(listener, watched=watched(timed))
            else:
                found = attrs.evolve(listener, function=watched(listener.function))
            self._watched[listener] = found
        return found


def _watched_on_loop(
    function: Callable[..., Any], listener_id: str, limit: float, executor: AsyncExecutor
) -> Callable[..., Awaitable[object]]:
    from asyncio import CancelledError  # noqa: PLC0415 - only this executor needs it

    async def call(*arguments: object) -> object:
        executor.begin_on_loop(listener_id, limit)
        try:
            return await function(*arguments)
        except CancelledError as error:
            if executor.is_over_limit():
                raise TimeLimitExceededError(listener_id, limit) from error
            raise
        except KeyboardInterrupt as error:
            raise RuntimeError("the listener raised KeyboardInterrupt") from error
        finally:
            executor.end()

    return update_wrapper(call, function, assigned=(), updated=())


async def _with_timer(run: Callable[[], Awaitable[object]], *, listener_id: str, limit: float) -> object:
    """
    Await *run*, which calls a transactional listener; cancel it after *limit* seconds.

    The worker's thread, which cancels the others, may be waiting for a lock that the transaction has, as on SQLite.
    """
    return await within_limit(run(), listener_id, limit)


def _in_one_step(handle: Handle, delivery: Delivery, *, on_loop: bool) -> Flow:  # noqa: ARG001 - of a protocol
    """Yield one piece of work, which handles *delivery* in a thread."""
    outcome: Outcome = yield handle, (delivery,), None
    return outcome


def _report(run: _Run, ended: SimpleQueue[Ended], task: Task[Outcome]) -> None:
    """Tell the worker how *task*, which handled a delivery, has ended."""
    if task.cancelled():  # before it began, by a listener that cancels all tasks
        ended.put((run, Release(), None))
    elif (error := task.exception()) is not None:
        ended.put((run, Lost(death=str(this_process().as_witnessed())), error))
    else:
        ended.put((run, task.result(), run.fault))


def _cancel(run: Run, since: float) -> None:
    """Cancel the listener of *run* that began at *since*, unless it has ended or was cancelled before."""
    if isinstance(run, _Run) and run.since == since != run.cancelled_at and run.task is not None:
        run.cancelled_at = since
        run.task.cancel()


def _give_up(runs: Sequence[_Run]) -> None:
    """Cancel *runs*, whose outcomes the worker does not take any more."""
    for run in runs:
        run.is_given_up = True
        if run.task is not None:
            run.task.cancel()


async def _without_cancellation(run: _Run) -> None:
    """Take back what a listener, or its time limit, has cancelled: the other listeners of the event are called."""
    import asyncio  # noqa: PLC0415 - only this executor needs it

    task = run.task
    if task is None or not task.cancelling() or run.is_given_up:
        return
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        if run.is_given_up:
            raise
    while task.uncancel():
        pass
