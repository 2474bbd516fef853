"""The transaction of a listener: its session, and the state of its delivery, which commits in it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from relevo import Delivery
from relevo.backend import ForkAware, HandlingTransaction
from relevo.backend.session import ListenerSession
from relevo.errors import CommitUnknownError, LeaseLostError
from relevo_sql._database import LOCKED
from relevo_sql._dialect import Dialect
from relevo_sql._row import Receipt
from relevo_sql._session import JoinedSessions
from relevo_sql._settle import receipt_of


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


class SqlHandling(HandlingTransaction):
    """
    The transaction of one listener.

    Args:
        delivery: What the listener is called with.

        receipt: The receipt of *delivery*.

        own: The session.

        joined: Knows which sessions are on the database of the events.

        dialect: Interprets the errors of a commit.

        name: The name of the transport.
    """

    def __init__(
        self,
        delivery: Delivery,
        receipt: Receipt,
        own: ListenerSession,
        joined: JoinedSessions,
        dialect: Dialect,
        *,
        name: str,
    ):
        self._delivery = delivery
        self._receipt = receipt
        self._own = own
        self._joined = joined
        self._dialect = dialect
        self._name = name

    @property
    def session(self) -> Session:
        return self._own.session

    def _commit(self, state: bytes) -> None:
        session = self._own.session
        session.flush()  # first: what it writes may take long, and the row of the event stays locked until the commit
        if not self._joined.keep(session, self._receipt, state):
            raise LeaseLostError(self._name, self._delivery)
        try:
            self._own.commit()
        except Exception as error:
            if not self._own.has_begun_commit or self._is_refused(error):
                raise
            raise CommitUnknownError(self._name, f"the commit failed: {error}") from error

    def _is_refused(self, error: Exception) -> bool:
        """Return whether *error* is the database's own word that it has not committed."""
        if not isinstance(error, sa.exc.DBAPIError):
            return False
        return (
            isinstance(error, sa.exc.IntegrityError)  # of a constraint that is checked at the commit
            or self._dialect.is_refusal(error)
            or self._dialect.error_kind(error) in LOCKED
        )

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
    return Receipt(seq, token)


def receipt_in(delivery: Delivery) -> Receipt | None:
    """Return the receipt of *delivery* if this process, or its parent, holds it."""
    return receipt_of(delivery) or imported(delivery.receipt)
