"""The event loop on which a process runs the coroutines of its listeners, and the wait for them."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar, copy_context
from functools import partial
from itertools import takewhile
from logging import getLogger
from queue import SimpleQueue
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeGuard, TypeVar
from weakref import WeakKeyDictionary

import attrs

from relevo._awaited import Finished, refuse_undone
from relevo._event.context import ambient, awaiting_task
from relevo._fork import ForkAware, notice_fork
from relevo._visible import visible, visible_lines
from relevo.errors import ConfigurationError

if TYPE_CHECKING:
    import asyncio
    from asyncio import AbstractEventLoop, Task
    from concurrent.futures import Future, ThreadPoolExecutor

T = TypeVar("T")

_log = getLogger("relevo.listener")

_Ended = tuple[object, BaseException | None]
"""What a coroutine returned, or what it raised."""

_LOOK_EVERY = 1.0
"""Seconds between two checks whether the loop of another thread still runs."""

_GOODBYE = 1.0
"""Seconds for the tasks that are left when the process ends."""

BLOCKED_AFTER = 1.0
"""Seconds after which a loop that does not turn is blocked."""

_MOST_BY_DEFAULT = min(32, (os.cpu_count() or 1) + 4)
"""The number of threads that an event loop has by default."""

_ASK_EVERY = 0.5
"""Seconds between two questions to the loop whether it turns."""

_SUSPENDED_AFTER = 5.0
"""Seconds without a look after which a question counts no more: the process may have been suspended."""


class Owner(Protocol):
    """Gets the task in which its work runs. Its text names the listener and the event."""

    task: Task[Any] | None


doing: ContextVar[Any] = ContextVar("relevo_doing", default=None)
"""The object whose text names the listener, and the event, that this task or thread works for."""


def awaited(result: object, listener: str, owner: Owner | None = None) -> object:
    """
    Return *result*, which *listener* returned; if it is awaitable, run it and return what it returns.

    It runs on the loop of the task that awaits the dispatch, if one does, else on that of the process, in a copy of the
    context of this thread, which waits. *owner* gets its task.

    Raises:
        BaseException: The coroutine raised it.

        TypeError: The coroutine returned another awaitable, or a generator, so its work was not done.

        ConfigurationError: This thread runs that loop, so waiting for it would never end.
    """
    if result is None or not is_awaitable(result):
        return result
    found = process_loop.run(result, listener, owner)
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
        self._reset()
        super().__init__()

    def _reset(self) -> None:
        self.works: dict[Task[Any], object] = {}
        """What the tasks of listeners are for, as :data:`doing` has it."""
        self._blockage: Blockage | None = None
        self._looked = 0.0

    def after_fork_in_child(self) -> None:
        self._lock = threading.Lock()
        self._inherited.append(self._loop)
        self._loop = self._thread = None
        self._reset()

    def loop(self) -> AbstractEventLoop:
        """Return the loop, which runs."""
        notice_fork()
        with self._lock:
            if self._loop is None:
                self._loop = self._started()
            return self._loop

    def of_listeners(self) -> AbstractEventLoop:
        """Return the loop that :meth:`run` uses here: that of the task which awaits the dispatch, if there is one."""
        return _loop_of(awaiting_task()) or self.loop()

    def is_here(self) -> bool:
        """Return whether this thread runs the loop."""
        return self._thread is threading.current_thread()

    def _started(self) -> AbstractEventLoop:
        import asyncio  # noqa: PLC0415 - it takes 30 ms, and only a listener that is async needs it

        loop, ending = asyncio.new_event_loop(), threading.Event()
        loop.set_default_executor(_daemon_executor())
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

    def blockage(self) -> Blockage | None:
        """
        Return what blocks the loop if it has not turned for :data:`BLOCKED_AFTER`; log it, once.

        What waits for work on the loop calls it again and again: it asks the loop to turn, and looks whether it has.
        """
        loop = self._loop
        if loop is None:
            return None
        now = time.monotonic()
        with self._lock:
            is_late, self._looked = now - self._looked > _SUSPENDED_AFTER, now
            found = self._blockage
            if found is None or found.is_over or is_late:
                if found is None or now - found.since >= _ASK_EVERY:
                    found = self._blockage = Blockage(since=now)
                    with suppress(RuntimeError):  # the loop has ended
                        loop.call_soon_threadsafe(found.end)
                return None
            found.seconds = now - found.since
            if found.seconds < BLOCKED_AFTER:
                return None
            is_first, found.is_logged = not found.is_logged, True
        return found if self._identify(found, loop, is_first=is_first) else None

    def _identify(self, found: Blockage, loop: AbstractEventLoop, *, is_first: bool) -> bool:
        """Note what blocks *loop*, and log it at first; return whether that still blocks it."""
        frame = sys._current_frames().get(getattr(self._thread, "ident", None) or 0)  # noqa: SLF001 - documented
        found.work, what = self._current(loop)
        if found.is_over:
            return False
        if is_first:
            _log.warning(
                "%s has blocked the event loop of this process for %.1f s, and all other async listeners wait for it; "
                "use await asyncio.to_thread(…) for code that blocks; it is at:\n%s",
                visible(what),
                found.seconds,
                visible_lines(_stack(frame)),
            )
        return True

    def _current(self, loop: AbstractEventLoop) -> tuple[object, str]:
        """Return what the current task of *loop* is for, if that is known, and its name."""
        import asyncio  # noqa: PLC0415 - as above

        task = asyncio.current_task(loop)
        if task is None:
            return None, "a callback"
        found = self.works.get(task)
        if found is None and hasattr(task, "get_context"):  # of a task that a listener has created; since Python 3.12
            found = task.get_context().get(doing)
        return found, str(found or f"the task {getattr(task.get_coro(), '__qualname__', task.get_name())}")

    def run(self, awaitable: Awaitable[object], listener: str, owner: Owner | None = None) -> object:
        """
        Run *awaitable*, which *listener* returned, and return its result; see :func:`awaited`.

        If the wait is interrupted, such as by a second signal, the coroutine is cancelled.
        """
        import asyncio  # noqa: PLC0415 - as above
        from concurrent.futures import CancelledError  # noqa: PLC0415 - as above

        loop = self.of_listeners()
        if asyncio._get_running_loop() is loop:  # noqa: SLF001 - the public function raises if there is none
            _close(awaitable)
            raise ConfigurationError(
                f"{listener} is async, and is called in process on the event loop that it has to run on, which waits "
                f"for it; write await app.adispatch(…) instead of app.dispatch(…) in async code"
            )
        work = _Work(awaitable, listener, owner)
        try:
            result, error = self._result_of(asyncio.run_coroutine_threadsafe(work.run(), loop), loop)
        except CancelledError:  # all tasks of the loop before it began, or its own task at its end
            if work.ended is None:
                _close(awaitable)
                raise
            result, error = work.ended
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
                if loop is self._loop:
                    self.blockage()
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

    def __init__(self, awaitable: Awaitable[object], listener: str, owner: Owner | None):
        self._awaitable = awaitable
        self._owner = owner
        self._listener = listener
        self._event = ambient().causation
        self._task: Task[Any] | None = None
        self._is_cancelled = False
        self.ended: _Ended | None = None
        """The result, also if the task counts as cancelled since it had a cancellation left at its end."""

    def __str__(self) -> str:
        """Return the listener and its event."""
        return f"{self._listener} on the event {self._event}" if self._event else self._listener

    async def run(self) -> _Ended:
        """Return the result, or what was raised: raised here, SystemExit would end the loop."""
        import asyncio  # noqa: PLC0415 - as above

        self._task = task = asyncio.current_task()
        if self._is_cancelled or task is None:
            _close(self._awaitable)
            return None, asyncio.CancelledError()
        if self._owner is not None:
            self._owner.task = task
        work = process_loop.works[task] = self._owner or doing.get() or self
        doing.set(work)
        try:
            self.ended = await self._awaitable, None
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits
            self.ended = None, error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)
        finally:
            del process_loop.works[task]
        return self.ended

    def cancel(self) -> None:
        """Cancel it; on the loop."""
        self._is_cancelled = True
        if self._task is not None:
            self._task.cancel()


@attrs.define(eq=False)
class Blockage:
    """A question to the loop whether it turns, which it answers by turning."""

    since: float
    """Monotonic seconds of the system."""

    seconds: float = 0.0
    """How long it has not turned."""

    work: object = None
    """What the task that blocks it is for, as :data:`doing` has it; ``None`` if that is not known."""

    is_over: bool = False
    is_logged: bool = False

    def end(self) -> None:
        """Note that the loop has turned."""
        self.is_over = True


def _stack(frame: FrameType | None) -> str:
    """Return where the callback is that the loop of *frame*'s thread runs, as the lines of a traceback."""
    from asyncio import Handle  # noqa: PLC0415 - as above
    from traceback import StackSummary, walk_stack  # noqa: PLC0415 - only a loop that is blocked needs it

    run = Handle._run.__code__  # noqa: SLF001 - where asyncio ends, and the program begins
    inner = takewhile(lambda each: each[0].f_code is not run, walk_stack(frame) if frame else ())
    return "".join(StackSummary.from_list(list(StackSummary.extract(inner))[::-1]).format()).rstrip()


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
"""Stores progress and sends events for async listeners."""

