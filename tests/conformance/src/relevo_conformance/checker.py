"""
Find the promises that a history breaks.

The checker is pure. It replays the records against the model, keeps each situation that matches what
was observed, and reports a record that matches none. A violation in a recorded history is proof, even if
it does not happen again; and a history may come from anywhere, production included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

from relevo import Capabilities, DeadLetter
from relevo_conformance import (
    _judge_lock,
    _judge_query,
    _judge_receive,
    _judge_rest,
    _judge_send,
    _judge_settle,
    _judge_store,
    history,
    promise,
)
from relevo_conformance._judge_rest import Unaccounted
from relevo_conformance._world import OVERTIME, PATIENCE, SENT_GRACE, Operation, Violation, World
from relevo_conformance.history import Call, Invoked, Record, Returned

__all__ = ["SENT_GRACE", "Judge", "Unaccounted", "Violation", "check", "unaccounted", "unclaimed"]


def check(
    records: Iterable[Record],
    capabilities: Capabilities,
    *,
    slack: float = 0.002,
    patience: float = PATIENCE,
    knows_faults: bool = False,
) -> list[Violation]:
    """
    Return the violations in *records* for a transport with *capabilities*.

    Lost events are reported only if the history has a drain that finished; without one, :func:`unaccounted` returns
    those whose end is not in the history.

    Args:
        records: In the order in which they were recorded.

        capabilities: What the transport claims.

        slack: Seconds by which the store's clock may differ from the times of the records.

        patience: Seconds within which a receive must find a ready event.

        knows_faults: Whether *records* contain each fault of the store, as those of the suite do. Then a send that is
            refused without one is a violation.

    Raises:
        ValueError: One of them ends a call that had not begun.
    """
    judge = Judge(capabilities, slack=slack, patience=patience, knows_faults=knows_faults)
    return list(judge.feed_all(records).violations)


def unaccounted(records: Iterable[Record], capabilities: Capabilities, *, slack: float = 0.002) -> list[Unaccounted]:
    """
    Return the events that were certainly sent, and that may be unfinished at the end of *records*.

    It returns nothing if the history ends with a drain that finished: what is missing then breaks a promise.

    Args:
        records: In the order in which they were recorded.

        capabilities: What the transport claims.

        slack: Seconds by which the store's clock may differ from the times of the records.

    Raises:
        ValueError: One of them ends a call that had not begun.
    """
    return list(Judge(capabilities, slack=slack).feed_all(records).unaccounted())


class Judge:
    """The checker for one record after another, so that a run can stop at the first violation."""

    def __init__(
        self,
        capabilities: Capabilities,
        *,
        slack: float = 0.002,
        patience: float = PATIENCE,
        overtime: float = OVERTIME,
        knows_faults: bool = False,
    ) -> None:
        self.world = World(capabilities, slack, patience, overtime, knows_faults)

    @property
    def violations(self) -> Sequence[Violation]:
        """The violations so far."""
        return self.world.violations

    def unaccounted(self) -> Iterable[Unaccounted]:
        """Return the events that were certainly sent, and that may be unfinished now."""
        return _judge_rest.unaccounted(self.world)

    def feed_all(self, records: Iterable[Record]) -> Self:
        """Add *records*, and return this."""
        for record in records:
            self.feed(record)
        return self

    def pending(self) -> bool:
        """Return whether an event must still be handed out."""
        must_come = (_judge_store.must_come(self.world, copy) for copy in self.world.copies)
        world = self.world
        return any(must_come) or any(_judge_send.never_came(world)) or any(_judge_send.torn_batches(world))

    def feed(self, record: Record) -> None:
        """Add the next record."""
        self.world.pass_time(record.at)
        if isinstance(record, Invoked):
            self._begin(record)
        else:
            self._end(record)

    def _begin(self, record: Invoked) -> None:
        operation = Operation(record.op, record.worker, record.at, record.call)
        operation.closed = record.worker in self.world.closed
        for other in self.world.flying.values():
            other.overlapped = operation.overlapped = True
        self.world.flying[record.op] = operation
        _judge_rest.call_began(self.world, record.call)
        if not isinstance(record.call, history.ListDead | history.ListMatching):
            self.world.calls += 1
        if (rule := _BEGAN.get(type(record.call))) is not None:
            rule(self.world, operation, record.call)

    def _end(self, record: Returned) -> None:
        operation = self.world.flying.pop(record.op, None)
        if operation is None:
            raise ValueError(f"call {record.op} ended, which had not begun, or had already ended")
        if (rule := _ENDED.get(type(operation.call))) is not None:
            rule(self.world, operation, operation.call, record)
        self._judge_manners(operation, record)

    def _judge_manners(self, operation: Operation, record: Returned) -> None:
        """Check how the call ended, by the rules for all calls."""
        world = self.world
        call = operation.call
        if record.end == "crashed":
            what = f"{_operation(call)} raised {record.error}; expected a RelevoError"
            world.report(promise.ERRORS_ARE_TRANSLATED, operation.op, what)
            return
        if record.end == "malformed":
            world.report(promise.ANSWERS_ARE_WELL_FORMED, operation.op, record.error)
            return
        if record.end == "hung":
            world.report(promise.CALLS_COME_BACK, operation.op, f"{_operation(call)} {record.error}")
            return
        if operation.closed and not isinstance(call, _BY_OTHERS):
            allowed = {"TransportClosedError"}
            if unclaimed(call, world.capabilities):
                allowed.add("UnsupportedError")
            if record.error not in allowed:
                what = f"after close, {_operation(call)} ended with {record.error or 'success'}"
                world.report(promise.CLOSE_IS_IDEMPOTENT, operation.op, what)
            return
        if record.error == "TransportClosedError" and operation.worker not in world.closed:
            what = f"{_operation(call)} raised TransportClosedError, but the transport was not closed"
            world.report(promise.CLOSE_IS_IDEMPOTENT, operation.op, what)
        capability = unclaimed(call, world.capabilities)
        if capability is not None and record.error != "UnsupportedError":
            what = f"{capability} is not claimed, but {_operation(call)} ended with {record.error or 'success'}"
            world.report(promise.UNCLAIMED_IS_REFUSED, operation.op, what)
        if capability is None and record.error == "UnsupportedError":
            what = f"{_operation(call)} raised UnsupportedError, but its capability is claimed"
            world.report(promise.UNCLAIMED_IS_REFUSED, operation.op, what)


def unclaimed(call: Call, capabilities: Capabilities) -> str | None:
    """Return the capability that *call* needs and *capabilities* do not claim, if any."""
    claimed: dict[str, bool] = {}
    match call:
        case history.Send(envelopes=envelopes, delay=delay):
            claimed = {
                "delay": not delay or capabilities.delay is not None,
                "urgency": capabilities.urgency or all(one.urgency == "normal" for one in envelopes),
                "order": capabilities.order != "none" or all(one.ordering_key is None for one in envelopes),
                "unique": capabilities.unique or not isinstance(call, history.SendUnique),
            }
        case history.Settle(items=items):
            kept = all(not isinstance(item.outcome, DeadLetter) for item in items)
            claimed = {"dead_letters": capabilities.dead_letters or kept}
        case history.Count():
            claimed = {"stats": capabilities.stats != "none"}
        case history.ListMatching() | history.CountGroups(dead=True):
            claimed = {"waiting": capabilities.waiting, "dead_letters": capabilities.dead_letters}
        case _ if (needed := _NEEDED.get(type(call))) is not None:
            claimed = {needed: getattr(capabilities, needed)}
        case _:
            pass
    return next((name for name, is_claimed in claimed.items() if not is_claimed), None)


_NEEDED: Mapping[type[Any], str] = {
    history.Extend: "extend",
    history.Checkpoint: "checkpoint",
    history.Begin: "presence",
    history.Excuse: "presence",
    history.ListDead: "dead_letters",
    history.Revive: "dead_letters",
    history.Discard: "dead_letters",
    history.Cancel: "cancel",
    history.Find: "find",
    history.Take: "take",
    history.ListWaiting: "waiting",
    history.CountGroups: "waiting",
    history.ListStuck: "waiting",
    history.Purge: "purge",
    history.SendBound: "transactional",
}
"""By call: the capability that it needs, whatever its arguments are."""


def _broke(world: World, operation: Operation, call: history.Break) -> None:
    world.broken.add(operation.worker)
    world.shake(operation.worker, operation.began)


_BEGAN: Mapping[type[Any], Callable[[World, Operation, Any], None]] = {
    history.Break: _broke,
    history.Kill: lambda world, operation, call: world.release_held(operation.worker, operation.began),
    history.Close: lambda world, operation, call: world.release_held(operation.worker, operation.began),
    history.Send: _judge_send.send_began,
    history.SendUnique: _judge_send.send_began,
    history.PutRaw: _judge_send.raw_began,
    history.Make: _judge_send.make_began,
    history.SetSavepoint: _judge_send.savepoint_began,
    history.EndTransaction: _judge_send.transaction_end_began,
    history.Receive: _judge_receive.receive_began,
    history.Take: _judge_receive.receive_began,
    history.Settle: _judge_settle.settle_began,
    history.Extend: _judge_settle.extend_began,
    history.Checkpoint: _judge_settle.checkpoint_began,
    history.Begin: _judge_settle.begin_began,
    history.Excuse: _judge_settle.excuse_began,
    history.Revive: _judge_store.taking_dead_began,
    history.Discard: _judge_store.taking_dead_began,
    history.Cancel: _judge_store.taking_out_began,
    history.Purge: _judge_store.taking_out_began,
    history.Lock: _judge_lock.call_began,
    history.RenewLock: _judge_lock.call_began,
    history.Unlock: _judge_lock.call_began,
}
"""By call: what becomes possible when it begins."""

_ENDED: Mapping[type[Any], Callable[[World, Operation, Any, Returned], None]] = {
    history.Mend: lambda world, operation, call, returned: world.end_fault(operation.worker, returned.at),
    history.SetUp: _judge_send.setup_ended,
    history.Send: _judge_send.send_ended,
    history.SendUnique: _judge_send.send_ended,
    history.PutRaw: _judge_send.raw_ended,
    history.SendBound: _judge_send.bound_ended,
    history.EndSavepoint: _judge_send.savepoint_ended,
    history.EndTransaction: _judge_send.transaction_ended,
    history.Receive: _judge_receive.receive_ended,
    history.Take: _judge_receive.take_ended,
    history.Settle: _judge_settle.settle_ended,
    history.Extend: _judge_settle.extend_ended,
    history.Checkpoint: _judge_settle.checkpoint_ended,
    history.Begin: _judge_settle.begin_ended,
    history.Excuse: _judge_settle.excuse_ended,
    history.ListDead: _judge_store.list_dead_ended,
    history.Revive: _judge_store.taking_dead_ended,
    history.Discard: _judge_store.taking_dead_ended,
    history.Cancel: _judge_store.taking_out_ended,
    history.Purge: _judge_store.taking_out_ended,
    history.Find: _judge_store.find_ended,
    history.ListWaiting: _judge_query.list_waiting_ended,
    history.ListMatching: _judge_query.list_matching_ended,
    history.CountGroups: _judge_query.groups_ended,
    history.Count: _judge_store.count_ended,
    history.Lock: _judge_lock.call_ended,
    history.RenewLock: _judge_lock.call_ended,
    history.Unlock: _judge_lock.call_ended,
    history.Drain: _judge_store.drain_ended,
}
"""By call: what is known and checked when it ends."""


def _operation(call: Call) -> str:
    return type(call).__name__.lower()


_BY_OTHERS = (
    *(history.Open, history.Close, history.Kill),
    # The session is the application's; its transaction may outlive the transport.
    *(history.Make, history.SetSavepoint, history.EndSavepoint, history.EndTransaction),
)
"""What may succeed after the transport was closed."""
