"""
The frames of a dispatch: a publish as bytes, and confirmations out of bytes.

The messages of one name to one queue differ in id, time and body alone. The bytes around these are made by pika once,
as a *mould*, and joined with them: a tenth of the time that pika takes for each message. A message that has no mould is
encoded by pika. Confirmations are frames of one size, and are read where they come first in what was received; pika
reads everything else.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

import attrs
from pika import BasicProperties
from pika.frame import Body, Header, Method
from pika.spec import FRAME_BODY, FRAME_END, FRAME_END_SIZE, FRAME_HEADER, FRAME_HEADER_SIZE, FRAME_METHOD, Basic

from relevo_amqp import _header as header
from relevo_amqp._mapping import Message

_MOST_MOULDS = 1000

_PLAIN = frozenset({"content_type", "delivery_mode", "headers", "message_id", "type", "app_id"})
"""The properties of a message that can have a mould."""

_PLAIN_HEADERS = frozenset({header.VERSION, header.SENT_AT})

_ID = "0000000000000000000000relevo-mould-id"
_AT = 0x0123_4567_89AB_CDEF
"""Values that stand in the example for those that differ."""

_SMALLEST_AT = 1 << 31
"""pika encodes a smaller integer in four bytes."""

_SIZES = struct.Struct(">HHQ")
_HEAD = struct.Struct(">BHL")
_TIME = struct.Struct(">q")
_INDEX = struct.Struct(">L")
_ACK = struct.Struct(">QB")
_END = bytes((FRAME_END,))


@attrs.frozen
class _Mould:
    """The bytes of a publish, without what differs."""

    method: bytes
    before_at: bytes
    before_id: bytes
    after_id: bytes
    kind: tuple[int, int]
    """The class and the weight that begin the header of the contents."""

    def cast(self, channel: int, at: int, message_id: bytes, body: bytes) -> bytes:
        """Return a whole publish."""
        between = b"%b%b%b%c%b%b" % (
            self.before_at,
            _TIME.pack(at),
            self.before_id,
            len(message_id),
            message_id,
            self.after_id,
        )
        size = len(body)
        head = _HEAD.pack(FRAME_HEADER, channel, len(between) + _SIZES.size) + _SIZES.pack(*self.kind, size)
        if not size:
            return b"%b%b%b%b" % (self.method, head, between, _END)
        return b"%b%b%b%b%b%b%b" % (
            self.method,
            head,
            between,
            _END,
            _HEAD.pack(FRAME_BODY, channel, size),
            body,
            _END,
        )


class Encoder:
    """
    Encodes messages for one channel.

    Args:
        channel: The number of the channel.

        frame_max: The most bytes of a frame.
    """

    def __init__(self, channel: int, frame_max: int):
        self._channel = channel
        self._most = frame_max - FRAME_HEADER_SIZE - FRAME_END_SIZE
        self._moulds: dict[tuple[object, ...], _Mould | None] = {}

    def encoded(self, message: Message) -> bytes:
        """Return *message* as the bytes of a publish; an error of pika's if a value cannot be encoded."""
        properties = message.properties
        body = message.body
        if properties.keys() == _PLAIN and len(body) <= self._most:
            headers = properties["headers"]
            if headers.keys() == _PLAIN_HEADERS and headers[header.SENT_AT] >= _SMALLEST_AT:
                mould = self._mould(message)
                message_id = properties["message_id"].encode()
                if mould is not None and len(message_id) <= header.MAX_SHORT:
                    return mould.cast(self._channel, headers[header.SENT_AT], message_id, body)
        return self._marshalled(message)

    def _mould(self, message: Message) -> _Mould | None:
        properties = message.properties
        kind = (
            message.exchange,
            message.key,
            properties["type"],
            properties["app_id"],
            properties["content_type"],
            properties["delivery_mode"],
            properties["headers"][header.VERSION],
        )
        try:
            return self._moulds[kind]
        except KeyError:
            if len(self._moulds) >= _MOST_MOULDS:
                self._moulds.clear()
            mould = self._moulds[kind] = self._new(message)
            return mould

    def _new(self, message: Message) -> _Mould | None:
        """Return the mould of *message*, made from an example; ``None`` if the example has its parts elsewhere."""
        headers = {**message.properties["headers"], header.SENT_AT: _AT}
        example = Header(
            self._channel, 0, BasicProperties(**{**message.properties, "headers": headers, "message_id": _ID})
        ).marshal()
        contents = example[FRAME_HEADER_SIZE:-FRAME_END_SIZE]
        at, message_id = _TIME.pack(_AT), bytes((len(_ID),)) + _ID.encode()
        if contents.count(at) != 1 or contents.count(message_id) != 1:
            return None
        before_at, _, rest = contents[_SIZES.size :].partition(at)
        before_id, found, after_id = rest.partition(message_id)
        if not found:
            return None
        code, weight, _ = _SIZES.unpack_from(contents)
        return _Mould(self._method(message), before_at, before_id, after_id, (code, weight))

    def _method(self, message: Message) -> bytes:
        publish = Basic.Publish(exchange=message.exchange, routing_key=message.key, mandatory=True)
        return bytes(Method(self._channel, publish).marshal())

    def _marshalled(self, message: Message) -> bytes:
        body = message.body
        parts = [self._method(message)]
        parts.append(Header(self._channel, len(body), properties_of(message.properties)).marshal())
        parts += (
            Body(self._channel, body[start : start + self._most]).marshal() for start in range(0, len(body), self._most)
        )
        return b"".join(parts)


def properties_of(properties: Mapping[str, Any]) -> BasicProperties:
    """Return *properties* as pika has them."""
    return BasicProperties(**properties)


class Acks:
    """
    Takes confirmations of one channel from what was received.

    Args:
        channel: The number of the channel.

        on_ack: Called with the delivery tag, and whether all earlier tags are included.
    """

    def __init__(self, channel: int, on_ack: Callable[[int, bool], None]):
        self._head = _HEAD.pack(FRAME_METHOD, channel, _ACK.size + _INDEX.size) + _INDEX.pack(Basic.Ack.INDEX)
        self._size = len(self._head) + _ACK.size + FRAME_END_SIZE
        self._on_ack = on_ack

    def take(self, data: bytes) -> int:
        """Take those with which *data* begins, which is the begin of a frame; return the number of bytes taken."""
        taken = 0
        while data.startswith(self._head, taken) and data.startswith(_END, taken + self._size - FRAME_END_SIZE):
            tag, bits = _ACK.unpack_from(data, taken + len(self._head))
            self._on_ack(tag, bool(bits & 1))
            taken += self._size
        return taken
