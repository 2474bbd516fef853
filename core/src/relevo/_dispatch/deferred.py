"""The dispatcher that sends events to a queue for later."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Unpack

from relevo._clock import Clock, SystemClock
from relevo._dispatch.batch import in_batches, placed
from relevo._dispatch.dispatched import Dispatched
from relevo._dispatch.dispatcher import Dispatcher
from relevo._dispatch.packer import Conditions, PackedEvent, Packer, refuse_to
from relevo._dispatch.sender import enlist, send_envelopes
from relevo._dispatch.unique import dispatched
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
        refuse_to(options)
        targets = (Target(self.transport.name, self.queue),)
        conditions: Conditions | None = None
        packed_events: list[PackedEvent] = []
        for event in events:
            version = self._table.version_of(event)
            packed = self._packer.pack(event, options, targets, version=version, conditions=conditions)
            conditions = packed.conditions
            packed_events.append(packed)
        if conditions is None:
            return []
        conditions.check_claims(self.transport)

        def made() -> list[Envelope]:  # all of them before the first is written
            return [envelope for packed in packed_events for envelope in self._packer.envelopes(packed)]

        session = options.get("session")
        wait, claim = conditions.wait, conditions.claim
        if session is not None:
            enlist(self.transport.bound_to(session), made, wait, claim)
        else:
            send_envelopes(self.transport, made(), delay=wait, hooks=self._hooks, claim=claim)
        return [dispatched(packed.id, targets, claim) for packed in packed_events]
