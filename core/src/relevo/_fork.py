"""Locks that are free in the child of a fork, where the thread that held them is not."""

from __future__ import annotations

import os
import threading
from types import TracebackType
from weakref import WeakSet


class ForkLock:
    """
    A re-entrant lock that is free in the child of a fork, unless the very thread that forks holds it.

    Args:
        patience: Seconds that a fork waits at most for the thread that holds it. That is for what cannot be begun
            again in the child, as an import: Python itself lets the child wait for ever for the end of one.
    """

    def __init__(self, *, patience: float = 0.0):
        self._patience = patience
        self._lock = threading.RLock()
        self._is_halted = False
        with _state.turn:
            _state.living.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._lock.release()

    def before_fork(self) -> None:
        """Halt whoever would take it meanwhile."""
        self._is_halted = self._lock.acquire(timeout=self._patience)

    def after_fork(self, *, in_child: bool) -> None:
        """Go on; in the child with another lock, if a thread has this one that stayed with the parent."""
        if self._is_halted:
            self._lock.release()
        elif in_child:
            self._lock = threading.RLock()


class _State:
    """The locks of this process; the interpreter's hooks can be set once and never be taken off."""

    def __init__(self) -> None:
        self.living: WeakSet[ForkLock] = WeakSet()
        self.told: list[ForkLock] = []
        self.turn = threading.RLock()

    def before(self) -> None:
        self.turn.acquire()
        self.told = list(self.living)
        for each in self.told:
            each.before_fork()

    def in_parent(self) -> None:
        self._after(in_child=False)

    def in_child(self) -> None:
        self._after(in_child=True)

    def _after(self, *, in_child: bool) -> None:
        for each in self.told:
            each.after_fork(in_child=in_child)
        self.told = []
        self.turn.release()


_state = _State()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_state.before, after_in_parent=_state.in_parent, after_in_child=_state.in_child)
