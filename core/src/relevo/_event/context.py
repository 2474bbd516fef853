"""
The context that is passed from an event to the events that it causes, with correlation and causation ids.

It belongs to the current thread or task (:mod:`contextvars`). It and the task that awaits a dispatch are the only
values of relevo that are not passed as arguments, since they pass through code that does not use them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

import msgspec

from relevo.errors import ConfigurationError, shown

NO_CONTEXT: Mapping[str, Any] = MappingProxyType({})


class Ambient(msgspec.Struct, frozen=True):
    """The context and the ids that an event dispatched now inherits."""

    context: Mapping[str, Any] = NO_CONTEXT
    correlation: str | None = None
    causation: str | None = None


NOTHING = Ambient()
"""Outside of any context."""

_ambient: ContextVar[Ambient] = ContextVar("relevo", default=NOTHING)
ambient = _ambient.get
"""Returns the current context."""


enter = _ambient.set
"""Makes an :class:`Ambient` the current context; returns what :data:`leave` takes to restore the one before."""

leave = _ambient.reset


_awaiting: ContextVar[object] = ContextVar("relevo_awaiting", default=None)

enter_awaited = _awaiting.set
"""Makes its argument the task that awaits the dispatch which runs in this context."""


def awaiting_task() -> object:
    """
    Return the task that awaits the dispatch which runs in this thread; ``None`` if none does.

    A transport that waits for a lock can tell by it that the task itself holds the lock.
    """
    return _awaiting.get()


@contextmanager
def within(found: Ambient) -> Iterator[None]:
    """Make *found* the current context while the block runs."""
    token = enter(found)
    try:
        yield
    finally:
        leave(token)


@contextmanager
def context(*, correlation_id: str | None = None, **values: Any) -> Iterator[None]:
    """
    Add *values* to the context of every event that is dispatched while the block runs.

    Their listeners find them in :attr:`Call.context`, and so do the listeners of the events that those dispatch.
    An inner block takes precedence over an outer one, and both over values of plugins. A name that is also an
    argument of the event is left out of the context.

    Args:
        correlation_id: The id that all events of one business case share, such as the id of the request; by
            default the id of the first event.

        values: Values of JSON's types, such as ``base_url="https://…"`` or ``user=7``.

    Raises:
        ConfigurationError: *correlation_id* is not one line of text.
    """
    given: object = correlation_id
    if given is not None and not (isinstance(given, str) and 0 < len(given) <= 255 and given.isprintable()):
        raise ConfigurationError(f"context: correlation_id: expected 1 to 255 printable characters; got {shown(given)}")
    now = ambient()
    with within(Ambient({**now.context, **values}, correlation_id or now.correlation, now.causation)):
        yield
