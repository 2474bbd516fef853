"""The kinds of a driver's errors, independent of the driver."""

from __future__ import annotations

from enum import Enum, auto


class ErrorKind(Enum):
    """The meaning of a driver's error, independent of the driver."""

    BUSY = auto()
    STALE = auto()
    CONFLICT = auto()
    LOST = auto()
    CROWDED = auto()
    DENIED = auto()
    READ_ONLY = auto()
    FULL = auto()
    IO = auto()
    NOT_FOUND = auto()
    NOT_A_DATABASE = auto()
    MALFORMED = auto()
    NO_TABLE = auto()
    NO_SCHEMA = auto()
    TOO_BIG = auto()
    UNDECODABLE = auto()
    THREAD = auto()
    OTHER = auto()
