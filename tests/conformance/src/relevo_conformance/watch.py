"""
Timeouts for foreign calls: a test runs in a thread that can be left behind.

Python cannot end a call that hangs from outside. So the tests of a class run on a :class:`Stage`, a thread
of its own, and a :class:`Watchdog` records each call into a transport or a harness while it runs. The thread
that waits for the test checks the watch regularly. If a call is overdue, that is the verdict, and the thread of
the test is abandoned. A call costs two entries in a dict, and no switch to another thread.
"""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from relevo_conformance import promise
from relevo_conformance._world import Violation
from relevo_conformance.verdict import BrokenPromiseError, LeftBehind, error_text

if TYPE_CHECKING:
    from relevo_conformance.bench import Bench

Result = TypeVar("Result")

Tell = Callable[[str], BaseException]
"""Returns the verdict on a call from a text with its duration and its place."""

Flight = tuple[float, float, Tell]
"""A call: its deadline, the seconds that it has, and the function that makes its verdict."""

_PATIENCE = 60.0
"""Seconds beyond a call's own that may pass between two calls, since the suite waits and Hypothesis computes."""

_SLOW = "; if it is only slow, raise call_timeout of the harness"

_PULSE = 0.25
"""Seconds between two checks of the watch."""

_STANDARD = frozenset({Path(threading.__file__).parent, Path(asyncio.__file__).parent})
"""Folders of the standard library in which threads wait."""


class Watchdog:
    """
    Knows which calls are in flight, and when each is overdue.

    Args:
        seconds: The limit of a call, beyond its own wait.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.benches: list[Bench] = []
        """The benches of unfinished scenarios, to be cleaned up if they never finish."""

        self.hooks = threading.RLock()
        """Held while a hook of the harness is called."""

        self.handed_out = False
        """Whether a receive ever returned a delivery."""

        self.vain_looks = 0
        """How often the patience ended before a receive had ever returned a delivery."""

        self._flights: dict[int, Flight] = {}
        self._is_over = False

    def call(self, act: Callable[[], Result], tell: Tell, *, wait: float = 0.0) -> Result:
        """
        Return what *act* returns; while it lasts it can be overdue.

        Args:
            act: A call of foreign code.

            tell: Returns the verdict if it does not return.

            wait: Seconds for which it may block.

        Raises:
            LeftBehind: A call was overdue meanwhile, and the test has its verdict.
        """
        self.require_attention()
        thread = threading.get_ident()
        around = self._flights.get(thread)
        allowed = self.seconds + wait
        self._flights[thread] = (monotonic() + allowed, allowed, tell)
        try:
            result = act()
        finally:
            if around is None:
                self._flights.pop(thread, None)
            else:  # the call around it has made progress
                self._flights[thread] = (monotonic() + around[1], *around[1:])
        self.require_attention()
        return result

    def require_attention(self) -> None:
        """Raise :class:`LeftBehind` if this thread was left behind."""
        if self._is_over:
            raise LeftBehind

    def overdue(self) -> BaseException | None:
        """Return the verdict if a call is overdue; from then on its thread is left behind."""
        now = monotonic()
        for thread, (deadline, allowed, tell) in tuple(self._flights.items()):
            if now > deadline:
                try:
                    verdict = tell(f"did not come back within {allowed:g} s{_whereabouts(thread)}{_SLOW}")
                except LeftBehind:  # it has just returned
                    continue
                self._is_over = True
                _interrupt(thread)
                return verdict
        return None

    def land(self) -> None:
        """Forget calls that a test left in other threads."""
        self._flights.clear()

    @property
    def is_over(self) -> bool:
        """Whether a call was overdue."""
        return self._is_over


class Stage:
    """A thread that runs one job after another, and that can be left behind."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        threading.Thread(target=self._play, name="relevo-conformance", daemon=True).start()

    def run(self, watch: Watchdog, act: Callable[[], Result], tell: Tell) -> Result:
        """
        Return what *act* returns, or raise what it raises, as a direct call would.

        Args:
            watch: The watch that is checked meanwhile.

            act: The function to call.

            tell: Returns the verdict if *act* makes no progress although no call is overdue.

        Raises:
            BaseException: The verdict of *watch* on a call that is overdue. The thread is abandoned.
        """
        __tracebackhide__ = True
        job = _Job(lambda: watch.call(act, tell, wait=_PATIENCE))
        self._jobs.put(job)
        while not job.done.wait(min(_PULSE, watch.seconds / 4)):
            verdict = watch.overdue()
            if verdict is not None:
                self.end()
                raise verdict
        watch.land()
        if isinstance(job.error, KeyboardInterrupt | SystemExit):
            # It does not come from the keyboard; raised here it would end the run.
            violation = Violation(promise.ERRORS_ARE_TRANSLATED.id, None, f"something raised {error_text(job.error)}")
            raise BrokenPromiseError([violation]) from job.error
        if job.error is not None:
            raise job.error
        result: Result = job.result
        return result

    def end(self) -> None:
        """End the thread after its last job."""
        self._jobs.put(None)

    def _play(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.run()
            del job  # and its result


class _Job:
    """A call, and its result."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self._act = act
        self._context = contextvars.copy_context()
        self.done = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self._context.run(self._act)
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            self.error = error
        self.done.set()


def _interrupt(thread: int) -> None:
    """End *thread* if it runs Python code; a thread that is blocked stays."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(LeftBehind))


class _Nothing(BaseException):
    """Raised and suppressed at once."""


def forget_interruptions() -> None:
    """
    Let Python forget the interruptions that blocked threads have not noticed.

    As long as there is one, Python 3.11 cannot enter a function under a profiler: it looks for the interruption, which
    is not its own, and starts the same instruction again, without end.
    """
    with suppress(_Nothing):
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(threading.get_ident()), ctypes.py_object(_Nothing))
        while True:  # until it is raised
            pass


def _whereabouts(thread: int) -> str:
    """Return a text with the place of *thread*, outside the standard library."""
    innermost = frame = sys._current_frames().get(thread)
    while frame is not None and Path(frame.f_code.co_filename).parent in _STANDARD:
        frame = frame.f_back
    frame = frame or innermost
    if frame is None:
        return ""
    return f"; it is at {Path(frame.f_code.co_filename).name}:{frame.f_lineno}, in {frame.f_code.co_name}"
