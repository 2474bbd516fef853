"""
Join SQLAlchemy's transactions: the parts that the transports which do so have in common.

The only module of the kit that needs SQLAlchemy. Import it when there is an SQLAlchemy object to join.
"""

from __future__ import annotations

import re
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Generic, TypeVar
from weakref import ReferenceType, WeakKeyDictionary, ref

import attrs
from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, SessionTransaction, scoped_session
from sqlalchemy.util.concurrency import await_only, greenlet_spawn, in_greenlet

from relevo._fork import ForkLock
from relevo._listener.process_loop import SMALL_WORK, in_thread
from relevo.errors import SessionError, shown

# what an application passes
__all__ = ["begin", "joinable"]
# what is sent with a session
__all__ += ["Entry", "JoinedObjects", "JoinedSession", "listen"]
# what a transactional listener writes with
__all__ += ["ListenerSession", "apart", "on_loop"]

Item = TypeVar("Item")
Target = TypeVar("Target", bound=Session | Connection)
Joint = TypeVar("Joint")


def joinable(session: object, *, by: str) -> Session | Connection:
    """
    Return the session or connection that does the work behind *session*.

    Args:
        session: What the application passed.

        by: The name of what joins it, for the error, such as "SQL transport".

    Raises:
        SessionError: It is not a Session, scoped_session, AsyncSession or Connection, or the transaction of the
            session is over.
    """
    found = _synchronous(session)
    if isinstance(found, Session):
        _require_transaction(found)
        return found
    if isinstance(found, Connection):
        return found
    raise SessionError(
        f"{shown(session)} cannot be joined; the {by} joins SQLAlchemy's Session, scoped_session, AsyncSession and "
        f"Connection"
    )


def begin(session: Session) -> None:
    """
    Begin the transaction of *session*, as ``add()`` does: otherwise a rollback would not call any listener.

    Raises:
        SessionError: Its transaction is over, or it has none and does not begin one by itself.
    """
    _require_transaction(session)
    if session.get_transaction() is None:
        session.begin()


def _require_transaction(session: Session) -> None:
    if not session.is_active:
        raise SessionError(
            "the session's transaction is over: it has committed, as in after_commit, or an error has ended it; "
            "dispatch in before_commit, without session=, or after its rollback()"
        )
    if session.get_transaction() is None and not session.autobegin:
        raise SessionError("the session has no transaction, and autobegin is off; call its begin() first")


def _synchronous(session: object) -> object:
    if isinstance(session, scoped_session):
        return session.registry()
    if asynchronous := sys.modules.get("sqlalchemy.ext.asyncio"):
        if isinstance(session, asynchronous.async_scoped_session):
            session = session.registry()
        if isinstance(session, asynchronous.AsyncSession):
            found: object = session.sync_session
            return found
        if isinstance(session, asynchronous.AsyncConnection):
            raise SessionError(
                "an asynchronous connection is joined inside its run_sync: "
                "await connection.run_sync(lambda c: app.dispatch(…, session=c))"
            )
    return session


@attrs.define(kw_only=True, eq=False)
class Entry(Generic[Item]):
    """What one send adds to a transaction."""

    within: tuple[SessionTransaction, ...]
    """The savepoints and the transaction that were open at the send."""

    make: Callable[[], Sequence[Item]] | None
    items: Sequence[Item] = ()
    flushed: bool = False
    """The objects that were pending beside it are written."""

    def made(self) -> Sequence[Item]:
        """Return its items, which are created at the first call."""
        if self.make is not None:
            # If make() fails, it stays, so that a second commit fails again.
            self.items, self.make = self.make(), None
        return self.items


