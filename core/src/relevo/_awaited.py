"""Awaitable results of finished calls, and the refusal of unfinished results of listeners."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import TYPE_CHECKING, Any, Final

_LAZY: Final = (Generator, AsyncGenerator, map, filter)


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


class Nothing(Finished):
    """The result of a finished call that returns nothing, and never blocks an event loop: it may be awaited."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, None]:
        """Return ``None``."""
        return iter(())  # type: ignore[return-value]  # an iterator is enough for Python


NOTHING: Final = Nothing()


def refuse_undone(result: object, listener: str) -> None:
    """
    Raise :class:`TypeError` if *result*, returned by *listener*, is work that was not done.

    That is an awaitable which the coroutine of an async listener returns, or which a plain transactional listener
    returns; a generator, whose body runs when something iterates over it; and a ``map`` or ``filter``.
    """
    if result is None:
        return
    if hasattr(result, "__await__") and not isinstance(result, Finished):
        what = "an awaitable, which is not awaited"
        fix = "await it inside the listener; write a transactional listener that is async as async def"
    elif isinstance(result, _LAZY):
        what = f"a lazy {type(result).__name__}, which nothing iterates over"
        fix = "expected a plain function; run it inside, as in: for _ in steps(event): pass"
    else:
        return
    getattr(result, "close", int)()  # so that Python does not warn of it too
    raise TypeError(f"{listener} returned {what}; its work was not done; {fix}")
