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

_log = getLogger("relevo.runner")


class Notifier:
    """
    Speaks to the socket of whoever started this process, and keeps its watchdog quiet while there is progress.

    Progress is that the worker's loop turns, or that something which it has received is not finished: for how long
    that may last is the time limit's to say.

    Args:
        address: Of the socket; one that begins with ``@`` is abstract.

        watchdog: Seconds after which a service that says nothing is taken for dead; ``None`` if nobody looks.

        monotonic: Where the time comes from.
    """

    def __init__(self, address: str, *, watchdog: float | None = None, monotonic: Callable[[], float] = time.monotonic):
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._watchdog = watchdog
        self._monotonic = monotonic
        self._turned = monotonic()

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Self | None:
        """Return the one that *environ* describes, if this process was started by somebody who listens."""
        address = environ.get("NOTIFY_SOCKET")
        if not address:
            return None
        period = environ.get("WATCHDOG_USEC", "")
        is_meant = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        return cls(address, watchdog=int(period) / 1e6 if is_meant and period.isdecimal() and int(period) else None)

    def say(self, *lines: str) -> None:
        """Send *lines*, such as ``READY=1``; that nobody hears them changes nothing."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
                line.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            _log.debug("whoever started this cannot be told %s: %s", lines, error)

    def turn(self) -> None:
        """Note that there is progress."""
        self._turned = self._monotonic()

    @hookimpl
    def relevo_may_run(self) -> None:
        """Note that the worker's loop turns, which asks this; never object."""
        self.turn()

    def is_alive(self, held: Callable[[], int]) -> bool:
        """Return whether there is progress; *held* returns how many deliveries are not finished."""
        return self._watchdog is None or self._monotonic() - self._turned < self._watchdog or held() > 0

    @contextmanager
    def watched(self, held: Callable[[], int]) -> Iterator[None]:
        """Say that the service is ready, that it lives as long as it does, and in the end that it stops."""
        ended = threading.Event()

        def keep(period: float) -> None:
            while not ended.wait(period):
                if self.is_alive(held):
                    self.say("WATCHDOG=1")

        self.turn()
        self.say("READY=1", "STATUS=handling events")
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
            self.say("STOPPING=1")
