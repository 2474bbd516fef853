"""Ids of events: UUID version 7, so that they sort by the time of the dispatch."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache

IdFactory = Callable[[float], str]
"""Takes the time in seconds since the epoch, returns a new id."""


_VARIANT = {digit: "89ab"[value % 4] for value, digit in enumerate("0123456789abcdef")}
"""The first digit of the fourth group: two bits for the UUID's variant, and two random bits."""


def uuid7(now: float) -> str:
    """
    Return a new UUID of version 7 (RFC 9562, section 5.7).

    Args:
        now: Seconds since the epoch; its milliseconds are the first 48 bits.
    """
    random = os.urandom(10).hex()
    return f"{_head(int(now * 1000))}{random[1:4]}-{_VARIANT[random[4]]}{random[5:8]}-{random[8:]}"


@lru_cache(maxsize=8)
def _head(milliseconds: int) -> str:
    """Return the beginning that all ids of one millisecond share."""
    text = f"{milliseconds & 0xFFFF_FFFF_FFFF:012x}"
    return f"{text[:8]}-{text[8:]}-7"


def made(milliseconds: int, version: int, chance: bytes) -> str:
    """Return a UUID of *version*: *milliseconds*, followed by 74 bits of the random bytes *chance*."""
    random = int.from_bytes(chance[:10])
    value = (milliseconds & 0xFFFF_FFFF_FFFF) << 80
    value |= version << 76
    value |= (random >> 68 & 0xFFF) << 64
    value |= 0b10 << 62
    value |= random & 0x3FFF_FFFF_FFFF_FFFF
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
