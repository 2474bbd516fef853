"""
Join SQLAlchemy's transactions: events become visible at the commit, or never.

This is the only module that imports SQLAlchemy; it is imported when an object of SQLAlchemy's is joined. Any database
can be joined, since nothing is written to it: the events are kept in memory until the commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from logging import getLogger
from typing import Any

from sqlalchemy.engine import Connection
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import Session

from relevo import Delivery
from relevo.backend import HandlingTransaction
from relevo.backend.session import JoinedObjects, JoinedSession, ListenerSession, joinable, listen
from relevo.errors import LeaseLostError, SessionError, described
from relevo_memory._store import MemoryStore, Posting

_log = getLogger("relevo.memory")

Make = Callable[[], Sequence[Posting]]
Enlist = Callable[[Make], None]
Post = Callable[[Sequence[Posting]], None]


class JoinedSessions:
    """
    The transactions that one transport has joined.

    Args:
        post: Makes postings visible; called once for each transaction that committed.
    """

    def __init__(self, post: Post) -> None:
        self._sessions = JoinedObjects[Session, _JoinedSession](lambda session: _JoinedSession(session, post))
        self._connections = JoinedObjects[Connection, _JoinedConnection](
            lambda connection: _JoinedConnection(connection, post)
        )

    def at(self, session: Any) -> Enlist:
        """
        Return a function that enlists events to be sent with the transaction of *session*.

        Raises:
            SessionError: *session* is not an object of SQLAlchemy's with transactions, or is an asynchronous
                connection, or the session's transaction is over.
        """
        found = joinable(session, by="memory transport")
        if isinstance(found, Session):
            return partial(self._sessions.of(found).enlist, found)
        if found.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
            raise SessionError("a connection in AUTOCOMMIT has no transaction; pass one that begins and commits")
        return partial(self._connections.of(found).enlist, found)


class MemoryHandling(HandlingTransaction):
    """
    The transaction of one listener; its database may be any.

    The lease does not end while the database commits. So no other worker has the event when its state is stored, right
    after the commit; only the end of the process comes between the two, and it ends the store too.

    Args:
        delivery: What the listener is called with.

        sessions: Makes the session.

        store: The store of the delivery.

        now: Returns the time.

        name: The name of the transport.
    """

    def __init__(
        self,
        delivery: Delivery,
        sessions: Callable[[], Any],
        store: MemoryStore,
        now: Callable[[], float],
        *,
        name: str,
    ) -> None:
        self._delivery = delivery
        self._store = store
        self._now = now
        self._name = name
        self._own = ListenerSession(sessions, by="memory transport", begun=_begin)

    @property
    def session(self) -> Any:
        return self._own.for_listener

    def _commit(self, state: bytes, committing: Callable[[], object]) -> None:
        self._own.require_transaction()
        self._own.session.flush()  # first: it may take long
        if not self._store.pin(self._delivery, self._now()):
            raise LeaseLostError(self._name, self._delivery)
        try:
            committing()
            self._own.commit()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if not self._own.has_committed:
                raise
            _log.warning("%s: raised although its transaction has committed: %s", self._delivery, described(error))
        finally:
            if self._own.has_committed:
                self._store.checkpoint(self._delivery, state, self._now())
            self._store.unpin(self._delivery, self._now())

    def _commit_step(self, state: bytes, committing: Callable[[], object]) -> None:
        self._commit(state, committing)
        self._own.go_on()

    @property
    def has_written(self) -> bool:
        return self._own.has_written

    def close(self) -> None:
        self._own.close()


def _begin(connection: Connection) -> None:
    """Begin a transaction on SQLite: the driver begins none before a savepoint, which would then be one itself."""
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name == "sqlite" and not driver.in_transaction:
        connection.exec_driver_sql("BEGIN")


class _JoinedSession(JoinedSession[Posting]):
    """Makes the postings of a session before its commit, and posts them after it."""

    def __init__(self, session: Session, post: Post) -> None:
        self._post = post
        self._committing = False
        super().__init__(session)

    def enlist(self, session: Session, make: Make) -> None:
        super().enlist(session, make)
        if self._committing:
            # The event before the commit has passed. If the session cannot flush, it is flushing now, and its flush
            # event follows when its objects have their keys; or it is broken and will not commit.
            with suppress(InvalidRequestError):
                session.flush()
                self._make()

    def committing(self, session: Session) -> None:
        while any(entry.make for entry in self.entries):
            self._make()
            session.flush()
        self._committing = True

    def on_flush(self, session: Session) -> None:
        if self._committing:
            self._make()

    def on_commit(self, session: Session) -> None:
        # Made already, unless a listener of this commit was the first to join the session.
        entries, self.entries = self.entries, []
        self._post([posting for entry in entries for posting in entry.made()])

    def on_end(self) -> None:
        self._committing = False

    def _make(self) -> None:
        for entry in self.entries:
            entry.made()


class _JoinedConnection:
    """
    Posts the events that were sent on a connection after its commit.

    SQLAlchemy calls listeners before a commit, which may still fail, and none after it. Therefore the two methods that
    commit its transactions are wrapped.
    """

    def __init__(self, connection: Connection, post: Post) -> None:
        self._post = post
        self._sent: list[tuple[frozenset[str], Sequence[Posting]]] = []
        for name in ("_commit_impl", "_commit_twophase_impl"):
            setattr(connection, name, self._then_post(getattr(connection, name)))
        listen(connection, "rollback", self._drop)
        listen(connection, "rollback_twophase", self._drop)
        listen(connection, "rollback_savepoint", self._drop_savepoint)

    def enlist(self, connection: Connection, make: Make) -> None:
        """Call *make* now, and keep the result until *connection* commits."""
        postings = make()
        if not connection.in_transaction():
            connection.begin()
        self._sent.append((frozenset(_savepoints(connection)), postings))

    def _then_post(self, commit: Callable[..., None]) -> Callable[..., None]:
        def commit_and_post(*arguments: Any) -> None:
            try:
                commit(*arguments)
            except BaseException:
                self._sent.clear()
                raise
            sent, self._sent = self._sent, []
            self._post([posting for _, postings in sent for posting in postings])

        return commit_and_post

    def _drop(self, *_: object) -> None:
        self._sent.clear()

    def _drop_savepoint(self, _connection: Connection, name: str, _context: object) -> None:
        self._sent = [(within, postings) for within, postings in self._sent if name not in within]


def _savepoints(connection: Connection) -> Iterator[str]:
    """Return the names of the open savepoints, as passed to the listeners of a rollback."""
    nested = connection.get_nested_transaction()
    while nested is not None:
        yield nested._savepoint  # noqa: SLF001 - public only in events
        nested = nested._previous_nested  # noqa: SLF001 - only the innermost is public
