"""Bugs of sending in a transaction: savepoints, sessions that are used again, delays, and the events of *make*."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

import attrs
from sqlalchemy import Connection, event
from sqlalchemy.orm import Session, SessionTransaction

from relevo import BoundSender, Delivery, Envelope
from relevo.backend import session as joining
from relevo.errors import SendError
from relevo_conformance import promise
from relevo_memory import MemoryTransport, _session as memory, _transport as memory_transport
from relevo_memory._session import _JoinedConnection, _JoinedSession, _savepoints

from .planting import Patches, planted_pair

Make = Callable[[], Sequence[Envelope]]

_around = joining._around
_ended = joining.JoinedSession._after_transaction_end
_enlist = _JoinedSession.enlist


class Bound:
    """Sends in a session, with the bug of its transport."""

    def __init__(self, transport: Joining, sender: BoundSender, session: Any, relay_to: str | None) -> None:
        self.transport = transport
        self.sender = sender
        self.session = session
        self.relay_to = relay_to

    def send(self, make: Make, *, delay: float = 0.0) -> None:
        self.transport.send_bound(self, make, delay)


class Joining(MemoryTransport):
    """A transport with a hook for what is sent in a session, which changes nothing."""

    def bound_to(self, session: Any, *, relay_to: str | None = None) -> BoundSender:
        return Bound(self, super().bound_to(session, relay_to=relay_to), session, relay_to)

    def send_bound(self, bound: Bound, make: Make, delay: float) -> None:
        """Send what *make* returns with the transaction of *bound*."""
        bound.sender.send(lambda: [self.made(one) for one in make()], delay=delay)

    def made(self, envelope: Envelope) -> Envelope:
        """Return what is sent of *envelope*."""
        return envelope


# --- savepoints ------------------------------------------------------------------------------------


def _innermost_and_outermost(session: Session) -> Iterator[SessionTransaction]:
    around = list(_around(session))
    yield from dict.fromkeys((around[0], around[-1]))


@planted_pair(promise.JOINS_THE_TRANSACTION, patches={(joining, "_around"): _innermost_and_outermost})
class KnowsOneSavepoint(MemoryTransport):
    """Events of a nested savepoint are sent although the outer savepoint is rolled back."""


def _outermost(session: Session) -> Iterator[SessionTransaction]:
    yield list(_around(session))[-1]


@planted_pair(promise.JOINS_THE_TRANSACTION, patches={(joining, "_around"): _outermost})
class KnowsNoSavepoints(MemoryTransport):
    """Events of a savepoint are sent although the savepoint is rolled back."""


def _ends_with(spoil: Callable[..., None]) -> Patches:
    def end(self: Any, session: Session, transaction: SessionTransaction) -> None:
        is_rollback = transaction is not self._committed
        _ended(self, session, transaction)
        spoil(self, transaction, is_rollback=is_rollback)

    return {(joining.JoinedSession, "_after_transaction_end"): end}


def _drop_all(joined: Any, transaction: SessionTransaction, *, is_rollback: bool) -> None:
    if transaction.nested and is_rollback:
        joined.entries = []


@planted_pair(promise.JOINS_THE_TRANSACTION, patches=_ends_with(_drop_all))
class DropsAllAtTheEndOfASavepoint(MemoryTransport):
    """Rolling back a savepoint also drops the events that were sent before it."""


def _drop_earlier_savepoints(joined: Any, transaction: SessionTransaction, *, is_rollback: bool) -> None:
    if transaction.nested and is_rollback:
        joined.entries = [one for one in joined.entries if len(one.within) == 1]


@planted_pair(promise.JOINS_THE_TRANSACTION, patches=_ends_with(_drop_earlier_savepoints))
class DropsEarlierSavepoints(MemoryTransport):
    """Rolling back a savepoint also drops the events of an earlier, released savepoint."""


def _stop_after_a_rollback(joined: Any, transaction: SessionTransaction, *, is_rollback: bool) -> None:
    if transaction.nested:
        joined.is_spoilt = is_rollback
    elif transaction.parent is None:
        joined.is_spoilt = False


def _enlist_unless_spoilt(self: Any, session: Session, make: Any) -> None:
    if getattr(self, "is_spoilt", False) and not session.in_nested_transaction():
        return
    _enlist(self, session, make)


@planted_pair(
    promise.JOINS_THE_TRANSACTION,
    patches={**_ends_with(_stop_after_a_rollback), (_JoinedSession, "enlist"): _enlist_unless_spoilt},
)
class SendsNothingAfterASavepoint(MemoryTransport):
    """After a savepoint is rolled back, later events of the same transaction are never stored."""


def _write_at_a_savepoint(self: Any, session: Session, transaction: SessionTransaction) -> None:
    if transaction.nested and transaction is self._committed:
        entries, self.entries = self.entries, []
        self._post([posting for entry in entries for posting in entry.made()])
    _ended(self, session, transaction)


@planted_pair(
    promise.JOINS_THE_TRANSACTION, patches={(joining.JoinedSession, "_after_transaction_end"): _write_at_a_savepoint}
)
class WritesWhenASavepointIsReleased(MemoryTransport):
    """Releasing a savepoint stores everything that the session has sent so far."""


# --- a session that is used again ------------------------------------------------------------------


def _keep_at_a_rollback(self: Any, session: Session, transaction: SessionTransaction) -> None:
    entries = list(self.entries)
    is_rollback = transaction is not self._committed
    _ended(self, session, transaction)
    if transaction.parent is None and is_rollback:
        self.entries = [attrs.evolve(one, within=()) for one in entries]


@planted_pair(
    promise.JOINS_THE_TRANSACTION, patches={(joining.JoinedSession, "_after_transaction_end"): _keep_at_a_rollback}
)
class SendsWhatWasRolledBackWithTheNextCommit(MemoryTransport):
    """Events of a rolled-back transaction are stored at the next commit of the session."""


def _post_and_keep(self: Any, session: Session) -> None:
    self._post([posting for entry in self.entries for posting in entry.made()])


@planted_pair(promise.JOINS_THE_TRANSACTION, patches={(_JoinedSession, "on_commit"): _post_and_keep})
class SendsAllAgainAtTheNextCommit(MemoryTransport):
    """Each commit of a session also stores the events of its earlier transactions again."""


def _once(*, ends: bool) -> Patches:
    def end(self: Any, session: Session, transaction: SessionTransaction) -> None:
        if transaction.parent is None and (ends or transaction is not self._committed):
            self.is_over = True
        _ended(self, session, transaction)

    def enlist(self: Any, session: Session, make: Any) -> None:
        if not getattr(self, "is_over", False):
            _enlist(self, session, make)

    return {(joining.JoinedSession, "_after_transaction_end"): end, (_JoinedSession, "enlist"): enlist}


@planted_pair(promise.JOINS_THE_TRANSACTION, patches=_once(ends=False))
class JoinsNoSessionAfterARollback(MemoryTransport):
    """After a rollback, a session no longer sends anything."""


@planted_pair(promise.JOINS_THE_TRANSACTION, patches=_once(ends=True))
class JoinsASessionOnce(MemoryTransport):
    """The second transaction of a session sends nothing."""


# --- what is sent, and when ------------------------------------------------------------------------


def _commits_until_a_commit_succeeds() -> Patches:
    on_commit = _JoinedSession.on_commit

    def commit(self: Any, session: Session) -> None:
        on_commit(self, session)
        self._committing = False

    return {(_JoinedSession, "on_commit"): commit, (_JoinedSession, "on_end"): lambda self: None}


@planted_pair(promise.JOINS_THE_TRANSACTION, patches=_commits_until_a_commit_succeeds())
class MakesItsEventsAtOnceAfterAFailedCommit(MemoryTransport):
    """In the transaction after a failed commit, events are made when they are sent."""


@planted_pair(promise.JOINS_THE_TRANSACTION)
class MakesItsEventsTwice(Joining):
    """The callable that makes the events of a transaction is called twice."""

    def send_bound(self, bound: Bound, make: Make, delay: float) -> None:
        def twice() -> Sequence[Envelope]:
            make()
            return make()

        bound.sender.send(twice, delay=delay)


@planted_pair(promise.JOINS_THE_TRANSACTION)
class MakesItsEventsAtOnce(Joining):
    """The events of a transaction are made when they are sent, before pending objects are flushed."""

    def send_bound(self, bound: Bound, make: Make, delay: float) -> None:
        envelopes = make()
        bound.sender.send(lambda: envelopes, delay=delay)


@planted_pair(promise.JOINS_THE_TRANSACTION)
class MakesItsEventsAtOnceInASavepoint(Joining):
    """What is sent in a savepoint of a session is made at once, before pending objects are flushed."""

    def send_bound(self, bound: Bound, make: Make, delay: float) -> None:
        envelopes = make() if isinstance(bound.session, Session) and bound.session.in_nested_transaction() else None
        bound.sender.send(lambda: make() if envelopes is None else envelopes, delay=delay)


def _make_once(self: Any, session: Session) -> None:
    self._make()
    session.flush()
    self._committing = True


@planted_pair(promise.JOINS_THE_TRANSACTION, patches={(_JoinedSession, "committing"): _make_once})
class MakesWhatTheLastFlushSendsAfterTheCommit(MemoryTransport):
    """What a listener of the last flush sends is made after the commit, where an error no longer stops it."""


def _at_any(self: Any, session: Any) -> Any:
    found = joining.joinable(session, by="memory transport")
    joined = self._sessions if isinstance(found, Session) else self._connections
    return functools.partial(joined.of(found).enlist, found)


@planted_pair(promise.JOINS_THE_TRANSACTION, patches={(memory.JoinedSessions, "at"): _at_any})
class JoinsAConnectionWithoutATransaction(MemoryTransport):
    """A connection on which each statement commits itself is accepted."""


@planted_pair(
    promise.PAYLOAD_IS_UNTOUCHED,
    patches={(memory_transport, "taken_over"): lambda envelope: envelope},
)
class KeepsHeadersUntilTheCommit(MemoryTransport):
    """The headers of what is sent on a connection stay the sender's until the commit, and change with them."""