class JoinedSession(ABC, Generic[Item]):
    """
    Listens to a session, and keeps what is sent with it until it commits.

    A session calls the same listeners for the commit of a savepoint and for its own; for a rollback it only says that
    a transaction has ended. So every end without a commit before it is a rollback.
    """

    def __init__(self, session: Session):
        self.entries: list[Entry[Item]] = []
        self._committed: SessionTransaction | None = None
        _joined[session] = (*_joined.get(session, ()), ref(self))
        # After the application's listeners, which may send; and it keeps this object alive as long as the session.
        listen(session, "before_commit", self._before_commit)
        listen(session, "after_flush_postexec", self._after_flush)

    def enlist(self, session: Session, make: Callable[[], Sequence[Item]]) -> None:
        """
        Keep what *make* will return, until the transaction or a savepoint around it is rolled back.

        Raises:
            SessionError: The transaction of *session* is over, or there is none.
        """
        begin(session)
        self.entries.append(Entry(within=tuple(_around(session)), make=make))

    @abstractmethod
    def committing(self, session: Session) -> None:
        """Create the items: *session* has flushed and is about to commit. Its later listeners may still send."""

    @abstractmethod
    def on_commit(self, session: Session) -> None:
        """Deliver the entries: *session* has committed."""

    def on_flush(self, session: Session) -> None:
        """React to a flush: the objects that were pending in *session* have their keys."""

    def rolling_back(self, transaction: SessionTransaction) -> None:
        """React to a rollback: the entries of *transaction*, or of a savepoint, are dropped after this call."""

    def on_end(self) -> None:
        """React to the end of the session's transaction."""

    def _before_commit(self, session: Session) -> None:
        if not session.in_nested_transaction():
            session.flush()  # its listeners may send too
            self.committing(session)

    def _after_flush(self, session: Session, _context: object) -> None:
        for entry in reversed(self.entries):
            if entry.flushed:
                break  # and so are all before it
            entry.flushed = True
        self.on_flush(session)

    def _after_commit(self, session: Session) -> None:
        self._committed = session.get_nested_transaction() or session.get_transaction()
        if not session.in_nested_transaction():
            self.on_commit(session)

    def _after_transaction_end(self, _session: Session, transaction: SessionTransaction) -> None:
        if transaction is self._committed:
            self._committed = None
        elif transaction.nested or transaction.parent is None:
            self.rolling_back(transaction)
            self.entries = [entry for entry in self.entries if transaction not in entry.within]
        if transaction.parent is None:
            self.on_end()


_joined: WeakKeyDictionary[Session, tuple[ReferenceType[JoinedSession[Any]], ...]] = WeakKeyDictionary()
"""What has joined each session."""


# Registered once, for all sessions: to do so for each of them takes longer than all else that a send in it does. No
# listener to these events can send, so none is running in this thread when the module is imported.


@event.listens_for(Session, "after_commit")
def _after_commit(session: Session) -> None:
    for joined in _joined_to(session):
        joined._after_commit(session)  # noqa: SLF001 - of this module


@event.listens_for(Session, "after_transaction_end")
def _after_transaction_end(session: Session, transaction: SessionTransaction) -> None:
    for joined in _joined_to(session):
        joined._after_transaction_end(session, transaction)  # noqa: SLF001 - of this module


def _joined_to(session: Session) -> Iterator[JoinedSession[Any]]:
    for reference in _joined.get(session, ()):
        if joined := reference():
            yield joined


class JoinedObjects(Generic[Target, Joint]):
    """
    The sessions, or the connections, that a transport has joined.

    Both sides are weak references: if a session is dropped with its transaction open, its entries are dropped too.

    Args:
        join: Called for each object that is not joined yet. The object itself must keep the result alive, as it does
            with a listener.
    """

    def __init__(self, join: Callable[[Target], Joint]):
        self._join: Callable[[Target], Joint] = join
        self._lock = ForkLock()
        self._joints: WeakKeyDictionary[Target, ReferenceType[Joint]] = WeakKeyDictionary()

    def of(self, target: Target) -> Joint:
        """Return the result of *join* for *target*."""
        with self._lock:
            reference = self._joints.get(target)
            joint = reference() if reference else None
            if joint is None:
                joint = self._join(target)
                self._joints[target] = ref(joint)
            return joint


_is_awaited: ContextVar[bool] = ContextVar("relevo_is_awaited", default=False)
"""Whether this is the work of :func:`on_loop`."""


async def on_loop(work: Callable[[], Item]) -> Item:
    """
    Call *work* so that the event loop of this thread awaits what it does with the session of an ``AsyncSession``.

    It implements :meth:`relevo.backend.TransactionalHandling.on_loop`.
    """
    token = _is_awaited.set(True)
    try:
        return await greenlet_spawn(work)
    finally:
        _is_awaited.reset(token)


def apart(work: Callable[[], Item]) -> Item:
    """Return the result of *work*, which blocks: if an event loop awaits the caller, it is called in a thread."""
    if "sqlalchemy.ext.asyncio" in sys.modules and in_greenlet():
        return await_only(in_thread(SMALL_WORK, work))
    return work()


