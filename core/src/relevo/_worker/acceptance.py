"""Refuse events that their queue does not accept, before the body is read."""

from __future__ import annotations

from relevo._transport.acceptance import QueueTable
from relevo._transport.delivery import DeadLetter, Delivery, Outcome
from relevo._transport.envelope import Envelope
from relevo._transport.route import Target
from relevo._worker.decision import Reason, sanitised
from relevo._worker.executor import Handle
from relevo.errors import NotAcceptedError


def accepting(handle: Handle, queues: QueueTable, *, transport: str) -> Handle:
    """
    Wrap *handle* so that it gets only deliveries that their queue accepts.

    Args:
        handle: From a delivery to its outcome.

        queues: The options of the queues.

        transport: The name of the transport that delivers.
    """

    def outcome(delivery: Delivery) -> Outcome:
        if isinstance(delivery.envelope, Envelope):
            try:
                queues.check(delivery.envelope.name, Target(transport, delivery.queue))
            except NotAcceptedError as error:
                return DeadLetter(reason=Reason.NOT_ACCEPTED, error=sanitised(str(error)))
        return handle(delivery)

    return outcome