@planted_pair(promise.JOINS_THE_TRANSACTION)
class CommitsWithoutWhatCannotBeMade(Joining):
    """If the events of a transaction cannot be made, the transaction commits without them."""

    def send_bound(self, bound: Bound, make: Make, delay: float) -> None:
        def silently() -> Sequence[Envelope]:
            with suppress(Exception):
                return make()
            return ()

        bound.sender.send(silently, delay=delay)


@planted_pair(promise.JOINS_THE_TRANSACTION)
class SendsTheLastOfATransaction(Joining):
    """Of several sends in one transaction, only the last is stored."""

    def send_bound(self, bound: Bound, make: Make, delay: float) -> None:
        latest = vars(self).setdefault("latest", {})
        mine = latest[id(bound.session)] = object()
        bound.sender.send(lambda: make() if latest.get(id(bound.session)) is mine else (), delay=delay)


@planted_pair(promise.DELAY_IS_RESPECTED)
class DelaysASessionLikeItsFirst(Joining):
    """All sends of a session get the delay of the first one."""

    def send_bound(self, bound: Bound, make: Make, delay: float) -> None:
        first = vars(self).setdefault("first", {})
        bound.sender.send(make, delay=first.setdefault(bound.session, delay))


@planted_pair(promise.DELAY_IS_RESPECTED)
class DelaysNothingInAnOutbox(Joining):
    """The delay of events in an outbox is ignored."""

    def send_bound(self, bound: Bound, make: Make, delay: float) -> None:
        bound.sender.send(make, delay=delay if bound.relay_to is None else 0.0)


