"""Results of calls that do their work at once, for code that awaits them all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING


class Finished:
    """
    A result that is complete; ``await`` returns it.

    ``await app.dispatch(…)`` would otherwise raise a TypeError after the event was sent, and a client that tries again
    would send a second one. Type checkers still report it: an event loop should await ``adispatch``.
    """

    __slots__ = ()

    if not TYPE_CHECKING:

        def __await__(self):
            return self
            yield  # makes this a generator, as the protocol asks


def is_pending(result: object) -> bool:
    """Return whether *result* has to be awaited, such as a coroutine: its work was not done."""
    return hasattr(result, "__await__") and not isinstance(result, Finished)
