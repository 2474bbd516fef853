"""A surface: a function that reads input from outside, with the errors that it may raise, and valid inputs."""

from __future__ import annotations

import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType

import attrs

from mutation import Shape

HANG = 30.0
"""Seconds after which a case counts as hanging; a busy machine is slow, so the limit is generous."""

LONGEST = 2.0
"""Seconds of processor time that an oversized input may take: ten times what the slowest takes."""

_TESTS = str(Path(__file__).parent)


class HangError(BaseException):
    """Raised in a case that takes longer than :data:`HANG`; nothing that is tested catches it."""


class DifferentError(AssertionError):
    """Raised by a target if a result is wrong, although nothing was raised."""


class SlowError(AssertionError):
    """Returned for an oversized input that takes longer than :data:`LONGEST`."""


@attrs.frozen(kw_only=True)
class Known:
    """A defect that was found, and is not fixed yet: its cases are counted apart."""

    error: type[BaseException]
    function: str = ""
    """The innermost function of relevo in the traceback; empty if it can be any, as where the stack ends."""

    why: str


@attrs.frozen(kw_only=True)
class Surface:
    """
    One way into relevo.

    Args:
        name: The name.

        target: Takes an input; it raises one of *errors*, or nothing.

        shape: How inputs are changed.

        seeds: Inputs by their names: valid ones, and earlier findings.

        errors: The documented errors.

        weight: The share of the cases; a slow surface has a smaller one.

        known: Defects that are not fixed yet.

        oversized: Makers of inputs by their names, so large that a square of their size is seconds. They are not
            changed, since changed inputs are small, so that there are many.
    """

    name: str
    target: Callable[[bytes], None]
    shape: Shape
    seeds: Mapping[str, bytes]
    errors: tuple[type[BaseException], ...] = ()
    weight: float = 1.0
    known: Sequence[Known] = ()
    oversized: Mapping[str, Callable[[], bytes]] = attrs.field(factory=dict)

    def run(self, data: bytes, *, limited: bool = True) -> BaseException | None:
        """Run one case, with a time limit if *limited*; return an error that is not documented, if one is raised."""
        try:
            with _time_limit() if limited else nullcontext():
                self.target(data)
        except self.errors:
            return None
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - what this is about
            return error
        return None

    def run_oversized(self, name: str) -> BaseException | None:
        """Run the oversized input *name*; return an error that is not documented, or that it took too long."""
        data = self.oversized[name]()
        start = time.process_time()
        error = self.run(data)
        took = time.process_time() - start
        if error is None and took > LONGEST:
            return SlowError(f"{name} ({len(data)} bytes) took {took:.1f} s of processor time")
        return error

    def is_known(self, error: BaseException) -> bool:
        """Return whether *error* shows a known defect."""
        return any(isinstance(error, each.error) and each.function in ("", innermost(error)) for each in self.known)


def innermost(error: BaseException) -> str:
    """Return the innermost function of relevo that *error* passed, by which equal defects are recognised."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [each for each in frames if "relevo" in each.filename.rpartition("/src/")[2]]
    return (ours or frames)[-1].name


@contextmanager
def _time_limit() -> Iterator[None]:
    """Raise :class:`HangError` in the block when its time is over; other threads have no limit."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, _stop)
    signal.setitimer(signal.ITIMER_REAL, HANG)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def _stop(_: int, __: FrameType | None) -> None:
    raise HangError
