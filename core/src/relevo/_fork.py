"""Fork awareness: callbacks before and after a fork, and locks that are free in the child."""

from __future__ import annotations

import os
import threading
from types import TracebackType
from weakref import WeakSet


class ForkAware:
    """
    An object with a connection, a thread or a lock, which a forked process cannot share with its parent.

    Its methods are called at every fork while the object exists. Call ``super().__init__()`` once they can be called.
    A fork that Python does not see, such as one by a server written in C, calls none of them; :func:`notice_fork` then
    starts the objects again in the child.
    """

    def __init__(self) -> None:
        with _state.turn:
            _state.living.add(self)

    def before_fork(self) -> None:
        """Close what must not exist twice, and open nothing new until the fork is over."""

    def after_fork_in_parent(self) -> None:
        """Continue."""

    def after_fork_in_child(self) -> None:
        """Start again, with locks that no thread holds: the parent's threads do not exist in the child."""


class ForkLock(ForkAware):
    """
    A re-entrant lock that is free in the child of a fork, unless the forking thread holds it.

    Args:
        patience: The longest time in seconds that a fork waits for the thread that holds the lock. Use it for work
            that the child cannot start again, such as an import: a child waits for ever for an unfinished import.
    """

    def __init__(self, *, patience: float = 0.0):
        self._patience = patience
        self._lock = threading.RLock()
        self._is_halted = False
        super().__init__()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._lock.release()

    def before_fork(self) -> None:
        """Keep other threads from taking the lock."""
        self._is_halted = self._lock.acquire(timeout=self._patience)

    def after_fork_in_parent(self) -> None:
        """Let other threads take the lock again."""
        if self._is_halted:
            self._is_halted = False
            self._lock.release()

    def after_fork_in_child(self) -> None:
        """Replace the lock, unless it is free or held by this thread."""
        if self._is_halted:
            self._is_halted = False
            self._lock.release()
        elif self._lock.acquire(blocking=False):
            self._lock.release()
        else:
            self._lock = threading.RLock()


class _State:
    """The fork-aware objects of this process; the interpreter's fork hooks can be registered but never removed."""

    def __init__(self) -> None:
        self.living: WeakSet[ForkAware] = WeakSet()
        self.halted: list[ForkAware] = []
        self.forking = threading.RLock()
        """Held by the thread that forks, from the first lock that it takes."""
        self.turn = threading.RLock()
        """Held while *living* is read or changed, and during a fork."""
        self.pid = os.getpid()

    def before(self) -> None:
        self.forking.acquire()
        # Locks first: the thread that holds one may need a connection before it can release it. It may also have to
        # create another fork-aware object, which needs the turn.
        while fresh := self._take_turn_unless_fresh():
            for lock in fresh:
                lock.before_fork()
                self.halted.append(lock)
        others = [each for each in self.living if not isinstance(each, ForkLock)]
        for each in others:
            each.before_fork()
        self.halted += others

    def _take_turn_unless_fresh(self) -> list[ForkLock]:
        """Return the locks that are not halted yet; if there are none, keep the turn."""
        self.turn.acquire()
        fresh = [each for each in self.living if isinstance(each, ForkLock) and each not in self.halted]
        if fresh:
            self.turn.release()
        return fresh

    def in_parent(self) -> None:
        for each in self.halted:
            each.after_fork_in_parent()
        self.halted = []
        self.turn.release()
        self.forking.release()

    def in_child(self) -> None:
        self.forking, self.turn, self.halted = threading.RLock(), threading.RLock(), []
        for each in list(self.living):
            each.after_fork_in_child()
        self.pid = os.getpid()


_state = _State()
_unnoticed = threading.Lock()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_state.before, after_in_parent=_state.in_parent, after_in_child=_state.in_child)


def notice_fork() -> None:
    """Start every :class:`ForkAware` again in the child of a fork that Python did not see."""
    if _state.pid != os.getpid():
        with _unnoticed:  # only one of several threads
            if _state.pid != os.getpid():
                _state.in_child()
