"""
The context that goes from one event to the next, and which event caused which.

It is bound to the thread or the task at hand, as :mod:`contextvars` has it; the one thing of relevo's that
does not come in by argument, since it passes through code that knows nothing of relevo.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import attrs

from relevo.errors import ConfigurationError, shown


@attrs.frozen
class Ambient:
    """What an event that is dispatched here and now is given beside its own."""

    context: Mapping[str, Any] = attrs.field(factory=dict)
    correlation: str | None = None
    causation: str | None = None


_ambient: ContextVar[Ambient] = ContextVar("relevo")
NOTHING = Ambient()
"""Where nothing is carried along."""


def ambient() -> Ambient:
    """Return what holds here and now."""
    return _ambient.get(NOTHING)


@contextmanager
def within(found: Ambient) -> Iterator[None]:
    """Let *found* hold while the block runs."""
    token = _ambient.set(found)
    try:
        yield
    finally:
        _ambient.reset(token)


@contextmanager
def context(*, correlation_id: str | None = None, **values: Any) -> Iterator[None]:
    """
    Add *values* to the context of every event that is dispatched while the block runs.

    Their listeners find them in :attr:`Call.context`, and so do the listeners of what those dispatch. The
    inner of two blocks wins over the outer, both win over what plugins add, and the event's own arguments
    win over all: of a name that an argument has, the context says nothing.

    Args:
        correlation_id: What all events of this business case share, such as the id of the request; the
            id of the first event by default.

        values: In the types of JSON, such as ``base_url="https://…"`` or ``user=7``.

    Raises:
        ConfigurationError: *correlation_id* is no line of text.
    """
    given: object = correlation_id
    if given is not None and not (isinstance(given, str) and 0 < len(given) <= 255 and given.isprintable()):
        raise ConfigurationError(f"context: correlation_id is 1 to 255 printable characters, not {shown(given)}")
    now = ambient()
    with within(Ambient({**now.context, **values}, correlation_id or now.correlation, now.causation)):
        yield
