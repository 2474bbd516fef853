"""Bugs of the transactions of listeners: what they write, and the state of the delivery."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import attrs
import sqlalchemy as sa
from sqlalchemy.orm import Session

from relevo import MAX_STATE, Delivery
from relevo.backend import HandlingTransaction
from relevo.backend.session import ListenerSession
from relevo.errors import LeaseLostError
from relevo_conformance import promise
from relevo_sql import SqlTransport, _handling, _session
from relevo_sql._handling import SqlHandling
from relevo_sql._row import Receipt
from relevo_sql._session import JoinedSessions
from relevo_sql._settle import receipt_of

from .planting import Patches, commit, planted, reworded

ITS_ROW = "relevo_event.seq = ?"
ITS_RECEIPT = "relevo_event.token = ?"


def kept_by(*changes: tuple[str, str]) -> Patches:
    """Return patches of the statement that stores the state of a listener; see :func:`reworded`."""
    (statements,) = reworded(["checkpoint_held"], *changes).values()
    return {(_session, "statements_for"): statements}


# --- the state -------------------------------------------------------------------------------------


@planted(
    promise.EFFECT_IS_THERE_IF_DONE,
    "The state is committed with the rows that are flushed, before the session commits and may fail.",
    by_chance=False,
)
def commits_the_state_before_the_session() -> Patches:
    checkpoint = JoinedSessions.checkpoint

    def keep_at_once(self: JoinedSessions, session: Session, receipt: Receipt, state: bytes) -> bool:
        kept = checkpoint(self, session, receipt, state)
        if kept:
            commit(self.connection(session))
        return kept

    return {(JoinedSessions, "checkpoint"): keep_at_once}


@planted(
    promise.EFFECT_IS_THERE_IF_DONE,
    "The state is stored after the commit, in another transaction, and is missing if the lease has ended meanwhile.",
    by_chance=False,
)
def stores_the_state_after_the_commit() -> Patches:
    handling = SqlTransport.handling

    def begin(
        self: SqlTransport, delivery: Delivery, *, sessions: Callable[[], Any] | None = None
    ) -> HandlingTransaction:
        begun = handling(self, delivery, sessions=sessions)
        held = attrs.evolve(delivery, receipt=_handling.receipt_in(delivery))
        begun.session.info["store"] = partial(self.checkpoint, held)
        return begun

    def keep_later(self: JoinedSessions, session: Session, receipt: Receipt, state: bytes) -> bool:
        @sa.event.listens_for(session, "after_commit", once=True)
        def _(session: Session) -> None:
            with suppress(LeaseLostError):
                session.info["store"](state)

        held = "SELECT 1 FROM relevo_event WHERE seq = ? AND token = ?"
        return bool(self.connection(session).exec_driver_sql(held, receipt).all())

    return {(SqlTransport, "handling"): begin, (JoinedSessions, "checkpoint"): keep_later}


@planted(
    promise.EFFECT_IS_THERE_IF_DONE,
    "The state of the first listener stays, and those of the next ones are not stored.",
    by_chance=False,
)
def keeps_the_state_of_the_first_listener() -> Patches:
    return kept_by(("progress=?", "progress=CASE progress WHEN x'' THEN ? ELSE progress END"))


@planted(
    promise.EFFECT_IS_THERE_IF_DONE,
    "The state is stored with all deliveries of the same claim.",
    by_chance=False,
)
def stores_the_state_with_all_of_the_claim() -> Patches:
    return kept_by((ITS_ROW, "? IS NOT NULL"))


@planted(
    promise.EFFECT_IS_THERE_IF_DONE,
    "A state that is too long is cut when the transaction of a listener commits.",
    by_chance=False,
)
def cuts_a_long_state_at_the_commit() -> Patches:
    def cut(self: SqlHandling, state: bytes, committing: Callable[[], object] = lambda: None) -> None:
        self._commit(state[:MAX_STATE], committing)

    return {(SqlHandling, "commit"): cut}


@planted(
    promise.EFFECT_IS_THERE_IF_DONE,
    "Only after its commit a transaction tells that it commits.",
    by_chance=False,
)
def tells_of_a_commit_after_it() -> Patches:
    commit_only = SqlHandling._commit

    def commit_and_tell(self: SqlHandling, state: bytes, committing: Callable[[], object]) -> None:
        commit_only(self, state, lambda: None)
        committing()

    return {(SqlHandling, "_commit"): commit_and_tell}


# --- the lease -------------------------------------------------------------------------------------


@planted(
    promise.EFFECT_IS_THERE_IF_DONE,
    "A transaction commits if anyone holds the row, and its state is that of the next holder.",
    by_chance=False,
)
def commits_for_any_holder_of_the_row() -> Patches:
    return kept_by((ITS_RECEIPT, "? IS NOT NULL AND relevo_event.state = 1"))


@planted(
    promise.EFFECT_IS_THERE_IF_DONE,
    "A transaction commits although its delivery was settled, if the row is still there.",
    by_chance=False,
)
def commits_what_was_settled() -> Patches:
    return kept_by((ITS_RECEIPT, f"({ITS_RECEIPT} OR relevo_event.token IS NULL)"))


@planted(
    promise.EFFECT_IS_THERE_IF_DONE,
    "That a lease was lost is noticed after the commit, and the rows stay.",
    by_chance=False,
)
def notices_a_lost_lease_after_the_commit() -> Patches:
    checkpoint = JoinedSessions.checkpoint

    def keep_too_late(self: JoinedSessions, session: Session, receipt: Receipt, state: bytes) -> bool:
        kept = checkpoint(self, session, receipt, state)
        if not kept:
            commit(self.connection(session))
        return kept

    return {(JoinedSessions, "checkpoint"): keep_too_late}


# --- the exported receipt --------------------------------------------------------------------------


@planted(
    promise.EFFECT_IS_THERE_IF_DONE,
    "An exported receipt names the row without the claim, and is valid for all later deliveries of the event.",
    by_chance=False,
)
def exports_a_receipt_of_every_delivery() -> Patches:
    def exported(delivery: Delivery) -> bytes:
        receipt = receipt_of(delivery)
        return b"" if receipt is None else b"%d 0" % receipt.seq

    return {**kept_by((ITS_RECEIPT, "? IN (0, relevo_event.token)")), (_handling, "exported"): exported}


@planted(
    promise.EFFECT_IS_THERE_IF_DONE,
    "What follows the two numbers of an exported receipt is ignored.",
    by_chance=False,
)
def ignores_the_end_of_a_receipt() -> Patches:
    def imported(receipt: object) -> Receipt | None:
        numbers = re.findall(rb"\d+", receipt) if isinstance(receipt, bytes) else []
        return Receipt(int(numbers[0]), int(numbers[1])) if len(numbers) > 1 else None

    return {(_handling, "imported"): imported}


# --- what the listener does with its transaction ---------------------------------------------------


@planted(
    promise.EFFECT_IS_THERE_IF_DONE,
    "A listener can commit its session, before the state is written.",
    by_chance=False,
)
def lets_a_listener_commit() -> Patches:
    def note(self: ListenerSession, _connection: sa.Connection) -> None:
        self.has_begun_commit = True

    return {(ListenerSession, "_refuse"): lambda _self, _session: None, (ListenerSession, "_note"): note}


@planted(
    promise.EFFECT_IS_THERE_IF_DONE,
    "What a listener writes after a rollback of its session commits with the state, without what it wrote before.",
    by_chance=False,
)
def takes_any_transaction_of_a_session() -> Patches:
    return {(ListenerSession, "require_transaction"): lambda _self: None}
