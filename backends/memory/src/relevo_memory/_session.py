"""
Join SQLAlchemy's transactions: what is sent becomes visible at the commit, or never.

The one room that knows SQLAlchemy; it is entered only with an object of SQLAlchemy's in hand. Any
database can be joined, since nothing is written to it: the events wait beside its transaction.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, WeakSet, ref

import attrs
from sqlalchemy import event
from sqlalchemy.engine import Connection, NestedTransaction, RootTransaction, Transaction, TwoPhaseTransaction
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import Session, SessionTransaction, scoped_session

from relevo.errors import SessionError, shown
from relevo_memory._store import Posting

Make = Callable[[], Sequence[Posting]]
Enlist = Callable[[Make], None]
Post = Callable[[Sequence[Posting]], None]


@attrs.define(kw_only=True, eq=False)
class _Entry:
    within: WeakSet[object]
    """The transaction and the savepoints that were open around it."""

    make: Make | None = None
    postings: Sequence[Posting] = ()


class _Pending:
    """What a transaction will have sent if it commits."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._entries: list[_Entry] = []

    @property
    def unmade(self) -> bool:
        return any(entry.make for entry in self._entries)

    def enlist(self, entry: _Entry) -> None:
        self._entries.append(entry)

    def make(self) -> None:
        for entry in self._entries:
            if entry.make:
                # If it fails it stays unmade, so that whoever only commits again fails again.
                entry.postings = entry.make()
                entry.make = None

    def drop(self, transaction: object) -> None:
        self._entries = [entry for entry in self._entries if transaction not in entry.within]

    def post(self) -> None:
        entries, self._entries = self._entries, []
        self._post([posting for entry in entries for posting in entry.postings])


class Joints:
    """
    The transactions that one transport has joined.

    Args:
        post: Makes postings visible; called once for each transaction that committed.
    """

    def __init__(self, post: Post) -> None:
        self._post = post
        # Weak on both sides: a session that is left lying with its transaction open takes all of this along.
        self._sessions: WeakKeyDictionary[Session, ReferenceType[_JoinedSession]] = WeakKeyDictionary()
        self._transactions: WeakKeyDictionary[Transaction, _Pending] = WeakKeyDictionary()

    def at(self, session: Any) -> Enlist:
        """
        Return what enlists something to be sent with *session*'s transaction.

        Raises:
            SessionError: It is nothing of SQLAlchemy's that has transactions, or an asynchronous connection itself, or
                the session's transaction is over.
        """
        match _synchronous(session):
            case Session() as found:
                _require_transaction(found)
                return partial(self._joined(found).enlist, found)
            case Connection() as connection:
                if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
                    raise SessionError(
                        "a connection in AUTOCOMMIT has no transaction; give one that begins and commits"
                    )
                return partial(self._enlist, connection)
            case _:
                raise cannot_join(session)

    def _joined(self, session: Session) -> _JoinedSession:
        reference = self._sessions.get(session)
        joined = reference() if reference else None
        if joined is None:
            joined = _JoinedSession(session, self._post)
            self._sessions[session] = ref(joined)
        return joined

    def _enlist(self, connection: Connection, make: Make) -> None:
        postings = make()
        transaction = connection.get_transaction() or connection.begin()
        _watch(transaction)
        pending = self._transactions.get(transaction)
        if pending is None:
            pending = self._transactions[transaction] = _Pending(self._post)
            _watched.setdefault(transaction, []).append(pending)
        pending.enlist(_Entry(within=WeakSet(_savepoints(connection)), postings=postings))


class _JoinedSession:
    """
    Listens to a session.

    A session tells of the commit of its savepoints as it tells of its own, and of a roll-back only that
    a transaction has ended; so every end that no commit came before is one.
    """

    def __init__(self, session: Session, post: Post) -> None:
        self._pending = _Pending(post)
        self._committing = False
        self._committed: SessionTransaction | None = None
        _listen(session, "before_commit", self._before_commit)
        _listen(session, "after_flush_postexec", self._after_flush)
        _listen(session, "after_commit", self._after_commit)
        _listen(session, "after_transaction_end", self._after_transaction_end)

    def enlist(self, session: Session, make: Make) -> None:
        _require_transaction(session)
        if session.get_transaction() is None:
            # As session.add() does: else a roll-back would find nothing to tell us of.
            session.begin()
        self._pending.enlist(_Entry(within=WeakSet(_around(session)), make=make))
        if self._committing:
            # The moment to make them has just passed. A session that cannot flush is flushing now, and
            # tells us when its objects have their keys, or it is broken and will not commit.
            with suppress(InvalidRequestError):
                session.flush()
                self._pending.make()

    def _before_commit(self, session: Session) -> None:
        session.flush()  # whose listeners may send too
        while self._pending.unmade:
            self._pending.make()
            session.flush()
        self._committing = True

    def _after_flush(self, _session: Session, _context: object) -> None:
        if self._committing:
            self._pending.make()

    def _after_commit(self, session: Session) -> None:
        self._committing = False
        self._committed = session.get_nested_transaction() or session.get_transaction()
        if not session.in_nested_transaction():
            # Made long since, unless this session was first joined by a listener of this very commit.
            self._pending.make()
            self._pending.post()

    def _after_transaction_end(self, session: Session, transaction: SessionTransaction) -> None:
        if transaction is self._committed:
            self._committed = None
        elif transaction.nested or transaction.parent is None:
            self._committing = False
            self._pending.drop(transaction)