@planted_pair(promise.PAYLOAD_IS_UNTOUCHED)
class SendsNoHeadersInATransaction(Joining):
    """Events that are sent in a transaction have no headers."""

    def made(self, envelope: Envelope) -> Envelope:
        return attrs.evolve(envelope, headers={})


@planted_pair(promise.PAYLOAD_IS_UNTOUCHED)
class SendsNothingUrgentInATransaction(Joining):
    """Events that are sent in a transaction have normal urgency."""

    def made(self, envelope: Envelope) -> Envelope:
        return attrs.evolve(envelope, urgency="normal")


@planted_pair(promise.PAYLOAD_IS_UNTOUCHED)
class SendsNoExpiryInATransaction(Joining):
    """Events that are sent in a transaction never expire."""

    def made(self, envelope: Envelope) -> Envelope:
        return attrs.evolve(envelope, expires=None)


@planted_pair(promise.PAYLOAD_IS_UNTOUCHED)
class CutsBodiesInATransaction(Joining):
    """Bodies of events that are sent in a transaction are truncated at 65,535 bytes."""

    def made(self, envelope: Envelope) -> Envelope:
        return attrs.evolve(envelope, body=envelope.body[:65535])


@planted_pair(promise.PAYLOAD_IS_UNTOUCHED)
class KeepsNoKeyInAnOutbox(Joining):
    """Events in an outbox have no ordering key."""

    def send_bound(self, bound: Bound, make: Make, delay: float) -> None:
        keyed = bound.relay_to is None
        bound.sender.send(
            lambda: [one if keyed else attrs.evolve(one, ordering_key=None) for one in make()], delay=delay
        )


