"""Driver errors and the errors of relevo that they become: one table, each with a remedy."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from relevo.errors import ConfigurationError, RelevoError, TransportUnavailableError
from relevo_sql._dialect import SqliteDialect, Trouble


class CommitUnknownError(TransportUnavailableError):
    """Raised when a commit failed in a way that does not say whether it holds."""


class RefusedError(TransportUnavailableError):
    """Raised when the database is there and did not take what was written."""


class LockedError(TransportUnavailableError):
    """Raised when another writer was in the way for longer than there was patience."""


_UNAVAILABLE = {
    Trouble.BUSY: "{place} is locked by another writer{waited}; look for a transaction that is left open",
    Trouble.STALE: "{place} was written by somebody after this transaction had read, so it can write no more; "
    "begin it with BEGIN IMMEDIATE, or do it again",
    Trouble.READ_ONLY: "{place} is not writable; let this user write to the file and to its directory",
    Trouble.FULL: "{place} cannot grow, since the disk is full or a limit is reached; make room",
    Trouble.IO: "{place} cannot be read or written: {error}{name}; check the disk, quotas, limits of file "
    "sizes, and the system's log",
    Trouble.NOT_FOUND: "{place} cannot be opened; see that its directory exists and that this user may use it",
    Trouble.MALFORMED: "{place} is damaged; restore it from a copy",
    Trouble.TOO_BIG: "a value is too big for {place}",
}

_KINDS: dict[Trouble, type[TransportUnavailableError]] = {
    Trouble.BUSY: LockedError,
    Trouble.FULL: RefusedError,
    Trouble.TOO_BIG: RefusedError,
}

_CONFIGURATION = {
    Trouble.NO_TABLE: "{place} has not the tables that relevo needs; run: relevo setup, "
    "or call transport.setup([…]) with its queues",
    Trouble.NOT_A_DATABASE: "{place} is not an SQLite database; give another path",
    Trouble.THREAD: "the engine's connections may only be used in the thread that opened them; "
    'create it with connect_args={{"check_same_thread": False}}',
}


_LEAST = 1 << 20
"""A disk with fewer free bytes counts as full: SQLite writes pages and a shared index of 32 KiB."""


@contextmanager
def translated(
    dialect: SqliteDialect, name: str, place: Callable[[], str], *, patience: float = 0.0, file: str = ""
) -> Iterator[None]:
    """
    Turn what SQLAlchemy raises inside into an error of relevo.

    Args:
        dialect: Who knows what the driver means.

        name: The transport's.

        place: The database, in words without secrets.

        patience: Seconds for which a lock was waited for, if known.

        file: Where the database is, if known.
    """
    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        found = relevo_error(dialect, error, name, place(), patience=patience, file=file)
        raise found from getattr(error, "orig", None) or error


def relevo_error(
    dialect: SqliteDialect,
    error: sa.exc.SQLAlchemyError,
    name: str,
    place: str,
    *,
    patience: float = 0.0,
    file: str = "",
) -> RelevoError:
    """Return the error to raise for *error*."""
    if not isinstance(error, sa.exc.DBAPIError):
        return TransportUnavailableError(name, f"{place}: {error}")
    trouble = dialect.trouble(error)
    if trouble is Trouble.IO and file and _is_full(file):
        trouble = Trouble.FULL  # where SQLite maps a file into memory it cannot tell why that failed
    if trouble in _CONFIGURATION:
        why = _CONFIGURATION[trouble].format(place=place)
        return ConfigurationError(f'the transport "{name}" cannot be used: {why}')
    waited = f" for longer than {patience:g} s" if patience else ""
    code = getattr(error.orig, "sqlite_errorname", "")
    why = _UNAVAILABLE.get(trouble, "{place}: {error}").format(
        place=place, waited=waited, error=error.orig, name=f" ({code})" if code else ""
    )
    return _KINDS.get(trouble, TransportUnavailableError)(name, why)


def _is_full(file: str) -> bool:
    """Return whether the disk that *file* is on has no room."""
    try:
        found = os.statvfs(os.path.dirname(file))  # noqa: PTH120 - a path as the driver has it
    except (OSError, AttributeError):  # not on every system
        return False
    return found.f_bavail * found.f_frsize < _LEAST or (found.f_files > 0 and not found.f_favail)
