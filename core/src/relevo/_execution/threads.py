"""Listeners in threads of the worker's process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from logging import getLogger
from queue import Empty, SimpleQueue

import attrs

from relevo._clock import Clock, SystemClock
from relevo._listener.listener import ListenerTable
from relevo._process_identity import this_process
from relevo._transport.delivery import Delivery, Lost, Outcome, Release
from relevo._worker.execution import TIME_LIMIT
from relevo._worker.executor import Executor, Handle
from relevo._worker.time_limit import TimeLimitExceededError, WatchedTable

_log = getLogger("relevo.execution")

_LOOK_EVERY = 0.1
_GRACE = 10.0
_GOODBYE = 1.0


@attrs.define(eq=False)
class _Run:
    """One delivery in a thread; the worker's thread reads what the listener's thread notes here."""

    delivery: Delivery
    is_begun: bool = False
    listener_id: str = ""
    limit: float = 0.0
    since: float | None = None
    """Monotonic seconds at which its listener began; ``None`` between listeners."""


_Ended = tuple[_Run, Outcome, BaseException | None]


class ThreadExecutor(Executor):
    """
    Handles deliveries in *threads*, as many at once.

    A thread cannot be ended from outside. When a listener exceeds its time limit, the worker takes no further
    events, gives the other listeners *grace* to finish, counts what still runs as lost, and ends with a
    :class:`TimeLimitExceededError`: its process can be ended, and the service manager starts another. The event is
    delivered again as one that may end its process: handled alone, and a dead letter after the third death.

    Args:
        threads: The number of threads.

        time_limit: Seconds for listeners without a time limit of their own.

        grace: Seconds for the other listeners, when one has exceeded its time limit.

        clock: The source of time.
    """

    def __init__(
        self, threads: int, *, time_limit: float = TIME_LIMIT, grace: float = _GRACE, clock: Clock | None = None
    ):
        self._threads = threads
        self._ahead = threads // 2  # so that no thread waits while the worker receives or settles
        self._is_stopping: Callable[[], bool] = lambda: False
        self._time_limit = time_limit
        self._grace = grace
        self._clock = clock or SystemClock()
        self._here = threading.local()
        self._crew: list[threading.Thread] = []
        self._reset()

    def _reset(self) -> None:
        # Each start has queues of its own: what an abandoned thread still reports is ignored.
        self._inbox: SimpleQueue[_Run | None] = SimpleQueue()
        self._ended: SimpleQueue[_Ended] = SimpleQueue()
        self._runs: dict[Delivery, _Run] = {}
        self._fault: BaseException | None = None
        self._deadline: float | None = None
        self._looked = 0.0

    def stop_when(self, is_ending: Callable[[], bool]) -> None:
        self._is_stopping = is_ending

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

    def room(self) -> int:
        """
        Return how many further deliveries can be submitted now.

        Raises:
            TimeLimitExceededError: A listener exceeded its time limit, and nothing runs any longer.
        """
        if self._fault is not None:
            if not self._runs:
                raise self._fault
            return 0
        return self._threads + self._ahead - len(self._runs)

    def submit(self, delivery: Delivery) -> None:
        run = self._runs[delivery] = _Run(delivery)
        self._inbox.put(run)

    def take_finished(self, wait: float) -> Sequence[tuple[Delivery, Outcome]]:
        found: list[tuple[Delivery, Outcome]] = []
        try:
            self._note(self._ended.get(wait > 0, wait or None), found)
            while True:
                self._note(self._ended.get_nowait(), found)
        except Empty:
            pass
        now = self._clock.monotonic()
        if now - self._looked >= _LOOK_EVERY:
            self._looked = now
            found += self._check_limits(now)
        return found

    def running(self) -> int:
        return len(self._runs)

    def stalled(self) -> Sequence[Delivery]:
        waiting = [run.delivery for run in self._runs.values() if not run.is_begun]
        return waiting if len(self._runs) - len(waiting) < self._threads else ()

    def stop(self) -> None:
        idle = self._threads - len(self._runs)
        self._runs = {}
        with suppress(Empty):
            while True:
                self._inbox.get_nowait()  # not begun; its outcome is no longer needed
        for _ in self._crew:
            self._inbox.put(None)
        for thread in self._crew if idle == self._threads else ():
            thread.join(_GOODBYE)
        self._crew = []

    def _note(self, ended: _Ended, found: list[tuple[Delivery, Outcome]]) -> None:
        run, outcome, fault = ended
        del self._runs[run.delivery]
        found.append((run.delivery, outcome))
        self._fault = self._fault or fault

    def _check_limits(self, now: float) -> list[tuple[Delivery, Outcome]]:
        """Check for listeners that exceed their time limits; return what is given up."""
        late = [run for run in self._runs.values() if run.since is not None and now - run.since > run.limit]
        if late and self._deadline is None:
            self._deadline = now + self._grace
            self._fault = self._fault or TimeLimitExceededError(late[0].listener_id, late[0].limit)
            for run in late:
                _log.error(
                    "%s has run for more than %g s on %s, and a thread cannot be ended: the worker ends instead",
                    run.listener_id,
                    run.limit,
                    run.delivery,
                )
        busy = sum(run.is_begun for run in self._runs.values())
        if self._deadline is None or (len(late) < busy and now < self._deadline):
            return []
        given_up = [(run.delivery, self._given_up(run, is_late=run in late)) for run in self._runs.values()]
        self._runs = {}
        self._ended = SimpleQueue()
        return given_up

    def _given_up(self, run: _Run, *, is_late: bool) -> Outcome:
        if not run.is_begun:
            return Release()
        death = str(this_process().as_witnessed()) if is_late else None  # the others are not to blame
        return Lost(error=f"the worker ended: {self._fault}", death=death)

    # --- in the threads --------------------------------------------------------------------------------

    def _work(self, handle: Handle, inbox: SimpleQueue[_Run | None], ended: SimpleQueue[_Ended]) -> None:
        while (run := inbox.get()) is not None:
            self._here.run = run
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
        run = self._here.run
        run.listener_id, run.limit = listener_id, limit
        run.since = self._clock.monotonic()

    def end(self) -> None:
        """Note that it has ended."""
        self._here.run.since = None
