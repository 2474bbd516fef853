"""What measuring needs of RabbitMQ besides sending and receiving."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pika

import relevo

_REST = 1.0
"""Seconds; RabbitMQ 4.0.5 is not up to a queue that is deleted in the moment in which it was used."""


@contextmanager
def channel(url: str) -> Iterator[Any]:
    """Give a channel that blocks."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        yield connection.channel()
    finally:
        connection.close()


def ready(url: str, queue: str) -> int:
    """Return how many messages are ready in *queue*, all that were held by a worker having gone back."""
    time.sleep(_REST)
    with channel(url) as asked:
        return int(asked.queue_declare(queue, passive=True).method.message_count)


def delete(url: str, queues: Iterable[str], exchanges: Iterable[str] = ()) -> None:
    """Delete what may be there."""
    time.sleep(_REST)
    with channel(url) as asked:
        for name in queues:
            asked.queue_delete(name)
        for name in exchanges:
            asked.exchange_delete(name)


@contextmanager
def borrowed(app: relevo.App, url: str) -> Iterator[None]:
    """Set up what *app* needs there, and take it away at the end."""
    transport = app.transport()
    made = "\n".join(transport.setup(app.queues(transport.name), dry_run=True))
    names = {kind: re.findall(rf'\b{kind} "([^"]+)"', made) for kind in ("queue", "exchange")}
    try:
        app.setup()
        yield
    finally:
        app.close()
        delete(url, names["queue"], names["exchange"])
