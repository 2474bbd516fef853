"""A message as one blob, for a store that keeps it: its properties, as AMQP encodes them, and its body."""

from __future__ import annotations

import struct

from pika import BasicProperties

from relevo_amqp._header import Properties
from relevo_amqp._mapping import Message

_LENGTH = struct.Struct(">I")
"""The length of the properties; they come before the body."""


def packed(message: Message) -> bytes:
    """Return the properties and the body of *message* as bytes."""
    properties = b"".join(BasicProperties(**message.properties).encode())
    return _LENGTH.pack(len(properties)) + properties + message.body


def unpacked(blob: bytes) -> tuple[Properties, bytes]:
    """
    Return the properties and the body that :func:`packed` has made *blob* of.

    What is not such a blob is a body without properties, so that a message is read from it as a foreign one.
    """
    properties = BasicProperties()
    try:
        (length,) = _LENGTH.unpack_from(blob)
        body = blob[_LENGTH.size + length :]
        properties.decode(blob[_LENGTH.size : _LENGTH.size + length])
    except Exception:  # noqa: BLE001 - pika raises errors of any type for bytes that are not properties
        return BasicProperties(), blob
    return properties, body
