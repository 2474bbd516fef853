"""
An application's channels and messages as an AsyncAPI document.

The form is that of https://www.asyncapi.com/docs/reference/specification/v3.0.0. A channel is a queue of a
transport, a message is an event, and its payload the CloudEvents 1.0.2 document that travels
(https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md). AsyncAPI's own schemas
are based on draft 7 of JSON Schema, which writes lists of fixed length differently.
Servers are left out, since their addresses depend on the deployment.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from relevo._event.event import MAX_VERSION, EventType
from relevo._listener.listener import Listener
from relevo._schema.schema import Schema, rewritten, schema_of
from relevo._transport.route import NOW, Routes, Target
from relevo.errors import RouteNotFoundError

_TEXT = {"type": "string", "minLength": 1}
_ENVELOPE = "CloudEvent"
_CLOUD_EVENT: Schema = {
    "title": "CloudEvents 1.0 in JSON",
    "type": "object",
    "required": ["id", "source", "specversion", "type"],
    "properties": {
        "specversion": {"const": "1.0"},
        "id": _TEXT,
        "source": {**_TEXT, "format": "uri-reference"},
        "type": _TEXT,
        "time": {"type": "string", "format": "date-time"},
        "subject": {**_TEXT, "description": "type/id, both percent-encoded"},
        "datacontenttype": _TEXT,
        "dataversion": {"type": "integer", "minimum": 1, "maximum": MAX_VERSION},
        "correlationid": _TEXT,
        "causationid": _TEXT,
        "traceparent": _TEXT,
        "relevourgency": {"enum": ["high", "normal"], "description": "of an event of another program"},
        "partitionkey": {**_TEXT, "description": "of an event of another program: its ordering key"},
        "expirytime": {"type": "string", "format": "date-time", "description": "of an event of another program"},
        "relevocontext": {**_TEXT, "description": "JSON, as text: what the application adds"},
        "data": {"type": "object"},
    },
}


def asyncapi(
    kinds: Iterable[EventType], *, source: str, version: str, routes: Routes, listeners: Sequence[Listener]
) -> Schema:
    """
    Return the AsyncAPI document of an application.

    Args:
        kinds: The declared events to document.

        source: The application's name.

        version: The version of the application's interface.

        routes: The routing table; each queue that one of *kinds* is routed to is a channel with a send operation.

        listeners: The application's listeners; each channel in which one runs has a receive operation.
    """
    named = {kind.name: kind for kind in kinds}
    keys = _keys(named)
    schemas: Schema = {_ENVELOPE: _CLOUD_EVENT}
    channels: Schema = {}
    operations: Schema = {}
    for name, key in keys.items():
        schemas |= _data(key, schema_of(named[name]))
        targets = _targets(routes, name)
        for target in targets:
            if target.transport == NOW:
                continue
            channel = f"{target.transport}.{_key(target.queue)}"
            made = channels.setdefault(channel, {"address": target.queue, "title": str(target), "messages": {}})
            made["messages"][key] = {"$ref": f"#/components/messages/{key}"}
            _operate(operations, "send", channel, key)
            if any(_runs_in(target, each, targets) for each in listeners if each.event_name == name):
                _operate(operations, "receive", channel, key)
    return {
        "asyncapi": "3.0.0",
        "info": {"title": source, "version": version},
        "defaultContentType": "application/cloudevents+json",
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": {key: _message(name, key, named[name].version) for name, key in keys.items()},
            "schemas": schemas,
        },
    }


def _message(name: str, key: str, version: int) -> Schema:
    own = {"type": {"const": name}, "dataversion": {"const": version}, "data": {"$ref": f"#/components/schemas/{key}"}}
    envelope = {"$ref": f"#/components/schemas/{_ENVELOPE}"}
    return {
        "name": name,
        "title": name,
        "contentType": "application/cloudevents+json",
        "correlationId": {"location": "$message.payload#/correlationid"},
        "payload": {"allOf": [envelope, {"type": "object", "required": ["data"], "properties": own}]},
    }


def _data(key: str, schema: Schema) -> Schema:
    """Return *schema* and the schemas that it refers to, by their names among the components."""

    def change(each: Schema) -> Schema:
        kept = {word: value for word, value in each.items() if word not in ("$schema", "$id", "discriminator")}
        if "$ref" in kept:
            kept["$ref"] = f"#/components/schemas/{key}.{_key(kept['$ref'].rpartition('/')[2])}"
        if "prefixItems" in kept:
            if "items" in kept:
                kept["additionalItems"] = kept["items"]
            kept["items"] = kept.pop("prefixItems")
        return kept

    moved = rewritten(schema, change)
    parts = moved.pop("$defs", {})
    return {key: moved} | {f"{key}.{_key(name)}": part for name, part in parts.items()}


def _operate(operations: Schema, action: str, channel: str, key: str) -> None:
    where = {"$ref": f"#/channels/{channel}"}
    made = operations.setdefault(f"{action}.{channel}", {"action": action, "channel": where, "messages": []})
    made["messages"].append({"$ref": f"#/channels/{channel}/messages/{key}"})


def _targets(routes: Routes, name: str) -> Sequence[Target]:
    try:
        return routes.targets(name)
    except RouteNotFoundError:
        return ()


def _runs_in(target: Target, listener: Listener, targets: Sequence[Target]) -> bool:
    return listener.queue in (target.queue, str(target)) if listener.queue else target is targets[0]


def _keys(names: Iterable[Any]) -> dict[str, str]:
    """Return unique component keys for *names*; only A-Z a-z 0-9 . - _ are allowed in a key."""
    taken = {_ENVELOPE}
    found: dict[str, str] = {}
    for name in sorted(names):
        key = _key(name)
        while key in taken:
            key += "_"
        taken.add(key)
        found[name] = key
    return found


def _key(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)
