"""Messages to systemd: ready, alive, stopping (``sd_notify(3)``)."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from logging import getLogger
from typing import Self

from relevo._hook import hookimpl
from relevo._visible import visible

_HANDLING = "handling events"

_log = getLogger("relevo.runner")


class Notifier:
    """
    Reports to the socket of the service manager, and to its watchdog while there is progress.

    There is progress while the worker's loop turns or a received delivery is not finished; the time limit bounds the
    latter.

    Args:
        address: The address of the socket; one that begins with ``@`` is abstract.

        watchdog: Seconds without a report after which the service counts as dead; ``None`` without a watchdog.

        monotonic: The source of time.
    """

    def __init__(self, address: str, *, watchdog: float | None = None, monotonic: Callable[[], float] = time.monotonic):
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._watchdog = watchdog
        self._monotonic = monotonic
        self._turned = monotonic()
        self._status: Callable[[], str] = lambda: _HANDLING
        self._reported = _HANDLING

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Self | None:
        """Return the notifier that *environ* describes; ``None`` if the service manager expects no reports."""
        address = environ.get("NOTIFY_SOCKET")
        if not address:
            return None
        period = environ.get("WATCHDOG_USEC", "")
        is_meant = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        return cls(address, watchdog=int(period) / 1e6 if is_meant and period.isdecimal() and int(period) else None)

    def send(self, *lines: str) -> None:
        """Send *lines*, such as ``READY=1``; ignore errors."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
                line.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            _log.debug("the service manager did not receive %s: %s", lines, error)

    def turn(self) -> None:
        """Note that there is progress."""
        self._turned = self._monotonic()

    @hookimpl
    def relevo_may_run(self) -> None:
        """Note that the worker's loop turns, since it calls this, and report a change of its status; never object."""
        self.turn()
        if (status := self._status()) != self._reported:
            self._reported = status
            self.send(f"STATUS={visible(status)}")

    def is_alive(self, held: Callable[[], int]) -> bool:
        """Return whether there is progress; *held* returns the number of unfinished deliveries."""
        return self._watchdog is None or self._monotonic() - self._turned < self._watchdog or held() > 0

    @contextmanager
    def reporting(self, held: Callable[[], int], status: Callable[[], str] = lambda: _HANDLING) -> Iterator[None]:
        """Report that the service is ready and its *status*, then that it is alive, and finally that it stops."""
        self._status = status
        ended = threading.Event()

        def keep(period: float) -> None:
            while not ended.wait(period):
                if self.is_alive(held):
                    self.send("WATCHDOG=1")

        self.turn()
        self.send("READY=1", f"STATUS={_HANDLING}")
        thread = None
        if self._watchdog is not None:
            period = self._watchdog / 3
            thread = threading.Thread(target=keep, args=(period,), name="relevo-watchdog", daemon=True)
            thread.start()
        try:
            yield
        finally:
            ended.set()
            if thread is not None:
                thread.join()
            self.send("STOPPING=1")
