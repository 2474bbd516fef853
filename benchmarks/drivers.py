"""Database drivers alone, on a table like relevo's: the least that a durable dispatch can cost."""

from __future__ import annotations

import json
import sqlite3
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import psycopg
import pymysql  # type: ignore[import-untyped]
import sqlalchemy as sa

from dispatch import FIELDS
from peers import database

AT_ONCE = 1000


class Driver(ABC):
    """
    A driver that inserts rows like relevo's into a table with the same columns, constraints and indexes.

    Args:
        url: A database in which relevo has stored one event.
    """

    name: str
    _place = "%({})s"

    def __init__(self, url: str):
        self._url = sa.make_url(database.plain(url))
        engine = database.engine_of(url)
        with database.connected(engine) as connection:
            columns = [
                column["name"]
                for column in sa.inspect(connection).get_columns("relevo_event")
                if column["name"] != "seq" and not column.get("computed")
            ]
            row = connection.exec_driver_sql(f"SELECT {', '.join(columns)} FROM relevo_event").mappings().one()  # noqa: S608 - relevo's own columns
            for statement in self._tables(connection):
                connection.exec_driver_sql(statement)
        engine.dispose()
        self._row: dict[str, Any] = dict(row)
        places = ", ".join(self._place.format(column) for column in columns)
        self._insert = f"INSERT INTO floor ({', '.join(columns)}) VALUES ({places})"  # noqa: S608 - as above

    @abstractmethod
    def _tables(self, connection: sa.Connection) -> Sequence[str]:
        """Return the statements that create the table."""

    @abstractmethod
    def connected(self) -> Any:
        """Return a connection whose statements commit by themselves; closing it ends it."""

    @abstractmethod
    def send(self, connection: Any, number: int) -> None:
        """Insert that number of rows, one by one."""

    @abstractmethod
    def send_many(self, connection: Any) -> None:
        """Insert :data:`AT_ONCE` rows in one transaction."""

    def send_within(self, connection: sa.Connection) -> None:
        """Insert one row in the transaction of *connection*."""
        connection.exec_driver_sql(self._insert, self._new())

    def _new(self) -> dict[str, Any]:
        """Return a row as every sender has to make it: with a new id and an encoded event."""
        return {**self._row, "event_id": str(uuid.uuid4()), "body": json.dumps(FIELDS).encode()}

    def _many(self) -> list[dict[str, Any]]:
        return [self._new() for _ in range(AT_ONCE)]


class Psycopg(Driver):
    """One prepared statement; a list by executemany, which sends all rows before it waits."""

    name = "psycopg"

    def _tables(self, connection: sa.Connection) -> Sequence[str]:
        return ["CREATE TABLE floor (LIKE relevo_event INCLUDING ALL)"]

    def connected(self) -> psycopg.Connection:
        return psycopg.connect(self._url.render_as_string(hide_password=False), autocommit=True)

    def send(self, connection: psycopg.Connection, number: int) -> None:
        for _ in range(number):
            connection.execute(self._insert, self._new())

    def send_many(self, connection: psycopg.Connection) -> None:
        with connection.transaction():
            connection.cursor().executemany(self._insert, self._many())


class PyMySQL(Driver):
    """One statement a row; a list by executemany, which makes statements of many rows of it."""

    name = "PyMySQL"

    def _tables(self, connection: sa.Connection) -> Sequence[str]:
        return ["CREATE TABLE floor LIKE relevo_event"]

    def connected(self) -> Any:
        url = self._url
        return pymysql.connect(
            host=url.host or "localhost",
            port=url.port or 3306,
            user=url.username,
            password=url.password or "",
            database=url.database,
            charset="utf8mb4",
            autocommit=True,
        )

    def send(self, connection: Any, number: int) -> None:
        with connection.cursor() as cursor:
            for _ in range(number):
                cursor.execute(self._insert, self._new())

    def send_many(self, connection: Any) -> None:
        connection.begin()
        with connection.cursor() as cursor:
            cursor.executemany(self._insert, self._many())
        connection.commit()


class Sqlite3(Driver):
    """One connection, which threads share by a lock; every commit waits for the disk."""

    name = "sqlite3"
    _place = ":{}"

    def __init__(self, url: str):
        super().__init__(url)
        self._lock = threading.Lock()

    def _tables(self, connection: sa.Connection) -> Sequence[str]:
        found = connection.exec_driver_sql(
            "SELECT sql FROM sqlite_master WHERE tbl_name = 'relevo_event' AND sql <> ''"
        )
        return [sql.replace("relevo_event", "floor") for sql in found.scalars()]

    def connected(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._url.database or "", isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA busy_timeout = 10000")
        return connection

    def send(self, connection: sqlite3.Connection, number: int) -> None:
        for _ in range(number):
            row = self._new()
            with self._lock:
                connection.execute(self._insert, row)

    def send_many(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(self._insert, self._many())
        connection.execute("COMMIT")


DRIVERS: dict[str, type[Driver]] = {"postgresql": Psycopg, "mariadb": PyMySQL, "sqlite": Sqlite3}
"""By the kind of the database."""
