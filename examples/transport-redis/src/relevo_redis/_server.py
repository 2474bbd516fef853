"""One Redis server: checked connections, and the script."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1
from importlib.resources import files
from typing import Any

import redis

from relevo.errors import ConfigurationError
from relevo_redis._errors import translated
from relevo_redis._options import RedisOptions

LAYOUT = b"1"
"""The version of the script's data; stored in the key ``version``."""

_SOURCE = files("relevo_redis").joinpath("store.lua").read_bytes()
_DIGEST = sha1(_SOURCE, usedforsecurity=False).hexdigest()

_ON_DISK = {b"appendonly": b"yes", b"appendfsync": b"always", b"no-appendfsync-on-rewrite": b"no"}
"""With these settings Redis answers only when the data is on disk."""


class Server:
    """
    Runs commands and operations of the script, one at a time for each connection.

    Each connection is checked before its first use, since a server may have been replaced by another.

    Args:
        options: The address, and the required durability.

        name: The name of the transport.
    """

    def __init__(self, options: RedisOptions, name: str):
        self.name = name
        self.prefix = options.prefix
        self.pool = options.pool(redis_connect_func=self._greet)
        self._options = options

    def key(self, *parts: str) -> bytes:
        """Return the key of the script for *parts*."""
        return ":".join((self.prefix, *parts)).encode()

    def run(self, operation: str, now: bytes, *arguments: bytes | str | float) -> Any:
        """
        Run *operation* of the script.

        Args:
            operation: The name of the operation.

            now: Microseconds since the epoch; empty for the server's own time.

            arguments: The arguments of the operation.

        Raises:
            AnswerLostError: It is unknown whether the operation was executed.

            TransportUnavailableError: The operation was not executed.
        """
        rest = ("0", operation, self.prefix, now, *arguments)
        try:
            return self.call("EVALSHA", _DIGEST, *rest)
        except _UnknownScriptError:
            return self.call("EVAL", _SOURCE, *rest)

    def call(self, *command: bytes | str | float) -> Any:
        """Return the server's answer to *command*; raises as :meth:`run` does."""
        with self._translated(asked=False):
            connection: Any = self.pool.get_connection()
        try:
            with self._translated(asked=True):
                connection.send_command(*command)
                return connection.read_response()
        finally:
            self.pool.release(connection)

    @contextmanager
    def _translated(self, *, asked: bool) -> Iterator[None]:
        try:
            yield
        except redis.exceptions.NoScriptError as error:
            raise _UnknownScriptError from error
        except (redis.RedisError, OSError) as error:
            raise translated(error, transport=self.name, place=self._options.place, asked=asked) from error

    # --- checks of a server -------------------------------------------------------------------------

    def _greet(self, connection: Any) -> None:
        """Start *connection*, unless the server would lose data."""
        try:
            connection.on_connect()
            self._check(lambda *command: _answer(connection, *command))
        except ConfigurationError:
            connection.disconnect()
            raise

    def _check(self, ask: Any) -> None:
        where = f'the transport "{self.name}" cannot use {self._options.place}'
        layout = ask("GET", self.key("version"))
        if layout not in (None, LAYOUT):
            raise ConfigurationError(
                f'{where}: its keys "{self.prefix}:…" are of another release: layout {layout!r}, this one '
                f"supports {LAYOUT!r}; upgrade relevo-redis here"
            )
        memory = dict(line.partition(b":")[::2] for line in ask("INFO", "memory").splitlines())
        if memory.get(b"maxmemory_policy", b"").startswith(b"allkeys"):
            raise ConfigurationError(f"{where}: it deletes keys when it is full; set maxmemory-policy noeviction")
        if self._options.durability == "host":
            flat = ask("CONFIG", "GET", "*append*")
            found = dict(zip(flat[::2], flat[1::2], strict=True))
            lacking = [
                f"{name.decode()} {value.decode()}" for name, value in _ON_DISK.items() if found.get(name) != value
            ]
            if lacking:
                raise ConfigurationError(
                    f"{where}: it answers before the data is on disk; set {', '.join(lacking)} there, or write "
                    f'durability = "process" here'
                )


def _answer(connection: Any, *command: bytes | str) -> Any:
    connection.send_command(*command)
    return connection.read_response()


class _UnknownScriptError(Exception):
    """Raised when the server does not have the script, such as after a restart."""
