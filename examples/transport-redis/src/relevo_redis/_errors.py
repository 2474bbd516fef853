"""The translation of Redis errors into errors of relevo: one table."""

from __future__ import annotations

import redis

from relevo.errors import ConfigurationError, RelevoError, TransportUnavailableError


class AnswerLostError(TransportUnavailableError):
    """Raised when it is unknown whether the server executed a command."""


_TABLE: tuple[tuple[type[redis.RedisError], str, type[RelevoError], str], ...] = (
    (redis.AuthenticationError, "", ConfigurationError, "it does not know this user or password"),
    (redis.ResponseError, "WRONGPASS", ConfigurationError, "it does not know this user or password"),
    (redis.ResponseError, "NOAUTH", ConfigurationError, "it requires a password"),
    (redis.exceptions.NoPermissionError, "", ConfigurationError, "the user lacks a permission: {error}"),
    (redis.ResponseError, "DB index", ConfigurationError, "it does not have this database"),
    (redis.ResponseError, "unknown command", ConfigurationError, "it is too old, or not a Redis server: {error}"),
    (
        redis.exceptions.OutOfMemoryError,
        "",
        TransportUnavailableError,
        "its memory is full; free memory, or raise maxmemory",
    ),
    (redis.ReadOnlyError, "", TransportUnavailableError, "it is a replica; use the address of the primary"),
    (redis.BusyLoadingError, "", TransportUnavailableError, "it is still loading its files; try again in a moment"),
    (redis.ResponseError, "MISCONF", TransportUnavailableError, "it cannot write its files; see its log"),
    (redis.ResponseError, "BUSY", TransportUnavailableError, "another client's script blocks it"),
    (redis.ResponseError, "MASTERDOWN", TransportUnavailableError, "it is a replica without its primary"),
)
"""By class and by the beginning of the text. In all these cases the server did nothing."""


def translated(error: redis.RedisError | OSError, *, transport: str, place: str, asked: bool) -> RelevoError:
    """
    Return the error of relevo for *error*.

    Args:
        error: The error of the driver.

        transport: The transport's name.

        place: The server's address, without secrets.

        asked: Whether the command may have been sent, so that only an answer proves that it was not executed.
    """
    for kind, beginning, becomes, words in _TABLE:
        if isinstance(error, kind) and str(error).startswith(beginning):
            why = f"{place}: {words.format(error=error)}"
            if becomes is ConfigurationError:
                return ConfigurationError(f'the transport "{transport}" cannot use {why}')
            return TransportUnavailableError(transport, why)
    kind_of_end = AnswerLostError if asked else TransportUnavailableError
    return kind_of_end(transport, f"{place}: {error}")
