"""Log which listeners run, since when, and at which lines, when an operator asks for that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from logging import WARNING, Logger
from traceback import StackSummary
from typing import Any

from relevo._clock import readable
from relevo._transport.delivery import Delivery
from relevo._visible import visible

Frame = tuple[str, int, str]
"""The file, the line and the function of a frame."""

_MOST = 50
"""Frames of a coroutine that are logged."""


def log_run(  # noqa: PLR0917 - the words of one line
    log: Logger, listener_id: str, delivery: Delivery, seconds: float, pid: int, frames: Sequence[Frame] = ()
) -> None:
    """
    Log that the listener *listener_id* has run for *seconds* on *delivery* in the process *pid*.

    Args:
        log: The logger.

        listener_id: The listener.

        delivery: Its delivery.

        seconds: How long it has run.

        pid: Its process.

        frames: Where it is, the innermost frame last; empty if that is unknown.
    """
    words = (visible(listener_id), readable(seconds), delivery, pid)
    stack = "".join(StackSummary.from_list([(*frame, None) for frame in frames]).format()).rstrip("\n") or None
    text = "%s has run for %s on %s in the process %d"
    log.handle(log.makeRecord(log.name, WARNING, __file__, 0, text, words, None, sinfo=stack))


def frames_of(coroutine: object) -> Sequence[Frame]:
    """Return where *coroutine* waits, the innermost frame last; a task has only its outermost one."""
    return [(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_qualname) for frame in _frames(coroutine)]


def _frames(awaited: Any) -> Iterator[Any]:
    for _ in range(_MOST):
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is None:
            return
        yield frame
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
