"""
The folder of one user on a host, in which all processes of the user find the same locks and records.

It depends on nothing that differs between a shell, cron and a service: neither on environment variables nor on
``/run/user``, which exists only while the user is logged in.
"""

from __future__ import annotations

import errno
import pwd
import stat
from contextlib import suppress
from pathlib import Path

from relevo.errors import ConfigurationError

_INSIDE = (".local", ".local/state", ".local/state/relevo")
"""The folders to create, from the home folder: the default of ``XDG_STATE_HOME``."""

_NOT_HERE = (errno.EACCES, errno.EPERM, errno.EROFS)
"""The errors of a home folder in which this user may not create anything."""

_REMEDY = 'set a folder that all processes of the application can write: lock = "…"'


def state_folder(home: Path | None, shared: Path, user: int) -> Path:
    """
    Return the folder, after it was created if necessary.

    Args:
        home: The user's home folder, if there is one. If it belongs to another user, or others can write to it, or this
            user cannot, a folder inside *shared* is used instead.

        shared: A folder for all users.

        user: The number of the user.

    Raises:
        ConfigurationError: The folder cannot be created, or is not a folder of this user alone.
    """
    if home is not None and _is_own(home, user):
        try:
            for inside in _INSIDE:
                _make(home / inside)
            return _checked(home / _INSIDE[-1], user)
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise _unusable(home / _INSIDE[-1], error) from error
    path = shared / f"relevo-{user}"
    try:
        _make(path)
        return _checked(path, user)
    except OSError as error:
        raise _unusable(path, error) from error


def home_of(user: int) -> Path | None:
    """Return the home folder of *user* according to the user database; ``HOME`` may be that of another user."""
    try:
        return Path(pwd.getpwuid(user).pw_dir)
    except KeyError:  # as in a container with a number alone
        return None


def _is_own(home: Path, user: int) -> bool:
    try:
        found = home.stat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == user and not found.st_mode & stat.S_IWOTH


def _make(path: Path) -> None:
    with suppress(FileExistsError):  # it is checked later, whatever it is
        path.mkdir(mode=0o700)


def _checked(path: Path, user: int) -> Path:
    """Return *path* if it is a folder of *user* alone."""
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        what = "a link" if stat.S_ISLNK(found.st_mode) else "a file"
        raise ConfigurationError(f"{path}: expected a folder; got {what}; remove it, or {_REMEDY}")
    if found.st_uid != user:
        raise ConfigurationError(
            f"{path}: expected a folder owned by user {user}; got one owned by user {found.st_uid}, who could stop "
            f"this application; {_REMEDY}"
        )
    if found.st_mode & 0o077:
        raise ConfigurationError(
            f"{path}: expected the mode 0700; got {stat.S_IMODE(found.st_mode):04o}; run chmod 700 {path}, or {_REMEDY}"
        )
    return path


def _unusable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"the folder for locks cannot be used: {path}: {error.strerror}; {_REMEDY}")