LOADS: Final = DaemonPool(8, "relevo-work-load")
"""
Loads subjects for async listeners. They have threads apart, since a subject may hang, and since an event that is sent
may call async listeners in process, which load theirs.
"""


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


_dispatches: WeakKeyDictionary[AbstractEventLoop, ThreadPoolExecutor] = WeakKeyDictionary()
"""For each loop the threads of dispatches that must not wait for those of the loop."""


def in_dispatch_thread(function: Callable[[], T], *, calls_listeners: bool) -> asyncio.Future[T]:
    """
    Call *function*, a dispatch that this task awaits, in a thread.

    A dispatch that calls listeners waits in its thread for the async ones, which may need further threads: they would
    wait for ever, once all threads wait so. Thus it has none of the loop's, and what such a listener dispatches has a
    thread of its own. On the loop of the process no dispatch has one of the loop's, whose threads end with the process.
    """
    import asyncio  # noqa: PLC0415 - as above
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - as above

    loop = asyncio.get_running_loop()
    if awaiting_task() is not None:
        executor = ThreadPoolExecutor(1, "relevo-dispatch")
        try:
            return loop.run_in_executor(executor, function)
        finally:
            executor.shutdown(wait=False)
    if not (calls_listeners or process_loop.is_here()):
        return loop.run_in_executor(None, function)
    apart = _dispatches.get(loop)
    if apart is None:
        apart = _dispatches[loop] = ThreadPoolExecutor(_MOST_BY_DEFAULT, "relevo-dispatch")
    return loop.run_in_executor(apart, function)


def _daemon_executor() -> ThreadPoolExecutor:
    """Return the executor of a loop, for ``asyncio.to_thread``, whose threads do not hold up the end of the process."""
    from concurrent.futures import Future, ThreadPoolExecutor  # noqa: PLC0415 - as above

    pool = DaemonPool(_MOST_BY_DEFAULT, "relevo-to-thread")

    class DaemonExecutor(ThreadPoolExecutor):
        def submit(self, function: Callable[..., T], /, *args: Any, **options: Any) -> Future[T]:
            future: Future[T] = Future()

            def work() -> None:
                if future.set_running_or_notify_cancel():
                    try:
                        future.set_result(function(*args, **options))
                    except BaseException as error:  # noqa: BLE001 - it is raised where it is awaited
                        future.set_exception(error)

            pool.submit(work, lambda _, __: None)
            return future

        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - its signature
            pool.close()

    return DaemonExecutor()
