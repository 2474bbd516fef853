"""
Sockets and timers, as the driver's adapter expects them from a loop, but without a loop that runs.

Who polls calls :meth:`Poller.interest`, waits with :meth:`Poller.ready`, and calls :meth:`Poller.process`. Only the
second of these may run beside the others. So a thread can wait for the sockets while others write to them.
"""

from __future__ import annotations

import heapq
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count

import attrs

_LONGEST = 0.25
"""
The most seconds of one wait.

Meanwhile a handler of a signal may read what this thread waits for, or another thread leave something to write.
"""


@attrs.define(eq=False)
class WatchedSocket:
    """A socket with the events that its handler wants."""

    descriptor: int
    handler: Callable[[int, int], None]
    events: int


@attrs.define(eq=False)
class Timer:
    """What is to be called at a time; nothing if it was cancelled."""

    callback: Callable[[], None] | None


class Wake:
    """
    Wakes the one thread that waits for it.

    It is one lock of the interpreter, so an interrupt leaves it as it was. In the middle of a wait for an event of
    ``threading`` an interrupt can leave a lock that is never released.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """Let the wait end, or the next one if there is none."""
        with suppress(RuntimeError):  # it is set
            self._lock.release()

    def wait(self, timeout: float) -> None:
        """Wait until it is set, at most *timeout* seconds; blocking."""
        self._lock.acquire(timeout=min(timeout, threading.TIMEOUT_MAX))


Ready = Sequence[tuple[WatchedSocket, int]]
"""The sockets that have events, and which."""


class Poller:
    """The part of a loop that pika's connections use; see ``AbstractSelectorIOLoop`` there."""

    READ, WRITE, ERROR = select.POLLIN, select.POLLOUT, select.POLLERR

    def __init__(self) -> None:
        self._watches: dict[int, WatchedSocket] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = count()
        self._callbacks: deque[Callable[[], None]] = deque()
        self._called = Wake()

    # --- for pika --------------------------------------------------------------------------------------

    def add_callback(self, callback: Callable[[], None]) -> None:
        """Call *callback* soon; from any thread."""
        self._callbacks.append(callback)
        self._called.set()

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Call *callback* after *delay* seconds."""
        timer = Timer(callback)
        heapq.heappush(self._timers, (time.monotonic() + delay, next(self._numbers), timer))
        return timer

    def remove_timeout(self, timer: Timer) -> None:
        """Cancel *timer*."""
        timer.callback = None

    def add_handler(self, fd: int, handler: Callable[[int, int], None], events: int) -> None:
        """Call *handler* when the socket *fd* has one of *events*."""
        self._watches[fd] = WatchedSocket(fd, handler, events)

    def update_handler(self, fd: int, events: int) -> None:
        """Change the events of *fd*."""
        self._watches[fd].events = events

    def remove_handler(self, fd: int) -> None:
        """Forget *fd*."""
        self._watches.pop(fd, None)

    # --- for who polls ---------------------------------------------------------------------------------

    @property
    def watches(self) -> bool:
        """Whether there is a socket."""
        return bool(self._watches)

    def interest(self, timeout: float) -> tuple[Ready, float]:
        """Return what to wait for, and for how many seconds, at most *timeout*."""
        interest = [(watch, watch.events) for watch in self._watches.values()]
        if self._callbacks:
            timeout = 0.0
        elif self._timers:
            timeout = min(timeout, self._timers[0][0] - time.monotonic())
        return interest, max(0.0, min(timeout, _LONGEST))

    def ready(self, interest: Ready, timeout: float) -> Ready:
        """Return those of *interest* that have events, after at most *timeout* seconds; blocking."""
        if not interest:  # a name is being resolved; a callback brings the result
            self._called.wait(timeout)
            return ()
        poll = select.poll()  # a new one: two threads may wait
        for watch, events in interest:
            poll.register(watch.descriptor, events)
        found = dict(poll.poll(timeout * 1000.0))
        return [(watch, found[watch.descriptor]) for watch, _ in interest if watch.descriptor in found]

    def process(self, ready: Ready) -> None:
        """Call the handlers of *ready* sockets and what is due."""
        usual = self.READ | self.WRITE
        for watch, found in ready:
            # An end of the connection shows when the handler reads or writes.
            events = watch.events & usual & (found if found & usual else usual)
            if events and self._watches.get(watch.descriptor) is watch:  # else it ended
                watch.handler(watch.descriptor, events)
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if timer.callback is not None:
                timer.callback()

    def call_back(self) -> None:
        """Call what was added, and what that adds."""
        while self._callbacks:
            self._callbacks.popleft()()

    def flush(self) -> None:
        """Write what waits, without a poll before it; a socket that is only written to still connects."""
        for watch in tuple(self._watches.values()):
            if watch.events & self.READ and watch.events & self.WRITE:
                watch.handler(watch.descriptor, self.WRITE)

    def cut(self) -> None:
        """End all connections for their peers, and forget everything: the state of the driver is unknown."""
        for descriptor in self._watches:
            with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
                connection.shutdown(socket.SHUT_RDWR)
        self._watches.clear()
        self._timers.clear()
        self._callbacks.clear()
