"""Stores that processes share, and how the tests drive relevo in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pika
import pytest
import redis

import relevo
from relevo_amqp import AmqpTransport
from relevo_redis import RedisTransport

HERE = Path(__file__).parent
PATIENCE = 300.0


@attrs.frozen
class Stage:
    """One application in a folder of its own, reached by this process and by those it starts."""

    folder: Path
    log: Path
    app: relevo.App

    def start(self, *words: str, **environ: str) -> subprocess.Popen[bytes]:
        """Start ``relevo`` with *words* in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "relevo", *words],
            cwd=self.folder,
            env={**os.environ, "CRASH_LOG": str(self.log), "PYTHONPATH": str(HERE), **environ},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def drain(self, **environ: str) -> int:
        """Drain in a process of its own, retries and lost leases included; return its exit code."""
        process = self.start("drain", "--settle", "20s", **environ)
        _, _ = process.communicate(timeout=PATIENCE)
        return process.returncode

    def lines(self) -> list[list[str]]:
        """Return what the listeners wrote."""
        return [line.split() for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def wait_for(self, what: Callable[[list[list[str]]], bool]) -> None:
        """Return when what the listeners wrote is as *what* says."""
        deadline = time.monotonic() + PATIENCE
        while not what(self.lines()):
            assert time.monotonic() < deadline, self.lines()[-5:]
            time.sleep(0.01)

    def dead(self, *queues: str) -> list[relevo.DeadLetterEntry]:
        """Return the dead letters of *queues*."""
        return list(self.app.transport().dead_letters(queues, limit=1000))


@pytest.fixture(name="forget")
def _forget() -> Callable[[relevo.App], None]:
    """Return what takes everything that a test made off a server that outlives it."""
    return forget


# What is killed is the same on every Python; the servers are not.
SERVERS = [
    pytest.param(name, marks=[pytest.mark.slow("about a server, not Python"), getattr(pytest.mark, name)])
    for name in ("amqp", "redis", "postgresql", "mariadb")
]

ON_FEW = pytest.mark.parametrize(
    "stage",
    [
        "sqlite",
        SERVERS[0],
        *(
            pytest.param(name, marks=[pytest.mark.soak, getattr(pytest.mark, name)])
            for name in ("redis", "postgresql", "mariadb")
        ),
    ],
    indirect=True,
)
"""For what a worker does alike on each store: ``make test`` takes a file and RabbitMQ, and ``make test-all`` all."""


@pytest.fixture(name="stage", params=["sqlite", *SERVERS])
def _stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    if request.param == "sqlite":
        main = '"sqlite:///crash.db"'
    elif request.param in ("postgresql", "mariadb"):
        main = f'"{request.getfixturevalue(f"{request.param}_database")}"'
    elif request.param == "redis":
        main = f'{{ url = "{request.getfixturevalue("redis_url")}", prefix = "crash-{uuid.uuid4().hex[:8]}" }}'
    else:
        url = request.getfixturevalue("rabbitmq_url")
        main = f'{{ url = "{url}", prefix = "crash-{uuid.uuid4().hex[:8]}", levels = 8, settle_in = 0 }}'
    with _staged(tmp_path, main) as stage:
        yield stage


@pytest.fixture(name="relayed_stage")
def _relayed_stage(rabbitmq_url: str, tmp_path: Path) -> Iterator[Stage]:
    """Return a stage on RabbitMQ, whose workers move what was dispatched in a transaction from an outbox."""
    options = f'prefix = "crash-{uuid.uuid4().hex[:8]}", levels = 8, settle_in = 0, outbox = "sqlite:///crash.db"'
    with _staged(tmp_path, f'{{ url = "{rabbitmq_url}", {options} }}') as stage:
        yield stage


@contextmanager
def _staged(tmp_path: Path, main: str) -> Iterator[Stage]:
    (tmp_path / "relevo.toml").write_text(
        f"""
source = "crash"
listeners = ["crashing"]
lease = "2s"

[transports]
main = {main}

[routes]
"number.*" = "main/numbers"
"mine.*" = "main/mines"
"""
    )
    app = relevo.App.from_config(tmp_path / "relevo.toml", environ={})
    try:
        yield Stage(tmp_path, tmp_path / "log", app)
    finally:
        forget(app)
        app.close()


def forget(app: relevo.App) -> None:
    """Take everything that the test made off a server that outlives it."""
    transport = app.transports["main"]
    if isinstance(transport, RedisTransport):
        app.close()
        with redis.Redis.from_url(os.environ["RELEVO_TEST_REDIS"]) as client:
            for key in client.scan_iter(match=f"{transport.prefix}:*", count=1000):
                client.delete(key)
    if not isinstance(transport, AmqpTransport):
        return
    options = transport._options
    topology = transport._topology()
    app.close()
    time.sleep(1.0)  # a queue is not deleted in the moment in which it was used; RabbitMQ 4.0.5 minds
    connection = pika.BlockingConnection(pika.URLParameters(options.url))
    channel = connection.channel()
    own = [each for queue in app.queues("main") for each in topology.own_queues(queue)]
    for queue in [*topology.shared_queues(), *own]:
        channel.queue_delete(queue.name)
    for exchange in topology.exchanges():
        channel.exchange_delete(exchange.name)
    connection.close()
