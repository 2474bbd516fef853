"""
Forks: a connection is closed before the fork, and locks are new in the child.

SQLite notes in its memory which locks this process has on a file. A fork copies the notes, the locks stay with
the parent: a connection that the child opens is then taken to be locked, and what it commits goes into a log
that others delete. So it is not enough that the child leaves the parent's connection alone; none may be open at
that moment: https://www.sqlite.org/howtocorrupt.html, "Carrying an open database connection across a fork()".
"""

from __future__ import annotations

import os
import secrets
import threading
from weakref import WeakSet


class Forking:
    """What is told of forks as long as it lives."""

    def __init__(self) -> None:
        with _state.turn:
            _state.living.add(self)

    def before_fork(self) -> None:
        """Let go of what must not be there twice, and take no other before :meth:`after_fork`."""

    def after_fork(self) -> None:
        """Go on, in the parent."""

    def begin_life(self) -> None:
        """Start in a child, with locks that no thread has which is not there any more."""


class _State:
    """What this process knows of its forks; the interpreter's hooks for them can be set once and never be taken off."""

    def __init__(self) -> None:
        self.living: WeakSet[Forking] = WeakSet()
        self.told: list[Forking] = []
        self.turn = threading.RLock()
        self.pid = os.getpid()

    def before(self) -> None:
        self.turn.acquire()
        self.told = list(self.living)
        for each in self.told:
            each.before_fork()

    def in_parent(self) -> None:
        for each in self.told:
            each.after_fork()
        self.told = []
        self.turn.release()

    def in_child(self) -> None:
        self.turn, self.told = threading.RLock(), []
        for each in list(self.living):
            each.begin_life()
        self.pid = os.getpid()


_state = _State()
_unnoticed = threading.Lock()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_state.before, after_in_parent=_state.in_parent, after_in_child=_state.in_child)


def notice_fork() -> None:
    """Start again in the child of a fork that Python did not see, such as one of a server written in C."""
    if _state.pid != os.getpid():
        with _unnoticed:  # of several threads that come here, one
            if _state.pid != os.getpid():
                _state.in_child()


_PROCESS = (1 << 22) - 1
"""The bits of a token that name a process; Linux counts no higher: https://man7.org/linux/man-pages/man5/proc.5.html"""


def new_token() -> int:
    """Return what no other claim has, since it is random, and by which one of this process is known."""
    return secrets.randbits(40) << 22 | os.getpid() & _PROCESS


def is_of_this_process(token: int) -> bool:
    """Return whether *token* was made here; a fork leaves what was held with the parent."""
    return token & _PROCESS == os.getpid() & _PROCESS
