"""The file of rejected lines, which can be corrected and dispatched again."""

from __future__ import annotations

import os
from io import FileIO
from pathlib import Path

from relevo.cli._position import append

_MOST = 64 * 1024 * 1024
"""Bytes that are compared with the lines of an interrupted command."""


class Rejects:
    """
    Appends lines to a file.

    Args:
        file: The open file.

        path: Its path.

        end: The bytes up to which an interrupted command has noted its position. It may have appended lines after
            them; these are not appended again.
    """

    def __init__(self, file: FileIO, path: Path, end: int | None):
        self._file = file
        self.path = path
        self._tail = b""
        if end is not None and end < self._size:
            file.seek(end)
            self._tail = file.read(_MOST) or b""

    @property
    def end(self) -> int:
        """The bytes of the lines that were appended, and of the file before them."""
        return self._size - len(self._tail)

    def add(self, lines: list[bytes]) -> None:
        """Append *lines* durably."""
        new: list[bytes] = []
        for line in lines:
            ended = line + b"\n"
            if not new and self._tail.startswith(ended):
                self._tail = self._tail[len(ended) :]
            else:
                new.append(ended)
        if new:
            self._tail = b""
            append(self._file, self.path, b"".join([self._end_of_line(), *new]))

    def _end_of_line(self) -> bytes:
        """Return what ends the last line of the file, if that was written in part."""
        size = self._size
        return b"\n" if size and os.pread(self._file.fileno(), 1, size - 1) != b"\n" else b""

    @property
    def _size(self) -> int:
        return os.fstat(self._file.fileno()).st_size
