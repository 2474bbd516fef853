"""Files that a user or a configuration names: regular ones of limited size."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from relevo.errors import ConfigurationError

MAX_FILE = 1024 * 1024
"""Bytes."""

_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""A pipe without a writer, or a terminal, must neither block nor become the process's own."""

_KINDS = {
    stat.S_IFREG: "a regular file",
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def regular_bytes(path: Path, *, most: int = MAX_FILE) -> bytes:
    """
    Return the content of the regular file at *path*; links to one are followed.

    The text of an error never has any of the content.

    Args:
        path: The file.

        most: The largest size in bytes.

    Raises:
        ConfigurationError: There is no such file, it is not a regular one or too large, or it cannot be read.
    """
    try:
        _require_regular(path, path.stat())  # before it is opened, since that can start a device
        file = os.open(path, _OPEN)
        try:
            _require_regular(path, os.fstat(file))  # it may be another one by now
            with os.fdopen(file, "rb", closefd=False) as stream:
                found = stream.read(most + 1)
        finally:
            os.close(file)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # the name has a NUL, or cannot be encoded
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
    if len(found) > most:
        raise ConfigurationError(f"{path}: expected a file of at most {_size(most)}; got a larger one")
    return found


def kind_of(mode: int) -> str:
    """Return what a file with *mode* is, with its article."""
    return _KINDS.get(stat.S_IFMT(mode), "a special file")


def _require_regular(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ConfigurationError(f"{path}: expected a regular file; got {kind_of(found.st_mode)}")


def _size(number: int) -> str:
    return f"{number // 1024**2} MiB" if number >= 1024**2 else f"{number // 1024} KiB"
