"""
Find RabbitMQ for the tests, or start a private one.

    python tests/servers/rabbitmq.py run -- COMMAND …

runs COMMAND with the URL of a server in ``RELEVO_TEST_AMQP`` and returns its exit code. It uses the first of:

1. ``RELEVO_TEST_AMQP``: if it is set, that server and no other;
2. the standard place, amqp://guest:guest@127.0.0.1:5672/ (``RELEVO_TEST_AMQP_STANDARD`` names another);
3. a private node, started from the installed programs, and ended with the command.

With ``CI=true`` or ``RELEVO_TEST_INSTALL=1`` the system's package is installed before 3 if it is
missing. If no server is found, tests that need one are skipped; with ``CI=true`` that
is a failure. The fixture ``rabbitmq_url`` finds a server in the same way.
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
    Return why the server at *url* cannot be used; empty if it creates a queue like relevo's.

    A handshake alone is not enough: RabbitMQ 4.0.5 can lose the supervisor of its dead-letter workers if a queue
    is deleted at the moment of its creation, and then refuses such queues while everything else works. The queue
    of the check is deleted automatically.
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
