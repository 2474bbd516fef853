"""The transaction of a listener: its session, and the state of its delivery, which commits in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from logging import getLogger
from typing import Any

import attrs
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from relevo import Delivery
from relevo.backend import ForkAware, HandlingTransaction
from relevo.backend.session import ListenerSession, apart
from relevo.errors import CommitUnknownError, LeaseLostError, RelevoError, SessionError, described
from relevo_sql._database import LOCKED
from relevo_sql._dialect import Dialect
from relevo_sql._inbox import InboxTable, notes_key
from relevo_sql._row import Receipt
from relevo_sql._session import JoinedSessions
from relevo_sql._settle import Settler, receipt_of

_log = getLogger("relevo.sql")

_LARGEST = 2**63
"""A larger number fits into no column."""

_ABORTED = "25P02"
"""https://www.postgresql.org/docs/current/errcodes-appendix.html"""

_WENT_ON = (
    "a transactional listener went on after an error of the database, which has aborted its transaction; put what may "
    "fail into a savepoint: with call.session.begin_nested()"
)


class SessionSource(ForkAware):
    """
    Makes the sessions of listeners that have no source of their own.

    Args:
        make_engine: Returns the engine.

        own: Whether that is one of relevo's own, which is closed with the transport.
    """

    def __init__(self, make_engine: Callable[[], sa.Engine], *, own: bool):
        self._make_engine = make_engine
        self._own = own
        super().__init__()

    def after_fork_in_child(self) -> None:
        if self._own and "_engine" in vars(self):
            self._engine.dispose(close=False)

    @cached_property
    def _engine(self) -> sa.Engine:
        return self._make_engine()

    @cached_property
    def sessions(self) -> sessionmaker[Session]:
        """Makes the sessions."""
        return sessionmaker(self._engine)

    def close(self) -> None:
        """Close the connections that no session uses."""
        if self._own and "_engine" in vars(self):
            self._engine.dispose()


@attrs.frozen
class DoneRecord:
    """What commits with the rows of a listener."""

    about: object
    """What the listener is called with, for an error."""

    write: Callable[[Session, bytes], bool]
    """Writes a state in the transaction of a session; returns whether it is still wanted."""

    is_there: Callable[[bytes], bool]
    """Returns whether a state was committed; it waits for a transaction that is still committing it."""

    note: Callable[[Session, bytes], bool]
    """Writes the state after a step, as *write* does."""

    is_noted: Callable[[bytes], bool]
    """Returns whether the state after a step was committed, as *is_there* does."""


def record_of(joined: JoinedSessions, settler: Settler, delivery: Delivery, receipt: Receipt) -> DoneRecord:
    """Return what writes the state of *delivery*."""

    def write(session: Session, state: bytes) -> bool:
        return joined.checkpoint(session, receipt, state)

    def is_there(state: bytes) -> bool:
        return settler.has_progress(receipt, state)

    return DoneRecord(delivery, write=write, is_there=is_there, note=write, is_noted=is_there)


def record_once(
    joined: JoinedSessions, inbox: InboxTable, keys: Sequence[str], noted: Mapping[str, bytes]
) -> DoneRecord:
    """Return what writes *keys* into *inbox*, the first of them that of the listener; *noted* is there of its steps."""
    before = {notes_key(key): state for key, state in noted.items() if key in keys}

    def write(session: Session, state: bytes) -> bool:
        return joined.forget(session, before) and joined.remember(session, keys, state)

    def note(session: Session, state: bytes) -> bool:
        after = dict.fromkeys(map(notes_key, keys), state)
        is_wanted = joined.replace(session, before, after)
        before.update(after)
        return is_wanted

    return DoneRecord(
        keys[0],
        write=write,
        is_there=lambda _: inbox.has(keys[0]),
        note=note,
        is_noted=partial(inbox.has_state, notes_key(keys[0])),
    )


class SqlHandling(HandlingTransaction):
    """
    The transaction of one listener.

    Args:
        own: The session.

        record: What commits with its rows.

        dialect: Interprets the errors of a commit.

        name: The name of the transport.
    """

    def __init__(self, own: ListenerSession, record: DoneRecord, dialect: Dialect, *, name: str):
        self._own = own
        self._record = record
        self._dialect = dialect
        self._name = name

    @property
    def session(self) -> Any:
        return self._own.for_listener

    def _commit(self, state: bytes, committing: Callable[[], object]) -> None:
        self._commit_with(self._record.write, self._record.is_there, state, committing)

    def _commit_step(self, state: bytes, committing: Callable[[], object]) -> None:
        self._commit_with(self._record.note, self._record.is_noted, state, committing)
        self._own.go_on()

    def _commit_with(
        self,
        write: Callable[[Session, bytes], bool],
        is_there: Callable[[bytes], bool],
        state: bytes,
        committing: Callable[[], object],
    ) -> None:
        self._own.require_transaction()
        # First: what it writes may take long, and the row of the event stays locked until the commit.
        self._own.session.flush()
        try:
            is_wanted = write(self._own.session, state)
        except RelevoError as error:
            if getattr(error.__cause__, "sqlstate", None) == _ABORTED:
                raise SessionError(_WENT_ON) from error
            raise
        if not is_wanted:
            raise LeaseLostError(self._name, self._record.about)
        committing()
        try:
            self._own.commit()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if not self._has_committed(error, partial(is_there, state)):
                raise
            _log.warning("%s: raised although its transaction has committed: %s", self._record.about, described(error))

    def _has_committed(self, error: BaseException, is_there: Callable[[], bool]) -> bool:
        """
        Return whether the transaction has committed although *error* was raised.

        Raises:
            CommitUnknownError: The database cannot be asked.
        """
        if self._own.has_committed:
            return True
        if not self._own.has_begun_commit or self._is_refused(error):
            return False
        try:
            return apart(is_there)
        except RelevoError as unknown:
            raise CommitUnknownError(self._name, f"the commit failed: {described(error)}; {unknown}") from error

    def _is_refused(self, error: BaseException) -> bool:
        """Return whether *error* is the database's own word that it has not committed."""
        if not isinstance(error, sa.exc.DBAPIError):
            return False
        return (
            isinstance(error, sa.exc.IntegrityError)  # of a constraint that is checked at the commit
            or self._dialect.is_refusal(error)
            or self._dialect.error_kind(error) in LOCKED
        )

    @property
    def has_written(self) -> bool:
        return self._own.has_written

    def close(self) -> None:
        self._own.close()


def exported(delivery: Delivery) -> bytes:
    """Return the receipt of *delivery* as bytes; empty if it is not one of this process."""
    receipt = receipt_of(delivery)
    return b"" if receipt is None else b"%d %d" % receipt


def imported(receipt: object) -> Receipt | None:
    """Return the receipt that :func:`exported` returned in the parent process; ``None`` if it is something else."""
    if not isinstance(receipt, bytes):
        return None
    try:
        seq, token = map(int, receipt.split())
    except ValueError:
        return None
    return Receipt(seq, token) if max(abs(seq), abs(token)) < _LARGEST else None


def receipt_in(delivery: Delivery) -> Receipt | None:
    """Return the receipt of *delivery* if this process, or its parent, holds it."""
    return receipt_of(delivery) or imported(delivery.receipt)
