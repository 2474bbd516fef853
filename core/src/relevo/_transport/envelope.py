"""The envelope: an event as bytes, with the fields that a transport needs."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import attrs

Urgency = Literal["normal", "high"]

NO_HEADERS: Mapping[str, str] = MappingProxyType({})
DEFAULT_QUEUE = "default"


@attrs.frozen(kw_only=True)
class Envelope:
    """
    An event as it is sent; the same on every transport, byte for byte.

    It does not change after the dispatch: attempts, progress and errors belong to the
    :class:`Delivery`.
    """

    id: str
    """Generated once, at the dispatch (UUIDv7); for a foreign event any text up to 255 characters."""

    source: str
    """The name of the application that dispatched it."""

    name: str
    """The event's name."""

    queue: str = DEFAULT_QUEUE
    """The named stream inside the transport."""

    body: bytes
    """A CloudEvents 1.0 JSON document. A transport never reads it."""

    headers: Mapping[str, str] = attrs.field(default=NO_HEADERS, hash=False)
    """Small values outside the body, such as its signature. A transport stores its own headers separately."""

    urgency: Urgency = "normal"
    """``high`` overtakes ``normal`` if the transport claims ``urgency``."""

    ordering_key: str | None = None
    """Events of one queue and key are handled in order if the transport claims ``order``."""

    expires: float | None = None
    """Seconds since the epoch after which no listener is called; the worker checks it, not the transport."""

    def __reduce__(self) -> tuple[object, ...]:
        values = {field.name: getattr(self, field.name) for field in attrs.fields(Envelope)}  # not those of a subclass
        return _again, ({**values, "headers": dict(self.headers)},)


@attrs.frozen(kw_only=True)
class ForeignEnvelope(Envelope):
    """
    A CloudEvent that another program published, as relevo reads it, with what that program published.

    A transport returns it where anyone can publish, see :func:`relevo.backend.foreign_envelope`. It is handled as any
    envelope is; its retries and its dead letter keep the original. A pickled one is an :class:`Envelope`.
    """

    original: bytes
    """The bytes as they were published; the same as the body, or its data alone."""

    original_headers: Mapping[Any, Any] = attrs.field(hash=False)
    """The headers as they were published; the values may be of any type."""

    kept: Any = attrs.field(default=None, hash=False, eq=False, repr=False)
    """What the transport that made it needs to store it again unchanged. It is opaque."""


def _again(values: Mapping[str, Any]) -> Envelope:
    """Unpickle an envelope; a read-only mapping does not pickle."""
    return Envelope(**{**values, "headers": values["headers"] or NO_HEADERS})
