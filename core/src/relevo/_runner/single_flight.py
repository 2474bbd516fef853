"""Single flight: one process at a time, by the kernel's lock on a host and by a coordinator's lock across hosts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from logging import getLogger

from relevo._clock import Clock
from relevo._hook import hookimpl
from relevo._runner.host_lock import HostLock
from relevo._transport.coordinator import Coordinator
from relevo._transport.transport import Transport
from relevo._worker.worker import GRACE
from relevo.errors import TransportError

TTL = 30.0
"""Seconds after which the lock of a coordinator is free if its host is gone; renewed every third of it."""

_log = getLogger("relevo.runner")


class SingleFlight:
    """
    Lets one process at a time do the work *name*.

    The process that holds the host's lock takes over the coordinator's lock from a process of this host that died with
    both: only other hosts wait until that lock expires. A process that has lost the coordinator's lock, as after a long
    sleep, takes no further events. What it still handles is settled as usual, since each delivery has its own receipt.

    Args:
        name: The name of the work.

        lock: The lock on this host.

        coordinator: Has the lock for all hosts; ``None`` if there is only this host.

        clock: The source of time.
    """

    def __init__(self, name: str, lock: HostLock, coordinator: Coordinator | None, clock: Clock):
        self._name = name
        self.host_lock = self._lock = lock
        self._coordinator = coordinator
        self._clock = clock
        self._renewed = 0.0
        self._holds = False
        self.objection: str | None = None
        """Whether it objected, as ``lock``, even if the lock was renewed since."""

    @contextmanager
    def on_this_host(self) -> Iterator[bool]:
        """Hold the host's lock; yield whether it was free."""
        is_alone = self._lock.acquire()
        try:
            yield is_alone
        finally:
            self._lock.release()

    @contextmanager
    def everywhere(self) -> Iterator[bool]:
        """Hold the coordinator's lock too; yield whether it was free."""
        if self._coordinator is None:
            yield True
            return
        self._renewed = self._clock.monotonic()
        receipt = self._coordinator.lock(self._name, holder=self._lock.identity(), ttl=TTL)
        if receipt is None:
            yield False
            return
        self._holds = True
        ended = threading.Event()
        keeper = threading.Thread(
            target=self._keep, args=(self._coordinator, receipt, ended), name="relevo-lock", daemon=True
        )
        keeper.start()
        try:
            yield True
        except Exception:
            self._give_up(self._coordinator, receipt, keeper, ended)
            raise
        except BaseException:  # the process has to end at once; the next one on this host takes the lock over
            ended.set()
            raise
        self._give_up(self._coordinator, receipt, keeper, ended)

    def is_lost(self) -> bool:
        """Return whether the coordinator's lock was lost, so that another process may hold it."""
        return self._coordinator is not None and (not self._holds or self._clock.monotonic() - self._renewed >= TTL)

    @hookimpl
    def relevo_may_run(self) -> str | None:
        """Object if another process may be working."""
        if self.is_lost():
            self.objection = "lock"
            return self.objection
        return None

    def _give_up(
        self, coordinator: Coordinator, receipt: str, keeper: threading.Thread, ended: threading.Event
    ) -> None:
        ended.set()
        keeper.join(GRACE)  # it may wait for a silent server
        with suppress(TransportError):  # it is free when it expires
            coordinator.unlock(self._name, receipt)

    def _keep(self, coordinator: Coordinator, receipt: str, ended: threading.Event) -> None:
        while not ended.wait(TTL / 3):
            now = self._clock.monotonic()
            try:
                if isinstance(coordinator, Transport):
                    coordinator.hurry(TTL / 3)
                self._holds = coordinator.renew_lock(self._name, receipt, ttl=TTL)
            except TransportError as error:
                _log.debug("the lock %s was not renewed: %s", self._name, error)
                continue
            if not self._holds:
                _log.warning("the lock %s was lost to another process; taking no further events", self._name)
                return
            self._renewed = now
