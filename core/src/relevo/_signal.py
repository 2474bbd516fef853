"""Signals: handlers of one process, without those that a child of a fork would inherit, and dumps of all threads."""

from __future__ import annotations

import faulthandler
import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

_NUMBERS = (signal.SIGTERM, signal.SIGINT)
"""The signals that ask a process to end."""

_previous: dict[tuple[int, Any], Any] = {}
"""From a signal number and one of our handlers to the handler before it."""

_here = threading.local()


USR1: signal.Signals | None = getattr(signal, "SIGUSR1", None)
"""The signal at which a process writes what it does."""


def dump_threads_on_signal() -> None:
    """
    Let USR1 write where each thread of this process is to standard error, from now on.

    Without that it ends the process, for example while the application is imported.
    """
    if USR1 is not None and signal.getsignal(USR1) is signal.SIG_DFL:
        dump_threads_at(USR1, chain=False)


def dump_threads_at(number: int, *, chain: bool) -> None:
    """Let the signal *number* do that; then it calls its earlier handler too, if *chain* is true."""
    with suppress(AttributeError, ValueError, RuntimeError, io.UnsupportedOperation):  # no file behind standard error
        faulthandler.register(number, file=sys.stderr, all_threads=True, chain=chain)


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
