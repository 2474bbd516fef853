"""Publish events to RabbitMQ with the official Python SDK (PyPI: cloudevents): publish.py URL EXCHANGE KEY."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pika
from cloudevents.core.bindings import amqp, rabbitmq
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

TIME = datetime(2026, 11, 18, 11, 6, 40, tzinfo=UTC)
EVENTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "object": ({"image_id": 7, "ratio": 1.5}, {"subject": "image/7"}),
    "extensions": ({}, {"relevourgency": "high", "partitionkey": "cat 7", "tenant": "eu", "subject": "a/b/c.jpg"}),
    "json": ([1, {"two": None}], {}),
    "text": ('café "7"', {"datacontenttype": "text/plain"}),
    "bytes": (b"\x89PNG\x00\xff", {"datacontenttype": "image/png"}),
    "nothing": (None, {"datacontenttype": ...}),
}


def messages() -> Iterator[tuple[pika.BasicProperties, bytes]]:
    """Yield each event in each mode of each binding."""
    for name, (data, given) in EVENTS.items():
        attributes = {
            "type": "image.created",
            "source": "/sdk/python",
            "time": TIME,
            "datacontenttype": "application/json",
        }
        attributes = {key: value for key, value in {**attributes, **given}.items() if value is not ...}
        if name == "json":
            # in binary mode the SDK writes a list as Python does
            modes: dict[str, Any] = {"structured": rabbitmq.to_structured}
        else:
            modes = {"structured": rabbitmq.to_structured, "binary": rabbitmq.to_binary, "amqp": amqp.to_binary}
        for mode, to_message in modes.items():
            event = CloudEvent({**attributes, "id": f"{name} {mode}"}, data)
            message = to_message(event, JSONFormat())
            if mode == "amqp":
                content_type, headers = message.properties.get("content-type"), message.application_properties
                body = message.application_data
            else:
                content_type, headers, body = message.content_type, message.headers, message.body
            yield pika.BasicProperties(content_type=content_type, headers=headers), body


if __name__ == "__main__":
    url, exchange, key = sys.argv[1:]
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.confirm_delivery()
    for properties, body in messages():
        channel.basic_publish(exchange, key, body, properties, mandatory=True)
    connection.close()
    print(json.dumps(len(list(messages()))))
