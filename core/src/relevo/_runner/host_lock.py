"""Host locks: files that the kernel locks for a process and unlocks when it ends."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path
from uuid import uuid4
from weakref import WeakSet

from relevo.errors import ConfigurationError

_OPEN = os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""A link is refused, since its creator could choose which file is created."""

_LONGEST_NOTE = 4096
"""Bytes that are read of a note."""

_OWN, _OF_GROUP = 0o600, 0o640
"""Modes of the file. A user who can read it can lock it, and keep this application from working."""


_REMEDIES = {
    errno.ELOOP: "it is a link, remove it or set another folder",
    errno.EACCES: (
        "if several users run the application, give the folder a group of theirs and mode 2770, and remove the lock; "
        "otherwise set a folder that is writable"
    ),
}
"""What to do about an error of the system, by its number."""


class HostLock:
    """
    A lock on a file, which the kernel releases when the process that holds it ends, even by ``kill -9``.

    The content of the file does not matter, so a file that is left behind or empty is never mistaken for a held lock.
    It may name the holder, for people.
    The child of a fork does not hold the lock.

    Args:
        path: The file; it is created if it is missing, and not deleted.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file: int | None = None
        _held.add(self)

    def acquire(self, *, shared: bool = False) -> bool:
        """
        Take the lock and return whether that was possible; never wait for another holder.

        Args:
            shared: Take it together with other shared holders, but not with an exclusive one.

        Raises:
            ConfigurationError: The file cannot be opened or locked.
        """
        wanted = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
        while self._file is None:
            file = self._open()
            try:
                fcntl.flock(file, wanted)
            except BlockingIOError:
                os.close(file)
                return False
            except OSError as error:
                os.close(file)
                raise ConfigurationError(
                    f"the lock {self.path} cannot be taken: {error.strerror}, as on some network file systems; set a "
                    f'folder on a local disk: lock = "…"'
                ) from error
            if self._is_still(file):
                self._file = file
            else:  # deleted in between: the next process would lock another file
                os.close(file)
        return True

    def release(self) -> None:
        """Release the lock, if it is held."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def write(self, note: bytes) -> None:
        """Replace the content of the file with *note*, if this user may do that."""
        with suppress(OSError):
            file = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                os.ftruncate(file, 0)
                os.write(file, note)
            finally:
                os.close(file)

    def read(self) -> bytes:
        """Return the beginning of the file's content; empty if it cannot be read."""
        try:
            file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return b""
        try:
            return os.read(file, _LONGEST_NOTE)
        except OSError:
            return b""
        finally:
            os.close(file)

    def identity(self) -> str:
        """
        Return an identity of the held lock that is unique among all hosts.

        It consists of the file's identity and the kernel's boot id, since two hosts may be copies.
        """
        assert self._file is not None  # noqa: S101 - only the holder calls this
        found = os.fstat(self._file)
        return f"{_running()}/{found.st_dev:x}/{found.st_ino:x}"

    def _open(self) -> int:
        try:
            folder = self.path.parent.stat()
            file = os.open(self.path, _OPEN, _OF_GROUP if folder.st_mode & stat.S_IWGRP else _OWN)
        except OSError as error:
            fix = _REMEDIES.get(error.errno or 0, "set a folder that is writable")
            raise ConfigurationError(
                f'the lock {self.path} cannot be opened: {error.strerror}; {fix}: lock = "…"'
            ) from error
        _close_to_others(file, folder)
        return file

    def _is_still(self, file: int) -> bool:
        """Return whether *file* is still the file at the path."""
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(file), self.path.stat())
        return False


def _close_to_others(file: int, folder: os.stat_result) -> None:
    """
    Let only this user open *file*, if it belongs to this user: earlier releases let each group read it.

    A group that can write to the *folder* keeps its access. Its members can replace the file, and they may be the other
    users of the application.
    """
    found = os.fstat(file)
    is_shared = folder.st_mode & stat.S_IWGRP and folder.st_gid == found.st_gid
    mode = _OF_GROUP if is_shared else _OWN
    if found.st_uid == os.geteuid() and stat.S_ISREG(found.st_mode) and found.st_mode & 0o777 & ~mode:
        with suppress(OSError):  # as on a file system that is mounted without modes
            os.fchmod(file, mode)


def _running() -> str:
    """Return the boot id of the running kernel; a random text if the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:  # not Linux
        return uuid4().hex


_held: WeakSet[HostLock] = WeakSet()
"""All locks of this process; a forked child must close its copies of the files, or it would keep the locks held."""


def _release_all() -> None:
    for each in list(_held):
        each.release()


os.register_at_fork(after_in_child=_release_all)
