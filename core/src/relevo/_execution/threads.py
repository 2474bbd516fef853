"""Listeners in threads of the worker's process."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue

from relevo._clock import Clock
from relevo._execution.limited import GRACE, PATIENCE, Ended, LimitedExecutor, Run
from relevo._listener.listener import ListenerTable
from relevo._listener.process_loop import doing
from relevo._process_identity import this_process
from relevo._transport.delivery import Delivery, Lost, Release
from relevo._worker.execution import TIME_LIMIT
from relevo._worker.executor import Handle
from relevo._worker.time_limit import WatchedTable

_GOODBYE = 1.0


class ThreadExecutor(LimitedExecutor):
    """
    Handles deliveries in *threads*, as many at once.

    An async listener is cancelled at its time limit, and has failed. A thread cannot be ended from outside. When a
    plain listener exceeds its limit, the worker takes no further events, gives the other listeners *grace* to finish,
    counts what still runs as lost, and ends with a :class:`TimeLimitExceededError`: its process can be ended, and the
    service manager starts another. The event is delivered again as one that may end its process: handled alone, and
    a dead letter after the third death.

    Args:
        threads: The number of threads.

        time_limit: Seconds for listeners without a time limit of their own.

        grace: Seconds for the other listeners, when one has exceeded its time limit.

        patience: Seconds for an async listener to end that was cancelled at its limit.

        clock: The source of time.
    """

    def __init__(
        self,
        threads: int,
        *,
        time_limit: float = TIME_LIMIT,
        grace: float = GRACE,
        patience: float = PATIENCE,
        clock: Clock | None = None,
    ):
        self._patience = patience
        self._threads = threads
        self._ahead = threads // 2  # so that no thread waits while the worker receives or settles
        self._here = threading.local()
        self._crew: list[threading.Thread] = []
        super().__init__(time_limit=time_limit, grace=grace, clock=clock)

    def _reset(self) -> None:
        super()._reset()
        self._inbox: SimpleQueue[Run | None] = SimpleQueue()

    def _most(self) -> int:
        return self._threads + self._ahead

    def watch(self, listeners: ListenerTable) -> ListenerTable:
        return WatchedTable(listeners, self, time_limit=self._time_limit)

    # --- in the worker's thread ----------------------------------------------------------------------

    def start(self, handle: Handle) -> None:
        self._reset()
        self._crew = [
            threading.Thread(
                target=self._work, args=(handle, self._inbox, self._ended), name=f"relevo-{number}", daemon=True
            )
            for number in range(1, self._threads + 1)
        ]
        for thread in self._crew:
            thread.start()

    def submit(self, delivery: Delivery) -> None:
        run = self._runs[delivery] = Run(delivery)
        self._inbox.put(run)

    def stalled(self) -> Sequence[Delivery]:
        waiting = [run.delivery for run in self._runs.values() if not run.is_begun]
        return waiting if len(self._runs) - len(waiting) < self._threads else ()

    def stop(self) -> None:
        idle = self._threads - len(self._runs)
        self._abandon(self._runs.values())
        self._runs = {}
        with suppress(Empty):
            while True:
                self._inbox.get_nowait()  # not begun; its outcome is no longer needed
        for _ in self._crew:
            self._inbox.put(None)
        for thread in self._crew if idle == self._threads else ():
            thread.join(_GOODBYE)
        self._crew = []

    # --- in the threads --------------------------------------------------------------------------------

    def _work(self, handle: Handle, inbox: SimpleQueue[Run | None], ended: SimpleQueue[Ended]) -> None:
        while (run := inbox.get()) is not None:
            self._here.run = run
            doing.set(run)
            if self._is_stopping():
                ended.put((run, Release(), None))
                continue
            run.is_begun = True
            try:
                ended.put((run, handle(run.delivery), None))
            except BaseException as error:  # noqa: BLE001 - a defect: it is raised in the worker's thread
                ended.put((run, Lost(death=str(this_process().as_witnessed())), error))

    def begin(self, listener_id: str, limit: float) -> None:
        """Note that the listener begins in this thread."""
        self._here.run.begin(listener_id, limit, 0.0, self._clock.monotonic())

    def begin_on_loop(self, listener_id: str, limit: float) -> Run:
        """Note that this thread begins to wait for an async listener, which is cancelled at its limit."""
        run: Run = self._here.run
        run.task = None
        run.begin(listener_id, limit, self._patience, self._clock.monotonic())
        return run

    def end(self) -> None:
        """Note that it has ended."""
        self._here.run.since = None
