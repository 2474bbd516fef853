"""
Loops: where the driver's callbacks run, and how a thread waits for what they bring.

The consuming connection has a thread of its own, see :class:`relevo_amqp._connection.ThreadLoop`. The publishing
connection has none: :class:`CallerLoop` runs in the threads that wait for confirmations. Two changes of thread would
cost a dispatch a third of its time.
"""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from relevo_amqp._errors import ConnectionLostError
from relevo_amqp._noise import quiet
from relevo_amqp._poller import Poller, Wake
from relevo_amqp._reply import Reply

_log = logging.getLogger("relevo.amqp")

T = TypeVar("T")

_FRESH = 0.001
"""Seconds for which nothing is assumed to happen; what does is noticed by the next wait."""

_STALE = 1.0
"""Seconds after which a leader that did nothing is replaced: an interrupt as it leaves can end it unnoticed."""

GONE = ConnectionLostError("the I/O thread has ended")


class Losable(Protocol):
    """A connection or a channel, which can be lost."""

    def discard(self, error: ConnectionLostError) -> None:
        """Mark it as lost, and let go of the driver: its callbacks will not run any more."""


class Deadline(threading.local):
    """The monotonic time after which no call of the calling thread waits for an answer, whatever its timeout is."""

    at = float("inf")


class Loop(ABC):
    """
    What runs the callbacks of the driver, one at a time.

    Args:
        deadline: The time limits of the threads that wait.
    """

    def __init__(self, deadline: Deadline | None = None):
        self.deadline = deadline or Deadline()
        self._ended = False
        self._watched: set[Losable] = set()

    @property
    def alive(self) -> bool:
        """Whether it still runs what :meth:`soon` is given."""
        return not self._ended

    @property
    @abstractmethod
    def inside(self) -> bool:
        """Whether the caller is one of its callbacks."""

    @property
    @abstractmethod
    def native(self) -> Any:
        """The loop as pika expects it."""

    @abstractmethod
    def soon(self, callback: Callable[[], None]) -> None:
        """Run *callback*; from any thread."""

    @abstractmethod
    def later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Run *callback* after *seconds*; only from a callback."""

    @abstractmethod
    def result(self, answer: Reply[T], timeout: float) -> T:
        """
        Return the value of *answer*, which a callback sets, or raise its error; blocking.

        Raises:
            TimeoutError: It was not set in time.
        """

    @abstractmethod
    def stop(self, timeout: float) -> None:
        """End it; blocking."""

    def within(self, timeout: float) -> float:
        """Return *timeout*, shortened so that it ends at the deadline."""
        return max(0.0, min(timeout, self.deadline.at - time.monotonic()))

    def watch(self, losable: Losable) -> None:
        """Call ``discard`` of *losable* when the loop ends, whatever ends it; only from a callback."""
        self._watched.add(losable)

    def forget(self, losable: Losable) -> None:
        """Undo :meth:`watch`."""
        self._watched.discard(losable)

    def _discard_all(self, error: ConnectionLostError) -> None:
        for losable in tuple(self._watched):
            losable.discard(error)


class _Waiter:
    """A thread that waits until *done* returns true."""

    __slots__ = ("active_at", "done", "thread", "woken")

    def __init__(self, done: Callable[[], bool]):
        self.done = done
        self.thread = threading.get_ident()
        self.active_at = time.monotonic()
        """When it last looked what to do."""
        self.woken: Wake | None = None
        """Set when there is something to do; a leader has none."""

    def wake(self) -> None:
        """Let the thread look whether it is done, or has to lead."""
        if self.woken is not None:
            self.woken.set()


class CallerLoop(Loop):
    """
    A loop without a thread: it runs in the threads that wait.

    One lock guards all that the driver has. The sockets do not block, so it is held for microseconds. Of the threads
    that wait, one leads: it waits for the sockets, without the lock, and runs the callbacks for all. When it has what
    it waited for, it wakes another one to lead. No other one reads, since the leader would wait for what was read. For
    heartbeats, :meth:`look` has to be called from time to time while no thread waits.

    If an interrupt, such as Ctrl-C, ends a callback in the middle, the state of the driver is unknown. Then all
    connections are cut. A thread that is interrupted while it waits only leaves. If it is interrupted as it leaves, the
    others notice after a second that its place is free.
    """

    def __init__(self, deadline: Deadline | None = None):
        super().__init__(deadline)
        self._poller = Poller()
        self._lock = threading.RLock()
        self._owner: int | None = None
        """The thread that runs a callback."""
        self._added: deque[Callable[[], None]] = deque()
        self._leading = threading.RLock()
        """Guards the fields below; held only for some assignments."""
        self._leader: _Waiter | None = None
        self._waiting: list[_Waiter] = []
        self._turned_at = 0.0

    @property
    def inside(self) -> bool:
        return self._owner == threading.get_ident()

    @property
    def native(self) -> Poller:
        return self._poller

    def soon(self, callback: Callable[[], None]) -> None:
        """Run *callback*, or let the thread do so that runs another one at this moment."""
        self._added.append(callback)
        if self._owner is None:
            self.run(self._run_added)

    def run(self, callback: Callable[[], None]) -> None:
        """Run *callback* in this thread, after the one that runs at this moment."""
        while True:
            with self._lock, quiet:
                before, self._owner = self._owner, threading.get_ident()
                try:
                    callback()
                    self._run_added()
                except BaseException as error:
                    self._break(error)
                    if not isinstance(error, Exception):
                        raise
                finally:
                    self._owner = before  # none, but in a handler of a signal
                    self._wake_done()
            if before is not None or not self._added:  # as another thread can have done, which saw an owner
                return
            callback = self._run_added

    def later(self, seconds: float, callback: Callable[[], None]) -> None:
        self._poller.call_later(seconds, callback)

    def result(self, answer: Reply[T], timeout: float) -> T:
        self.wait(answer.is_set, timeout)
        return answer.result()

    def wait(self, done: Callable[[], bool], timeout: float) -> bool:
        """
        Run callbacks, or let another thread do so, until *done* returns true; blocking.

        Args:
            done: Called often, from several threads.

            timeout: Seconds.

        Returns:
            The last result of *done*.
        """
        if self.inside:  # a handler of a signal, in the middle of a callback, which cannot go on meanwhile
            return done()
        until = time.monotonic() + timeout
        waiter = _Waiter(done)
        try:
            while not done():
                left = until - time.monotonic()
                if left <= 0.0 or self._ended:
                    return done()
                woken = self._follows(waiter)
                if done():  # now that a leader would wake this thread
                    return True
                if woken is None:
                    self._turn(left)
                else:
                    woken.wait(min(left, _STALE))
            return True
        finally:
            self._leave(waiter)

    def look(self) -> None:
        """Run what is due, unless that was just done, or another thread does it."""
        unseen = time.monotonic() - self._turned_at
        if unseen < _FRESH or self.inside:
            return
        waiter = _Waiter(lambda: False)
        try:
            if self._follows(waiter) is None:
                self._turn(0.0)
        finally:
            self._leave(waiter)

    @property
    def connected(self) -> bool:
        """Whether there is a socket."""
        return self._poller.watches

    def flush(self) -> None:
        """Write what the driver has buffered, as far as the sockets take it; only from a callback."""
        self._poller.flush()

    def stop(self, timeout: float) -> None:
        """End it; what is still open is cut."""
        self._ended = True
        self.run(self._run_added)  # the driver may be about to close a socket
        self.run(lambda: self._cut(GONE))

    def _turn(self, timeout: float) -> None:
        """Wait at most *timeout* seconds for the sockets, and run what is due; blocking."""
        with self._lock:
            interest, timeout = self._poller.interest(timeout)
        ready = self._poller.ready(interest, timeout)
        self._turned_at = time.monotonic()
        self.run(lambda: self._poller.process(ready))

    def _run_added(self) -> None:
        self._poller.call_back()
        while self._added:
            self._added.popleft()()
            self._poller.call_back()

    def _wake_done(self) -> None:
        """Wake those who have what they wait for; none of these is to lead."""
        with self._leading:
            done = [waiter for waiter in self._waiting if waiter.done()]
            for waiter in done:
                waiter.wake()
                self._waiting.remove(waiter)

    def _break(self, error: BaseException) -> None:
        """Cut all connections: *error* came out of a callback, and nothing is known about the state of the driver."""
        if isinstance(error, Exception):
            _log.error("the connection of the RabbitMQ transport failed; the next call opens another", exc_info=error)
        self._cut(ConnectionLostError(f"the connection was cut, since {type(error).__name__} interrupted its use"))

    def _cut(self, error: ConnectionLostError) -> None:
        self._poller.cut()
        self._discard_all(error)

    def _follows(self, waiter: _Waiter) -> Wake | None:
        """Return what wakes the thread of *waiter*; ``None`` if it leads, as it does from now on without a leader."""
        with self._leading:
            waiter.active_at = time.monotonic()
            if self._leader is None or self._leader.active_at < waiter.active_at - _STALE:
                self._leader = waiter
            if self._leader.thread == waiter.thread:  # the thread may be that of the leader, in a handler of a signal
                self._leader.active_at = waiter.active_at
                return None
            waiter.woken = waiter.woken or Wake()
            if waiter not in self._waiting:
                self._waiting.append(waiter)
            return waiter.woken

    def _leave(self, waiter: _Waiter) -> None:
        with self._leading:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            if self._leader is waiter:
                self._leader = None
            if self._leader is None and self._waiting:
                self._waiting[0].wake()
