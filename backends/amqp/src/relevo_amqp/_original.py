"""Messages that are published again as they came: their properties and headers, without those of the server."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from decimal import Decimal
from math import inf
from typing import Any

from relevo_amqp._header import ACQUIRED_COUNT, DELIVERY_COUNT, MAX_OWN, URGENCY, Properties

_PROPERTIES = (
    "content_type",
    "content_encoding",
    "priority",
    "correlation_id",
    "reply_to",
    "message_id",
    "timestamp",
    "type",
    "app_id",
)
"""Without the user, which the server compares with that of the connection, and the expiration, see Topology."""

_OF_THE_SERVER = {DELIVERY_COUNT, ACQUIRED_COUNT, "CC", "BCC", "x-death"} | {
    f"x-{which}-death-{what}" for which in ("first", "last") for what in ("exchange", "queue", "reason")
}
"""Headers that the server would obey, or writes again."""

_DEEPEST = 20


def original(properties: Properties, headers: Mapping[Any, Any], *, without: Collection[str]) -> dict[str, Any] | None:
    """
    Return the properties of a message, with its *headers*, for :func:`republished`.

    Args:
        properties: The properties.

        headers: The headers among them.

        without: The names of headers that relevo has added.

    Returns:
        The properties by name; ``None`` if the message cannot be published again, since its headers are too long,
        nested too deeply, or hold a number beyond 64 bits.
    """
    own = {name: value for name, value in headers.items() if name not in _OF_THE_SERVER and name not in without}
    if _size(own) > MAX_OWN:
        return None
    found = {name: getattr(properties, name, None) for name in _PROPERTIES}
    return {name: value for name, value in found.items() if value is not None} | {"headers": own}


def republished(came_with: Mapping[str, Any], *, delayed: bool) -> dict[str, Any]:
    """
    Return the properties with which a message is published again; the caller may add headers.

    Args:
        came_with: The result of :func:`original`.

        delayed: Whether it goes to the ladder, where a header holds its priority.
    """
    properties = {**came_with, "delivery_mode": 2, "headers": dict(came_with["headers"])}
    if delayed and (properties.pop("priority", None) or 0) > 4:
        properties["headers"][URGENCY] = "high"
    return properties


def _size(value: object, depth: int = 0) -> float:
    """Return the most bytes that *value* takes in a header; infinity if the driver cannot encode it."""
    if isinstance(value, str):
        return 5 + len(value.encode("utf-8", "backslashreplace"))
    if isinstance(value, bytes):
        return 5 + len(value)
    if isinstance(value, int):  # the driver reads a float as an integer of any size, and cannot write that
        return 9 if -(2**63) <= value < 2**63 else inf
    if value is None or isinstance(value, (Decimal, datetime)):
        return 9
    if depth < _DEEPEST and isinstance(value, list):
        return 5 + sum(_size(each, depth + 1) for each in value)
    if depth < _DEEPEST and isinstance(value, dict):
        return 5 + sum(_size(key) + _size(each, depth + 1) for key, each in value.items())
    return inf
