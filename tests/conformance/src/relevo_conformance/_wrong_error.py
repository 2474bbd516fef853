"""Errors that a transport raises without a cause: each breaks the promise of its call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relevo import Ack, DeadLetter, Lost, Nack, Outcome, Release
from relevo.errors import RelevoError
from relevo_conformance import history, promise
from relevo_conformance._world import Violation
from relevo_conformance.answer import method_of
from relevo_conformance.promise import Promise
from relevo_conformance.verdict import BrokenPromiseError, error_text

_OF_CALLS: Mapping[type[Any], Promise] = {
    history.SetUp: promise.SETUP_IS_IDEMPOTENT,
    history.Send: promise.SENT_IS_RECEIVED,
    history.SendUnique: promise.ONE_EVENT_OF_A_KEY_LIVES,
    history.SendBound: promise.JOINS_THE_TRANSACTION,
    history.Receive: promise.SENT_IS_RECEIVED,
    history.Take: promise.TAKEN_BY_ITS_ID,
    history.Extend: promise.EXTEND_KEEPS_THE_LEASE,
    history.Checkpoint: promise.CHECKPOINT_SURVIVES_A_LOST_LEASE,
    history.Begin: promise.BEGUN_IS_KEPT,
    history.Excuse: promise.BEGUN_IS_KEPT,
    history.ListDead: promise.DEAD_IS_KEPT_WITH_REASON,
    history.Revive: promise.REVIVED_IS_RECEIVED,
    history.Discard: promise.DISCARDED_IS_GONE,
    history.Cancel: promise.CANCELLED_IS_GONE,
    history.Find: promise.FOUND_AS_IT_IS,
    history.ListWaiting: promise.QUERIED_AS_IT_IS,
    history.ListMatching: promise.QUERIED_AS_IT_IS,
    history.CountGroups: promise.QUERIED_AS_IT_IS,
    history.ListStuck: promise.QUERIED_AS_IT_IS,
    history.Purge: promise.PURGED_IS_GONE,
    history.Count: promise.STATS_ARE_TRUE_AT_REST,
    history.Lock: promise.LOCK_HAS_ONE_HOLDER,
    history.RenewLock: promise.LOCK_IS_KEPT_BY_ITS_RECEIPT,
    history.Unlock: promise.LOCK_IS_KEPT_BY_ITS_RECEIPT,
    history.Announce: promise.ANNOUNCED_IS_SEEN,
    history.ListWorkers: promise.ANNOUNCED_IS_SEEN,
    history.SetControl: promise.CONTROL_IS_SEEN,
    history.ListControls: promise.CONTROL_IS_SEEN,
    history.ChangeLimit: promise.LIMIT_IS_COUNTED_ONCE,
    history.Close: promise.CLOSE_IS_IDEMPOTENT,
}

_OF_OUTCOMES: Mapping[type[Outcome], Promise] = {
    Ack: promise.ACK_IS_FINAL,
    Nack: promise.NACK_RETURNS_LATER,
    Release: promise.RELEASE_COUNTS_NOTHING,
    DeadLetter: promise.DEAD_IS_KEPT_WITH_REASON,
    Lost: promise.LOST_LEASES_ARE_COUNTED,
}

_CALL = "relevo_conformance_call"
"""The attribute of an error with the number of the call that raised it, and the call."""


def note_call(error: RelevoError, op: int, call: history.Call) -> None:
    """Note on *error* that *call*, which has the number *op*, raised it."""
    vars(error)[_CALL] = (op, call)


def promise_of(call: history.Call) -> Promise:
    """Return the promise that *call* breaks if it raises an error without a cause."""
    if isinstance(call, history.Settle) and call.items:
        return _OF_OUTCOMES[type(call.items[0].outcome)]
    return _OF_CALLS.get(type(call), promise.ANSWERS_ARE_WELL_FORMED)


def broken_by(error: BaseException) -> BrokenPromiseError | None:
    """
    Return what *error*, with which a test of everything ended, says of the transport.

    Such a test makes calls that must succeed, and ignores the errors that it provokes. So an error of relevo that ends
    it has no cause, and the call did not do what it promises.
    """
    if isinstance(error, BrokenPromiseError):
        return error
    op, call = getattr(error, _CALL, (None, None))
    if not isinstance(error, RelevoError) or call is None:
        return None
    what = f"{method_of(call)} raised {error_text(error)}, and nothing in the history gives a reason"
    broken = BrokenPromiseError([Violation(promise_of(call).id, op, what)])
    for note in getattr(error, "__notes__", ()):
        broken.add_note(note)
    return broken
