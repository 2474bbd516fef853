"""The dispatcher that sends events to a queue for later."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Unpack

from relevo._clock import Clock, SystemClock
from relevo._dispatch.batch import in_batches, placed
from relevo._dispatch.dispatcher import Dispatched, Dispatcher
from relevo._dispatch.packer import Packer
from relevo._dispatch.sender import send_envelopes
from relevo._event.codec import DEFAULT_SOURCE
from relevo._event.subject import SubjectTypes
from relevo._hook import Hooks, hooks_of
from relevo._identity import IdFactory, uuid7
from relevo._listener.call import DispatchOptions
from relevo._listener.listener import ListenerTable
from relevo._transport.envelope import DEFAULT_QUEUE, Envelope
from relevo._transport.route import Target, checked_queue
from relevo._transport.transport import Transport
from relevo.errors import ConfigurationError, shown


class DeferredDispatcher(Dispatcher):
    """
    Sends events to a queue of a transport and returns; a worker calls the listeners later.

    When a dispatch without a session returns, the event is as safe as the transport claims.

    Args:
        transport: The transport to send to.

        listeners: The listeners that a worker calls; by default an empty table.

        queue: The queue to send to.

        source: The application's name.

        clock: The source of time.

        ids: Makes the id of an event.

        subjects: Names subjects.

        hooks: Plugins that add to the context of an event, and observe: a :class:`Hooks`, or a list of plugins.

    Raises:
        ConfigurationError: *transport* is not a transport, or *queue* or *source* is invalid.

        PluginError: A plugin is invalid, see :class:`Hooks`.
    """

    def __init__(
        self,
        transport: Transport,
        listeners: ListenerTable | None = None,
        *,
        queue: str = DEFAULT_QUEUE,
        source: str = DEFAULT_SOURCE,
        clock: Clock | None = None,
        ids: IdFactory = uuid7,
        subjects: SubjectTypes | None = None,
        hooks: Hooks | Iterable[object] | None = None,
    ):
        super().__init__(ListenerTable() if listeners is None else listeners)
        if not isinstance(transport, Transport):
            raise ConfigurationError(f"DeferredDispatcher: expected a relevo.Transport; got {shown(transport)}")
        self.transport = transport
        self.queue = checked_queue(queue, where="DeferredDispatcher")
        self._hooks = hooks_of(hooks)
        self._packer = Packer(source, clock or SystemClock(), ids, subjects or SubjectTypes(), self._hooks)

    def dispatch_many(self, events: Iterable[object], **options: Unpack[DispatchOptions]) -> list[Dispatched]:
        if options.get("session") is not None:
            return placed(events, lambda every: self._send(every, options))
        return in_batches(events, lambda batch: self._send(batch, options))

    def _send(self, events: Iterable[object], options: DispatchOptions) -> list[Dispatched]:
        """Validate all *events*, then send them together."""
        targets = (Target(self.transport.name, self.queue),)
        pack, known = self._packer.pack, self._table
        packed_events = [pack(event, options, targets, version=known.version_of(event)) for event in events]
        for packed in packed_events:
            packed.conditions.check_claims(self.transport)

        def made() -> list[Envelope]:  # all of them before the first is written
            return [envelope for packed in packed_events for envelope in self._packer.envelopes(packed)]

        session = options.get("session")
        if packed_events and session is not None:
            self.transport.bound_to(session).send(made, delay=packed_events[0].conditions.wait)
        elif packed_events:
            send_envelopes(self.transport, made(), delay=packed_events[0].conditions.wait, hooks=self._hooks)
        return [Dispatched(id=packed.id, targets=targets) for packed in packed_events]
