"""Executors in the worker's process, which cannot end a listener that exceeds its time limit."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from logging import getLogger
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from relevo._clock import Clock, SystemClock
from relevo._listener.process_loop import process_loop
from relevo._process_identity import this_process
from relevo._transport.delivery import Delivery, Lost, Outcome, Release
from relevo._worker.execution import TIME_LIMIT
from relevo._worker.executor import Executor
from relevo._worker.time_limit import TimeLimitExceededError

if TYPE_CHECKING:
    from asyncio import Task, TimerHandle

_log = getLogger("relevo.execution")

_LOOK_EVERY = 0.1
GRACE = 10.0

PATIENCE = 5.0
"""Seconds in which a listener has to end that was cancelled at its time limit."""


@attrs.define(eq=False)
class Run:
    """One delivery that is handled; the worker's thread reads what the thread of the listener notes here."""

    delivery: Delivery
    is_begun: bool = False
    listener_id: str = ""
    limit: float = 0.0
    since: float | None = None
    """Monotonic seconds at which its listener began; ``None`` between listeners."""

    patience: float = 0.0
    """Seconds in which a listener on the loop has to end when it is cancelled; 0 for one that cannot be cancelled."""

    task: Task[Any] | None = None
    """The task of a listener on the loop."""

    held_up: float = 0.0
    """Seconds in which another listener blocked the loop; noted by the worker's thread, as the next two."""

    overdue: float | None = None
    """The beginning of the call that is being cancelled, since it exceeded its limit."""

    overdue_at: float = 0.0
    """How long it had run when that was noticed, in seconds."""

    cancelled_at: float | None = None
    """The beginning of the call that was cancelled at its limit; noted by the loop."""

    is_given_up: bool = False
    """Whether the worker does not take its outcome any more."""

    def __str__(self) -> str:
        """Return the listener and its event."""
        return f"{self.listener_id} on {self.delivery}"

    def begin(self, listener_id: str, limit: float, patience: float, now: float) -> None:
        """Note that a listener begins *now*, in monotonic seconds; in its thread."""
        self.listener_id, self.limit, self.patience, self.held_up = listener_id, limit, patience, 0.0
        self.since = now

    def spent(self, now: float) -> float:
        """Return for how many seconds its listener has run, or could have; 0 between listeners."""
        since = self.since
        return 0.0 if since is None else now - since - self.held_up

    def is_over_limit(self) -> bool:
        """Return whether its listener was cancelled at its limit."""
        return self.cancelled_at is not None and self.cancelled_at == self.since

    async def timed(self, work: Awaitable[object]) -> object:
        """
        Await *work*, the call of a transactional listener; cancel this task at its limit.

        The worker's thread, which has the others cancelled, may wait for a lock that the transaction has, as on SQLite.
        """
        from asyncio import current_task, get_running_loop  # noqa: PLC0415 - only a listener that is async needs it

        loop, task, since = get_running_loop(), current_task(), self.since
        begun = loop.time()
        timer: TimerHandle

        def end() -> None:
            nonlocal timer
            left = begun + self.limit + self.held_up - loop.time()
            if left > 0:
                timer = loop.call_later(left, end)
            elif task is not None and self.since == since != self.cancelled_at:
                self.cancelled_at = since
                task.cancel()

        timer = loop.call_later(self.limit, end)
        try:
            return await work
        finally:
            timer.cancel()

    def is_late(self, now: float) -> bool:
        """Return whether its listener has exceeded its limit, and cannot be ended."""
        spent = self.spent(now)
        if not self.patience:
            return spent > self.limit
        return self.overdue is not None and self.overdue == self.since and spent - self.overdue_at > self.patience


Ended = tuple[Run, Outcome, BaseException | None]


