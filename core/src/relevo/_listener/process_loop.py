"""The event loop on which a process runs the coroutines of its listeners, and the wait for them."""

from __future__ import annotations

import atexit
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from logging import getLogger
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, TypeGuard, TypeVar

from relevo._awaited import Finished, refuse_undone
from relevo._event.context import awaiting_task
from relevo._fork import ForkAware, notice_fork
from relevo.errors import ConfigurationError

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task
    from concurrent.futures import Future

T = TypeVar("T")

_log = getLogger("relevo.listener")

_Ended = tuple[object, BaseException | None]
"""What a coroutine returned, or what it raised."""

_LOOK_EVERY = 1.0
"""Seconds between two checks whether the loop of another thread still runs."""

_GOODBYE = 1.0
"""Seconds for the tasks that are left when the process ends."""


def awaited(result: object, listener: str) -> object:
    """
    Return *result*, which *listener* returned; if it is awaitable, run it and return what it returns.

    It runs on the loop of the task that awaits the dispatch, if one does, else on that of the process, in a copy of the
    context of this thread, which waits.

    Raises:
        BaseException: The coroutine raised it.

        TypeError: The coroutine returned another awaitable, or a generator, so its work was not done.

        ConfigurationError: This thread runs that loop, so waiting for it would never end.
    """
    if result is None or not is_awaitable(result):
        return result
    found = process_loop.run(result, listener)
    refuse_undone(found, listener)
    return found


def is_awaitable(result: object) -> TypeGuard[Awaitable[object]]:
    """Return whether *result*, which a listener returned, is work that has to be awaited."""
    return hasattr(result, "__await__") and not isinstance(result, Finished)


def is_in_loop() -> bool:
    """Return whether this thread runs an event loop now."""
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None  # noqa: SLF001 - the public one raises


class ProcessLoop(ForkAware):
    """
    The event loop of this process, which runs in a thread from its first use to the end of the process.

    What a listener opens on it once, such as a client of HTTP, can be used by all later calls. A listener cannot end
    it: if one stops it, or a task raises ``SystemExit``, it goes on. The child of a fork has one of its own.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._inherited: list[AbstractEventLoop | None] = []
        """Loops of the processes that this one was forked from. To close one here would disturb the parent's."""
        super().__init__()

    def after_fork_in_child(self) -> None:
        self._lock = threading.Lock()
        self._inherited.append(self._loop)
        self._loop = self._thread = None

    def loop(self) -> AbstractEventLoop:
        """Return the loop, which runs."""
        notice_fork()
        with self._lock:
            if self._loop is None:
                self._loop = self._started()
            return self._loop

    def is_here(self) -> bool:
        """Return whether this thread runs the loop."""
        return self._thread is threading.current_thread()

    def _started(self) -> AbstractEventLoop:
        import asyncio  # noqa: PLC0415 - it takes 30 ms, and only a listener that is async needs it

        loop, ending = asyncio.new_event_loop(), threading.Event()
        thread = threading.Thread(target=_serve, args=(loop, ending.is_set), name="relevo-loop", daemon=True)
        self._thread = thread
        thread.start()

        def end() -> None:
            if self._loop is loop:  # else this is the child of a fork
                self._loop = None
                ending.set()
                loop.call_soon_threadsafe(loop.stop)
                thread.join(2 * _GOODBYE)  # a listener may block it

        atexit.register(end)
        return loop

    def run(self, awaitable: Awaitable[object], listener: str) -> object:
        """
        Run *awaitable*, which *listener* returned, and return its result; see :func:`awaited`.

        If the wait is interrupted, such as by a second signal, the coroutine is cancelled.
        """
        import asyncio  # noqa: PLC0415 - as above
        from concurrent.futures import CancelledError  # noqa: PLC0415 - as above

        loop = _loop_of(awaiting_task()) or self.loop()
        if asyncio._get_running_loop() is loop:  # noqa: SLF001 - the public function raises if there is none
            _close(awaitable)
            raise ConfigurationError(
                f"{listener} is async, and is called in process on the event loop that it has to run on, which waits "
                f"for it; write await app.adispatch(…) instead of app.dispatch(…) in async code"
            )
        work = _Work(awaitable)
        try:
            result, error = self._result_of(asyncio.run_coroutine_threadsafe(work.run(), loop), loop)
        except CancelledError:  # before it began: all tasks of the loop were cancelled
            _close(awaitable)
            raise
        except BaseException:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(work.cancel)
            raise
        if error is None:
            return result
        try:
            raise error
        finally:
            del error  # it has this frame in its traceback

    def _result_of(self, future: Future[_Ended], loop: AbstractEventLoop) -> _Ended:
        """Wait for *future*; raise if *loop* ends, after which nothing would wake this thread."""
        while True:
            try:
                return future.result(_LOOK_EVERY)
            except TimeoutError:
                is_over = loop.is_closed() or not (loop is self._loop or loop.is_running())
                if is_over and not future.done():
                    raise RuntimeError("the event loop that the listener ran on has ended before it") from None


