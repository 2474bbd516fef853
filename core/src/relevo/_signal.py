"""Signal handlers that stay with the process that set them: the child of a fork gets back the earlier ones."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

_NUMBERS = (signal.SIGTERM, signal.SIGINT)
"""The signals by which a process is told to end."""

_previous: dict[tuple[int, Any], Any] = {}
"""By a number and a handler of ours, what was there before."""

_here = threading.local()


def take_ends(handler: Callable[[int, Any], object]) -> Callable[[], None]:
    """Let *handler* have TERM and INT of this process, not of a child of a fork; return what gives them back."""
    for number in _NUMBERS:
        _previous[number, handler] = signal.signal(number, handler)

    def give_back() -> None:
        for number in _NUMBERS:
            signal.signal(number, _previous.pop((number, handler)))

    return give_back


def _before() -> None:
    """Hold them back while the process forks: a child may be told to end the moment it is there."""
    _here.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _NUMBERS)


def _in_parent() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _here.mask)


def _in_child() -> None:
    """Give the child what was there before: nobody waits for it as for this process, and a TERM has to end it."""
    for number in _NUMBERS:
        handler = found = signal.getsignal(number)
        while (number, handler) in _previous:
            handler = _previous[number, handler]
        if handler is not found:
            signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, _here.mask)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
