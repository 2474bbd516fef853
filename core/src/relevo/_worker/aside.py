"""Calls that are made in another thread, and are not waited for if they take long."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue


class _Call:
    """One call, its end, and the error that it raised."""

    def __init__(self, work: Callable[[], None]):
        self.work = work
        self.is_over = threading.Event()
        self.error: BaseException | None = None


class Aside:
    """
    Makes one call at a time, in a thread of its own.

    A driver may wait for a server that does not answer, and no other thread can end that.

    Args:
        name: The name of the thread.
    """

    def __init__(self, name: str):
        self._name = name
        self._lock = threading.Lock()
        self._calls: SimpleQueue[_Call] = SimpleQueue()
        self._last: _Call | None = None
        self._thread: threading.Thread | None = None

    def call(self, work: Callable[[], None], *, within: float) -> None:
        """
        Call *work* and wait for its end; blocking.

        Args:
            work: What to do. It may go on after the time, and what it raises then is lost.

            within: Seconds.

        Raises:
            TimeoutError: It took longer; or an earlier call has not ended yet, and *work* was not called.
        """
        with self._lock:
            if self._last is not None and not self._last.is_over.is_set():
                raise TimeoutError
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            call = self._last = _Call(work)
            self._calls.put(call)
        if not call.is_over.wait(within):
            raise TimeoutError
        if call.error is not None:
            raise call.error

    def end(self) -> None:
        """End the thread, when its call has ended."""
        with self._lock:
            if self._thread is not None:
                self._thread = None
                self._calls.put(_END)
                self._calls = SimpleQueue()

    def _run(self) -> None:
        calls = self._calls
        while (call := calls.get()) is not _END:
            try:
                call.work()
            except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
                call.error = error
            call.is_over.set()


_END = _Call(lambda: None)
