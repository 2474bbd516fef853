"""The translation of driver errors into errors of relevo, each with a remedy: one table."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from relevo.backend.tls import tls_remedy
from relevo.errors import ConfigurationError, RelevoError, TransportUnavailableError
from relevo_sql._dialect import Dialect, ErrorKind


class UnreachableError(TransportUnavailableError):
    """Raised when the database cannot be reached; nothing was written."""


class RefusedError(TransportUnavailableError):
    """Raised when the database is available but refused the data."""


class LockedError(TransportUnavailableError):
    """Raised when other writers interfered for longer than the patience; nothing was written."""


_UNAVAILABLE = {
    ErrorKind.BUSY: "{place} is locked by another writer{waited}; look for a transaction that is left open",
    ErrorKind.CONFLICT: "{place}: other transactions changed the same rows{waited}: {error}",
    ErrorKind.LOST: "{place} cannot be reached, or ended the connection: {error}",
    ErrorKind.CROWDED: "{place} accepts no more connections: {error}; allow more, or use fewer processes",
    ErrorKind.STALE: "{place} was changed by another writer after this transaction had read, so the transaction cannot "
    "write; begin it with BEGIN IMMEDIATE, or repeat it",
    ErrorKind.READ_ONLY: "{place} is not writable; allow this user to write to the file and to its directory",
    ErrorKind.FULL: "{place} cannot grow, since the disk is full or a limit is reached; free space or raise the limit",
    ErrorKind.IO: "{place} cannot be read or written: {error}{name}; check the disk, quotas, limits of file "
    "sizes, and the system's log",
    ErrorKind.NOT_FOUND: "{place} cannot be opened; check that its directory exists and that this user may use it",
    ErrorKind.MALFORMED: "{place} is damaged; restore it from a copy",
    ErrorKind.TOO_BIG: "a value is too big for {place}",
}

_KINDS: dict[ErrorKind, type[TransportUnavailableError]] = {
    ErrorKind.LOST: UnreachableError,
    ErrorKind.CROWDED: UnreachableError,
    ErrorKind.BUSY: LockedError,
    ErrorKind.STALE: LockedError,
    ErrorKind.CONFLICT: LockedError,
    ErrorKind.FULL: RefusedError,
    ErrorKind.TOO_BIG: RefusedError,
}

_CONFIGURATION = {
    ErrorKind.DENIED: "{place}: {error}; {remedy}",
    ErrorKind.NO_TABLE: "{place} lacks tables that relevo needs; run: relevo setup, "
    "or call transport.setup([…]) with its queues",
    ErrorKind.NO_SCHEMA: "{place}: {error}; grant this user USAGE on a schema of its search_path, or name one with the "
    "option schema",
    ErrorKind.NOT_A_DATABASE: "{place} is not an SQLite database; give another path",
    ErrorKind.THREAD: "the engine's connections may only be used in the thread that opened them; "
    'create it with connect_args={{"check_same_thread": False}}',
}


_LEAST = 1 << 20
"""A disk with fewer free bytes counts as full: SQLite writes pages and a shared index of 32 KiB."""


@contextmanager
def translate_errors(
    dialect: Dialect, name: str, place: Callable[[], str], *, patience: float = 0.0, file: str = ""
) -> Iterator[None]:
    """
    Translate errors of SQLAlchemy inside the block into errors of relevo.

    Args:
        dialect: The dialect that interprets the driver's errors.

        name: The name of the transport.

        place: The database, in words without secrets.

        patience: How many seconds the transport waited for a lock, if known.

        file: The path of the database, if known.
    """
    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        found = relevo_error(dialect, error, name, place(), patience=patience, file=file)
        raise found from getattr(error, "orig", None) or error


def relevo_error(
    dialect: Dialect,
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
    kind = dialect.error_kind(error)
    if kind is ErrorKind.LOST and (fix := tls_remedy(str(error.orig))):
        return ConfigurationError(f'the transport "{name}" cannot be used: {place}: {_first_line(error.orig)}; {fix}')
    if kind is ErrorKind.IO and file and _is_full(file):
        kind = ErrorKind.FULL  # if SQLite cannot map a file into memory, it does not report why
    if kind in _CONFIGURATION:
        words = dialect.reason(kind) or _CONFIGURATION[kind]
        remedy = dialect.right(error) or "grant what is missing, or fix the user and the password"
        why = words.format(place=place, error=_first_line(error.orig), remedy=remedy)
        return ConfigurationError(f'the transport "{name}" cannot be used: {why}')
    waited = f" for longer than {patience:.3g} s" if patience else ""
    code = getattr(error.orig, "sqlite_errorname", "")
    words = dialect.reason(kind) or _UNAVAILABLE.get(kind, "{place}: {error}")
    why = words.format(place=place, waited=waited, error=_first_line(error.orig), name=f" ({code})" if code else "")
    return _KINDS.get(kind, TransportUnavailableError)(name, why)


def _first_line(error: object) -> str:
    """Return the first line of *error*: a server adds hints, and the statement."""
    text, code = str(error), ""
    match getattr(error, "args", ()):
        case (int(number), str(words)):  # drivers of MariaDB
            text, code = words, f" ({number})"
    return text.strip().partition("\n")[0] + code


def _is_full(file: str) -> bool:
    """Return whether the disk of *file* is full."""
    try:
        found = os.statvfs(os.path.dirname(file))  # noqa: PTH120 - the path as the driver reports it
    except (OSError, AttributeError):  # not on every system
        return False
    return found.f_bavail * found.f_frsize < _LEAST or (found.f_files > 0 and not found.f_favail)
