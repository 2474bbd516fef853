"""
Find RabbitMQ for the tests, or start a private one.

    python tests/servers/rabbitmq.py run -- COMMAND …

runs COMMAND with the URL of a server in ``RELEVO_TEST_AMQP`` and passes its exit code on. Looked
at are, in this order:

1. ``RELEVO_TEST_AMQP``: if it is set, that server and no other;
2. the standard place, amqp://guest:guest@127.0.0.1:5672/ (``RELEVO_TEST_AMQP_STANDARD`` names another);
3. a private node, started from the programs that are installed, and ended with the command.

With ``CI=true`` or ``RELEVO_TEST_INSTALL=1`` the system's package is installed before 3 if it is
missing. If there is no server after all, tests that need one are skipped; with ``CI=true`` that
is a failure. A test asks for the fixture ``rabbitmq_url`` and gets the same.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pika

import rabbitmq_node
import server_starter

_PROBE = "relevo-test-probe"
_PROBE_ARGUMENTS = {
    "x-queue-type": "quorum",
    "x-dead-letter-exchange": "amq.fanout",
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
    "x-expires": 600_000,
}


def refusal(url: str) -> str:
    """
    Return why the server at *url* cannot be used, or nothing if it makes a queue as relevo's are.

    A handshake alone says too little: RabbitMQ 4.0.5 can lose the supervisor of its dead-letter workers
    when a queue is deleted in the moment in which it is made, and from then on refuses such queues while all
    else works. The queue that is tried vanishes by itself.
    """
    parameters = pika.URLParameters(url)
    parameters.socket_timeout = parameters.stack_timeout = 5.0
    parameters.blocked_connection_timeout = 5.0
    parameters.connection_attempts = 1
    try:
        connection = pika.BlockingConnection(parameters)
        connection.channel().queue_declare(_PROBE, durable=True, arguments=_PROBE_ARGUMENTS)
        connection.close()
    except (pika.exceptions.AMQPError, OSError) as error:
        return str(error) or repr(error)
    return ""


@contextmanager
def _private(launcher: Path, environ: Mapping[str, str]) -> Iterator[str]:
    with rabbitmq_node.PrivateNode(launcher, environ) as node:
        node.wait_until(lambda: not refusal(node.url))
        yield node.url


KIND = server_starter.Kind(
    name="RabbitMQ",
    variable="RELEVO_TEST_AMQP",
    standard="amqp://guest:guest@127.0.0.1:5672/",
    example="amqp://user:password@host/",
    package="rabbitmq-server",
    refusal=refusal,
    program=rabbitmq_node.launcher,
    private=_private,
)

if __name__ == "__main__":
    sys.exit(server_starter.main(KIND))
