"""The RabbitMQ transport of relevo: quorum queues, publisher confirms, delays inside the broker."""

from relevo_amqp._transport import AmqpTransport
from relevo_amqp._options import AmqpOptions
from relevo_amqp._supervisor import SupervisorRunner
from relevo_amqp._errors import AccessRefusedError, ServerTooOldError, TopologyError

__all__ = [
    # the transport and its options
    "AmqpTransport",
    "AmqpOptions",
    # the runner
    "SupervisorRunner",
    # errors of a server
    "AccessRefusedError",
    "ServerTooOldError",
    "TopologyError",
]
