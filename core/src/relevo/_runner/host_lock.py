"""Locks of the host: files that the kernel locks for a process and unlocks when it ends."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4
from weakref import WeakSet

from relevo.errors import ConfigurationError

_OPEN = os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""A link is refused: whoever laid it there would choose which file is made."""

_MODE = 0o640


class HostLock:
    """
    A lock on a file, which the kernel gives up when the process that holds it ends, even by ``kill -9``.

    Nothing is read from the file, so none that was left behind, or was emptied, is mistaken for a holder. A child of
    a fork does not hold it.

    Args:
        path: The file; it is made if it is missing, and stays.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file: int | None = None
        _held.add(self)

    def acquire(self, *, shared: bool = False) -> bool:
        """
        Take it and return whether that was possible; never wait for another holder.

        Args:
            shared: Beside others that take it so, but beside nobody who has it alone.

        Raises:
            ConfigurationError: The file cannot be opened.
        """
        wanted = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
        while self._file is None:
            file = self._opened()
            try:
                fcntl.flock(file, wanted)
            except BlockingIOError:
                os.close(file)
                return False
            if self._is_still(file):
                self._file = file
            else:  # somebody deleted it in between: whoever comes now locks another file
                os.close(file)
        return True

    def release(self) -> None:
        """Give it up, if it is held."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def identity(self) -> str:
        """
        Return what tells the lock that is held here from those of all hosts.

        It is the file's, and that of the time for which the host has been running: two hosts may be copies.
        """
        assert self._file is not None  # noqa: S101 - it is asked by whoever holds it
        found = os.fstat(self._file)
        return f"{_running()}/{found.st_dev:x}/{found.st_ino:x}"

    def _opened(self) -> int:
        try:
            return os.open(self.path, _OPEN, _MODE)
        except OSError as error:
            is_link = error.errno == errno.ELOOP
            mend = (
                "it is a link, remove it or choose another folder"
                if is_link
                else "choose a folder that may be written to"
            )
            raise ConfigurationError(
                f'the lock {self.path} cannot be opened: {error.strerror}; {mend}: lock = "…"'
            ) from error

    def _is_still(self, file: int) -> bool:
        """Return whether *file* is the one that others find at the path."""
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(file), self.path.stat())
        return False


def _running() -> str:
    """Return what tells the kernel that runs now from every other one; made up where it does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:  # not Linux
        return uuid4().hex


_held: WeakSet[HostLock] = WeakSet()
"""All of this process: the interpreter's hooks are set once. A child shares the open file, and would hold it on."""


def _let_go() -> None:
    for each in list(_held):
        each.release()


os.register_at_fork(after_in_child=_let_go)
