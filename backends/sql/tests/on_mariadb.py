"""What the tests of MariaDB share, besides what they share with those of PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from relevo_sql import SqlTransport

from .on_server import an_engine, execute, query

__all__ = ["WAITS", "an_engine", "execute", "holding", "query", "seen"]

WAITS = (
    "SELECT 1 FROM information_schema.innodb_trx JOIN information_schema.processlist ON id = trx_mysql_thread_id "
    "WHERE trx_state = 'LOCK WAIT' AND db = DATABASE()"
)
"""Finds something if a transaction waits for a lock of a row."""


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
