"""
Messages of a newer release of relevo, kept unchanged until a worker that can read them receives them.

During a rolling deploy old and new workers share a queue. A message with a higher wire version is delayed on the ladder
and comes again, later each time, until ``patience`` has passed; then it is handed out as unreadable. Its bytes and
headers never change, even among the dead letters, so that a newer release can revive it.

Therefore some headers have one meaning in every version: the version itself, the two counters, the queue, the urgency,
the due time, the four of a dead letter, and the time at which a release that cannot read the message first met it.
These are written beside the original headers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from relevo import Unreadable
from relevo_amqp._foreign import foreign
from relevo_amqp._header import DIED_AT, ERROR, MET, REASON, REF, VERSION, WIRE_VERSION, Properties, micros, seconds
from relevo_amqp._original import original, republished

_ADDED = {MET, REF, REASON, ERROR, DIED_AT}
"""Headers that an older release adds."""

_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0
"""Seconds; a wait is as long as the time since the first one, so it doubles each time."""


@attrs.frozen(kw_only=True)
class Newer(Unreadable):
    """An event in a wire version that this release does not know."""

    came_with: Mapping[str, Any] = attrs.field(hash=False)
    """The properties and headers, as they can be published again."""

    met: float | None = None
    """When a release that cannot read it first received it, in seconds since the epoch."""

    def met_at(self, now: float) -> Newer:
        """Return the event as received at *now*; an earlier time stays."""
        return attrs.evolve(self, met=now if self.met is None else min(self.met, now))


def newer(properties: Properties, headers: Mapping[Any, Any], body: bytes, now: float) -> Newer | None:
    """Return the event in a message of a higher wire version; ``None`` if it cannot be published unchanged."""
    came_with = original(properties, headers, without=_ADDED)
    if came_with is None:
        return None
    shown = foreign(
        properties,
        came_with["headers"],
        body,
        f"it has wire version {headers[VERSION]}; this relevo reads version {WIRE_VERSION}",
    )
    met = seconds(headers[MET], now) if MET in headers else None
    return Newer(raw=body, headers=shown.headers, why=shown.why, came_with=came_with, met=met)


def as_it_came(event: Newer, *, delayed: bool) -> dict[str, Any]:
    """
    Return the properties with which *event* is published again; the caller may add headers.

    Args:
        event: The event as it was received.

        delayed: Whether it goes to the ladder, where a header holds its priority.
    """
    properties = republished(event.came_with, delayed=delayed)
    if event.met is not None:
        properties["headers"][MET] = micros(event.met)
    return properties


def wait_for_newer(event: Newer, now: float, *, patience: float) -> float:
    """
    Return the seconds for which *event* is delayed; 0 once *patience* has passed.

    Args:
        event: An event of a newer release.

        now: Seconds since the epoch.

        patience: Seconds since it was first met.
    """
    elapsed = now - (now if event.met is None else event.met)
    left = patience - elapsed
    return min(max(_FIRST_WAIT, elapsed), _LONGEST_WAIT, left) if left > 0.0 else 0.0
