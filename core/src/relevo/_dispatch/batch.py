"""Dispatch the events of an iterator in batches, so that memory holds one batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from relevo._dispatch.dispatcher import Dispatched
from relevo.errors import EncodeError, RelevoError, SendError

BATCH = 1000
"""Events; the cost of a commit is spread over them, and more gain little."""


Dispatch = Callable[[Iterable[object]], list[Dispatched]]
"""Validates events one after another, then sends them together."""


def in_batches(events: Iterable[object], dispatch: Dispatch) -> list[Dispatched]:
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
        return placed(events, dispatch)
    done: list[Dispatched] = []
    try:
        while batch := [*islice(events, BATCH)]:
            try:
                done += placed(batch, dispatch, first=len(done))
            except RelevoError as error:
                if not done:
                    raise
                raise _of_all(error, done, len(batch)) from error
    except Exception as error:
        if done and not isinstance(error, SendError):
            error.add_note(f"{len(done)} events before it were dispatched")
        raise
    return done


def placed(events: Iterable[object], dispatch: Dispatch, *, first: int = 0) -> list[Dispatched]:
    """
    Dispatch *events*; an error about one of them has its index.

    Args:
        events: The events.

        dispatch: Dispatches them together.

        first: The index of the first one.

    Raises:
        EncodeError: As *dispatch* raised it, with the index.
    """
    if not first and isinstance(events, (tuple, list)) and len(events) == 1:
        return dispatch(events)  # which one is clear, and a single dispatch costs no more
    counted = _Counted(events, first)
    try:
        return dispatch(counted)
    except EncodeError as error:
        if counted.index is None:
            raise
        raise EncodeError(error.event_name, error.path, error.why, index=counted.index) from error


class _Counted:
    """Events that can be iterated once, and the index of the one that was taken last."""

    def __init__(self, events: Iterable[object], first: int):
        self._events = events
        self._first = first
        self.index: int | None = None
        """``None`` while the next event is made, which may fail, and when none is left: the error may be about any."""

    def __iter__(self) -> Iterator[object]:
        for index, event in enumerate(self._events, self._first):
            self.index = index
            yield event
            self.index = None


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
