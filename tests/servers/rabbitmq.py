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

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import pika

import rabbitmq_node
import rabbitmq_package

STANDARD = "amqp://guest:guest@127.0.0.1:5672/"

_PROBE = "relevo-test-probe"
_PROBE_ARGUMENTS = {
    "x-queue-type": "quorum",
    "x-dead-letter-exchange": "amq.fanout",
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
    "x-expires": 600_000,
}

UNAVAILABLE = 69
"""The exit code for a server that cannot be reached (``EX_UNAVAILABLE`` of sysexits.h)."""


class NotFoundError(Exception):
    """Raised when there is no RabbitMQ on this machine; says how to get one."""


class NotAnsweringError(Exception):
    """Raised when the server that was named, or the node that was started, does not answer."""


def in_ci(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether a missing server is a failure."""
    return environ.get("CI", "").lower() in {"true", "1"}


def may_install(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether the system's package may be installed."""
    return in_ci(environ) or environ.get("RELEVO_TEST_INSTALL") == "1"


@contextmanager
def server(*, environ: Mapping[str, str] = os.environ, install: bool = False) -> Iterator[str]:
    """
    Yield the URL of a RabbitMQ that answers; a private node ends with the block.

    Args:
        environ: Where the variables above are read.

        install: Whether the system's package is installed if no server is found.

    Raises:
        NotFoundError: There is none, and none can be started.

        NotAnsweringError: The one that was asked for does not answer.

        rabbitmq_package.InstallError: The package could not be installed.
    """
    if wanted := environ.get("RELEVO_TEST_AMQP"):
        if why := refusal(wanted):
            raise NotAnsweringError(f"RELEVO_TEST_AMQP names {shown(wanted)}, which does not answer: {why}")
        yield wanted
        return
    standard = environ.get("RELEVO_TEST_AMQP_STANDARD") or STANDARD
    if not refusal(standard):
        yield standard
        return
    launcher = rabbitmq_node.launcher(environ)
    if launcher is None and install:
        launcher = _installed(environ)
    if launcher is None:
        raise NotFoundError(
            f"RabbitMQ is neither at {shown(standard)} nor installed; "
            f"install it with:  {rabbitmq_package.COMMAND}\n"
            f"or name one:  RELEVO_TEST_AMQP=amqp://user:password@host/"
        )
    with rabbitmq_node.PrivateNode(launcher, environ) as node:
        node.wait_until(lambda: not refusal(node.url))
        yield node.url


def _installed(environ: Mapping[str, str]) -> Path | None:
    try:
        rabbitmq_package.install(environ)
    except rabbitmq_package.InstallError:
        # Where the system's service cannot start, apt-get fails although the programs are there.
        if rabbitmq_node.launcher(environ) is None:
            raise
    return rabbitmq_node.launcher(environ)


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


def shown(url: str) -> str:
    """Return *url* without its password."""
    parts = urlsplit(url)
    user = f"{parts.username}@" if parts.username else ""
    return f"{parts.scheme}://{user}{parts.hostname}:{parts.port or 5672}{parts.path}"


# --- the command line -----------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(description="Find RabbitMQ for the tests, or start a private one.")
    parser.add_argument("verb", choices=["run"])
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what to run, after --")
    options = parser.parse_args(arguments)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        parser.error("nothing to run")
    signal.signal(signal.SIGTERM, _leave)
    with ExitStack() as stack:
        environ = dict(os.environ)
        try:
            url = stack.enter_context(server(install=may_install()))
        except NotFoundError as error:
            if in_ci():
                return _failed(error)
            _say(f"{error}\nWithout it the tests that need RabbitMQ are skipped.")
        except (NotAnsweringError, rabbitmq_node.StartError, rabbitmq_package.InstallError) as error:
            return _failed(error)
        else:
            _say(f"RabbitMQ is at {shown(url)}")
            environ["RELEVO_TEST_AMQP"] = url
        return _run(command, environ)


def _run(command: Sequence[str], environ: Mapping[str, str]) -> int:
    try:
        child = subprocess.Popen(command, env=environ)
    except OSError as error:
        return _failed(error)
    # A terminal sends its Ctrl-C to both; the child decides what it means.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    code = child.wait()
    return code if code >= 0 else 128 - code


def _leave(signum: int, _frame: object) -> NoReturn:
    sys.exit(128 + signum)


def _failed(error: Exception) -> int:
    _say(str(error))
    return UNAVAILABLE


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
