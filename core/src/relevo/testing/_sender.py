"""Record what an application sends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from relevo._dispatch.sender import Gathering, ReadyEvent, Sender
from relevo._listener.call import DispatchOptions
from relevo.testing._record import Record


class RecordingSender(Sender):
    """
    Sends as usual, and records every event: what is called now before its listeners are, all else once it was sent.

    An event that is only called now must have a faithful form here, so that a test finds what a change of the route
    would break.

    Args:
        record: What notes the events.

        parts: The arguments of :class:`Sender`.
    """

    def __init__(self, record: Record, **parts: Any):
        super().__init__(**parts)
        self._record = record

    def check_unsent(self, event: object, name: str, options: DispatchOptions) -> None:
        super().check_unsent(event, name, options)
        self.packer.pack(event, options)

    def call(self, ready: ReadyEvent, gathering: Gathering) -> None:
        self._record.dispatched(ready.event, ready.dispatched)
        super().call(ready, gathering)

    def sent(self, ready: Sequence[ReadyEvent]) -> None:
        for each in ready:
            if not each.routing.is_now:
                self._record.dispatched(each.event, each.dispatched)
