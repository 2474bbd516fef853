"""
Messages of a newer release of relevo, kept unchanged until a worker receives them that can read them.

During a rolling deploy old and new workers share a queue. A message with a higher version of the wire
goes up the ladder and comes again, later each time, for as long as patience lasts; after that it is
handed out as unreadable. Whatever becomes of it, its bytes and its headers stay as they came: also
among the dead letters, so that a newer release can revive it.

So that this works, some headers have one meaning in every version: the version itself, the two
counters, the queue, the urgency, when it is due, the four of a death, and since when a release that
cannot read it has met it. These are written beside what came.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from math import inf
from typing import Any

import attrs

from relevo import Unreadable
from relevo_amqp._foreign import foreign
from relevo_amqp._header import (
    ACQUIRED_COUNT,
    DELIVERY_COUNT,
    DIED_AT,
    ERROR,
    MAX_OWN,
    MET,
    REASON,
    REF,
    URGENCY,
    VERSION,
    WIRE_VERSION,
    Properties,
    micros,
    seconds,
    whole,
)

_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0
"""Seconds; as long as what it is waited for, and so doubled each time."""

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
"""Not the user, whom the server compares with that of the connection, and not an expiration, see Topology."""

_NOT_ITS_OWN = {DELIVERY_COUNT, ACQUIRED_COUNT, MET, REF, REASON, ERROR, DIED_AT, "CC", "BCC", "x-death"} | {
    f"x-{which}-death-{what}" for which in ("first", "last") for what in ("exchange", "queue", "reason")
}
"""The server's, which it would take for orders or writes again, and what an older release added."""

_DEEPEST = 20


@attrs.frozen(kw_only=True)
class Newer(Unreadable):
    """An event in a version of the wire that is not known yet."""

    came_with: Mapping[str, Any] = attrs.field(hash=False)
    """Its properties and headers, as they can be published again."""

    met: float | None = None
    """When it was first received by a release that cannot read it, in seconds since the epoch."""

    def met_at(self, now: float) -> Newer:
        """Return it as received at *now*, for the first time unless it was before."""
        return attrs.evolve(self, met=now if self.met is None else min(self.met, now))


def newer(properties: Properties, headers: Mapping[Any, Any], body: bytes, now: float) -> Newer | None:
    """Return what a newer release sent, or ``None`` if it did not, or it could not be published again as it came."""
    version = headers.get(VERSION)
    if not whole(version) or version <= WIRE_VERSION:
        return None
    own = {name: value for name, value in headers.items() if name not in _NOT_ITS_OWN}
    if _size(own) > MAX_OWN:
        return None
    came_with = {name: getattr(properties, name, None) for name in _PROPERTIES}
    came_with = {name: value for name, value in came_with.items() if value is not None}
    shown = foreign(properties, own, body, f"it has wire version {version}; this relevo reads version {WIRE_VERSION}")
    met = seconds(headers[MET], now) if MET in headers else None
    return Newer(raw=body, headers=shown.headers, why=shown.why, came_with={**came_with, "headers": own}, met=met)


def as_it_came(event: Newer, *, delayed: bool) -> dict[str, Any]:
    """
    Return the properties with which *event* is published again; the headers among them may be added to.

    Args:
        event: What came.

        delayed: It goes up the ladder, where its priority waits in a header.
    """
    properties = {**event.came_with, "delivery_mode": 2, "headers": dict(event.came_with["headers"])}
    if delayed and (properties.pop("priority", None) or 0) > 4:
        properties["headers"][URGENCY] = "high"
    if event.met is not None:
        properties["headers"][MET] = micros(event.met)
    return properties


def wait_for_newer(event: Newer, now: float, *, patience: float) -> float:
    """
    Return for how many seconds *event* is not looked at again; 0 once patience has run out.

    Args:
        event: Of a newer release.

        now: Seconds since the epoch.

        patience: Seconds from when it was first met.
    """
    elapsed = now - (now if event.met is None else event.met)
    left = patience - elapsed
    return min(max(_FIRST_WAIT, elapsed), _LONGEST_WAIT, left) if left > 0.0 else 0.0


def _size(value: object, depth: int = 0) -> float:
    """Return the bytes that *value* takes in a header at most; infinitely many if the driver could not write it."""
    if isinstance(value, str):
        return 5 + len(value.encode("utf-8", "backslashreplace"))
    if isinstance(value, bytes):
        return 5 + len(value)
    if value is None or isinstance(value, (int, Decimal, datetime)):
        return 9
    if depth < _DEEPEST and isinstance(value, list):
        return 5 + sum(_size(each, depth + 1) for each in value)
    if depth < _DEEPEST and isinstance(value, dict):
        return 5 + sum(_size(key) + _size(each, depth + 1) for key, each in value.items())
    return inf
