"""Fire schedules beside a worker, in a thread that sleeps until the next tick."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from logging import getLogger
from typing import TYPE_CHECKING

from relevo._app.app import clockwork_of, parts_of
from relevo._clock import Clock
from relevo._schedule.clockwork import Clockwork
from relevo._worker.worker import GRACE
from relevo.errors import RelevoError, TransportError

if TYPE_CHECKING:
    from relevo._app.app import App

_LONGEST = 30.0
"""Seconds that the thread sleeps at most: the clock may be set forward meanwhile."""

_BUSY = 1.0
"""Seconds until the next look if another worker fires what is due."""

_DOWN = 5.0
"""Seconds until the next attempt if the server cannot be reached."""

_QUIET = 60.0
"""Seconds for which the same trouble is not logged again."""

_log = getLogger("relevo.runner")


def firing_of(app: App, name: str) -> Clockwork | None:
    """Return what fires the schedules of the transport *name*, with a coordinator or on this host; ``None`` if none."""
    if not app.schedules:
        return None
    from relevo._runner.host_schedules import host_ledger  # noqa: PLC0415 - few applications have schedules

    return clockwork_of(app, name, host_ledger)


def note_host(app: App, name: str) -> None:
    """Log that each host fires the schedules of the transport *name*, if that is so."""
    if not app.schedules:
        return
    from relevo._app.schedules import home_of  # noqa: PLC0415 - few applications have schedules
    from relevo._runner.host_schedules import fired_on_this_host  # noqa: PLC0415 - as above

    is_home = any(home_of(each, parts_of(app)) == name for each in app.schedules)
    if is_home and (why := fired_on_this_host(app, name)) is not None:
        _log.warning("%s", why)


@contextmanager
def firing(clockwork: Clockwork | None, clock: Clock) -> Iterator[None]:
    """Fire the schedules of *clockwork*, if there are any, while the block runs."""
    if clockwork is None:
        yield
        return
    thread = _Thread(clockwork, clock)
    thread.start()
    try:
        yield
    finally:
        thread.end()


class _Thread(threading.Thread):
    """Turns *clockwork* at each tick, until it is ended."""

    def __init__(self, clockwork: Clockwork, clock: Clock):
        super().__init__(name="relevo-schedules", daemon=True)
        self._clockwork = clockwork
        self._clock = clock
        self._ended = threading.Event()
        self._logged = float("-inf")

    def run(self) -> None:
        pause = 0.0
        while not self._ended.wait(pause):
            pause = self._turn()

    def end(self) -> None:
        """End it after the ticks that it fires right now."""
        self._ended.set()
        self.join(GRACE)  # it may wait for a silent server

    def _turn(self) -> float:
        """Fire what is due; return the seconds until the next look."""
        try:
            fired = self._clockwork.turn(self._clock.now(), may_go_on=self._may_go_on)
        except Exception as error:  # noqa: BLE001 - the thread goes on, since what is due must not be lost
            self._log(error)
            return _DOWN
        following = self._clockwork.next
        if following is None:
            return _LONGEST
        left = following - self._clock.now()
        if left > 0:
            return min(left, _LONGEST)
        return 0.0 if fired else _BUSY

    def _may_go_on(self) -> bool:
        return not self._ended.is_set()

    def _log(self, error: Exception) -> None:
        now = self._clock.monotonic()
        if now - self._logged < _QUIET:
            return
        self._logged = now
        if isinstance(error, TransportError):
            _log.warning("the schedules cannot be fired, which is tried again: %s", error)
        else:
            _log.error(
                "the schedules cannot be fired, which is tried again: %s",
                error,
                exc_info=None if isinstance(error, RelevoError) else error,
            )
