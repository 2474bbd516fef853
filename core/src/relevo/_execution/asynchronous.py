"""Listeners on the event loop of the worker's process, many at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial, update_wrapper
from typing import TYPE_CHECKING, Any

import attrs

from relevo._clock import Clock
from relevo._execution.limited import GRACE, PATIENCE, Ended, LimitedExecutor, Run
from relevo._listener.listener import Listener, ListenerTable
from relevo._listener.process_loop import SMALL_WORK, DaemonPool, doing, in_thread, process_loop
from relevo._process_identity import this_process
from relevo._transport.delivery import Delivery, Lost, Outcome, Release
from relevo._worker.execution import TIME_LIMIT
from relevo._worker.executor import Flow, Handle, Handling, Work
from relevo._worker.stack import Frame, frames_of
from relevo._worker.time_limit import WatchedTable, raise_if_ended

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task
    from queue import SimpleQueue

_THREADS = 32
"""The most threads for plain listeners, beside the async ones."""


@attrs.define(eq=False)
class _Run(Run):
    outcome: Outcome = attrs.field(factory=Release)
    """Of the task, however that ends: a task that is cancelled before it has begun gives its delivery back."""

    fault: BaseException | None = None
    """A defect or an interrupt, which the worker's thread raises."""


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

    def frames(self, delivery: Delivery) -> Sequence[Frame]:
        run = self._runs.get(delivery)
        return frames_of(run.task.get_coro()) if run is not None and run.task is not None else ()

    def stalled(self) -> Sequence[Delivery]:
        return ()

    def stop(self) -> None:
        self._abandon(self._runs.values())
        self._runs = {}
        self._pool.close()

    # --- on the loop -----------------------------------------------------------------------------------

    def _begin(self, loop: AbstractEventLoop, inbox: deque[_Run], ended: SimpleQueue[Ended]) -> None:
        while inbox:
            run = inbox.popleft()
            run.task = loop.create_task(self._handle(run))
            process_loop.works[run.task] = run
            run.task.add_done_callback(partial(_report, run, ended))

    async def _handle(self, run: _Run) -> None:
        if run.is_given_up or self._is_stopping():
            return
        run.is_begun = True
        doing.set(run)
        try:
            run.outcome = await self._handling.on_loop(run.delivery, partial(self._do, run))
        except BaseException as error:  # noqa: BLE001 - a defect, such as of a plugin: it is raised in the worker's thread
            run.outcome, run.fault = Lost(death=str(this_process().as_witnessed())), error

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

    def begin(self, listener_id: str, limit: float) -> None:
        """Note that the plain listener begins in this thread."""
        doing.get().begin(listener_id, limit, 0.0, self._clock.monotonic())

    def begin_on_loop(self, listener_id: str, limit: float) -> Run:
        """Note that the async listener begins in this task, which is cancelled at its limit."""
        run: Run = doing.get()
        run.begin(listener_id, limit, self._patience, self._clock.monotonic())
        return run

    def end(self) -> None:
        """Note that it has ended."""
        doing.get().since = None


class _WatchedTable(WatchedTable):
    """A table whose async listeners stay async, and are cancelled at their limits."""

    def __init__(self, listeners: ListenerTable, executor: AsyncExecutor, *, time_limit: float):
        super().__init__(listeners, executor, time_limit=time_limit)
        self._executor = executor

    def _derived(self, listener: Listener) -> Listener:
        if not listener.is_async:
            return super()._derived(listener)
        limit = listener.mark.time_limit or self._time_limit
        if listener.mark.transactional:
            watched = _watched_on_loop(_called, listener.id, limit, self._executor, is_timed=True)
            return attrs.evolve(listener, watched=watched)
        return attrs.evolve(listener, function=_watched_on_loop(listener.function, listener.id, limit, self._executor))


async def _called(run: Callable[[], Awaitable[object]]) -> object:
    """Await *run*, which calls a transactional listener; the flush and the commit are part of that."""
    return await run()


def _watched_on_loop(
    function: Callable[..., Any], listener_id: str, limit: float, executor: AsyncExecutor, *, is_timed: bool = False
) -> Callable[..., Awaitable[object]]:
    from asyncio import CancelledError  # noqa: PLC0415 - only this executor needs it

    async def call(*arguments: object, **given: object) -> object:
        run = executor.begin_on_loop(listener_id, limit)
        try:
            result = function(*arguments, **given)
            return await (run.timed(result) if is_timed else result)
        except CancelledError as error:
            raise_if_ended(run, error)
            raise
        except KeyboardInterrupt as error:
            raise RuntimeError("the listener raised KeyboardInterrupt") from error
        finally:
            executor.end()

    return update_wrapper(call, function, assigned=(), updated=())


def _in_one_step(handle: Handle, delivery: Delivery, *, on_loop: bool) -> Flow:  # noqa: ARG001 - of a protocol
    """Yield one piece of work, which handles *delivery* in a thread."""
    outcome: Outcome = yield handle, (delivery,), None
    return outcome


def _report(run: _Run, ended: SimpleQueue[Ended], _: Task[None]) -> None:
    """Tell the worker how the task of *run* has ended."""
    if run.task is not None:
        process_loop.works.pop(run.task, None)
    ended.put((run, run.outcome, run.fault))


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
