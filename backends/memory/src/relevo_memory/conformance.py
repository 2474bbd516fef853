"""The harness of the memory transport for ``relevo-conformance``; needs ``relevo-memory[conformance]``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import cached_property
from typing import Any, ClassVar

from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import NullPool, StaticPool

from relevo import Delivery, Transport
from relevo.backend import HandlingTransaction
from relevo.errors import SendError, TransportUnavailableError
from relevo_conformance import Harness, orm
from relevo_conformance.fault import Countdown, Fault
from relevo_conformance.orm import ConnectionTransaction, OrmTransaction
from relevo_memory._store import MemoryStore
from relevo_memory._transport import MemoryTransport

__all__ = ["BreakableStore", "MemoryHarness"]


class Doorway(threading.Condition):
    """The lock of a store, before which a thread can be stopped; while one holds it, no other can interfere."""

    stop: Callable[[], None] | None = None

    def __enter__(self) -> bool:
        if self.stop is not None and not self._is_owned():  # type: ignore[attr-defined]
            self.stop()
        return super().__enter__()


class BreakableStore(MemoryStore):
    """A store that fails as a server does: before it writes anything, or after that, with only its answer lost."""

    countdown: Countdown | None = None
    teller = "memory"
    """The name of the transport whose call fails."""

    def __init__(self) -> None:
        super().__init__()
        self.doorway = self.changed = Doorway(threading.RLock())

    def _write(self, operation: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        countdown = self.countdown
        if countdown is not None and countdown.begins(lasting=True):
            raise TransportUnavailableError(self.teller, "the store is broken")
        result = operation(*arguments, **options)
        if countdown is not None and countdown.ends(lasting=True):
            if operation.__name__ == "add":
                raise SendError(self.teller, unknown=range(len(arguments[0])), why="the answer was lost")
            raise TransportUnavailableError(self.teller, "the answer was lost")
        return result


def _breakable(operation: str) -> Callable[..., Any]:
    def write(self: BreakableStore, *arguments: Any, **options: Any) -> Any:
        return self._write(getattr(super(BreakableStore, self), operation), *arguments, **options)

    return write


for _operation in ("add", "claim", "settle", "extend", "checkpoint", "revive", "discard", "cancel", "purge"):
    setattr(BreakableStore, _operation, _breakable(_operation))


class MemoryHarness(Harness):
    """Drives the memory transport: one store, and a clock that the test moves."""

    transport: ClassVar[type[MemoryTransport]] = MemoryTransport
    slack: ClassVar[float] = 1e-6
    store_type: ClassVar[type[BreakableStore]] = BreakableStore

    def __init__(self) -> None:
        super().__init__()
        self.store = self.store_type()
        # Another database for each connection, so that no transaction ends another's.
        self.engine = create_engine("sqlite://", poolclass=NullPool)

    @classmethod
    def may_run_beside(cls) -> bool:
        return cls.__module__ == __name__  # what another one changes is not known here

    def open(self) -> Transport:
        return type(self).transport(self.store, clock=self.clock)

    def kill(self, transport: Transport) -> None:
        """Do nothing: only its leases show the store that it existed."""

    def put_raw(self, queue: str, raw: bytes, headers: Mapping[str, str]) -> None:
        self.store.put_raw(queue, raw, headers)

    @contextmanager
    def session(self) -> Iterator[OrmTransaction]:
        with self.engine.connect() as connection:
            orm.prepare(connection)
            connection.commit()
            with Session(connection) as session:
                yield OrmTransaction(session)

    @contextmanager
    def handling(
        self, transport: Transport, delivery: Delivery
    ) -> Iterator[tuple[HandlingTransaction, OrmTransaction]]:
        assert isinstance(transport, MemoryTransport)  # noqa: S101 - it came from open()
        with closing(transport.handling(delivery, sessions=sessionmaker(self._rows))) as transaction:
            yield transaction, OrmTransaction(transaction.session)

    @cached_property
    def _rows(self) -> Engine:
        """A database that outlives a session, for the rows of listeners."""
        engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
        with engine.begin() as connection:
            orm.prepare(connection)
        return engine

    @contextmanager
    def connection(self) -> Iterator[ConnectionTransaction]:
        with self.engine.connect() as connection:
            yield ConnectionTransaction(connection)

    @contextmanager
    def broken(self, transport: Transport, fault: Fault) -> Iterator[None]:
        self.store.countdown, self.store.teller = Countdown(fault), transport.name
        try:
            yield
        finally:
            self.store.countdown = None

    @contextmanager
    def turnstile(self, transport: Transport, stop: Callable[[], None]) -> Iterator[None]:
        self.store.doorway.stop = stop
        try:
            yield
        finally:
            self.store.doorway.stop = None

    def drop(self, queue: str) -> None:
        self.store._queues.pop(queue, None)  # noqa: SLF001 - find() looks into each queue that there ever was

    def close(self) -> None:
        self.engine.dispose()
        if "_rows" in vars(self):
            self._rows.dispose()
