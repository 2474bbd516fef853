"""Dispatch the events of an iterator in batches, so that memory holds one batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from relevo._dispatch.dispatched import Dispatched
from relevo.errors import ConfigurationError, EncodeError, RelevoError, SendError, shown

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
    doubtful = 0
    is_reported = False
    try:
        while batch := [*islice(events, BATCH)]:
            doubtful = len(batch)
            counted = _Counted(batch, len(done))
            try:
                done += _dispatched(counted, dispatch)
            except RelevoError as error:
                is_reported = True
                if not done:
                    raise
                raise _of_all(error, done, len(batch), counted.index) from error
            doubtful = 0
    except BaseException as error:
        if not is_reported and (note := _note(len(done), doubtful)):
            error.add_note(note)
        raise
    return done


def _note(done: int, doubtful: int) -> str:
    """Return how far a dispatch came that another program's error or Ctrl-C ended."""
    known = f"{done} events before it were dispatched" if done else ""
    if not doubtful:
        return known
    return f"{known or 'no event before it is known to be dispatched'}, and perhaps some of the next {doubtful}"


def placed(events: Iterable[object], dispatch: Dispatch) -> list[Dispatched]:
    """
    Dispatch *events*; an error about one of them has its index.

    Args:
        events: The events.

        dispatch: Dispatches them together.

    Raises:
        EncodeError: As *dispatch* raised it, with the index.
    """
    if isinstance(events, str):  # it would be dispatched letter by letter
        name = shown(events)
        raise ConfigurationError(
            f"dispatch_many: expected several events; got the text {name}; write dispatch({name}, {{…}})"
        )
    if isinstance(events, (tuple, list)) and len(events) == 1:
        return dispatch(events)  # which one is clear, and a single dispatch costs no more
    return _dispatched(_Counted(events, 0), dispatch)


def _dispatched(counted: _Counted, dispatch: Dispatch) -> list[Dispatched]:
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


def _of_all(error: RelevoError, done: list[Dispatched], number: int, index: int | None) -> SendError:
    """
    Return *error* of a batch with the result for each event.

    Args:
        error: What ended the dispatch.

        done: The events before the batch.

        number: The events of the batch.

        index: The event of which the error is, if it is one of an event.
    """
    before = len(done)
    if isinstance(error, SendError):
        return SendError(
            error.transport,
            sent=[*range(before), *(before + index for index in error.sent)],
            refused=[before + index for index in error.refused],
            unknown=[before + index for index in error.unknown],
            why=error.why,
        )
    return SendError(
        done[-1].targets[0].transport,
        sent=range(before),
        refused=range(before, before + number),
        why=str(error),
        index=index,
    )
