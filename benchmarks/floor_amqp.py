"""RabbitMQ through pika alone: the limit for every transport that uses pika unchanged."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

import pika
from pika.adapters.select_connection import SelectConnection

BODY = (
    json.dumps({"image_id": 7, "filename": "coffee.jpg", "width": 600, "height": 400, "tags": ["a", "b"]}).encode() * 3
)
PERSISTENT = pika.BasicProperties(delivery_mode=2)
QUORUM = {"x-queue-type": "quorum"}


def floor_amqp(url: str, events: int) -> dict[str, float]:
    """Return events a second: confirmed one by one, confirmed with a window of 1000, consumed and acked per 100."""
    queue = f"floor-{uuid.uuid4().hex[:8]}"
    single = max(50, events // 50)
    try:
        dispatched = published(url, queue, single, window=1)
        sent = published(url, queue, events, window=1000)
        handled = _consumed(url, queue, single + events)
    finally:
        connection = pika.BlockingConnection(pika.URLParameters(url))
        connection.channel().queue_delete(queue)
        connection.close()
    return {"dispatch": dispatched, "send x 1000": sent, "handle": handled}


def published(url: str, queue: str, count: int, *, window: int, body: bytes = BODY) -> float:
    """Return events a second into *queue*, with at most *window* unconfirmed events in flight."""
    state = {"out": 0, "confirmed": 0, "began": 0.0, "ended": 0.0}

    def fill(channel: Any) -> None:
        while state["out"] < count and state["out"] - state["confirmed"] < window:
            channel.basic_publish("", queue, body, PERSISTENT, mandatory=True)
            state["out"] += 1

    def ready(channel: Any) -> None:
        def confirmed(frame: Any) -> None:
            state["confirmed"] = frame.method.delivery_tag if frame.method.multiple else state["confirmed"] + 1
            if state["confirmed"] >= count:
                state["ended"] = time.perf_counter()
                channel.connection.close()
            elif state["out"] - state["confirmed"] <= window // 2:
                fill(channel)

        def declared(_: Any) -> None:
            channel.confirm_delivery(confirmed)
            state["began"] = time.perf_counter()
            fill(channel)

        channel.queue_declare(queue, durable=True, arguments=QUORUM, callback=declared)

    connected(url, ready)
    return count / (state["ended"] - state["began"])


def _consumed(url: str, queue: str, count: int) -> float:
    state = {"n": 0, "began": 0.0, "ended": 0.0}

    def ready(channel: Any) -> None:
        def received(_: Any, method: Any, __: Any, body: bytes) -> None:
            json.loads(body[: len(body) // 3])
            state["n"] += 1
            if state["n"] % 100 == 0 or state["n"] == count:
                channel.basic_ack(method.delivery_tag, multiple=True)
            if state["n"] == count:
                state["ended"] = time.perf_counter()
                channel.connection.close()

        channel.basic_qos(prefetch_count=1000)
        state["began"] = time.perf_counter()
        channel.basic_consume(queue, received)

    connected(url, ready)
    return count / (state["ended"] - state["began"])


def connected(url: str, ready: Any) -> None:
    """Call *ready* with a channel, and return when its connection is closed."""
    connection = SelectConnection(
        pika.URLParameters(url),
        on_open_callback=lambda made: made.channel(on_open_callback=ready),
        on_close_callback=lambda made, _: made.ioloop.stop(),
    )
    connection.ioloop.start()
