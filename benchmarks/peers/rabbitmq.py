"""RabbitMQ for measurements, apart from sending and receiving."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pika

import relevo

_REST = 1.0
"""Seconds; RabbitMQ 4.0.5 fails if a queue is deleted at the moment when it is used."""


@contextmanager
def channel(url: str) -> Iterator[Any]:
    """Yield a blocking channel."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        yield connection.channel()
    finally:
        connection.close()


def ready(url: str, queue: str) -> int:
    """Return how many messages are ready in *queue* after all held ones were returned."""
    time.sleep(_REST)
    with channel(url) as asked:
        return int(asked.queue_declare(queue, passive=True).method.message_count)


def delete(url: str, queues: Iterable[str], exchanges: Iterable[str] = ()) -> None:
    """Delete the queues and exchanges that may exist."""
    time.sleep(_REST)
    with channel(url) as asked:
        for name in queues:
            asked.queue_delete(name)
        for name in exchanges:
            asked.exchange_delete(name)


@contextmanager
def borrowed(app: relevo.App, url: str) -> Iterator[None]:
    """Create what *app* needs on the server, and delete it at the end."""
    transport = app.transport()
    made = "\n".join(transport.setup(app.queues(transport.name), dry_run=True))
    names = {kind: re.findall(rf'\b{kind} "([^"]+)"', made) for kind in ("queue", "exchange")}
    try:
        app.setup()
        yield
    finally:
        app.close()
        delete(url, names["queue"], names["exchange"])
