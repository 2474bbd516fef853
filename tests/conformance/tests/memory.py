"""The harness of the memory transport."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar

from sqlalchemy import create_engine
from sqlalchemy.orm import Session, SessionTransaction

from relevo import Transport
from relevo.errors import SendError, TransportUnavailableError
from relevo_conformance import Harness
from relevo_conformance.harness import Breakage
from relevo_memory import MemoryStore, MemoryTransport
from relevo_memory._store import Posting


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


class BreakableStore(MemoryStore):
    """A store that fails as a server does: before it wrote anything, or with only its answer lost."""

    breakage: Breakage | None = None
    teller = "memory"
    """The name of the transport whose send fails."""

    def add(self, postings: Sequence[Posting], now: float) -> None:
        if self.breakage == "before":
            raise TransportUnavailableError(self.teller, "the store is broken")
        super().add(postings, now)
        if self.breakage == "after":
            raise SendError(self.teller, unknown=range(len(postings)), why="the answer was lost")


class MemoryHarness(Harness):
    transport: ClassVar[type[MemoryTransport]] = MemoryTransport
    store_type: ClassVar[type[BreakableStore]] = BreakableStore

    def __init__(self) -> None:
        super().__init__()
        self.store = self.store_type()
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

    @contextmanager
    def broken_send(self, transport: Transport, breakage: Breakage) -> Iterator[None]:
        self.store.breakage, self.store.teller = breakage, transport.name
        try:
            yield
        finally:
            self.store.breakage = None

    def close(self) -> None:
        self.engine.dispose()
