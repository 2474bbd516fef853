"""The harness of the memory transport."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

from sqlalchemy import create_engine
from sqlalchemy.orm import Session, SessionTransaction

from relevo import Transport
from relevo_conformance import Harness
from relevo_memory import MemoryStore, MemoryTransport


class SessionHandle:
    """A session of SQLAlchemy's, as the suite drives one."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def commit(self) -> None:
        self.session.commit()

    def rollback(self) -> None:
        self.session.rollback()

    def savepoint(self) -> SessionTransaction:
        return self.session.begin_nested()


class MemoryHarness(Harness):
    transport: ClassVar[type[MemoryTransport]] = MemoryTransport

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore()
        self.engine = create_engine("sqlite://")

    def open(self) -> Transport:
        return type(self).transport(self.store, clock=self.clock)

    def kill(self, transport: Transport) -> None:
        """Forget it: nothing but its leases tells the store that it was there."""

    def put_raw(self, queue: str, raw: bytes, headers: Mapping[str, str]) -> None:
        self.store.put_raw(queue, raw, headers)

    @contextmanager
    def session(self) -> Iterator[SessionHandle]:
        with Session(self.engine) as session:
            yield SessionHandle(session)

    def close(self) -> None:
        self.engine.dispose()
