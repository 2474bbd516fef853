"""Executors in the worker's process, which cannot end a listener that exceeds its time limit."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from logging import getLogger
from queue import Empty, SimpleQueue

import attrs

from relevo._clock import Clock, SystemClock
from relevo._process_identity import this_process
from relevo._transport.delivery import Delivery, Lost, Outcome, Release
from relevo._worker.execution import TIME_LIMIT
from relevo._worker.executor import Executor
from relevo._worker.time_limit import TimeLimitExceededError

_log = getLogger("relevo.execution")

_LOOK_EVERY = 0.1
GRACE = 10.0

PATIENCE = 5.0
"""Seconds in which a listener has to end that was cancelled at its time limit."""


@attrs.define(eq=False)
class Run:
    """One delivery that is handled; the worker's thread reads what the listener's thread notes here."""

    delivery: Delivery
    is_begun: bool = False
    listener_id: str = ""
    limit: float = 0.0
    since: float | None = None
    """Monotonic seconds at which its listener began; ``None`` between listeners."""

    patience: float = 0.0
    """Seconds after the limit, in which the listener may end since it was cancelled."""

    def is_late(self, now: float) -> bool:
        """Return whether its listener has exceeded its limit, and cannot be ended."""
        return self.since is not None and now - self.since > self.limit + self.patience


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
        """Check for listeners that exceed their time limits; return what is given up."""
        late = [run for run in self._runs.values() if run.is_late(now)]
        if late and self._deadline is None:
            self._deadline = now + self._grace
            self._fault = self._fault or TimeLimitExceededError(late[0].listener_id, late[0].limit)
            for run in late:
                self._log_late(run)
        busy = sum(run.is_begun for run in self._runs.values())
        if self._deadline is None or (len(late) < busy and now < self._deadline):
            return []
        given_up = [(run.delivery, self._given_up(run, is_late=run in late)) for run in self._runs.values()]
        self._runs = {}
        self._ended = SimpleQueue()
        return given_up

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
