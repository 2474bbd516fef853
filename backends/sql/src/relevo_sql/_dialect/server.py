"""Common parts of the dialects for databases on servers."""

from __future__ import annotations

import select
import selectors
from collections.abc import Hashable
from hashlib import blake2b
from typing import Any

import sqlalchemy as sa

from relevo_sql._dialect.dialect import Line
from relevo_sql._dialect.error_kind import ErrorKind
from relevo_sql._dialect.location import Location


class ServerLocation(Location):
    """
    A database on a server.

    Args:
        url: The URL of the engine.

        schema: The schema of relevo's tables, if it was chosen.
    """

    def __init__(self, url: sa.URL, *, schema: str = ""):
        hosts = url.query.get("host", ())
        host = url.host or (hosts if isinstance(hosts, str) else ", ".join(hosts)) or "the local host"
        port = f":{url.port}" if url.port else ""
        self._words = f'the database "{url.database or url.username or ""}" on {host}{port}'
        if schema:
            self._words += f' (schema "{schema}")'
        self._home: Hashable | None = None

    @property
    def words(self) -> str:
        return self._words

    @property
    def identity(self) -> Hashable | None:
        return self._home

    def opened(self, home: Hashable) -> None:
        self._home = home

    def holds(self, home: Hashable) -> bool:
        return home == self._home


def error_kind_before_the_driver(error: sa.exc.SQLAlchemyError) -> ErrorKind:
    """Return what *error* means, which SQLAlchemy raised without asking the driver."""
    # A call inside a transaction may have found that the connection of both is lost.
    closed = (sa.exc.ResourceClosedError, sa.exc.PendingRollbackError)
    return ErrorKind.LOST if isinstance(error, closed) else ErrorKind.OTHER


class UnnamedLocation(ServerLocation):
    """A database on a server that has no identity of its own: only the id in ``relevo_meta`` tells which it is."""

    @property
    def is_named(self) -> bool:
        return False  # besides, not every such database can create tables inside a transaction

    def holds(self, home: Hashable) -> bool:
        return False


# select() knows no descriptor above 1023, Windows has no poll(), and epoll needs a descriptor of its own.
_poll: Any = getattr(select, "poll", None)  # Windows has none
_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)


def readable(*descriptors: int, timeout: float | None) -> set[int]:
    """Return those of *descriptors* that can be read, after *timeout* seconds at most; ``None`` waits without end."""
    with _Selector() as selector:
        for each in descriptors:
            selector.register(each, selectors.EVENT_READ)
        return {key.fd for key, _ in selector.select(timeout)}


def has_input(descriptor: int) -> bool:
    """Return whether *descriptor* can be read now; five times as fast as :func:`readable`."""
    if _poll is None:
        return bool(readable(descriptor, timeout=0))
    polling = _poll()
    polling.register(descriptor, select.POLLIN)
    return bool(polling.poll(0))


def number_of(line: Line) -> int:
    """Return a number of 64 bits, with a sign, that stands for *line* where a lock has a number."""
    text = "\0".join(str(part) for part in line)
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), signed=True)
