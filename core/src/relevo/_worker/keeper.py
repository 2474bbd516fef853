"""The thread beside a worker's loop: it keeps what is held while a listener keeps the loop busy."""

from __future__ import annotations

import threading
from collections.abc import Callable
from logging import getLogger
from typing import Self

import attrs

from relevo._clock import Clock
from relevo._worker.announcement import Announcer
from relevo._worker.ledger import Ledger
from relevo._worker.limiter import Limiter
from relevo._worker.running import RunningListeners
from relevo._worker.suspect import Suspects

_log = getLogger("relevo.worker")

_PERIOD, _IDLE = 0.02, 0.25
"""Seconds between two rounds while something is held, and while nothing is."""

_AFTER_ERROR = 1.0


@attrs.define(kw_only=True, eq=False, slots=False)
class LeaseKeeper:
    """
    Renews leases, flushes settlements, and says what runs, in a thread of its own while its block runs.

    Args:
        ledger: What is held.

        clock: The source of time.

        lease: Seconds of a lease; it is renewed every third of it.

        flush: Settles what is finished.

        hurry: Limits the next transport calls of this thread.

        is_stopping: Returns whether the worker was stopped.

        suspects: Those that are handled or looked after.

        running: The listeners that run.

        announcer: Announces what is held; ``None`` if the transport has no place for that.

        limiter: Renews the places of what runs; ``None`` if no queue has a limit.
    """

    _ledger: Ledger
    _clock: Clock
    _lease: float
    _flush: Callable[[], None]
    _hurry: Callable[[], None]
    _is_stopping: Callable[[], bool]
    _suspects: Suspects
    _running: RunningListeners
    _announcer: Announcer | None
    _limiter: Limiter | None

    def __enter__(self) -> Self:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="relevo-keeper", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _keep(self) -> None:
        renewed = self._clock.monotonic()
        while not self._ended.wait(_PERIOD if self._ledger.held() else _IDLE):
            try:
                now = self._clock.monotonic()
                self._hurry()
                if now - renewed >= self._lease / 3:
                    renewed = now
                    self._ledger.extend(self._lease)
                if self._ledger.ripe():
                    self._flush()
                is_stopping = self._is_stopping()
                if is_stopping:
                    self._suspects.excuse()
                self._running.keep_up(stopping=is_stopping)
                self._suspects.keep_up()
                if self._limiter is not None:
                    self._limiter.keep_up()
                if self._announcer is not None:
                    self._announcer.keep_up()
            except Exception as error:  # noqa: BLE001 - the loop sees it too and decides; leases are renewed meanwhile
                _log.debug("the keeper met %s: %s", type(error).__name__, error)
                self._ended.wait(_AFTER_ERROR)
