"""What the tests of PostgreSQL share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from relevo import Envelope
from relevo_sql import SqlTransport


def address(database: str, driver: str = "psycopg", **options: str) -> sa.URL:
    """Return the URL of *database* for *driver*; *options* are settings of the server, as in ``timezone="UTC"``."""
    url = sa.make_url(database).set(drivername=f"postgresql+{driver}")
    if not options:
        return url
    return url.update_query_dict({"options": " ".join(f"-c {name}={value}" for name, value in options.items())})


@contextmanager
def an_engine(url: sa.URL | str, **arguments: Any) -> Iterator[sa.Engine]:
    """Yield an engine as an application has one."""
    engine = sa.create_engine(url if isinstance(url, sa.URL) else address(url), **arguments)
    try:
        yield engine
    finally:
        engine.dispose()


def execute(database: str, *statements: str) -> None:
    """Execute *statements*, each in a transaction of its own."""
    with an_engine(database, isolation_level="AUTOCOMMIT") as engine, engine.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def scalar(database: str, query: str) -> Any:
    """Return the one value that *query* finds."""
    with an_engine(database) as engine, engine.connect() as connection:
        return connection.exec_driver_sql(query).scalar()


def ids(transport: SqlTransport, queue: str = "default") -> list[str]:
    """Receive what is there, and return its ids."""
    deliveries = transport.receive([queue], limit=100, lease=60, wait=0)
    return [d.envelope.id for d in deliveries if isinstance(d.envelope, Envelope)]


def wait_until(met: Callable[[], bool]) -> None:
    """Return when *met* returns true."""
    deadline = time.monotonic() + 60
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_until_gone(database: str, pid: int) -> None:
    """Return when the session *pid* has ended."""
    wait_until(lambda: not scalar(database, f"SELECT pid FROM pg_stat_activity WHERE pid = {pid}"))  # noqa: S608
