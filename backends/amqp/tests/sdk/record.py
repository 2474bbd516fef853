"""
Record what an SDK publishes, as JSON: record.py NOTE URL PROGRAM….

``record.py "cloudevents 2.2.0" amqp://localhost python publish.py`` runs the program with the URL, an exchange and a
key, and prints the messages that arrived: their properties, headers and bodies as they were on the wire.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from datetime import datetime
from typing import Any

import pika


def as_json(value: Any) -> Any:
    """Return the *value* of a header; one that is not JSON is tagged with its type."""
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    return {"time": value.isoformat()} if isinstance(value, datetime) else value


def recorded(url: str, *program: str) -> list[dict[str, Any]]:
    """Return the messages that *program* publishes."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    subprocess.run([*program, url, "", queue], check=True, stdout=sys.stderr)
    found = []
    while (message := channel.basic_get(queue, auto_ack=True))[0] is not None:
        _, properties, body = message
        found.append(
            {
                "content_type": properties.content_type,
                "headers": {name: as_json(value) for name, value in (properties.headers or {}).items()},
                "body": base64.b64encode(body).decode(),
            }
        )
    connection.close()
    return found


if __name__ == "__main__":
    note, *arguments = sys.argv[1:]
    json.dump({"note": note, "messages": recorded(*arguments)}, sys.stdout, indent=1)
    print()
