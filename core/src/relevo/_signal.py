"""Signal handlers of one process: in the child of a fork the earlier handlers are restored."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

_NUMBERS = (signal.SIGTERM, signal.SIGINT)
"""The signals that ask a process to end."""

_previous: dict[tuple[int, Any], Any] = {}
"""From a signal number and one of our handlers to the handler before it."""

_here = threading.local()


def take_ends(handler: Callable[[int, Any], object]) -> Callable[[], None]:
    """Set *handler* for TERM and INT in this process, not in forked children; return a function that restores them."""
    for number in _NUMBERS:
        _previous[number, handler] = signal.signal(number, handler)

    def give_back() -> None:
        for number in _NUMBERS:
            signal.signal(number, _previous.pop((number, handler)))

    return give_back


def _before() -> None:
    """Block both signals during the fork: the child may receive one as soon as it exists."""
    _here.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _NUMBERS)


def _in_parent() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _here.mask)


def _in_child() -> None:
    """Restore the earlier handlers in the child: a TERM has to end it, since no shutdown waits for its work."""
    for number in _NUMBERS:
        handler = found = signal.getsignal(number)
        while (number, handler) in _previous:
            handler = _previous[number, handler]
        if handler is not found:
            signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, _here.mask)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