def _listen(session: Session, name: str, listener: Callable[..., None]) -> None:
    """Listen to *session*, even from inside a listener to the same event."""
    collection = getattr(session.dispatch, name)
    if isinstance(collection.listeners, deque):
        # It may be gone through just now, and would be found changed; let that go on through the old one.
        collection.listeners = collection.listeners.copy()
    event.listen(session, name, listener)


def _around(session: Session) -> Iterator[SessionTransaction]:
    transaction = session.get_nested_transaction() or session.get_transaction()
    while transaction is not None:
        yield transaction
        transaction = transaction.parent


# --- connections: their event "commit" comes before the commit, which may yet fail; so their ------------
# --- transactions themselves tell, by way of a subclass that they are given the moment they are joined ---

_watched: WeakKeyDictionary[Transaction, list[_Pending]] = WeakKeyDictionary()
"""What hangs on each transaction; a transaction has no room of its own for it."""


class _Watched(Transaction):
    __slots__ = ()

    def commit(self) -> None:
        super().commit()
        for pending in _watched.pop(self, ()):
            pending.post()

    def rollback(self) -> None:
        _watched.pop(self, None)
        super().rollback()

    def close(self) -> None:
        _watched.pop(self, None)
        super().close()


class _WatchedRoot(_Watched, RootTransaction):
    __slots__ = ()


class _WatchedTwoPhase(_Watched, TwoPhaseTransaction):
    __slots__ = ()


class _WatchedNested(NestedTransaction):
    __slots__ = ()

    def rollback(self) -> None:
        self._tell()
        super().rollback()

    def close(self) -> None:
        self._tell()
        super().close()

    def _tell(self) -> None:
        root = self.connection.get_transaction()
        # One that was released before is rolled back no more, whoever asks for it.
        if self.is_active and root is not None:
            for pending in _watched.get(root, ()):
                pending.drop(self)


_WATCHED: dict[type[Transaction], type[Transaction]] = {
    RootTransaction: _WatchedRoot,
    TwoPhaseTransaction: _WatchedTwoPhase,
    NestedTransaction: _WatchedNested,
}


def _watch(transaction: Transaction) -> None:
    kind = type(transaction)
    if kind not in _WATCHED.values():
        if kind not in _WATCHED:
            raise SessionError(f"a transaction of the kind {kind.__qualname__} cannot be joined")
        transaction.__class__ = _WATCHED[kind]


def _savepoints(connection: Connection) -> Iterator[NestedTransaction]:
    nested = connection.get_nested_transaction()
    while nested is not None:
        _watch(nested)
        yield nested
        nested = nested._previous_nested  # noqa: SLF001 - told nowhere else


# --- what the caller may pass ---------------------------------------------------------------------------


def _require_transaction(session: Session) -> None:
    """Raise :class:`SessionError` unless *session* has a transaction, or begins one by itself."""
    if not session.is_active:
        raise SessionError(
            "the session's transaction is over: it has committed, as in after_commit, or an error has ended it; "
            "dispatch in before_commit, without session=, or after its rollback()"
        )
    if session.get_transaction() is None and not session.autobegin:
        raise SessionError("the session has begun no transaction, and autobegin is off; call its begin() first")


def _synchronous(session: Any) -> Any:
    """Return the session or connection that does the work behind *session*."""
    if isinstance(session, scoped_session):
        return session.registry()
    if asyncio := sys.modules.get("sqlalchemy.ext.asyncio"):
        if isinstance(session, asyncio.async_scoped_session):
            session = session.registry()
        if isinstance(session, asyncio.AsyncSession):
            return session.sync_session
        if isinstance(session, asyncio.AsyncConnection):
            raise SessionError(  # as databases do, which write at once
                "an asynchronous connection is joined inside its run_sync: "
                "await connection.run_sync(lambda c: app.dispatch(…, session=c))"
            )
    return session


def cannot_join(session: object) -> SessionError:
    """Return the error that says what can be joined."""
    return SessionError(
        f"{shown(session)} cannot be joined; the memory transport joins SQLAlchemy's Session, scoped_session, "
        f"AsyncSession and Connection"
    )
