"""Calls of several workers that begin together, and pause now and then."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Protocol, TypeVar

Result = TypeVar("Result")

_PAUSE = 1e-6
"""Seconds of a pause; the system makes it longer."""

_GAPS = (1.0, 7.0)
"""The mean number of calls and returns between two pauses is a power of two; its least and its largest exponent."""

_MOST, _LONGEST = 20, 0.25
"""The number of pauses, and the seconds, after which a call pauses no more: on a busy machine a pause takes long."""


class Gate(Protocol):
    """A barrier of ``threading`` or of ``multiprocessing``."""

    def wait(self) -> int:
        """Wait for the others."""

    def abort(self) -> None:
        """End all waits, also later ones."""


class Race:
    """
    Lets each call of one worker begin together with a call of each other one, until the first of them is done.

    Args:
        gate: Where the workers wait for one another.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def take_part(self, work: Callable[[], object]) -> None:
        """Do the *work* of one worker, whose calls go through :meth:`run`."""
        try:
            work()
        finally:
            self._gate.abort()

    def run(self, act: Callable[[], Result]) -> Result:
        """Return what *act*, a call of a transport, returns; it pauses now and then, so that others come between."""
        with suppress(threading.BrokenBarrierError):
            self._gate.wait()
        before = sys.getprofile()
        sys.setprofile(_Pauses())
        try:
            return act()
        finally:
            sys.setprofile(before)


class _Pauses:
    """
    Lets other workers run at some of the calls and returns of one call of a transport.

    Python changes threads every few milliseconds, and a busy machine its processes; a store in memory does all that it
    has to do in less. How dense the pauses are is drawn for each call: what can go wrong may take a few steps, or many.
    """

    def __init__(self) -> None:
        self._gap = 2.0 ** random.uniform(*_GAPS)  # noqa: S311 - no secret
        self._left = self._drawn()
        self._pauses = _MOST
        self._end = time.monotonic() + _LONGEST

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        self._left -= 1.0
        if self._left < 0.0 and self._pauses and time.monotonic() < self._end:
            self._left = self._drawn()
            self._pauses -= 1
            time.sleep(_PAUSE)

    def _drawn(self) -> float:
        return random.uniform(0.0, 2.0 * self._gap)  # noqa: S311 - no secret
