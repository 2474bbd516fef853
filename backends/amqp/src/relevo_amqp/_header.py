"""
Headers by name, and the validation of their values, which any sender can set.

All headers of a message must fit into one frame of 128 KiB, or the server closes the connection. So each header has a
bound, and the sum of the bounds fits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeGuard

from relevo import MAX_DEATHS, MAX_STATE, Note

NO_HEADERS: Mapping[str, str] = MappingProxyType({})
WIRE_VERSION = 1

HIGH_PRIORITY = 9
"""Above every default: before 4.3 a priority from 5 on is high; since 4.3 there are 32 levels and 4 is the default."""

MAX_SHORT = 255
"""The most bytes of a short string in AMQP."""

MAX_OWN = 80_000
"""The most bytes of an event's own headers; the rest of the frame is for its state and its dead-letter details."""

MAX_FOREIGN = 32 * 1024
"""The most bytes of foreign headers that are kept."""

MAX_REASON = 255
MAX_REF = 300
MAX_WHY = 2000
MAX_QUEUE = 1000

MAX_NOTE = 8 * 1024
"""The most bytes of a note. A dead letter has an error instead of a note and deaths."""

MAX_DEATH = 1000
"""The most bytes of one death; there are at most three."""

PLAIN = "plain-"
"""The prefix of the keys of messages that have no key of their own."""

_CENTURY = 36_525 * 86_400.0
MAX_AHEAD = _CENTURY + 86_400.0
"""Seconds: the longest delay of a dispatch, a century, and a day for clocks that differ."""

_SUSPECT = re.compile(r"[0-9a-f]{13,16}-[0-9a-f]{8,64}", re.ASCII)
_PLACE = re.compile(rf"(\d{{1,10}})@({_SUSPECT.pattern}|{PLAIN}[0-9a-f]{{32}})", re.ASCII)
_SURROGATE = re.compile("[\ud800-\udfff]")

_LAST_MICRO = 253_402_300_800 * 1_000_000
"""The end of the year 9999."""

# A missing header means the default.
VERSION, SENT_AT, QUEUE = "relevo", "relevo-at", "relevo-queue"
ATTEMPT, LOST_LEASES, STATE, DUE = "relevo-attempt", "relevo-lost-leases", "relevo-state", "relevo-due"
URGENCY, EXPIRES, HEADERS, UNREADABLE = "relevo-urgency", "relevo-expires", "relevo-headers", "relevo-unreadable"
SUSPECT, BEGUN, DEATHS = "relevo-suspect", "relevo-begun", "relevo-deaths"
BEGUN_AT = "relevo-begun-at"
REF, REASON, ERROR, DIED_AT = "relevo-ref", "relevo-reason", "relevo-error", "relevo-died-at"
LONG_ID, LONG_NAME, LONG_SOURCE = "relevo-id", "relevo-name", "relevo-source"
FOREIGN = "relevo-foreign"
"""Marks a CloudEvent of another program that relevo has published again, see :mod:`relevo_amqp._cloud_event`."""

PRIORITY = "relevo-priority"
"""The priority with which such an event came, while it is delayed."""

MET = "relevo-met"
"""When a release that cannot read the message first received it; see :mod:`relevo_amqp._newer`."""

DELIVERY_COUNT, ACQUIRED_COUNT = "x-delivery-count", "x-acquired-count"
UNDECODABLE = "x-relevo-undecodable"
"""Replaces headers that the driver cannot decode; it is never sent."""


class NotePlace(NamedTuple):
    """The place of a note in the stream: a later entry with the same place replaces it."""

    key: str
    """Identifies the message that was begun."""

    hand_over: int
    """How many hand-overs of that message were lost before."""


class Properties(Protocol):
    """The properties of a received message that relevo reads."""

    content_type: Any
    message_id: Any
    type: Any
    app_id: Any
    priority: Any
    timestamp: Any
    headers: Any


def headers_of(properties: Properties) -> Mapping[Any, Any]:
    """Return the headers; none if they are missing."""
    return properties.headers if isinstance(properties.headers, Mapping) else NO_HEADERS


def micros(seconds: float) -> int:
    """Return *seconds* in microseconds, as headers hold them."""
    return round(seconds * 1_000_000)