class ListenerSession:
    """
    A session that is opened for one listener, in one transaction, which only its caller ends.

    Args:
        sessions: Makes the session, an ``AsyncSession`` inside :func:`on_loop`. A ``scoped_session`` is used as it is,
            so that functions which the listener calls use the same one; it is removed before, with what an earlier
            listener left in it, and afterwards.

        by: The name of the transport in words, for an error.

        begun: Called with a connection when the session has begun a transaction on it.

    Raises:
        SessionError: *sessions* makes something else than a Session, or than an AsyncSession inside :func:`on_loop`, or
            one that is in a transaction already, that begins none by itself, or that commits in two phases.

    A savepoint marks the transaction. It is gone if the database has rolled the transaction back, as after a deadlock,
    or if a statement has ended it: SQLAlchemy notices neither, and goes on in another transaction.
    """

    def __init__(self, sessions: Callable[[], Any], *, by: str, begun: Callable[[Connection], object] = lambda _: None):
        self._sessions = sessions
        self._begun = begun
        self._remove()
        self.for_listener, self.session = _made_session(sessions, by=by)
        """The session for the listener, and the one that does its work: the same, unless it is an AsyncSession."""

        self.has_begun_commit = False
        """Whether COMMIT was sent to the database: after an error, it may have taken effect."""

        self.has_committed = False
        """Whether the commit took effect, also if a listener to the session's events raised afterwards."""

        self._is_ours = self._is_closed = self._has_executed = False
        self._connections: list[Connection] = []
        listen(self.session, "before_commit", self._refuse)
        listen(self.session, "after_begin", self._watch)
        event.listen(self.session, "after_commit", self._note_committed, insert=True)  # before one that may raise
        self._transaction = self.session.begin()

    def require_transaction(self) -> None:
        """
        Check that the transaction of the listener is still open, on one connection.

        Raises:
            SessionError: The listener has ended it, or has used several databases.
        """
        if self.session.get_transaction() is not self._transaction:
            raise SessionError(
                "a transactional listener has ended the transaction of call.session, by rollback(), by close() or as a "
                "context manager, so what it wrote before is lost; use begin_nested() for a part that may fail"
            )
        if not all(map(_may_be_in_transaction, self._connections)):
            raise SessionError(_ENDED)
        if len(self._connections) > 1:
            raise SessionError(
                "a transactional listener has used several databases with call.session, which cannot commit together; "
                "use one engine, or a session of its own for the other database"
            )

    def commit(self) -> None:
        """Commit the session, and with it what its own listeners add."""
        self.require_transaction()
        self._is_ours = True
        try:
            self.session.commit()
        finally:
            self._is_ours = False

    def go_on(self) -> None:
        """Begin another transaction of the session, which has committed, also if an error came after that."""
        if self.session.get_transaction() is not None:
            for connection in self._connections:
                _roll_back(connection)
            try:
                self.session.rollback()
            except Exception:  # noqa: BLE001 - the connection is lost
                self.session.invalidate()
        self._forget_connections()
        self.has_begun_commit = self.has_committed = self._has_executed = False
        self._transaction = self.session.begin()

    @property
    def has_written(self) -> bool:
        """
        Whether the transaction has changed something, or will when it is flushed.

        What a function of the database changes that a query calls is not noticed.
        """
        session = self.session
        return (
            self._has_executed or bool(session.new or session.deleted) or any(map(session.is_modified, session.dirty))
        )

    def close(self) -> None:
        """
        Close the session, which rolls back what is not committed; a second time do nothing.

        It raises nothing but what interrupts it, such as the cancellation of the task that awaits it.
        """
        if self._is_closed:
            return
        try:
            for connection in () if self.has_committed else self._connections:
                _roll_back(connection)
            self.session.close()
            self._remove()
        except BaseException as error:
            with suppress(Exception):
                self.session.invalidate()
            if not isinstance(error, Exception):  # else the connection is lost, and the database rolls back by itself
                raise
        finally:
            self._is_closed = True
            self._forget_connections()
            event.remove(self.session, "before_commit", self._refuse)
            event.remove(self.session, "after_begin", self._watch)
            event.remove(self.session, "after_commit", self._note_committed)

    def _forget_connections(self) -> None:
        for connection in self._connections:
            event.remove(connection, "commit", self._note)
            event.remove(connection, "before_cursor_execute", self._note_execution)
        self._connections = []

    def _remove(self) -> None:
        if isinstance(self._sessions, scoped_session):
            self._sessions.remove()

    def _watch(self, _session: Session, _transaction: SessionTransaction, connection: Connection) -> None:
        if connection not in self._connections:
            self._connections.append(connection)
            listen(connection, "commit", self._note)
            listen(connection, "before_cursor_execute", self._note_execution)
            if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
                raise SessionError(_AUTOCOMMIT)
            self._begun(connection)
            connection.dialect.do_savepoint(connection, _MARK)

    def _note_execution(self, _connection: object, _cursor: object, statement: str, *_: object) -> None:
        self._has_executed = self._has_executed or not _is_query(statement)

    def _refuse(self, session: Session) -> None:
        if not self._is_ours and not session.in_nested_transaction():
            raise SessionError(_NOT_ITS_COMMIT)

    def _note(self, connection: Connection) -> None:
        if not self._is_ours:
            raise SessionError(_NOT_ITS_COMMIT)
        try:
            connection.dialect.do_release_savepoint(connection, _MARK)
        except DBAPIError as error:
            if error.connection_invalidated:
                raise
            raise SessionError(_ENDED) from error
        self.has_begun_commit = True

    def _note_committed(self, session: Session) -> None:
        self.has_committed = self.has_committed or not session.in_nested_transaction()


