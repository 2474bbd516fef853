"""The running listeners and their start times, and log lines about those that are overdue, awaited or ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from logging import getLogger

from relevo._clock import Clock, readable
from relevo._process_identity import this_process
from relevo._transport.delivery import Delivery
from relevo._visible import visible
from relevo._worker.stack import Frame, log_run

_log = getLogger("relevo.worker")

_LOOK_EVERY = 1.0
_SOON = 0.75
"""The share of a time limit after which a listener that will be ended is logged."""

_AGAIN_AFTER = 3600.0
"""Seconds between two warnings about the same run."""

_STOPS_WITHIN = 5.0
"""Seconds for which a stopped worker waits for a listener before it logs that it waits."""

Run = tuple[Delivery, str]
"""A delivery, and the id of the listener that runs for it."""


class RunningListeners:
    """
    Knows which listeners run and since when, and logs what their users have to know.

    Args:
        clock: The source of time.

        here: Returns the listeners that run in this process; called in a signal handler too.

        elsewhere: Returns those that run in child processes.

        limit: Takes the id of a listener, returns its time limit in seconds; ``None`` if that is unknown.

        at_limit: What happens at the limit, in words; empty if nothing enforces it.

        held: Returns how many deliveries the worker holds.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        here: Callable[[], Iterable[Run]],
        elsewhere: Callable[[], Iterable[Run]],
        limit: Callable[[str], float] | None,
        held: Callable[[], int],
        at_limit: str = "",
    ):
        self._clock = clock
        self._here = here
        self._elsewhere = elsewhere
        self._limit = limit
        self._held = held
        self._at_limit = at_limit
        self._looked = clock.monotonic()
        self._since: dict[Run, float] = {}
        """When each run was first seen, in monotonic seconds."""
        self._next: dict[Run, float] = {}
        """When the next warning about a run is due, in monotonic seconds."""
        self._cut_off: Sequence[Run] = ()
        """What ran in this process when a second signal came."""
        self._stop_seen: float | None = None
        """When it was seen that the worker stops, in monotonic seconds; infinite once its wait was logged."""

    def all(self) -> Sequence[Run]:
        """Return the listeners that run, also in other processes; not in a signal handler."""
        return (*self._here(), *self._elsewhere())

    def keep_up(self, *, stopping: bool) -> None:
        """Log what is near its limit or exceeds it, if it is time to look, and what a *stopping* worker waits for."""
        now = self._clock.monotonic()
        if stopping:
            self._warn_of_wait(now)
        if now - self._looked < _LOOK_EVERY:
            return
        self._looked = now
        runs = self.all()
        self._since = {run: self._since.get(run, now) for run in runs}
        self._next = {run: at for run, at in self._next.items() if run in self._since}
        if self._limit is None:
            return
        for run, since in self._since.items():
            if since == now:  # its limit is not even looked up: a worker may begin thousands in a second
                continue
            limit = self._limit(run[1])
            if now - since > limit * (_SOON if self._at_limit else 1.0) and now >= self._next.get(run, now):
                self._next[run] = now + _AGAIN_AFTER
                if self._at_limit:
                    self._warn_of_end(run, now - since, limit)
                else:
                    self._warn_of_excess(run, now - since, limit, behind=max(0, self._held() - len(runs)))

    def interrupt(self) -> None:
        """Remember what runs in this process; called by the handler of a second signal, which ends it at once."""
        self._cut_off = tuple(self._here())  # nothing that takes a lock, which the interrupted thread may hold

    def interrupted(self, delivery: Delivery) -> str:
        """Return the id of the listener that a second signal ended while it ran for *delivery*; empty if none."""
        return dict(self._cut_off).get(delivery, "")

    def log_interrupted(self) -> None:
        """Log which listeners a second signal ends; not in its handler."""
        for run in (*self._cut_off, *self._elsewhere()):
            delivery, listener_id = run
            _log.warning(
                "a second signal stopped %s on %s, after %s; the event is handled again",
                visible(listener_id),
                delivery,
                readable(self._age(run)),
            )

    def log_all(self, frames: Callable[[Delivery], Sequence[Frame]]) -> None:
        """Log what runs in this process, and since when; *frames* returns where it is, if that is known."""
        for run in self._here():
            log_run(_log, run[1], run[0], self._age(run), this_process().pid, frames(run[0]))

    def _age(self, run: Run) -> float:
        """Return for how many seconds *run* has run, to the second in which it was first seen; from any thread."""
        now = self._clock.monotonic()
        return now - self._since.get(run, now)

    def _warn_of_wait(self, now: float) -> None:
        """Log, once, which listeners a stopped worker waits for, if that takes long; *now* is in monotonic seconds."""
        if self._stop_seen is None:
            self._stop_seen = now
        if now - self._stop_seen < _STOPS_WITHIN:
            return
        for run in self.all():
            self._stop_seen = float("inf")
            delivery, listener_id = run
            _log.warning(
                "stopping; waiting for %s on %s, which has run for %s; a second TERM stops it at once",
                visible(listener_id),
                delivery,
                readable(self._age(run)),
            )

    def _warn_of_end(self, run: Run, seconds: float, limit: float) -> None:
        delivery, listener_id = run
        _log.warning(
            "%s has run for %s on %s; at its time limit of %s %s",
            visible(listener_id),
            readable(seconds),
            delivery,
            readable(limit),
            self._at_limit,
        )

    @staticmethod
    def _warn_of_excess(run: Run, seconds: float, limit: float, *, behind: int) -> None:
        delivery, listener_id = run
        _log.warning(
            "%s has run for %s on %s in the process %d; its time limit is %s, which an inline worker does not enforce; "
            "%d further event%s behind it in this worker; if it hangs, send two TERMs to the worker, or kill it, and "
            'start it again; execution = "process" ends such a listener',
            visible(listener_id),
            readable(seconds),
            delivery,
            this_process().pid,
            readable(limit),
            behind,
            " waits" if behind == 1 else "s wait",
        )
