"""Flavours: fields that all events of a scenario share, and that must make no difference to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from relevo import Capabilities


@attrs.frozen(kw_only=True)
class Flavour:
    """The fields that the events of a scenario have, unless the scenario states others."""

    words: str = ""
    fields: Mapping[str, Any] = attrs.field(factory=dict)
    id_end: str = ""
    queue_end: str = ""
    key: str | None = None
    """The beginning of the ordering key that each event has for itself; ``None`` for no key."""

    def defaults(self, event_id: str) -> Mapping[str, Any]:
        """Return the fields of an event with an id that begins with *event_id*."""
        key = {} if self.key is None else {"ordering_key": self.key + event_id}
        return {**self.fields, **key, "id": event_id + self.id_end}


PLAIN = Flavour()

_HEADERS = {"number": "007", "exponent": "1e3", "truth": "True", "nothing": "null", "empty": "", "spaces": " a\t"}


def flavours(capabilities: Capabilities) -> Iterator[Flavour]:
    """Yield the flavours that a transport with *capabilities* can have besides :data:`PLAIN`."""
    yield Flavour(
        words="odd texts, and a key for each event",
        fields={"source": "Shop/%_ ", "name": "Image.Created e\u0301", "headers": _HEADERS},
        id_end="/:é_%'\" ",
        queue_end="@/:é_%'\"",
        key="key " if capabilities.order == "per key" else None,
    )
    yield Flavour(
        words="urgent events that have expired",
        fields={"urgency": "high" if capabilities.urgency else "normal", "expires": 1_000_000_000.123457},
    )
