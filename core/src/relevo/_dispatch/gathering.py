"""Gather the events that in-process listeners dispatch, to be sent with the event that they were called with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from relevo._dispatch.dispatched import Dispatched
from relevo._dispatch.packer import PackedEvent
from relevo._listener.call import DispatchOptions
from relevo._listener.listener import Listener
from relevo._transport.route import Routing


class ReadyEvent(msgspec.Struct, frozen=True, weakref=True):
    """A validated event that can be sent; nothing is written yet."""

    event: object
    packed: PackedEvent | None
    """``None`` if it is only called in process."""

    routing: Routing
    listeners: Sequence[Listener]
    """The listeners that are called in process."""

    dispatched: Dispatched


class Gathering:
    """
    The events of one dispatch, and the events that in-process listeners dispatch by their call.

    Args:
        check: Validates an event that a listener dispatches.

        call: Calls the in-process listeners of an event.

        session: The session of the dispatch.
    """

    def __init__(
        self,
        check: Callable[[object, DispatchOptions, Any], ReadyEvent],
        call: Callable[[ReadyEvent, Gathering], None],
        session: Any,
    ):
        self._check = check
        self._call = call
        self.session = session
        self.ready: list[ReadyEvent] = []
        self.positions: list[int] = []
        """For each event its index in the dispatch, or that of the event that its listener was called with."""

    def add(self, ready: ReadyEvent, position: int) -> None:
        """Add *ready*, call its listeners in process, and add the events that they dispatch."""
        self.ready.append(ready)
        self.positions.append(position)
        if ready.routing.is_now:
            self._call(ready, self)

    def hold(self, event: object, *, key: str, options: DispatchOptions, session: Any = None) -> object:
        """Validate *event*, which a listener dispatches, and return it for :meth:`send_held`."""
        return self._check(event, options, self.session)

    def send_held(self, held: Sequence[Any], session: Any = None) -> None:
        """Add the events that a listener dispatched, and call their listeners in process."""
        position = self.positions[-1]
        for each in held:
            self.add(each, position)
