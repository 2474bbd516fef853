"""The result of a dispatch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from relevo._awaited import Finished
from relevo._synonym import missing_attribute
from relevo._transport.route import Target


# One is made for each dispatch, while the caller waits: a Struct takes a fifth of the time of an attrs class.
class Dispatched(Finished, msgspec.Struct, frozen=True, kw_only=True):
    """The result of a dispatch."""

    id: str
    """The event's id, also of a duplicate that was not sent; empty if a ``LocalDispatcher`` called its listeners."""

    targets: tuple[Target, ...]
    """The targets of the event."""

    @property
    def duplicate(self) -> bool:
        """
        Whether the event was not sent, since an event with its ``unique`` key lives.

        With a session it is known when the session has committed; to read it earlier raises :class:`SessionError`.
        """
        return self.duplicate_of is not None

    @property
    def duplicate_of(self) -> str | None:
        """The id of the event that lives, if this one is a duplicate of it; raises as :attr:`duplicate` does."""
        return None

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> object:
            """Raise :class:`AttributeError`, for an attribute of another tool with what there is instead."""
            return missing_attribute(self, "Dispatched", name)