class LimitedExecutor(Executor):
    """
    Keeps account of what runs in this process.

    What runs cannot be ended from outside. When a listener exceeds its time limit, the worker takes no further
    events, gives the other listeners *grace* to finish, counts what still runs as lost, and ends with a
    :class:`TimeLimitExceededError`: its process can be ended, and the service manager starts another. The event is
    delivered again as one that may end its process: handled alone, and a dead letter after the third death.

    Args:
        time_limit: Seconds for listeners without a time limit of their own.

        grace: Seconds for the other listeners, when one has exceeded its time limit.

        clock: The source of time.
    """

    at_limit: ClassVar[str] = "it is cancelled if it is an async def; otherwise the worker ends"

    def __init__(self, *, time_limit: float = TIME_LIMIT, grace: float = GRACE, clock: Clock | None = None):
        self._is_stopping: Callable[[], bool] = lambda: False
        self._time_limit = time_limit
        self._grace = grace
        self._clock = clock or SystemClock()
        self._reset()

    def _reset(self) -> None:
        # Each start has a queue of its own: what an abandoned listener still reports is ignored.
        self._ended: SimpleQueue[Ended] = SimpleQueue()
        self._runs: dict[Delivery, Run] = {}
        self._fault: BaseException | None = None
        self._deadline: float | None = None
        self._looked = 0.0
        self._counted = 0.0
        """Seconds of the present blockage of the loop that are noted in the runs."""

    def stop_when(self, is_ending: Callable[[], bool]) -> None:
        self._is_stopping = is_ending

    @abstractmethod
    def _most(self) -> int:
        """Return how many deliveries may be submitted at a time."""

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
        return self._most() - len(self._runs)

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

    def _note(self, ended: Ended, found: list[tuple[Delivery, Outcome]]) -> None:
        run, outcome, fault = ended
        del self._runs[run.delivery]
        found.append((run.delivery, outcome))
        self._fault = self._fault or fault

    def _check_limits(self, now: float) -> list[tuple[Delivery, Outcome]]:
        """Have listeners that exceed their time limits cancelled where that is possible; return what is given up."""
        is_known = self._note_blockage()
        for run in self._runs.values():
            if run.patience and run.spent(now) > run.limit:
                self._cancel(run, now)
            else:
                run.overdue = None  # what cancels it may wait for the loop, which another listener blocks
        late = [run for run in self._runs.values() if run.is_late(now)]
        if late and self._deadline is None:
            self._deadline = now + self._grace
            self._fault = self._fault or TimeLimitExceededError(late[0].listener_id, late[0].limit)
            for run in late:
                self._log_late(run)
        busy = sum(run.is_begun for run in self._runs.values())
        if self._deadline is None or (len(late) < busy and now < self._deadline):
            return []
        on_loop = [run for run in self._runs.values() if run.patience and run.since is not None]
        blamed = late if is_known or len(on_loop) == 1 else [run for run in late if not run.patience]
        given_up = [(run.delivery, self._given_up(run, is_late=run in blamed)) for run in self._runs.values()]
        self._abandon(self._runs.values())
        self._runs = {}
        self._ended = SimpleQueue()
        return given_up

    def _note_blockage(self) -> bool:
        """
        Note in what runs on the loop for how long another listener blocks it, which does not count for its limit.

        Returns:
            Whether nothing blocks the loop, or it is known which of them does. Otherwise none of several is to blame.
        """
        found = process_loop.blockage()
        if found is None:
            self._counted = 0.0
            return True
        blocker = found.work
        if not any(run is blocker for run in self._runs.values()):
            return False
        for run in self._runs.values():
            if run is not blocker:
                run.held_up += found.seconds - self._counted
        self._counted = found.seconds
        return True

    def _cancel(self, run: Run, now: float) -> None:
        """Have the listener of *run* cancelled, which has exceeded its limit."""
        since = run.since
        if since is None:
            return
        if run.overdue != since:  # patience begins now: this thread may have been busy for long
            run.overdue, run.overdue_at = since, run.spent(now)
        process_loop.loop().call_soon_threadsafe(_cancel, run, since)

    def _abandon(self, runs: Iterable[Run]) -> None:
        """Take no outcome of *runs* any more, and cancel those that are on the loop."""
        left = list(runs)
        for run in left:
            run.is_given_up = True
        if any(run.task is not None for run in left):
            with suppress(RuntimeError):  # the loop has ended
                process_loop.loop().call_soon_threadsafe(_end, left)

    def _log_late(self, run: Run) -> None:
        _log.error(
            "%s has run for more than %g s on %s, and a thread cannot be ended: the worker ends instead",
            run.listener_id,
            run.limit,
            run.delivery,
        )

    def _given_up(self, run: Run, *, is_late: bool) -> Outcome:
        if not run.is_begun:
            return Release()
        death = str(this_process().as_witnessed()) if is_late else None  # the others are not to blame
        return Lost(error=f"the worker ended: {self._fault}", death=death)


def _cancel(run: Run, since: float) -> None:
    """Cancel the listener of *run* that began at *since*, if it is overdue and was not cancelled yet; on the loop."""
    if run.since == run.overdue == since != run.cancelled_at and run.task is not None:
        run.cancelled_at = since
        run.task.cancel()


def _end(runs: Sequence[Run]) -> None:
    """Cancel the tasks of *runs*; on the loop."""
    for run in runs:
        if run.task is not None:
            run.task.cancel()
