"""Rules for locks: each result must fit one order in which the calls may have taken effect."""

from __future__ import annotations

from relevo_conformance import promise
from relevo_conformance._lock import Call, Flight, HeldLock, LockModel, Result
from relevo_conformance._world import Operation, World
from relevo_conformance.answer import method_of
from relevo_conformance.history import Lock, Locked, Renewed, Returned


def call_began(world: World, operation: Operation, call: Call) -> None:
    """Let a call on a lock begin."""
    locks = world.locks
    lock = locks.by_name.setdefault(call.name, LockModel(world.slack))
    receipt = None if isinstance(call, Lock) else locks.receipts.get(call.receipt)
    lock.begin(Flight(op=operation.op, call=call, receipt=receipt, began=operation.began))


def call_ended(world: World, operation: Operation, call: Call, returned: Returned) -> None:
    """Check the result of a call on a lock."""
    lock = world.locks.by_name[call.name]
    if returned.end != "done":
        lock.give_up(operation.op)
        return
    result: Result = None
    match returned.value:
        case Locked(receipt=receipt):
            result = receipt is not None
            if receipt is not None:
                _take_in(world, operation, receipt)
        case Renewed(holds=holds):
            result = holds
        case _:
            pass
    before = lock.end(operation.op, result, returned.at)
    if before:
        broken = promise.LOCK_HAS_ONE_HOLDER if isinstance(call, Lock) else promise.LOCK_IS_KEPT_BY_ITS_RECEIPT
        what = f"{method_of(call)} of {call.name!r} {_in_words(call, result)}, but the lock was {_all(before)}"
        world.report(broken, operation.op, what)


def _take_in(world: World, operation: Operation, receipt: str) -> None:
    """Note a *receipt*, which must be new."""
    first = world.locks.receipts.setdefault(receipt, operation.op)
    if first != operation.op:
        what = f"lock returned the receipt {receipt!r}, which call {first} had returned; each must be unique"
        world.report(promise.LOCK_HAS_ONE_HOLDER, operation.op, what)


def _in_words(call: Call, result: Result) -> str:
    if isinstance(call, Lock):
        return f"by {call.holder!r} {'succeeded' if result else 'was refused'}"
    return f"by the receipt {call.receipt!r} {'succeeded' if result else 'was refused'}"


def _all(situations: frozenset[HeldLock | None]) -> str:
    return " or ".join(sorted("free" if held is None else str(held) for held in situations))
