"""Record what an application sends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from relevo._dispatch.gathering import Gathering, ReadyEvent
from relevo._dispatch.sender import Sender
from relevo._event.codec import subject_of
from relevo._listener.call import DispatchOptions
from relevo.testing._record import Record


class RecordingSender(Sender):
    """
    Sends as usual, and records every event: before its in-process listeners are called, else after it was sent.

    An event that is only called in process must be encodable here too, so that a test finds what a change of its
    route would break.

    Args:
        record: Records the events.

        parts: The arguments of :class:`Sender`.
    """

    def __init__(self, record: Record, **parts: Any):
        super().__init__(**parts)
        self._record = record

    def check_unsent(self, event: object, name: str, options: DispatchOptions) -> None:
        super().check_unsent(event, name, options)
        self.packer.pack(event, options, ())

    def call(self, ready: ReadyEvent, gathering: Gathering) -> None:
        self._record.add_dispatched(ready)
        if ready.listeners and ready.packed is None and gathering.session is None:
            subject = subject_of(ready.event)
            if subject is not None:
                self.packer.name(subject)
        super().call(ready, gathering)

    def note_sent(self, ready: Sequence[ReadyEvent]) -> None:
        for each in ready:
            if not each.routing.is_now:
                self._record.add_dispatched(each)