_QUERY = re.compile(
    r"(?:[\s(]|/\*.*?\*/|--[^\n]*\n)*"
    r"(?:(?:SELECT|VALUES|TABLE|SHOW|SET|PRAGMA|EXPLAIN|BEGIN|START|SAVEPOINT|RELEASE|ROLLBACK\s+TO)\b"
    r"|WITH\b(?!.*\b(?:INSERT\s+INTO|DELETE\s+FROM|MERGE\s+INTO|(?<!FOR )(?<!KEY )UPDATE)\b))",
    re.IGNORECASE | re.DOTALL,
)


def _is_query(statement: str) -> bool:
    """Return whether *statement* changes nothing that is to be committed, as far as its words show it."""
    return _QUERY.match(statement) is not None


_MARK = "relevo_listener"
"""The savepoint at the beginning of the transaction."""

_ENDED = (
    "the transaction had ended before the listener returned: the database rolled it back, or COMMIT, ROLLBACK or DDL "
    "ended it; let such errors pass, and do not run such statements"
)

_AUTOCOMMIT = (
    "a transactional listener has asked for a connection in AUTOCOMMIT, which has no transaction; call "
    "call.session.connection() without that option"
)

_NOT_ITS_COMMIT = (
    "a transactional listener does not commit call.session: that is done when it returns, together with the record "
    "that it is done; use call.session.flush(), or begin_nested() for a savepoint"
)


def _made_session(sessions: Callable[[], Any], *, by: str) -> tuple[Any, Session]:
    """Return what *sessions* makes, if a listener can have it, and the session that does its work."""
    is_async, asynchronous = _is_awaited.get(), sys.modules.get("sqlalchemy.ext.asyncio")
    if asynchronous and isinstance(sessions, asynchronous.async_scoped_session):
        raise SessionError(
            "transactional: expected what makes a session for each listener; got an async_scoped_session, which can be "
            "removed only in its own scope; pass its async_sessionmaker"
        )
    given: object = sessions()
    made = given.sync_session if is_async and asynchronous and isinstance(given, asynchronous.AsyncSession) else given
    if not isinstance(made, Session) or is_async is (made is given):
        what, maker = ("an AsyncSession", "an async_sessionmaker") if is_async else ("a Session", "a sessionmaker")
        raise SessionError(
            f"transactional: expected what makes {what} of SQLAlchemy's for the {by}, such as {maker}; it made "
            f"{shown(given)}; an AsyncSession is for listeners that are async def, and for these alone"
        )
    if made.get_transaction() is not None or made.new or made.dirty or made.deleted:
        raise SessionError(
            f"transactional: {shown(sessions)} made a session that is in use already; pass what makes a new one for "
            f"each listener, such as a sessionmaker"
        )
    bind = made.bind
    if bind is not None and bind.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
        raise SessionError(
            f"transactional: {shown(sessions)} made a session on AUTOCOMMIT, which has no transaction; pass one that "
            f"begins and commits"
        )
    if not made.autobegin or made.twophase:
        what = "commits in two phases" if made.twophase else "does not begin its transaction by itself"
        raise SessionError(
            f"transactional: {shown(sessions)} made a session that {what}; pass one without that setting"
        )
    return given, made


def _may_be_in_transaction(connection: Connection) -> bool:
    """
    Return whether the driver of *connection* has a transaction, or does not know.

    asyncpg begins no other one if a statement has ended that of the listener: what follows would commit at once, and
    so would the record that the listener is done.
    """
    if connection.closed or connection.invalidated:
        return True
    ask = getattr(connection.connection.driver_connection, "is_in_transaction", None)
    return ask is None or bool(ask())


def _roll_back(connection: Connection) -> None:
    """End what SQLAlchemy may take for ended, as after a failed commit: the pool would hand it out again."""
    try:
        if not connection.closed:
            connection.connection.rollback()
    except Exception:  # noqa: BLE001 - it is lost
        with suppress(Exception):
            connection.invalidate()


def listen(target: Session | Connection, name: str, listener: Callable[..., None]) -> None:
    """Listen to *target*, even from inside a listener to the same event."""
    collection = getattr(target.dispatch, name)
    if isinstance(collection.listeners, deque):
        # A loop over it may be running and would fail at the change; it finishes on the old collection.
        collection.listeners = collection.listeners.copy()
    event.listen(target, name, listener)


def _around(session: Session) -> Iterator[SessionTransaction]:
    transaction = session.get_nested_transaction() or session.get_transaction()
    while transaction is not None:
        yield transaction
        transaction = transaction.parent
