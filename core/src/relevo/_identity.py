"""Ids of events: UUID version 7, so that they sort by the time of the dispatch."""

from __future__ import annotations

import os
from collections.abc import Callable

IdFactory = Callable[[float], str]
"""From the time in seconds since the epoch to a new id."""


def uuid7(now: float) -> str:
    """
    Return a new UUID of version 7 (RFC 9562, section 5.7).

    Args:
        now: Seconds since the epoch; its milliseconds are the first 48 bits.
    """
    return _uuid(int(now * 1000), 7, os.urandom(10))


def derived(parent: str, key: str) -> str:
    """
    Return the id of an event that another brought about: the same whenever it is asked for.

    So what a listener dispatches when it is run again is the same event again. It is a UUID of version 8
    (RFC 9562, section 5.8): the time of the parent, where that is a UUID with one, and 74 bits of SHA-256.

    Args:
        parent: The id of the event that was handled.

        key: Which of its consequences: by which listener, and the how manieth.
    """
    from hashlib import sha256  # noqa: PLC0415 - it brings OpenSSL along

    head = parent.replace("-", "")[:12]
    moment = int(head, 16) if len(head) == 12 and set(head) <= set("0123456789abcdefABCDEF") else 0
    return _uuid(moment, 8, sha256(f"{len(parent)} {parent} {key}".encode("utf-8", "backslashreplace")).digest())


def _uuid(milliseconds: int, version: int, chance: bytes) -> str:
    random = int.from_bytes(chance[:10])
    value = (milliseconds & 0xFFFF_FFFF_FFFF) << 80
    value |= version << 76
    value |= (random >> 68 & 0xFFF) << 64
    value |= 0b10 << 62
    value |= random & 0x3FFF_FFFF_FFFF_FFFF
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
