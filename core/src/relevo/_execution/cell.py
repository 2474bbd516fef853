"""Memory that a child process shares with its parent: the current event, the running listener, and its start."""

from __future__ import annotations

import faulthandler
import mmap
import os
import re
import signal
import struct
import tempfile
import time
from itertools import dropwhile
from pathlib import Path

import attrs

_SINCE = struct.Struct("=d")
_WORK = struct.Struct("=Q")
_ABOUT = struct.Struct("=dH")
_AT_WORK, _AT_ABOUT, _AT_STOP, _AT_COMMIT, _AT_ID = 8, 16, 28, 32, 40
_SIZE = 2048
_LONGEST_TRACE = 64 * 1024

TRACE_SIGNAL = getattr(signal, "SIGRTMAX", signal.SIGUSR2)
"""The signal at which a child process writes where it is; one that programs hardly use."""

_FRAME = re.compile(r'^  File "(.+)", line (\d+|\?\?\?) in (.+)$', re.MULTILINE)
"""A line of :mod:`faulthandler`."""

_MACHINERY = ("<frozen ", f"{Path(__file__).parents[1]}{os.sep}")
"""The beginning of the names of files whose functions call the listener."""


@attrs.frozen
class Running:
    """A listener that runs."""

    listener_id: str
    limit: float
    """Seconds for which it may run."""

    since: float
    """Monotonic seconds; all processes of a host have the same."""


class Cell:
    """
    The shared memory of one child process.

    The child writes the start of the listener last. If the start is the same before and after reading, the values
    that were read belong together.

    Args:
        fd: The descriptor of the file, which both processes have open.
    """

    def __init__(self, fd: int):
        self.fd = fd
        self._memory = mmap.mmap(fd, _SIZE)
        self._listener_id = ""
        self._limit = 0.0

    @classmethod
    def create(cls) -> Cell:
        """Return a new one, which is open in this process alone."""
        if hasattr(os, "memfd_create"):
            fd = os.memfd_create("relevo")
        else:
            with tempfile.TemporaryFile() as file:
                fd = os.dup(file.fileno())
        os.ftruncate(fd, _SIZE)
        return cls(fd)

    def take(self, number: int) -> None:
        """Note that the work with this *number* has begun."""
        _WORK.pack_into(self._memory, _AT_WORK, number)

    def commit(self, number: int) -> None:
        """Note that the transaction of a listener of the work with this *number* is about to commit; 0 for none."""
        _WORK.pack_into(self._memory, _AT_COMMIT, number)

    @property
    def committed(self) -> int:
        """The number of the work for which a transaction was about to commit, and may have done so; 0 for none."""
        return int(_WORK.unpack_from(self._memory, _AT_COMMIT)[0])

    def stop(self) -> None:
        """Ask the listener to stop between two steps, since the worker ends."""
        self._memory[_AT_STOP] = 1

    @property
    def stops(self) -> bool:
        """Whether :meth:`stop` was called."""
        return bool(self._memory[_AT_STOP])

    def begin(self, listener_id: str, limit: float) -> None:
        """Note that a listener begins."""
        if listener_id != self._listener_id or limit != self._limit:
            text = listener_id.encode("utf-8", "replace")
            _ABOUT.pack_into(self._memory, _AT_ABOUT, limit, len(text))
            self._memory[_AT_ID : _AT_ID + len(text)] = text
            self._listener_id, self._limit = listener_id, limit
        _SINCE.pack_into(self._memory, 0, time.monotonic())

    def end(self) -> None:
        """Note that it has ended."""
        _SINCE.pack_into(self._memory, 0, 0.0)

    @property
    def work(self) -> int:
        """The number of the work that was begun last."""
        return int(_WORK.unpack_from(self._memory, _AT_WORK)[0])

    def running(self) -> Running | None:
        """Return which listener runs, or ran when the child died."""
        (since,) = _SINCE.unpack_from(self._memory, 0)
        if not since:
            return None
        limit, length = _ABOUT.unpack_from(self._memory, _AT_ABOUT)
        text = self._memory[_AT_ID : _AT_ID + length]
        if _SINCE.unpack_from(self._memory, 0) != (since,):
            return None  # it has just ended
        return Running(text.decode("utf-8", "replace"), limit, since)

    # --- where a listener is ---------------------------------------------------------------------------

    def trace_at_signal(self) -> None:
        """Let :data:`TRACE_SIGNAL` write where this process is behind the other values, even if it blocks Python."""
        os.lseek(self.fd, _SIZE, os.SEEK_SET)
        faulthandler.register(TRACE_SIGNAL, file=self.fd, all_threads=False)

    def forget_frames(self) -> None:
        """Let the next signal write where the last one did; both processes share the position in the file."""
        os.ftruncate(self.fd, _SIZE)
        os.lseek(self.fd, _SIZE, os.SEEK_SET)

    def frames(self) -> list[tuple[str, int, str]]:
        """Return where the process was when it got the signal: file, line and function, the innermost last."""
        found = _FRAME.findall(os.pread(self.fd, _LONGEST_TRACE, _SIZE).decode("utf-8", "replace"))
        frames = [(file, int(line) if line.isdecimal() else 0, function) for file, line, function in reversed(found)]
        return [*dropwhile(lambda frame: frame[0].startswith(_MACHINERY), frames)]

    def close(self) -> None:
        """Release the memory and its descriptor."""
        self._memory.close()
        os.close(self.fd)
