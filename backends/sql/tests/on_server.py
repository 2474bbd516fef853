"""What the tests of the databases on a server share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from database_server import DatabaseServer
from relevo import Delivery, Envelope
from relevo_sql import SqlTransport

_DRIVERS = {"postgresql": "postgresql+psycopg", "mariadb": "mariadb+pymysql", "mysql": "mysql+pymysql"}

SERVERS = [
    pytest.param("postgresql", marks=pytest.mark.postgresql),
    pytest.param("mariadb", marks=pytest.mark.mariadb),
]
DATABASES = ["sqlite", *SERVERS]
"""For tests of each database."""

ASYNC_ON_POSTGRESQL = [
    pytest.param("postgresql+psycopg", marks=pytest.mark.postgresql),
    pytest.param("postgresql+asyncpg", marks=pytest.mark.postgresql),
]
ASYNC_ON_MARIADB = [
    pytest.param("mariadb+aiomysql", marks=pytest.mark.mariadb),
    pytest.param("mariadb+asyncmy", marks=pytest.mark.mariadb),
    pytest.param("mysql+aiomysql", marks=pytest.mark.mariadb),
]
"""Dialect and driver of the engine of an asynchronous application."""


def usable_async_driver(name: str) -> str:
    """Return *name*, a dialect and a driver; skip the test if that is not installed, or cannot send bytes."""
    module = pytest.importorskip(name.partition("+")[2])
    if module.__name__ == "aiomysql" and not callable(getattr(module.connection, "escape_bytes_prefixed", bytes)):
        pytest.skip("aiomysql cannot send bytes with PyMySQL 1.2.3 or newer: aio-libs/aiomysql#1080")
    return name


def with_driver(url: sa.URL | str) -> sa.URL:
    """Return *url* with the driver that relevo uses, if it names none."""
    parsed = sa.make_url(url)
    return parsed.set(drivername=_DRIVERS.get(parsed.drivername, parsed.drivername))


@contextmanager
def an_engine(url: sa.URL | str, **arguments: Any) -> Iterator[sa.Engine]:
    """
    Yield an engine as an application has one; if *url* names no driver, it is the one that relevo uses.

    Connections of PyMySQL are not encrypted, unless the arguments say otherwise; see :func:`named_database`.
    """
    address = with_driver(url)
    if address.get_driver_name() == "pymysql":
        arguments.setdefault("connect_args", {"ssl_disabled": True})
    engine = sa.create_engine(address, **arguments)
    try:
        yield engine
    finally:
        engine.dispose()


def execute(url: sa.URL | str, *statements: str) -> None:
    """Execute *statements* in one session, each in a transaction of its own."""
    with an_engine(url, isolation_level="AUTOCOMMIT") as engine, engine.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def query(url: sa.URL | str, text: str) -> list[tuple[Any, ...]]:
    """Return the rows that the query *text* finds."""
    with an_engine(url) as engine, engine.connect() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(text)]


def scalar(url: sa.URL | str, text: str) -> Any:
    """Return the first value that the query *text* finds, if any."""
    rows = query(url, text)
    return rows[0][0] if rows else None


def received(transport: SqlTransport, queue: str = "default", **options: Any) -> list[Delivery]:
    """Receive what is there."""
    return list(transport.receive([queue], **({"limit": 100, "lease": 60, "wait": 0} | options)))


def ids_of(deliveries: list[Delivery]) -> list[str]:
    """Return the ids of those that can be read."""
    return [each.envelope.id for each in deliveries if isinstance(each.envelope, Envelope)]


def ids(transport: SqlTransport, queue: str = "default") -> list[str]:
    """Receive what is there, and return its ids."""
    return ids_of(received(transport, queue))


def wait_until(met: Callable[[], bool]) -> None:
    """Return when *met* returns true."""
    deadline = time.monotonic() + 60
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def in_a_thread(work: Callable[[], object]) -> Iterator[list[object]]:
    """Do *work* in a thread during the block; the list that is yielded gets its result, or what it raised."""
    found: list[object] = []

    def run() -> None:
        try:
            found.append(work())
        except Exception as error:  # noqa: BLE001 - the test looks at it
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield found
    finally:
        thread.join(60)
        assert not thread.is_alive()


@contextmanager
def named_database(databases: DatabaseServer, variable: str) -> Iterator[str]:
    """
    Name a new database in the environment, where the harness of the conformance suite looks; yield its URL.

    On MariaDB it is not encrypted: PyMySQL reads all certificates of the system for each connection, and the suite
    opens tens of thousands. ``test_tls.py`` tests connections that are encrypted.
    """
    with databases.fresh_database() as fresh, pytest.MonkeyPatch.context() as patch:
        url = f"{fresh}{'&' if '?' in fresh else '?'}ssl_disabled=true" if fresh.startswith("mariadb") else fresh
        patch.setenv(variable, url)
        yield url
