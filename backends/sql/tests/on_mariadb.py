"""What the tests of MariaDB share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from relevo_sql import SqlTransport


@contextmanager
def an_engine(url: str | sa.URL, **arguments: Any) -> Iterator[sa.Engine]:
    """Yield an engine as an application has one."""
    engine = sa.create_engine(url, **arguments)
    try:
        yield engine
    finally:
        engine.dispose()


def execute(url: str | sa.URL, *statements: str) -> None:
    """Execute *statements* in one session, each in a transaction of its own."""
    with an_engine(url, isolation_level="AUTOCOMMIT") as engine, engine.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def query(url: str | sa.URL, text: str) -> list[tuple[Any, ...]]:
    """Return the rows that the query *text* finds."""
    with an_engine(url) as engine, engine.connect() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(text)]


def seen(transport: SqlTransport) -> list[int]:
    """Return a list to which the number of each error of the transport's own connections is added."""
    numbers: list[int] = []

    @sa.event.listens_for(transport._database.engine, "handle_error")
    def _(context: sa.engine.ExceptionContext) -> None:
        numbers.append(context.original_exception.args[0])

    return numbers
