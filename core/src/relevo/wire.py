"""An envelope as one blob, for transports whose store has no columns or headers of its own."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from relevo._transport.envelope import NO_HEADERS, Envelope, Urgency
from relevo.errors import DecodeError, EncodeError

__all__ = ["pack", "unpack"]

WIRE_VERSION = 1


class _Packed(msgspec.Struct, array_like=True, frozen=True):
    """The fields; new ones are added at the end only, with defaults, so that each release reads the other's."""

    version: int
    id: str
    source: str
    name: str
    queue: str
    body: bytes
    headers: Mapping[str, str]
    urgency: Urgency
    ordering_key: str | None
    expires: float | None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Packed).decode


def pack(envelope: Envelope) -> bytes:
    """
    Return *envelope* as bytes (MessagePack); :func:`unpack` returns an equal envelope.

    Raises:
        EncodeError: MessagePack cannot encode a value, such as text with a lone surrogate; names the field.
    """
    packed = _Packed(
        WIRE_VERSION,
        envelope.id,
        envelope.source,
        envelope.name,
        envelope.queue,
        envelope.body,
        dict(envelope.headers),
        envelope.urgency,
        envelope.ordering_key,
        envelope.expires,
    )
    try:
        return _encode(packed)
    except _UNFIT as error:
        raise EncodeError(envelope.name, f"$.{_unfit_field(packed)}", str(error)) from error


_UNFIT = (UnicodeEncodeError, OverflowError, TypeError)


def _unfit_field(packed: _Packed) -> str:
    """Return the first field of *packed* that MessagePack cannot encode."""
    for field in packed.__struct_fields__:
        try:
            _encode(getattr(packed, field))
        except _UNFIT:
            return field
    raise AssertionError(packed)


def unpack(blob: bytes) -> Envelope:
    """
    Return the envelope in *blob*, as :func:`pack` wrote it.

    Raises:
        DecodeError: *blob* is not a packed envelope; deliver it as :class:`relevo.Unreadable`.
    """
    try:
        packed = _decode(blob)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"not a packed envelope: {error}") from error
    if packed.version != WIRE_VERSION:
        raise DecodeError(
            f"packed by another release of relevo: version {packed.version}, this release reads {WIRE_VERSION}"
        )
    return Envelope(
        id=packed.id,
        source=packed.source,
        name=packed.name,
        queue=packed.queue,
        body=packed.body,
        headers=packed.headers or NO_HEADERS,
        urgency=packed.urgency,
        ordering_key=packed.ordering_key,
        expires=packed.expires,
    )
