"""
The suite that every transport is held to, on SQLite.

Its transactions are sessions: a connection is written to at once, and SQLite then lets no other receive
until it commits, which the suite's random histories do.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from relevo import Transport
from relevo_conformance import Harness, Savepoint, Transaction, suite
from relevo_conformance.harness import Breakage
from relevo_sql import SqlOptions, SqlTransport, event as event_table

pytestmark = pytest.mark.conformance


@attrs.frozen
class Joined:
    session: Session

    def commit(self) -> None:
        self.session.commit()

    def rollback(self) -> None:
        self.session.rollback()

    def savepoint(self) -> Savepoint:
        return self.session.begin_nested()


class SqliteHarness(Harness):
    transport: ClassVar[type[Transport]] = SqlTransport

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="relevo-sql-"))
        self.url = f"sqlite:///{self.directory}/events.db"
        self.engine = application_engine(self.url)

    def open(self) -> Transport:
        return SqlTransport.open(SqlOptions(url=self.url), name="sql", clock=self.clock)

    def kill(self, transport: Transport) -> None:
        assert isinstance(transport, SqlTransport)
        transport._database._let_go()  # the end of a process closes its files, and says nothing

    def put_raw(self, queue: str, raw: bytes, headers: Mapping[str, str]) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.insert(event_table).values(queue=queue, body=raw, headers=json.dumps(dict(headers))))

    def close(self) -> None:
        self.engine.dispose()
        shutil.rmtree(self.directory)

    @contextmanager
    def session(self) -> Iterator[Transaction]:
        with Session(self.engine) as session:
            yield Joined(session)

    @contextmanager
    def broken_send(self, transport: Transport, breakage: Breakage) -> Iterator[None]:
        assert isinstance(transport, SqlTransport)
        engine = transport._database._engine

        def fail(_: Any, __: Any, statement: str, *___: Any) -> None:
            if statement.startswith("INSERT" if breakage == "before" else "COMMIT"):
                # As SQLAlchemy does, which not in all versions looks after what its listeners raise.
                raise sa.exc.OperationalError(statement, (), sqlite3.OperationalError("disk I/O error"))

        moment = "before_cursor_execute" if breakage == "before" else "after_cursor_execute"
        sa.event.listen(engine, moment, fail)
        try:
            yield
        finally:
            sa.event.remove(engine, moment, fail)


def application_engine(url: str) -> sa.Engine:
    """Return an engine whose savepoints work, as SQLAlchemy's page on SQLite describes."""
    engine = sa.create_engine(url)

    @sa.event.listens_for(engine, "connect")
    def _(driver: Any, _: Any) -> None:
        driver.isolation_level = None

    @sa.event.listens_for(engine, "begin")
    def _(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


TestSqlite = suite(SqliteHarness)
