"""Bugs of the transactions of listeners: what they write, and the state of the delivery."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from relevo import Delivery
from relevo.backend import HandlingTransaction
from relevo.backend.session import ListenerSession
from relevo.errors import SessionError
from relevo_conformance import promise
from relevo_memory import MemoryTransport
from relevo_memory._session import MemoryHandling

from .memory import BreakableStore
from .planting import planted


class Begun(HandlingTransaction):
    """The transaction of a listener, with the bug of its transport."""

    def __init__(self, transport: Handled, inner: MemoryHandling) -> None:
        self.transport = transport
        self.inner = inner

    @property
    def session(self) -> Any:
        return self.inner.session

    def _commit(self, state: bytes, committing: Callable[[], object]) -> None:
        self.transport.committed(self.inner, state, committing)

    def _commit_step(self, state: bytes, committing: Callable[[], object]) -> None:
        self.transport.committed_step(self.inner, state, committing)

    @property
    def has_written(self) -> bool:
        return self.inner.has_written

    def close(self) -> None:
        self.transport.closed(self.inner)


class Handled(MemoryTransport):
    """A transport with hooks for the transactions of listeners; none of them changes anything."""

    def handling(self, delivery: Delivery, *, sessions: Callable[[], Any] | None = None) -> HandlingTransaction:
        inner = super().handling(delivery, sessions=sessions)
        assert isinstance(inner, MemoryHandling)
        return Begun(self, inner)

    def committed(self, inner: MemoryHandling, state: bytes, committing: Callable[[], object]) -> None:
        """Commit *inner* together with *state*."""
        inner.commit(state, committing)

    def committed_step(self, inner: MemoryHandling, state: bytes, committing: Callable[[], object]) -> None:
        """Commit *inner* together with *state*, and go on."""
        inner.commit_step(state, committing)

    def closed(self, inner: MemoryHandling) -> None:
        """Close *inner*."""
        inner.close()


# --- the state -------------------------------------------------------------------------------------


@planted(promise.EFFECT_IS_THERE_IF_DONE, by_chance=False)
class StoresTheStateBeforeTheCommit(Handled):
    """The state of a listener is stored before its transaction commits, and stays if that fails."""

    def committed(self, inner: MemoryHandling, state: bytes, committing: Callable[[], object]) -> None:
        self.checkpoint(inner._delivery, state)
        inner.commit(state, committing)


@planted(promise.EFFECT_IS_THERE_IF_DONE, by_chance=False)
class CommitsPastTheSession(Handled):
    """The driver is told to commit, and the session does not learn of it, so that its events are lost."""

    def committed(self, inner: MemoryHandling, state: bytes, committing: Callable[[], object]) -> None:
        session = inner.session
        session.flush()
        self.checkpoint(inner._delivery, state)
        committing()
        session.connection().connection.commit()


# --- the lease -------------------------------------------------------------------------------------


@planted(promise.EFFECT_IS_THERE_IF_DONE, by_chance=False)
class ChecksTheLeaseWhenAListenerBegins(Handled):
    """Whether a delivery is held is checked when its listener begins, and not when the transaction commits."""

    def committed(self, inner: MemoryHandling, state: bytes, committing: Callable[[], object]) -> None:
        committing()
        inner._own.commit()
        self.store.checkpoint(inner._delivery, state, self._clock.now())


@planted(promise.EFFECT_IS_THERE_IF_DONE, by_chance=False)
class LetsALeaseEndDuringACommit(BreakableStore):
    """A lease that ends while the database commits takes the state with it, and the rows stay."""

    def pin(self, delivery: Delivery, now: float) -> bool:
        return self.holds(delivery, now)


@planted(promise.EFFECT_IS_THERE_IF_DONE, by_chance=False)
class HoldsForEverWhatWasCommitted(BreakableStore):
    """After a commit the lease of the delivery does not end any more."""

    def unpin(self, delivery: Delivery, now: float) -> None:
        event = self._held(delivery, now)
        if event is not None:
            event.unpinned_until = None


# --- the steps -------------------------------------------------------------------------------------


@planted(promise.EFFECT_IS_THERE_IF_DONE, by_chance=False)
class CommitsAStepWithoutItsState(Handled):
    """A step commits its rows, and the state stays that of the step before."""

    def committed_step(self, inner: MemoryHandling, state: bytes, committing: Callable[[], object]) -> None:
        inner.session.flush()
        committing()
        inner._own.commit()
        inner._own.go_on()


@planted(promise.EFFECT_IS_THERE_IF_DONE, by_chance=False)
class StoresTheStateOfAStepBeforeItsRows(Handled):
    """The state of a step is stored at once, and its rows commit with the next step or at the end."""

    def committed_step(self, inner: MemoryHandling, state: bytes, committing: Callable[[], object]) -> None:
        inner.session.flush()
        committing()
        self.checkpoint(inner._delivery, state)


@planted(promise.EFFECT_IS_THERE_IF_DONE, by_chance=False)
class ChecksTheLeaseAtTheFirstStep(Handled):
    """Whether a delivery is held is checked at the first step, and not at the later ones."""

    def committed_step(self, inner: MemoryHandling, state: bytes, committing: Callable[[], object]) -> None:
        if "stepped" not in inner.session.info:
            inner.commit_step(state, committing)
            inner.session.info["stepped"] = True
            return
        inner.session.flush()
        committing()
        inner._own.commit()
        self.store.checkpoint(inner._delivery, state, self._clock.now())
        inner._own.go_on()


@planted(
    promise.EFFECT_IS_THERE_IF_DONE,
    by_chance=False,
    patches={(ListenerSession, "has_written"): property(lambda self: self._has_executed)},
)
class NoticesOnlyWhatIsFlushed(MemoryTransport):
    """Objects that wait for a flush do not count as written."""


@planted(
    promise.EFFECT_IS_THERE_IF_DONE,
    by_chance=False,
    patches={(ListenerSession, "_note_execution"): lambda self, *_: None},
)
class NoticesOnlyWhatIsPending(MemoryTransport):
    """Rows that were flushed do not count as written."""


# --- the session -----------------------------------------------------------------------------------


def _refuse_nothing(_self: ListenerSession, _committed: object) -> None:
    pass


@planted(
    promise.EFFECT_IS_THERE_IF_DONE,
    by_chance=False,
    patches={(ListenerSession, "_refuse"): _refuse_nothing, (ListenerSession, "_note"): _refuse_nothing},
)
class LetsAListenerCommit(MemoryTransport):
    """A listener can commit its session, without the state."""


def _refuse_savepoints_too(self: ListenerSession, _session: Session) -> None:
    if not self._is_ours:
        raise SessionError("a listener does not commit")


@planted(
    promise.EFFECT_IS_THERE_IF_DONE, by_chance=False, patches={(ListenerSession, "_refuse"): _refuse_savepoints_too}
)
class RefusesSavepoints(MemoryTransport):
    """The release of a savepoint is refused as a commit of the listener."""


def _notice_nothing(_self: ListenerSession) -> None:
    pass


@planted(
    promise.EFFECT_IS_THERE_IF_DONE,
    by_chance=False,
    patches={(ListenerSession, "require_transaction"): _notice_nothing},
)
class CommitsAfterARollback(MemoryTransport):
    """A listener that rolled its session back counts as done."""


@planted(promise.EFFECT_IS_THERE_IF_DONE, by_chance=False)
class CommitsWhatAListenerLeft(Handled):
    """The end of a listener commits what is left in its session, also if the listener raised."""

    def closed(self, inner: MemoryHandling) -> None:
        if not inner._own.has_committed:
            with suppress(SQLAlchemyError, SessionError):
                inner._own.commit()
        inner.close()


@planted(promise.EFFECT_IS_THERE_IF_DONE, by_chance=False)
class SharesASession(Handled):
    """All listeners use the session of the first one, also at the same time."""

    made: Any = None

    def handling(self, delivery: Delivery, *, sessions: Callable[[], Any] | None = None) -> HandlingTransaction:
        self.made = self.made or (sessions and sessions())
        return super().handling(delivery, sessions=lambda: self.made)


# --- the transport ---------------------------------------------------------------------------------


@planted(promise.CLOSE_IS_IDEMPOTENT, by_chance=False)
class BeginsTransactionsAfterItsClose(MemoryTransport):
    """A transport that is closed still begins transactions of listeners."""

    def handling(self, delivery: Delivery, *, sessions: Callable[[], Any] | None = None) -> HandlingTransaction:
        if self._closed and sessions is not None:
            return MemoryHandling(delivery, sessions, self.store, self._clock.now, name=self.name)
        return super().handling(delivery, sessions=sessions)


# --- the lease -------------------------------------------------------------------------------------


@planted(promise.EXTEND_KEEPS_THE_LEASE, by_chance=False)
class UndoesAnExtensionDuringACommit(BreakableStore):
    """An extension while a listener's transaction commits is undone by the end of the commit."""

    def extend(self, deliveries: Sequence[Delivery], *, lease: float, now: float) -> list[Delivery]:
        with self.changed:
            events = [event for each in deliveries if (event := self._held(each, now)) is not None]
            before = [(event, event.unpinned_until) for event in events if event.unpinned_until is not None]
            lost: list[Delivery] = super().extend(deliveries, lease=lease, now=now)
            for event, until in before:
                event.unpinned_until = until
            return lost
