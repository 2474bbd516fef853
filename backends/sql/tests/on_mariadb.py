"""What the tests of MariaDB share, besides what they share with those of PostgreSQL."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from relevo_sql import SqlTransport

from .on_server import an_engine, execute, query

__all__ = ["an_engine", "execute", "holding", "is_one_waiting", "query", "seen"]


def is_one_waiting(url: str) -> bool:
    """Return whether a transaction in the database waits for the lock of a row."""
    # Not innodb_trx: the server keeps what it shows for as long as it is asked more often than every tenth of a second.
    ((_, _, status),) = query(url, "SHOW ENGINE INNODB STATUS")
    blocks = status.split("---TRANSACTION ")[1:]
    waiting = {
        number for block in blocks if "LOCK WAIT" in block for number in re.findall(r"thread id (\d+)", block)[:1]
    }
    own = {
        str(number) for (number,) in query(url, "SELECT id FROM information_schema.processlist WHERE db = DATABASE()")
    }
    return not own.isdisjoint(waiting)


def seen(transport: SqlTransport) -> list[int]:
    """Return a list to which the number of each error of the transport's own connections is added."""
    numbers: list[int] = []

    @sa.event.listens_for(transport._database.engine, "handle_error")
    def _(context: sa.engine.ExceptionContext) -> None:
        numbers.append(context.original_exception.args[0])

    return numbers


@contextmanager
def holding(url: str, statement: str, **options: Any) -> Iterator[sa.Connection]:
    """Yield a connection that executed *statement* and has its transaction open."""
    with an_engine(url, **options) as engine, engine.connect() as connection:
        connection.exec_driver_sql(statement)
        yield connection
        connection.rollback()
