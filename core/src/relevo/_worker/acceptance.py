"""Refuse events that their queue does not accept, before the body is read."""

from __future__ import annotations

from relevo._transport.acceptance import QueueTable
from relevo._transport.delivery import DeadLetter, Delivery, Outcome
from relevo._transport.envelope import Envelope
from relevo._transport.route import Target
from relevo._worker.decision import Reason, sanitised
from relevo._worker.executor import Flow, Steps
from relevo.errors import NotAcceptedError


def accepting(steps: Steps, queues: QueueTable, *, transport: str) -> Steps:
    """
    Wrap *steps* so that it gets only deliveries that their queue accepts.

    Args:
        steps: From a delivery to the flow of its handling.

        queues: The options of the queues.

        transport: The name of the transport that delivers.
    """

    def accepted(delivery: Delivery, *, on_loop: bool) -> Flow | Outcome:
        if isinstance(delivery.envelope, Envelope):
            try:
                queues.check(delivery.envelope.name, Target(transport, delivery.queue))
            except NotAcceptedError as error:
                return DeadLetter(reason=Reason.NOT_ACCEPTED, error=sanitised(str(error)))
        return steps(delivery, on_loop=on_loop)

    return accepted
