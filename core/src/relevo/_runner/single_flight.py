"""Single flight: one process at a time, on this host by the kernel's lock, and anywhere by that of a board."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from logging import getLogger

from relevo._clock import Clock
from relevo._hook import hookimpl
from relevo._runner.host_lock import HostLock
from relevo._transport.board import Board
from relevo.errors import TransportError

TTL = 30.0
"""Seconds after which the lock of a board is free if its host is gone; renewed every third of it."""

_log = getLogger("relevo.flight")


class SingleFlight:
    """
    Lets one process at a time do what *name* says.

    Whoever holds the lock of the host takes over the board's lock from one that died while it held both: nobody waits
    for the end of its time but other hosts. Who has lost the board's lock, as after a long sleep, takes no further
    events; what it still does is settled as if it had not lost it, since every delivery is held by itself.

    Args:
        name: What is done.

        lock: That of the host.

        board: That of everybody; none if there is only this host.

        clock: Where the time comes from.
    """

    def __init__(self, name: str, lock: HostLock, board: Board | None, clock: Clock):
        self._name = name
        self._lock = lock
        self._board = board
        self._clock = clock
        self._renewed = 0.0
        self._holds = False

    @contextmanager
    def on_this_host(self) -> Iterator[bool]:
        """Hold the host's lock; yield whether nobody else does."""
        is_alone = self._lock.acquire()
        try:
            yield is_alone
        finally:
            self._lock.release()

    @contextmanager
    def everywhere(self) -> Iterator[bool]:
        """Hold the board's lock, beside the host's; yield whether nobody else does."""
        if self._board is None:
            yield True
            return
        self._renewed = self._clock.monotonic()
        receipt = self._board.lock(self._name, holder=self._lock.identity(), ttl=TTL)
        if receipt is None:
            yield False
            return
        self._holds = True
        ended = threading.Event()
        keeper = threading.Thread(
            target=self._keep, args=(self._board, receipt, ended), name="relevo-lock", daemon=True
        )
        keeper.start()
        try:
            yield True
        except Exception:
            self._give_up(self._board, receipt, keeper, ended)
            raise
        except BaseException:  # of somebody who does not want to wait; the next one on this host takes over at once
            ended.set()
            raise
        self._give_up(self._board, receipt, keeper, ended)

    def is_lost(self) -> bool:
        """Return whether the board's lock was held, and may be somebody else's by now."""
        return self._board is not None and (not self._holds or self._clock.monotonic() - self._renewed >= TTL)

    @hookimpl
    def relevo_may_run(self) -> str | None:
        """Object where another one may be at it."""
        return "lock" if self.is_lost() else None

    def _give_up(self, board: Board, receipt: str, keeper: threading.Thread, ended: threading.Event) -> None:
        ended.set()
        keeper.join()
        with suppress(TransportError):  # it is free when its time is over
            board.unlock(self._name, receipt)

    def _keep(self, board: Board, receipt: str, ended: threading.Event) -> None:
        while not ended.wait(TTL / 3):
            now = self._clock.monotonic()
            try:
                self._holds = board.renew_lock(self._name, receipt, ttl=TTL)
            except TransportError as error:
                _log.debug("the lock %s was not renewed: %s", self._name, error)
                continue
            if not self._holds:
                _log.warning("the lock %s is somebody else's by now; taking no further events", self._name)
                return
            self._renewed = now
