"""Dispatch the events of an iterator in batches, so that memory holds one batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from relevo._dispatch.dispatcher import Dispatched
from relevo.errors import RelevoError, SendError

BATCH = 1000
"""Events; the cost of a commit is spread over them, and more gain little."""


def in_batches(events: Iterable[object], dispatch: Callable[[Iterable[object]], list[Dispatched]]) -> list[Dispatched]:
    """
    Dispatch *events*: those of an iterator in batches, as they come; those of a collection at once.

    Args:
        events: The events.

        dispatch: Dispatches several events together.

    Raises:
        SendError: Not every event is known to be safe; positions are indexes of *events*. The events after the last
            position were not taken from the iterator.

        RelevoError: Any error of *dispatch*; nothing was written.
    """
    if not isinstance(events, Iterator):
        return dispatch(events)
    done: list[Dispatched] = []
    try:
        while batch := [*islice(events, BATCH)]:
            try:
                done += dispatch(batch)
            except RelevoError as error:
                if not done:
                    raise
                raise _of_all(error, done, len(batch)) from error
    except Exception as error:
        if done and not isinstance(error, SendError):
            error.add_note(f"{len(done)} events before it were dispatched")
        raise
    return done


def _of_all(error: RelevoError, done: list[Dispatched], number: int) -> SendError:
    """Return *error* of the batch of *number* events that follows the events *done*, with the result for each event."""
    before = len(done)
    if isinstance(error, SendError):
        fates = {fate: [before + index for index in getattr(error, fate)] for fate in ("refused", "unknown")}
        return SendError(
            error.transport,
            sent=[*range(before), *(before + index for index in error.sent)],
            **fates,
            why=error.why,
        )
    return SendError(
        done[-1].targets[0].transport,
        sent=range(before),
        refused=range(before, before + number),
        why=str(error),
    )