def seconds(value: object, otherwise: float) -> float:
    """Return the seconds for a header's *value* in microseconds; *otherwise* if it is not a time."""
    return (value if whole(value) and 0 <= value < _LAST_MICRO else micros(otherwise)) / 1_000_000


def whole(value: object) -> TypeGuard[int]:
    """Return whether *value* is an integer and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def count(value: object, *, least: int = 0) -> int:
    """Return the counter in *value*; *least* if it is not a valid counter."""
    return value if whole(value) and least <= value < 1 << 31 else least


def is_newer(headers: Mapping[Any, Any]) -> bool:
    """Return whether *headers* are of a higher wire version than this release reads."""
    version = headers.get(VERSION)
    return whole(version) and version > WIRE_VERSION


def text(value: object) -> str | None:
    """Return *value* if it is text, else ``None``."""
    return value if isinstance(value, str) else None


def suspect(value: object) -> str:
    """Return *value* if it is a valid key of a suspect's message; else an empty string."""
    return value if isinstance(value, str) and _SUSPECT.fullmatch(value) else ""


def suspected_at(key: str) -> float:
    """Return when the message with *key* was written, in seconds since the epoch."""
    return int(key.partition("-")[0], 16) / 1_000_000


def noted_since(key: str, enqueued_at: float) -> float:
    """Return the earliest time of a note on the message with *key*; *enqueued_at* is that of its event."""
    return enqueued_at if key.startswith(PLAIN) else suspected_at(key)


def state(value: object) -> bytes:
    """
    Return the state in *value*, which another program may have set, cut at :data:`MAX_STATE` bytes.

    The worker finds that it is invalid, or not signed; the event can be read nevertheless.
    """
    return (value if isinstance(value, bytes) else shown(value).encode("utf-8", "backslashreplace"))[:MAX_STATE]


def note(value: object) -> Note | None:
    """Return the note in *value*; ``None`` if *value* is not a valid note."""
    return Note.unpacked(value) if isinstance(value, str) and len(value) <= MAX_NOTE else None


def packed_place(place: NotePlace) -> str:
    """Return *place* as a header holds it."""
    return f"{place.hand_over}@{place.key}"


def note_place(value: object) -> NotePlace | None:
    """Return the place of a note in *value*; ``None`` if *value* is not a valid place."""
    found = _PLACE.fullmatch(value) if isinstance(value, str) else None
    return None if found is None else NotePlace(found[2], int(found[1]))


def deaths(value: object) -> tuple[str, ...]:
    """Return the processes in *value*, without invalid ones."""
    if not isinstance(value, (list, tuple)):
        return ()
    return tuple(each for each in value if isinstance(each, str) and _is_death(each))[-MAX_DEATHS:]


def _is_death(value: str) -> bool:
    return len(value.encode("utf-8", "backslashreplace")) <= MAX_DEATH and not _SURROGATE.search(value)


def number(value: object) -> float:
    """Return the number in *value*; NaN if it is not a number."""
    try:
        return float(value) if isinstance(value, (str, int)) else float("nan")
    except (ValueError, OverflowError):
        return float("nan")


def queue_named(headers: Mapping[Any, Any], received_from: str) -> str:
    """Return the queue in the headers; *received_from* if there is none."""
    name = text(headers.get(QUEUE))
    return name if name and fits_as_queue(name) else received_from


def fits_as_queue(name: str) -> bool:
    """Return whether the *name* of a queue is short enough for a header."""
    return len(name.encode("utf-8", "backslashreplace")) <= MAX_QUEUE


def fitting(text: str, limit: int) -> str:
    """Return *text* with lone surrogates escaped, cut at *limit* bytes of UTF-8; control characters stay."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) > limit:
        return data[: limit - 3].decode("utf-8", "ignore") + "…"
    return data.decode("utf-8")


def shown(value: object) -> str:
    """Return *value* as text, whatever its type."""
    try:
        return value if isinstance(value, str) else repr(value)
    except Exception as error:  # noqa: BLE001 - it may be nested deeper than the stack
        return f"{type(value).__name__} that cannot be shown: {type(error).__name__}"