# --- by depth --------------------------------------------------------------------------------------


def _depth(transaction: SessionTransaction) -> int:
    return 0 if transaction.parent is None else 1 + _depth(transaction.parent)


def _around_by_depth(session: Session) -> Iterator[int]:
    yield from map(_depth, _around(session))


def _ended_by_depth(self: Any, _session: Session, transaction: SessionTransaction) -> None:
    if transaction is self._committed:
        self._committed = None
    elif transaction.nested or transaction.parent is None:
        self.entries = [entry for entry in self.entries if _depth(transaction) not in entry.within]
    if transaction.parent is None:
        self.on_end()


@planted_pair(
    promise.JOINS_THE_TRANSACTION,
    patches={
        (joining, "_around"): _around_by_depth,
        (joining.JoinedSession, "_after_transaction_end"): _ended_by_depth,
    },
)
class KnowsSavepointsByTheirDepth(MemoryTransport):
    """Rolling back a savepoint also drops the events of a released savepoint of the same depth."""


# --- by name ---------------------------------------------------------------------------------------

NAMES: WeakKeyDictionary[SessionTransaction, str] = WeakKeyDictionary()
"""The names of savepoints: each begins with the number of those before it in its session."""


def _name(transaction: SessionTransaction) -> str:
    if transaction not in NAMES:
        numbers = transaction.session.info.setdefault("numbers", itertools.count(1))
        NAMES[transaction] = f"sp{next(numbers)}" if transaction.nested else "whole"
    return NAMES[transaction]


def _around_by_name(session: Session) -> Iterator[str]:
    yield from map(_name, _around(session))


def _ended_by_name(self: Any, _session: Session, transaction: SessionTransaction) -> None:
    if transaction is self._committed:
        self._committed = None
    elif transaction.nested or transaction.parent is None:
        self.entries = [one for one in self.entries if not _name(transaction).startswith(one.within)]
    if transaction.parent is None:
        self.on_end()


@planted_pair(
    promise.JOINS_THE_TRANSACTION,
    patches={
        (joining, "_around"): _around_by_name,
        (joining.JoinedSession, "_after_transaction_end"): _ended_by_name,
    },
)
class TellsSavepointsApartByTheBeginning(MemoryTransport):
    """Rolling back the savepoint "sp10" of a session also drops the events of "sp1"."""


