"""JSON Lines from a stream, in chunks, and the position in them."""

from __future__ import annotations

from collections import deque
from hashlib import blake2b
from typing import Protocol

from relevo.cli._arguments import MAX_LINE

CHUNK = 1000
"""Lines; their events share a commit or a round trip."""

_BLOCK = 1024 * 1024
"""Bytes of a read."""

_BOM = b"\xef\xbb\xbf"


class Readable(Protocol):
    """A binary stream that returns what has arrived."""

    def read1(self, size: int, /) -> bytes:
        """Return at most *size* bytes, from at most one read; empty only at the end."""
        ...


class Lines:
    """
    The lines of *stream*.

    Args:
        stream: The bytes; a pipe is read as they arrive.
    """

    def __init__(self, stream: Readable):
        self._stream = stream
        self._whole: deque[bytes] = deque()
        self._rest = bytearray()
        self._is_begun = False
        self._hash = blake2b(digest_size=16)
        self.number = 0
        """The number of lines that were taken."""
        self.is_torn = False
        """Whether the line that was taken last has no newline at its end; it was taken by itself."""

    @property
    def digest(self) -> str:
        """A digest of the lines that were taken."""
        return self._hash.hexdigest()

    def take(self, most: int = CHUNK) -> list[bytes]:
        """
        Return the next lines without their ends: those that have arrived, *most* of them at the most.

        Returns:
            The lines; empty at the end. Of a line that is too long, its first :data:`MAX_LINE` bytes and one more.
        """
        self.is_torn = False  # unless the next one is: a file may grow
        while not self._whole and self._read():
            pass
        taken = [self._whole.popleft() for _ in range(min(most, len(self._whole)))]
        if taken:
            self.number += len(taken)
            self._hash.update(b"\n".join(taken) + b"\n")
        return taken

    def skip(self, number: int) -> None:
        """Take lines until *number* were taken, or none is left."""
        while self.number < number and self.take(min(CHUNK, number - self.number)):
            pass

    def _read(self) -> bool:
        """Read once; return whether there may be more."""
        block = self._stream.read1(_BLOCK)
        if not self._is_begun:
            self._is_begun, block = True, block.removeprefix(_BOM)
        if not block:
            if self._rest:
                self.is_torn = True
                self._end_line()
            return False
        first, *others = block.split(b"\n")
        if len(self._rest) <= MAX_LINE:
            self._rest += first
        if others:
            self._end_line()
            self._rest += others.pop()
            self._whole += others
        return True

    def _end_line(self) -> None:
        self._whole.append(bytes(self._rest[: MAX_LINE + 1]))
        self._rest.clear()