def _loop_of(task: Any) -> AbstractEventLoop | None:
    """Return the loop of *task*, which awaits a dispatch; ``None`` without one, or if that has ended meanwhile."""
    if task is None:
        return None
    loop: AbstractEventLoop = task.get_loop()
    return loop if loop.is_running() else None


class _Work:
    """The run of *awaitable* in a task, which may be cancelled before it has begun."""

    def __init__(self, awaitable: Awaitable[object]):
        self._awaitable = awaitable
        self._task: Task[Any] | None = None
        self._is_cancelled = False

    async def run(self) -> _Ended:
        """Return the result, or what was raised: raised here, SystemExit would end the loop."""
        import asyncio  # noqa: PLC0415 - as above

        self._task = asyncio.current_task()
        if self._is_cancelled:
            _close(self._awaitable)
            return None, asyncio.CancelledError()
        try:
            return await self._awaitable, None
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits
            return None, error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)

    def cancel(self) -> None:
        """Cancel it; on the loop."""
        self._is_cancelled = True
        if self._task is not None:
            self._task.cancel()


def _close(awaitable: object) -> None:
    """Close the coroutine *awaitable* if it has not begun, so that Python does not warn of it."""
    close: Callable[[], object] = getattr(awaitable, "close", int)
    with suppress(Exception):
        close()


def _serve(loop: AbstractEventLoop, is_ending: Callable[[], bool]) -> None:
    """Run *loop* in this thread until *is_ending*, whatever its tasks do."""
    import asyncio  # noqa: PLC0415 - as above

    asyncio.set_event_loop(loop)
    while not is_ending():
        try:
            loop.run_forever()
        except BaseException:  # noqa: BLE001 - SystemExit of a task that a listener has left, not of a listener
            _log.exception("a task that a listener left running raised this; the event loop goes on")
    with suppress(BaseException):
        loop.run_until_complete(_end_tasks())
        loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


async def _end_tasks() -> None:
    """Cancel the tasks that are left, and wait for them, but not for ever."""
    import asyncio  # noqa: PLC0415 - as above

    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=_GOODBYE)


process_loop: Final = ProcessLoop()


# --- work in threads ---------------------------------------------------------------------------------


class DaemonPool(ForkAware):
    """
    Threads that do not hold up the end of the process, unlike those of :mod:`concurrent.futures`.

    Args:
        most: The largest number of threads; each is started when the others are busy.

        name: The beginning of their names.
    """

    def __init__(self, most: int, name: str):
        self._most = most
        self._name = name
        self._reset()
        super().__init__()

    def _reset(self) -> None:
        self._work: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._number = self._busy = 0

    def after_fork_in_child(self) -> None:
        self._reset()

    def submit(self, function: Callable[[], T], done: Callable[[T | None, BaseException | None], object]) -> None:
        """Call *function* in a thread, and then *done* with its result or what it raised."""

        def work() -> None:
            result, raised = None, None
            try:
                result = function()
            except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
                raised = error
            with self._lock:  # before: the next one may be submitted at once, and needs no other thread
                self._busy -= 1
            done(result, raised)
            del raised  # it has this frame in its traceback

        with self._lock:
            self._busy += 1
            if self._number < min(self._busy, self._most):
                self._start_one()
        self._work.put(work)

    def _start_one(self) -> None:
        name = f"{self._name}-{self._number + 1}"
        try:
            threading.Thread(target=self._serve, name=name, daemon=True).start()
        except RuntimeError:  # the system has no further thread
            if not self._number:
                self._busy -= 1
                raise
        else:
            self._number += 1

    def close(self) -> None:
        """End the threads that are idle, and the others when they have done what they do."""
        with self._lock:
            number, self._number = self._number, self._most
        for _ in range(number):
            self._work.put(None)

    def _serve(self) -> None:
        queue = self._work
        while (work := queue.get()) is not None:
            work()


SMALL_WORK: Final = DaemonPool(8, "relevo-work")
"""Stores progress, sends events and loads subjects for async listeners."""


async def in_thread(
    pool: DaemonPool, function: Callable[..., T], *arguments: object, is_given_up: Callable[[], bool] = bool
) -> T:
    """
    Call *function* in a thread of *pool*, in a copy of the context of this task; return its result.

    What is begun ends: if the task is cancelled, this goes on waiting, unless *is_given_up* returns true.
    """
    import asyncio  # noqa: PLC0415 - as above

    loop = asyncio.get_running_loop()
    future: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()

    def note(result: T | None, error: BaseException | None) -> None:
        if not future.done():
            future.set_result((result, error))

    def done(result: T | None, error: BaseException | None) -> None:
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(note, result, error)

    pool.submit(partial(copy_context().run, function, *arguments), done)
    while not future.done():
        try:
            await asyncio.wait((future,))
        except asyncio.CancelledError:
            if is_given_up():
                raise
    result, raised = future.result()
    if raised is not None:
        raise raised
    return result  # type: ignore[no-any-return]  # of *function*
