"""Messages that are not events of relevo: unchanged bytes, and the headers as text if possible."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from relevo import Unreadable
from relevo_amqp._header import (
    ACQUIRED_COUNT,
    DELIVERY_COUNT,
    MAX_FOREIGN,
    MAX_SHORT,
    MAX_WHY,
    NO_HEADERS,
    Properties,
    fitting,
    shown,
)

_NOT_SHOWN = (DELIVERY_COUNT, ACQUIRED_COUNT)


def foreign(properties: Properties, headers: Mapping[Any, Any], body: bytes, why: str) -> Unreadable:
    """
    Return a message as an unreadable event.

    Args:
        properties: The properties of the message.

        headers: The headers among them.

        body: The body, which is kept whole.

        why: Why it cannot be read; the names of headers that are too long are added.
    """
    own = {name: getattr(properties, name) for name in ("content_type", "message_id", "type", "app_id")}
    given = {name: value for name, value in own.items() if value is not None}
    named = {name if isinstance(name, str) else ascii(name): value for name, value in headers.items()}
    everything = [*given.items(), *named.items()]
    return bounded(body, ((name, shown(value)) for name, value in everything if name not in _NOT_SHOWN), why)


def bounded(body: bytes, headers: Iterable[tuple[str, str]], why: str) -> Unreadable:
    """Return *body* with those of *headers* that fit; *why* then names the others. Bounding twice changes nothing."""
    kept: dict[str, str] = {}
    dropped: list[str] = []
    room = MAX_FOREIGN
    for name, value in headers:
        key, content = fitting(name, MAX_SHORT), fitting(value, len(value) * 10)
        size = len(json.dumps({key: content}))
        if size <= room:
            kept[key] = content
            room -= size
        else:
            dropped.append(f"{fitting(name, 40)} ({len(value)})")
    if dropped:
        why = f"{why}; headers that are too long to be kept, with their characters: {', '.join(dropped[:10])}"
        why += f" and {len(dropped) - 10} more" if len(dropped) > 10 else ""
    return Unreadable(raw=body, headers=MappingProxyType(kept) if kept else NO_HEADERS, why=fitting(why, MAX_WHY))
