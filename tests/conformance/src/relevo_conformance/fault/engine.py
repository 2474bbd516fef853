"""Faults beneath a transport that keeps its events in a database, by the events of its SQLAlchemy engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from relevo_conformance.fault._countdown import Countdown, Fault

_WRITING = ("INSERT", "UPDATE", "DELETE", "REPLACE", "MERGE", "COMMIT", "WITH")
"""The first words of statements that may write; some of them only read, and failing these does no harm."""

_WORDS = "disk I/O error"
"""The text of the driver's error: one that a retry does not solve."""


def _never(_: sa.Connection) -> bool:
    return False


@contextmanager
def broken(
    engine: sa.Engine, fault: Fault, *, commits_alone: Callable[[sa.Connection], bool] = _never
) -> Iterator[None]:
    """
    Let one write on *engine* fail, and repair it at the end.

    Args:
        engine: The transport's own engine; the application's engine is not affected.

        fault: Which write, and whether before or after its effect.

        commits_alone: Whether a statement on a connection is committed by itself, as outside a transaction.
    """
    countdown = Countdown(fault)

    def before(connection: sa.Connection, _: Any, statement: str, *__: Any) -> None:
        if _writes(statement) and countdown.begins(lasting=_commits(statement) or commits_alone(connection)):
            raise _error(engine, statement)

    def after(connection: sa.Connection, _: Any, statement: str, *__: Any) -> None:
        if _writes(statement) and countdown.ends(lasting=_commits(statement) or commits_alone(connection)):
            raise _error(engine, statement)

    def commit(connection: sa.Connection) -> None:
        # SQLAlchemy has an event before a commit, but none after it.
        if countdown.begins(lasting=True):
            raise _error(engine, "COMMIT")
        if countdown.ends(lasting=True):
            connection.connection.dbapi_connection.commit()  # type: ignore[union-attr]
            raise _error(engine, "COMMIT")

    with _listening(engine, before_cursor_execute=before, after_cursor_execute=after, commit=commit):
        yield


@contextmanager
def stopping(engine: sa.Engine, stop: Callable[[], None]) -> Iterator[None]:
    """Call *stop* before each statement and each commit on *engine*, in the thread that is about to run it."""
    with _listening(engine, before_cursor_execute=lambda *_: stop(), commit=lambda _: stop()):
        yield


@contextmanager
def _listening(engine: sa.Engine, **listeners: Callable[..., None]) -> Iterator[None]:
    for moment, listener in listeners.items():
        sa.event.listen(engine, moment, listener)
    try:
        yield
    finally:
        for moment, listener in listeners.items():
            sa.event.remove(engine, moment, listener)


def _writes(statement: str) -> bool:
    return statement.lstrip().upper().startswith(_WRITING)


def _commits(statement: str) -> bool:
    return statement.lstrip().upper().startswith("COMMIT")


def _error(engine: sa.Engine, statement: str) -> Exception:
    """Return the error that SQLAlchemy raises; not all versions convert an error from a listener."""
    driver: Any = engine.dialect.loaded_dbapi
    return sa.exc.OperationalError(statement, (), driver.OperationalError(_WORDS))
