"""
Joining the application's transactions: events are rows like its own, and commit together with them.

On a connection they are written at once. A session is enlisted: what it will send is made and written
when it commits, in one statement, after everything pending was flushed and has its keys. What is sent
by the application's own listeners of that commit may come too late for ours; it is written when the
connection tells that it commits, which is the last moment before the database does.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, ref

import attrs
import sqlalchemy as sa
from sqlalchemy import event as events
from sqlalchemy.orm import Session, SessionTransaction, scoped_session
from sqlalchemy.util.concurrency import in_greenlet

from relevo import Envelope
from relevo.errors import ConfigurationError, SendError, SessionError, TransportUnavailableError, shown
from relevo_sql._database import Database
from relevo_sql._dialect import beside
from relevo_sql._errors import translated
from relevo_sql._fork import Forking
from relevo_sql._schema import event

Row = tuple[object, ...]
Make = Callable[[], Sequence[Row]]


@attrs.define(kw_only=True, eq=False)
class _Entry:
    within: tuple[SessionTransaction, ...]
    """The savepoints and the transaction that were open around it."""

    make: Make | None
    rows: Sequence[Row] = ()

    def made(self) -> Sequence[Row]:
        if self.make is not None:
            # If it fails it stays unmade, so that whoever only commits again fails again.
            self.rows, self.make = self.make(), None
        return self.rows


class Joints(Forking):
    """
    The sessions and connections that one transport has joined.

    Args:
        database: Where the transport keeps its events, and what it is called.

        wake: Called when a session has committed something.
    """

    def __init__(self, database: Database, wake: Callable[[], None]):
        self._database = database
        self._wake = wake
        # Weak on both sides: a session that is left lying with its transaction open takes all of this along.
        self._sessions: WeakKeyDictionary[Session, ReferenceType[_JoinedSession]] = WeakKeyDictionary()
        self.begin_life()
        super().__init__()

    def begin_life(self) -> None:
        self._lock = threading.Lock()
        self._ids: WeakKeyDictionary[sa.Engine, str] = WeakKeyDictionary()

    def at(self, session: Any) -> Callable[[Make], None]:
        """
        Return what writes rows with *session*'s transaction.

        Raises:
            SessionError: It is nothing of SQLAlchemy's that has transactions, or a connection to another
                database. A session may not have a connection yet; it is looked at when it sends.
        """
        found = _synchronous(session)
        if isinstance(found, Session):
            joined = self._joined(found)
            return lambda make: joined.enlist(found, make)
        if isinstance(found, sa.Connection):
            # Before the first of several senders has written anything.
            self._require_fit(found)
            return lambda make: self._write_at_once(found, make)
        raise SessionError(
            f"{shown(session)} cannot be joined; the SQL transport joins SQLAlchemy's Session, scoped_session, "
            f"AsyncSession and Connection"
        )

    def woken(self) -> None:
        """Tell who waits that something was committed."""
        self._wake()

    def require_kind(self, dialect: sa.Dialect) -> None:
        """Raise :class:`SessionError` if a session of *dialect* can only be of another database."""
        if dialect.name != self._database.dialect.name:
            raise self._elsewhere("is of another database")

    def require_transaction(self, connection: sa.Connection) -> None:
        """Raise :class:`SessionError` if what is written on *connection* would not wait for its commit."""
        if not self._database.dialect.joined(connection):
            raise SessionError(
                f'the transport "{self._database.name}" cannot join a connection in AUTOCOMMIT, since it has no '
                f"transaction; give one that begins and commits"
            )

    def require_same(self, connection: sa.Connection) -> None:
        """Raise :class:`SessionError` if what is written on *connection* is not found by the transport."""
        engine = connection.engine
        known = self._ids.get(engine)
        if known and known == self._database.identity():
            return
        theirs = self._id_behind(connection)
        if theirs != self._database.identity() and theirs != self._database.identity(anew=True):
            raise self._elsewhere("is of another database")
        self._ids[engine] = theirs

    def write(self, connection: sa.Connection, rows: Sequence[Row]) -> None:
        """Write *rows* in the transaction of *connection*."""
        database = self._database
        try:
            with translated(database.dialect, self._database.name, lambda: "the session's database"):
                database.statements.write(connection, rows)
        except ConfigurationError as error:
            raise self._elsewhere("has not relevo's tables") from error.__cause__
        except TransportUnavailableError as error:
            positions = range(len(rows))
            raise SendError(self._database.name, refused=positions, why=error.why) from error.__cause__
        except (UnicodeError, OverflowError) as error:
            raise SendError(self._database.name, refused=range(len(rows)), why=str(error)) from error

    def _joined(self, session: Session) -> _JoinedSession:
        with self._lock:
            reference = self._sessions.get(session)
            joined = reference() if reference else None
            if joined is None:
                joined = _JoinedSession(session, self)
                self._sessions[session] = ref(joined)
            return joined

    def _write_at_once(self, connection: sa.Connection, make: Make) -> None:
        self._require_fit(connection)
        self.write(connection, make())

    def _require_fit(self, connection: sa.Connection) -> None:
        if not connection.in_transaction():
            connection.begin()
        self.require_kind(connection.dialect)
        self.require_transaction(connection)
        self.require_same(connection)

    def _id_behind(self, connection: sa.Connection) -> str:
        try:
            if connection.dialect.is_async:
                return self._database.check(connection)
            # Elsewhere than in their transaction: after a read it could be too late for it to write.
            engine = beside(connection.engine)
            try:
                with engine.connect() as own:
                    return self._database.check(own)
            finally:
                engine.dispose()
        except sa.exc.DBAPIError as error:
            raise self._elsewhere("has not relevo's tables") from error.orig
        except ConfigurationError as error:
            raise self._elsewhere("has other tables of relevo") from error

    def _elsewhere(self, what: str) -> SessionError:
        database = self._database
        return SessionError(
            f'the session {what}, and the transport "{database.name}" keeps its events in {database.place}; '
            f"give a session of that database, or configure an outbox in the session's own"
        )


class _JoinedSession:
    """
    Listens to a session, and to its connection.

    A session tells of the commit of its savepoints as it tells of its own, and of a roll-back only that a
    transaction has ended; so every end that no commit came before is one.
    """

    def __init__(self, session: Session, joints: Joints):
        self._joints = joints
        self._entries: list[_Entry] = []
        self._unchecked = False
        self._connection: sa.Connection | None = None
        self._committed: SessionTransaction | None = None
        _listen(session, "before_commit", self._before_commit)
        _listen(session, "after_commit", self._after_commit)
        _listen(session, "after_transaction_end", self._after_transaction_end)

    def enlist(self, session: Session, make: Make) -> None:
        """Have what *make* returns written when *session* commits."""
        if session.get_transaction() is None:
            if not session.autobegin:
                raise SessionError("the session has begun no transaction, and autobegin is off; call its begin() first")
            session.begin()  # as add() does: else a roll-back would find nothing to tell us of
        self._check(session)
        self._entries.append(_Entry(within=tuple(_around(session)), make=make))

    def _check(self, session: Session) -> None:
        try:
            dialect = session.get_bind(clause=event).dialect
            self._joints.require_kind(dialect)
            if dialect.is_async:
                self._unchecked = True  # it can be asked only where it is awaited: at its commit
                if not in_greenlet():
                    return  # nor is this a listener of the commit: our own is still to come
            connection = session.connection(bind_arguments={"clause": event})
            if not dialect.is_async:
                self._joints.require_transaction(connection)
                self._joints.require_same(connection)
            self._watch(connection)
        except sa.exc.UnboundExecutionError as error:
            raise SessionError(
                "the session has no database for relevo's tables; bind it, as with "
                "Session(engine), or binds={relevo_sql.event: engine}"
            ) from error

    def _watch(self, connection: sa.Connection) -> None:
        if connection is not self._connection:
            self._unwatch()
            self._connection = connection
            _listen(connection, "commit", self._last_moment)
            _listen(connection, "prepare_twophase", self._last_moment)

    def _unwatch(self) -> None:
        # The connection may be the application's own, and live longer than many sessions.
        if self._connection is not None:
            events.remove(self._connection, "commit", self._last_moment)
            events.remove(self._connection, "prepare_twophase", self._last_moment)
            self._connection = None

    def _write(self, connection: sa.Connection) -> None:
        """Make and write all that is enlisted, and what is enlisted while that is made."""
        while self._entries:
            entries = list(self._entries)
            rows = [row for entry in entries for row in entry.made()]
            if self._unchecked:
                self._joints.require_transaction(connection)
            self._joints.write(connection, rows)
            if self._unchecked:  # after the writing: a read before it could make it too late to write
                self._joints.require_same(connection)
                self._unchecked = False
            self._entries = [entry for entry in self._entries if entry not in entries]

    def _before_commit(self, session: Session) -> None:
        if not session.in_nested_transaction():
            session.flush()  # whose listeners may send too
            if self._entries:
                self._write(session.connection(bind_arguments={"clause": event}))

    def _last_moment(self, connection: sa.Connection, _xid: object = None) -> None:
        """Write what was enlisted since our turn in the commit, or in a commit that we never had a turn in."""
        try:
            self._write(connection)
        except sa.exc.InvalidRequestError as error:  # the session reads nothing more for whoever makes it
            raise SessionError(
                "an event that was sent while the session commits needs something of the database to be made; "
                "send it before, or read what its subject is named by"
            ) from error

    def _after_commit(self, session: Session) -> None:
        self._committed = session.get_nested_transaction() or session.get_transaction()
        if not session.in_nested_transaction():
            if self._connection is not None:
                # Nothing is left unless the session has its place in a transaction of the connection, which
                # is then still open.
                self._last_moment(self._connection)
            self._joints.woken()

    def _after_transaction_end(self, session: Session, transaction: SessionTransaction) -> None:
        if transaction is self._committed:
            self._committed = None
        elif transaction.nested or transaction.parent is None:
            self._entries = [entry for entry in self._entries if transaction not in entry.within]
        if transaction.parent is None:
            self._unwatch()


def _listen(target: Session | sa.Connection, name: str, listener: Callable[..., None]) -> None:
    """Listen to *target*, even from inside a listener to the same event."""
    collection = getattr(target.dispatch, name)
    if isinstance(collection.listeners, deque):
        # It may be gone through just now, and would be found changed; let that go on through the old one.
        collection.listeners = collection.listeners.copy()
    events.listen(target, name, listener)


def _around(session: Session) -> Iterator[SessionTransaction]:
    transaction = session.get_nested_transaction() or session.get_transaction()
    while transaction is not None:
        yield transaction
        transaction = transaction.parent


def _synchronous(session: Any) -> Any:
    """Return the session or connection that does the work behind *session*."""
    if isinstance(session, scoped_session):
        return session.registry()
    if asynchronous := sys.modules.get("sqlalchemy.ext.asyncio"):
        if isinstance(session, asynchronous.async_scoped_session):
            session = session.registry()
        if isinstance(session, asynchronous.AsyncSession):
            return session.sync_session
        if isinstance(session, asynchronous.AsyncConnection):
            raise SessionError(
                "an asynchronous connection is joined inside its run_sync: "
                "await connection.run_sync(lambda c: app.dispatch(…, session=c))"
            )
    return session


@attrs.frozen(eq=False)
class SessionSender:
    """What ``bound_to`` returns."""

    enlist: Callable[[Make], None]
    rows: Callable[[Sequence[Envelope], int], Sequence[Row]]
    """From envelopes, and when they become due, to rows; refuses what is not claimed."""

    due: Callable[[float], int]

    def send(self, make: Callable[[], Sequence[Envelope]], *, delay: float = 0.0) -> None:
        due = self.due(delay)
        self.enlist(lambda: self.rows(make(), due))
