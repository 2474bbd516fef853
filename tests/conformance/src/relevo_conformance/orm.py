"""Transactions of the suite over SQLAlchemy's sessions and connections, for harnesses of transports that join them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import attrs
from sqlalchemy import Connection, NestedTransaction, NullPool, String, Table, create_engine, event, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, SessionTransaction, mapped_column

from relevo_conformance.harness import CommitFailedError

__all__ = ["ConnectionTransaction", "OrmTransaction", "clean_up", "prepare"]


class _Model(DeclarativeBase):
    """The base class of the models of the application that the suite stands for."""


class _Pending(_Model):
    """An object of the application, which gets its id when it is written."""

    __tablename__ = "conformance_object"

    id: Mapped[int] = mapped_column(primary_key=True)
    added_by: Mapped[str] = mapped_column(String(32))
    """The transaction that added it: on a server, others may use the table too."""


def prepare(connection: Connection) -> None:
    """Create the table of the objects that sessions flush, if it is missing; not in a transaction that is tested."""
    _table().create(connection, checkfirst=True)


def clean_up(connection: Connection) -> None:
    """Drop the table that :func:`prepare` created."""
    _table().drop(connection, checkfirst=True)


def _table() -> Table:
    return cast("Table", _Pending.__table__)


@attrs.frozen
class OrmTransaction:
    """A session of SQLAlchemy, in the form that the suite uses: a :class:`relevo_conformance.Transaction`."""

    session: Session
    """Its engine must support savepoints."""

    token: str = attrs.field(init=False, factory=lambda: secrets.token_hex(16))
    """Distinguishes its objects from those of others."""

    def commit(self) -> None:
        """Commit the transaction."""
        self.session.commit()

    def rollback(self) -> None:
        """Roll back the transaction."""
        self.session.rollback()

    def close(self) -> None:
        """End the transaction without a commit; the session can be used again."""
        self.session.close()

    def savepoint(self) -> SessionTransaction:
        """Begin a part that can be rolled back separately."""
        return self.session.begin_nested()

    def add_pending(self) -> Callable[[], bool]:
        """
        Add an object, which is written at the next flush; return a function that reports whether it has been flushed.

        Its table must be there: see :func:`prepare`.
        """
        added = _Pending(added_by=self.token)
        self.session.add(added)
        return lambda: added.id is not None

    def at_flush(self, act: Callable[[], object]) -> None:
        """Call *act* at the end of the next flush that writes objects, as a listener of the application's would be."""
        event.listen(self.session, "after_flush", lambda *_: act(), once=True)

    def count_written(self) -> int:
        """Return how many objects of :meth:`add_pending` are committed; not to be called in a transaction."""
        with Session(self.session.get_bind()) as other:
            return other.scalar(select(func.count()).where(_Pending.added_by == self.token)) or 0

    def fail_commit(self) -> None:
        """Let the next commit fail, as in a database where a deferred constraint fails."""
        _fail_commit(self.session.connection())


@attrs.frozen
class ConnectionTransaction:
    """A connection of SQLAlchemy, in the form that the suite uses: a :class:`relevo_conformance.Transaction`."""

    session: Connection
    """Its engine must support savepoints."""

    def commit(self) -> None:
        """Commit the transaction."""
        self.session.commit()

    def rollback(self) -> None:
        """Roll back the transaction."""
        self.session.rollback()

    def savepoint(self) -> NestedTransaction:
        """Begin a part that can be rolled back separately."""
        return self.session.begin_nested()

    @contextmanager
    def without_transaction(self) -> Iterator[Connection]:
        """Yield a connection on which each statement commits itself."""
        # On its own engine: that of the session may begin transactions by a listener.
        engine = create_engine(self.session.engine.url, poolclass=NullPool)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(select(1))  # SQLAlchemy begins a transaction, which has no effect
            yield connection

    def fail_commit(self) -> None:
        """Let the next commit fail, as in a database where a deferred constraint fails."""
        _fail_commit(self.session)


def _fail_commit(connection: Connection) -> None:
    def fail(connection: Connection) -> None:
        connection.connection.rollback()  # by the driver: SQLAlchemy does not see it, as with a rollback by the server
        raise CommitFailedError

    if not connection.in_transaction():
        connection.begin()  # or there is nothing to commit
    event.listen(connection, "commit", fail, once=True)
