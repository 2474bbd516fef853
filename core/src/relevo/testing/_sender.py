"""Record the events that an application sends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from relevo._dispatch.gathering import Gathering, ReadyEvent
from relevo._dispatch.packer import Conditions, surroundings
from relevo._dispatch.sender import Batch, Sender
from relevo._dispatch.unique import is_refused
from relevo._listener.call import DispatchOptions
from relevo._transport.envelope import Envelope
from relevo.errors import TransportUnavailableError
from relevo.testing._record import Record


class RecordingSender(Sender):
    """
    Sends as usual, and records every event: before its in-process listeners are called, else after it was sent.

    So an event precedes those that its listeners dispatch. It is marked if one of them raises.

    The arguments of an event that is only called in process must be encodable here too, so that a test finds what a
    change of its route would break.

    Args:
        record: Records the events.

        blocked: Takes the name of a transport, and returns why a send would block on the real one, if it would.

        parts: The arguments of :class:`Sender`.
    """

    def __init__(self, record: Record, blocked: Callable[[str], str | None], **parts: Any):
        super().__init__(**parts)
        self._record = record
        self._blocked = blocked

    def check(
        self,
        event: object,
        options: DispatchOptions,
        session: Any,
        made_id: Callable[[bytes], str] | None = None,
        *,
        conditions: Conditions | None = None,
        now: float | None = None,
    ) -> ReadyEvent:
        ready = super().check(event, options, session, made_id, conditions=conditions, now=now)
        if session is not None:
            self._record.add_joined(ready.dispatched.id)
        return ready

    def check_unsent(self, event: object, name: str, options: DispatchOptions) -> None:
        super().check_unsent(event, name, options)
        self.packer.check(event, options)

    def call(self, ready: ReadyEvent, gathering: Gathering) -> None:
        around = surroundings(ready.event, self._hooks) if ready.packed is None else ready.packed.around
        self._record.add_dispatched(ready, around.context)
        try:
            super().call(ready, gathering)
        except BaseException:
            self._record.add_failed(ready)
            raise

    def note_sent(self, ready: Sequence[ReadyEvent]) -> None:
        for each in ready:
            if not (each.routing.is_now or is_refused(each.dispatched)):
                self._record.add_dispatched(each)

    def send_unjoined(self, batch: Batch, envelopes: Sequence[Envelope]) -> None:
        if why := self._blocked(batch.transport):
            raise TransportUnavailableError(batch.transport, why)
        super().send_unjoined(batch, envelopes)