def _drop_what_begins_alike(self: Any, _connection: Connection, name: str, _context: object) -> None:
    self._sent = [(within, postings) for within, postings in self._sent if not name.startswith(tuple(within))]


@planted_pair(promise.JOINS_THE_TRANSACTION, patches={(_JoinedConnection, "_drop_savepoint"): _drop_what_begins_alike})
class TellsSavepointsOfAConnectionApartByTheBeginning(MemoryTransport):
    """On a connection, rolling back the savepoint "sp10" also drops the events of "sp1"."""


# --- a make that is passed again -------------------------------------------------------------------


@planted_pair(promise.JOINS_THE_TRANSACTION)
class CallsEachMakeInOneTransaction(Joining):
    """A callable that was passed in an earlier transaction is not called again, even if that was rolled back."""

    def send_bound(self, bound: Bound, make: Make, delay: float) -> None:
        known = vars(self).setdefault("known", [])
        if make not in known:
            known.append(make)
            super().send_bound(bound, make, delay)


@planted_pair(promise.JOINS_THE_TRANSACTION)
class KeepsWhatACallableMade(Joining):
    """A callable that was called in an earlier transaction is not called again: its first result is sent again."""

    def send_bound(self, bound: Bound, make: Make, delay: float) -> None:
        makes = vars(self).setdefault("makes", {})
        super().send_bound(bound, makes.setdefault(make, functools.cache(make)), delay)


@planted_pair(promise.JOINS_THE_TRANSACTION)
class RefusesToSendNothing(Joining):
    """A transaction fails if one of its callables makes no events."""

    def send_bound(self, bound: Bound, make: Make, delay: float) -> None:
        def something() -> Sequence[Envelope]:
            return make() or self._refuse()

        super().send_bound(bound, something, delay)

    def _refuse(self) -> Sequence[Envelope]:
        raise SendError(self.name, refused=(), why="there is nothing to insert")


# --- several instances -----------------------------------------------------------------------------


@planted_pair(promise.JOINS_THE_TRANSACTION)
class IsJoinedByOneInstance(Joining):
    """If two instances send in one session, the second takes the place of the first."""

    def send_bound(self, bound: Bound, make: Make, delay: float) -> None:
        if isinstance(bound.session, Session):
            bound.session.info["joined"] = self

        def mine() -> Sequence[Envelope]:
            made = make()
            return made if not isinstance(bound.session, Session) or bound.session.info["joined"] is self else ()

        super().send_bound(bound, mine, delay)


# --- connections -----------------------------------------------------------------------------------


def _drop_everything(self: Any, *_: object) -> None:
    self._sent = []


@planted_pair(promise.JOINS_THE_TRANSACTION, patches={(_JoinedConnection, "_drop_savepoint"): _drop_everything})
class DropsAllOfAConnectionAtASavepoint(MemoryTransport):
    """On a connection, rolling back a savepoint also drops the events that were sent before it."""


def _drop_nothing(self: Any, *_: object) -> None:
    pass


@planted_pair(promise.JOINS_THE_TRANSACTION, patches={(_JoinedConnection, "_drop_savepoint"): _drop_nothing})
class KnowsNoSavepointsOfAConnection(MemoryTransport):
    """On a connection, events of a savepoint are sent although the savepoint is rolled back."""


@planted_pair(promise.JOINS_THE_TRANSACTION, patches={(_JoinedConnection, "_drop"): _drop_nothing})
class SendsWhatAConnectionRolledBack(MemoryTransport):
    """Events that a connection rolled back are sent at its next commit."""


def _innermost(connection: Connection) -> Iterator[str]:
    yield from itertools.islice(_savepoints(connection), 1)


@planted_pair(promise.JOINS_THE_TRANSACTION, patches={(memory, "_savepoints"): _innermost})
class KnowsOneSavepointOfAConnection(MemoryTransport):
    """On a connection, events of a nested, released savepoint are sent although the outer one is rolled back."""


