"""What can go wrong with a server, and which of relevo's errors says so: one table."""

from __future__ import annotations

import redis

from relevo.errors import ConfigurationError, RelevoError, TransportUnavailableError


class AnswerLostError(TransportUnavailableError):
    """Raised when nobody knows whether the server did what it was asked to do."""


_TABLE: tuple[tuple[type[redis.RedisError], str, type[RelevoError], str], ...] = (
    (redis.AuthenticationError, "", ConfigurationError, "it does not know this user or password"),
    (redis.ResponseError, "WRONGPASS", ConfigurationError, "it does not know this user or password"),
    (redis.ResponseError, "NOAUTH", ConfigurationError, "it wants a password"),
    (redis.exceptions.NoPermissionError, "", ConfigurationError, "the user may not do this: {error}"),
    (redis.ResponseError, "DB index", ConfigurationError, "it has no such database"),
    (redis.ResponseError, "unknown command", ConfigurationError, "it is too old, or none: {error}"),
    (
        redis.exceptions.OutOfMemoryError,
        "",
        TransportUnavailableError,
        "its memory is full; make room, or raise maxmemory",
    ),
    (redis.ReadOnlyError, "", TransportUnavailableError, "it is a replica; name the primary"),
    (redis.BusyLoadingError, "", TransportUnavailableError, "it is still reading its files; try again in a moment"),
    (redis.ResponseError, "MISCONF", TransportUnavailableError, "it cannot write its files; see its log"),
    (redis.ResponseError, "BUSY", TransportUnavailableError, "it is held up by somebody's script"),
    (redis.ResponseError, "MASTERDOWN", TransportUnavailableError, "it is a replica without its primary"),
)
"""By class and by what the text begins with. In all of these the server did nothing."""


def translated(error: redis.RedisError | OSError, *, transport: str, place: str, asked: bool) -> RelevoError:
    """
    Return what relevo raises for *error*.

    Args:
        error: What happened.

        transport: The transport's name.

        place: The server's address, without secrets.

        asked: Whether the server may have been asked already, so that only an answer says that it did nothing.
    """
    for kind, beginning, becomes, words in _TABLE:
        if isinstance(error, kind) and str(error).startswith(beginning):
            why = f"{place}: {words.format(error=error)}"
            if becomes is ConfigurationError:
                return ConfigurationError(f'the transport "{transport}" cannot use {why}')
            return TransportUnavailableError(transport, why)
    kind_of_end = AnswerLostError if asked else TransportUnavailableError
    return kind_of_end(transport, f"{place}: {error}")
