"""
CloudEvents that other programs publish, kept as they came.

When such an event is retried, delayed, moved or dead-lettered, its bytes, properties and headers are published again
with relevo's own headers beside them, so that other programs can still read it. The names of relevo's headers are
reserved: a header with such a name that another program sets is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from relevo import Envelope, ForeignEnvelope, Unreadable
from relevo.backend import foreign_envelope
from relevo.errors import DecodeError
from relevo_amqp._foreign import foreign
from relevo_amqp._header import (
    FOREIGN,
    HIGH_PRIORITY,
    MAX_OWN,
    PRIORITY,
    UNDECODABLE,
    URGENCY,
    VERSION,
    Properties,
    count,
    whole,
)
from relevo_amqp._original import original, republished

MAX_PRIORITY = 255
"""The largest priority of AMQP."""


def is_foreign(headers: Mapping[Any, Any]) -> bool:
    """Return whether a message with *headers* was published by another program, perhaps with relevo's beside them."""
    return (FOREIGN in headers or not whole(headers.get(VERSION))) and UNDECODABLE not in headers


def is_fresh(headers: Mapping[Any, Any]) -> bool:
    """Return whether relevo has not published a foreign message again, so that none of its *headers* is relevo's."""
    return not whole(headers.get(VERSION))


def read_cloud_event(
    properties: Properties, headers: Mapping[Any, Any], body: bytes, queue: str
) -> Envelope | Unreadable:
    """
    Return a foreign message as an envelope if it is a CloudEvent.

    Args:
        properties: The properties of the message.

        headers: The headers among them.

        body: The body.

        queue: Relevo's name of the queue.
    """
    came_with = original(properties, headers, without=[name for name in headers if _is_reserved(name)])
    if came_with is None:
        why = f"its headers have more than {MAX_OWN} bytes, are nested too deeply, or hold a number beyond 64 bits"
        return foreign(properties, headers, body, why)
    if not is_fresh(headers) and 0 <= count(headers.get(PRIORITY), least=-1) <= MAX_PRIORITY:
        came_with["priority"] = headers[PRIORITY]
    given, kept = came_with["headers"], _Published(came_with)
    try:
        event = foreign_envelope(properties.content_type, given, body, queue=queue, kept=kept)
    except DecodeError as error:
        return foreign(properties, headers, body, f"it was not sent by relevo: {error}")
    if came_with.get("priority", 0) > 4 or (not is_fresh(headers) and headers.get(URGENCY) == "high"):
        return attrs.evolve(event, urgency="high")
    return event


@attrs.frozen(eq=False, repr=False)
class _Published:
    """The properties and headers of a foreign event."""

    came_with: Mapping[str, Any]


def as_it_came(event: Envelope, headers: Mapping[str, Any], *, delayed: bool) -> tuple[dict[str, Any], bytes] | None:
    """
    Return the properties and the body with which a foreign *event* is published again.

    Args:
        event: Any event.

        headers: Those of relevo.

        delayed: Whether it goes to the ladder, where a header holds its priority.

    Returns:
        ``None`` if it is published as an event of relevo's own. So is one with headers of an envelope: relevo has sent
        and signed it.
    """
    if not isinstance(event, ForeignEnvelope) or not isinstance(event.kept, _Published) or event.headers:
        return None
    properties = republished(event.kept.came_with, delayed=delayed)
    properties["headers"] |= {FOREIGN: 1, **headers}
    priority = event.kept.came_with.get("priority")
    if delayed:
        properties["headers"] |= {} if priority is None else {PRIORITY: priority}
    if event.urgency == "high":
        if delayed:
            properties["headers"][URGENCY] = "high"
        else:
            properties["priority"] = max(HIGH_PRIORITY, priority or 0)
    return properties, event.original


def sent_at(properties: Properties, now: float) -> float:
    """Return when a message was published, in seconds since the epoch; *now* if it does not say so, or wrongly."""
    found = properties.timestamp
    return min(float(found), now) if whole(found) and found > 0 else now


def _is_reserved(name: object) -> bool:
    return isinstance(name, str) and (name == VERSION or name.startswith(f"{VERSION}-"))