def _post_what_is_left(self: Any, commit: Callable[..., None]) -> Callable[..., None]:
    def commit_and_post(*arguments: Any) -> None:
        commit(*arguments)
        sent, self._sent = self._sent, []
        self._post([posting for _, postings in sent for posting in postings])

    return commit_and_post


@planted_pair(promise.JOINS_THE_TRANSACTION, patches={(_JoinedConnection, "_then_post"): _post_what_is_left})
class SendsWhatAFailedCommitLeft(MemoryTransport):
    """Events of a connection whose commit failed are sent at its next commit."""


@planted_pair(promise.JOINS_THE_TRANSACTION)
class MakesEventsAtTheNextFlush(Joining):
    """Events of a session are made at its next flush, even if it does not commit."""

    def send_bound(self, bound: Bound, make: Make, delay: float) -> None:
        made = functools.cache(make)
        super().send_bound(bound, made, delay)
        session = bound.session
        if not isinstance(session, Session):
            return
        within = session.get_nested_transaction() or session.get_transaction()

        def flushed(session: Session, _context: object) -> None:
            if within is (session.get_nested_transaction() or session.get_transaction()):
                made()

        event.listen(session, "after_flush", flushed, once=True)


def _drop_unless_in_a_savepoint(self: Any, *_: object) -> None:
    self._sent = [(within, postings) for within, postings in self._sent if within]


@planted_pair(promise.JOINS_THE_TRANSACTION, patches={(_JoinedConnection, "_drop"): _drop_unless_in_a_savepoint})
class SendsWhatWasInAnOpenSavepoint(MemoryTransport):
    """If a connection rolls back in an open savepoint, the savepoint's events are sent at its next commit."""


@planted_pair(promise.ORDER_IS_KEPT)
class StoresTheKeysOfSessionsLate(Joining):
    """A session's events with an ordering key are stored at the next receive, behind events that were sent later."""

    def send_bound(self, bound: Bound, make: Make, delay: float) -> None:
        late: list[Envelope] = self.store.__dict__.setdefault("late", [])

        def made() -> Sequence[Envelope]:
            found = make()
            if not delay and bound.relay_to is None:
                late.extend(one for one in found if one.ordering_key is not None)
            return [one for one in found if one not in late]

        super().send_bound(bound, made, delay)

    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        late: list[Envelope] = self.store.__dict__.get("late", [])
        found = list(late)
        late.clear()
        if found:
            self.send(found)
        return super().receive(queues, limit=limit, lease=lease, wait=wait)


# --- commits that fail or should -------------------------------------------------------------------


@planted_pair(promise.JOINS_THE_TRANSACTION)
class FailsACommitForADuplicate(Joining):
    """A commit fails if the session sends an event that already exists."""

    def made(self, envelope: Envelope) -> Envelope:
        if any(found.envelope.source == envelope.source for found in self.find(envelope.id)):
            raise SendError(self.name, refused=[0], why="a row with this id is there already")
        return envelope


@planted_pair(promise.JOINS_THE_TRANSACTION)
class LeavesOutWhatCannotBeWritten(Joining):
    """A transaction commits without the events that cannot be written."""

    def send_bound(self, bound: Bound, make: Make, delay: float) -> None:
        bound.sender.send(lambda: [one for one in make() if self._can_be_written(one)], delay=delay)

    def _can_be_written(self, envelope: Envelope) -> bool:
        return "\\ud" not in ascii((envelope.source, *envelope.headers, *envelope.headers.values()))


@planted_pair(promise.JOINS_THE_TRANSACTION)
class ForgetsItsTransactionsWhenClosed(Joining):
    """Events of a session are lost if the transport is closed before the session commits."""

    def send_bound(self, bound: Bound, make: Make, delay: float) -> None:
        bound.sender.send(lambda: [] if self._closed else make(), delay=delay)
