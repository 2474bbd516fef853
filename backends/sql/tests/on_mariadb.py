"""What the tests of MariaDB share, besides what they share with those of PostgreSQL."""

from __future__ import annotations

import sqlalchemy as sa

from relevo_sql import SqlTransport

from .on_server import an_engine, execute, query

__all__ = ["an_engine", "execute", "query", "seen"]


def seen(transport: SqlTransport) -> list[int]:
    """Return a list to which the number of each error of the transport's own connections is added."""
    numbers: list[int] = []

    @sa.event.listens_for(transport._database.engine, "handle_error")
    def _(context: sa.engine.ExceptionContext) -> None:
        numbers.append(context.original_exception.args[0])

    return numbers
