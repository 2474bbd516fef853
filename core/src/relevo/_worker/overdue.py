"""Since when listeners run, and warnings about those that exceed a time limit that nothing enforces."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from logging import getLogger

from relevo._clock import Clock, readable
from relevo._process_identity import this_process
from relevo._transport.delivery import Delivery
from relevo._visible import visible

_log = getLogger("relevo.worker")

_LOOK_EVERY = 1.0
_AGAIN_AFTER = 3600.0
"""Seconds between two warnings about the same run."""

_Run = tuple[Delivery, str]
"""A delivery, and the id of the listener that runs for it."""


class OverdueLog:
    """
    Logs which listeners exceed their time limit, and knows since when each of them runs.

    Args:
        clock: The source of time.

        running: Returns the listeners that run, each with its delivery.

        limit: Takes the id of a listener, returns its time limit in seconds; ``None`` if something enforces it.

        held: Returns how many deliveries the worker holds.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        running: Callable[[], Iterable[_Run]],
        limit: Callable[[str], float] | None,
        held: Callable[[], int],
    ):
        self._clock = clock
        self._running = running
        self._limit = limit
        self._held = held
        self._looked = clock.monotonic()
        self._since: dict[_Run, float] = {}
        """When each run was first seen, in monotonic seconds."""
        self._next: dict[_Run, float] = {}
        """When the next warning about a run is due, in monotonic seconds."""

    def keep_up(self) -> None:
        """Log what exceeds its limit, if it is time to look."""
        now = self._clock.monotonic()
        if now - self._looked < _LOOK_EVERY:
            return
        self._looked = now
        runs = list(self._running())
        self._since = {run: self._since.get(run, now) for run in runs}
        self._next = {run: at for run, at in self._next.items() if run in self._since}
        if self._limit is None:
            return
        for run, since in self._since.items():
            limit = self._limit(run[1])
            if now - since > limit and now >= self._next.get(run, now):
                self._next[run] = now + _AGAIN_AFTER
                self._warn(run, now - since, limit, behind=max(0, self._held() - len(runs)))

    def age(self, run: _Run) -> float:
        """Return for how many seconds *run* has run, to the second in which it was first seen; from any thread."""
        now = self._clock.monotonic()
        return now - self._since.get(run, now)

    @staticmethod
    def _warn(run: _Run, seconds: float, limit: float, *, behind: int) -> None:
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
