"""Check sends: each event is there once or not at all, as the send reports."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from relevo import Capabilities, Envelope, State, Unreadable
from relevo_conformance import history, promise
from relevo_conformance._world import Bound, Operation, World
from relevo_conformance.model import PENDING, Copy, Situation, absent, arrival, is_pending
from relevo_conformance.promise import Promise

_NO_TEXT = re.compile("[\x00\ud800-\udfff]")

_REFUSALS = frozenset({"SendError", "TransportUnavailableError", "ConfigurationError", "CodecError", "EncodeError"})


def send_began(world: World, operation: Operation, call: history.Send) -> None:
    """Allow each envelope to be there or not from now on."""
    due = operation.began + call.delay if call.delay else None
    for position, envelope in enumerate(call.envelopes):
        copy = world.add(operation, envelope.queue, envelope, [absent(promise.SEND_TELLS_APART)])
        if _may_arrive(world, copy):
            copy.in_line = due is None and not copy.doubtful
            copy.branch((operation.op, position), arrival(due))
            operation.positions[position] = copy


def _may_arrive(world: World, copy: Copy) -> bool:
    """Return whether *copy*, which is being sent, may become an event of its own; mark it if the same one is there."""
    others = [other for other in world.same(copy.queue, copy.event) if other is not copy]
    copy.bygone = frozenset(other.number for other in others if other.surely(_has_ended))
    if world.capabilities.dedupe and any(other.surely(is_pending) for other in others):
        copy.become([absent(promise.RESENT_IS_ONE)])
        copy.doubtful = True
        return False
    maybe_kept = [other for other in others if other.maybe(is_pending)]
    for other in maybe_kept if world.capabilities.dedupe else ():
        other.doubtful = True  # an event that is handed out may be this one
    copy.doubtful = bool(maybe_kept)
    return True


def send_ended(world: World, operation: Operation, call: history.Send, returned: history.Returned) -> None:
    """Accept the fate that the send reports for each envelope, and check its error."""
    fates = _fates(call, returned)
    why = promise.UNCLAIMED_IS_REFUSED if returned.error == "UnsupportedError" else promise.SEND_TELLS_APART
    for position, copy in operation.positions.items():
        copy.sent = (operation.began, returned.at)
        _believe(copy, (operation.op, position), fates[position], why)
    if world.capabilities.dedupe and set(fates) == {"sent"}:
        _unite(list(operation.positions.values()))
    if isinstance(returned.value, history.Fates) and not returned.value.told_apart:
        what = f"the SendError does not name each of the {len(call.envelopes)} positions of the batch once"
        world.report(promise.SEND_TELLS_APART, operation.op, what)
    if world.capabilities.atomic_batch and "sent" in fates and len(set(fates)) > 1:
        world.report(promise.BATCH_IS_ATOMIC, operation.op, f"a batch was sent in part: {', '.join(fates)}")
    provoked = operation.worker in world.broken or _is_too_large(world.capabilities, call)
    provoked = provoked or any(envelope.queue not in world.queues for envelope in call.envelopes)
    provoked = provoked or any(map(_is_no_text, call.envelopes))
    if returned.error in _REFUSALS and not provoked and world.knows_faults:
        refused = ", ".join(repr(one.id) for one, fate in zip(call.envelopes, fates, strict=True) if fate != "sent")
        what = f"a send of {refused} was refused without a reason: {returned.error}"
        world.report(promise.SENT_IS_RECEIVED, operation.op, what)


def _unite(copies: Sequence[Copy]) -> None:
    """Keep one copy of an event that was in the sent batch several times."""
    seen: set[tuple[str, ...] | bytes] = set()
    for copy in copies:
        if copy.identity in seen and copy.maybe(_is_absent):
            copy.become([absent(promise.RESENT_IS_ONE)])
        seen.add(copy.identity)


def setup_ended(world: World, operation: Operation, call: history.SetUp, returned: history.Returned) -> None:
    """Record the queues that exist for a send from now on."""
    if returned.end == "done" and not call.dry_run:
        world.queues.update(call.queues)


def raw_began(world: World, operation: Operation, call: history.PutRaw) -> None:
    """Allow the bytes to be there or not from now on."""
    event = Unreadable(raw=call.raw, headers=call.headers, why="")
    copy = world.add(operation, call.queue, event, [absent(promise.MALFORMED_IS_QUARANTINED)])
    copy.branch((operation.op, 0), arrival(None))
    operation.positions[0] = copy


def raw_ended(world: World, operation: Operation, call: history.PutRaw, returned: history.Returned) -> None:
    """Expect the bytes."""
    copy = operation.positions[0]
    copy.sent = (operation.began, returned.at)
    copy.resolve((operation.op, 0), happened=True)


def never_came(world: World) -> Iterator[Copy]:
    """
    Yield for each event that was certainly sent, and of which no copy came so far, one copy.

    Its send succeeded while an equal event may have been there, so it is unknown which of them is stored, but one is.
    It yields nothing for an event of which one copy is surely stored.
    """
    seen: set[tuple[str, ...] | bytes] = set()
    for copy in world.copies:
        if copy.confirmed and copy.doubtful and copy.identity not in seen:
            same = [one for one in world.same(copy.queue, copy.event) if one.number not in copy.bygone]
            if all(one.surely(_never_came) and one.maybe(_is_absent) for one in same) and copy.maybe(is_pending):
                seen.add(copy.identity)
                yield copy


def batches_at_the_end(world: World) -> None:
    """Check at the end that a batch of unknown fate was handed out whole, or not at all."""
    for op, missing, size in torn_batches(world):
        world.report(promise.BATCH_IS_ATOMIC, op, f"{missing} of the {size} events of a batch never came")


def torn_batches(world: World) -> Iterator[tuple[int, int, int]]:
    """Yield for each batch of which only a part came so far: its call, the number of missing events, and its size."""
    if not world.capabilities.atomic_batch:
        return
    batches: dict[int, list[Copy]] = {}
    for copy in world.copies:
        if not copy.doubtful:
            batches.setdefault(copy.op, []).append(copy)
    for op, copies in batches.items():
        missing = sum(copy.maybe(_is_absent) and copy.surely(_never_came) for copy in copies)
        # An event that may have been removed meanwhile proves nothing.
        if missing and any(not copy.maybe(_is_absent) and _is_unexplained(world, copy) for copy in copies):
            yield op, missing, len(copies)


def _is_unexplained(world: World, copy: Copy) -> bool:
    """
    Return whether *copy* itself was surely stored: other sends of the same event explain fewer than there were.

    Which of several equal events was handed out is a guess, so only their number proves anything.
    """
    same = world.same(copy.queue, copy.event)
    stored = sum(not one.maybe(_is_absent) for one in same)
    others = sum(one.op != copy.op and not one.surely(_is_absent) for one in same)
    return stored > others


# --- in the application's transaction --------------------------------------------------------------


def bound_ended(world: World, operation: Operation, call: history.SendBound, returned: history.Returned) -> None:
    """Expect the envelopes once the transaction commits, and only then."""
    if returned.end != "done":
        return
    for envelope in call.envelopes:
        queue = envelope.queue if call.relay_to is None else f"outbox/{call.relay_to}"
        copy = world.add(operation, queue, envelope, [absent(promise.JOINS_THE_TRANSACTION)])
        copy.in_line = False
        due = operation.began + call.delay if call.delay else None
        savepoints = tuple(world.savepoints[call.transaction])
        world.transactions[call.transaction].append(Bound(copy, due, savepoints, call.number, call.kind))


def make_began(world: World, operation: Operation, call: history.Make) -> None:
    """Check that a send is made once, and not after it was rolled back."""
    sends = world.sends[call.transaction]
    match sends.get(call.number):
        case "made":
            what = "the envelopes of a send in a transaction were asked for twice"
            world.report(promise.JOINS_THE_TRANSACTION, operation.op, what)
        case "undone":
            what = "the envelopes of a send in a transaction were asked for after it was rolled back"
            world.report(promise.JOINS_THE_TRANSACTION, operation.op, what)
        case _:
            sends[call.number] = "made"


def savepoint_began(world: World, operation: Operation, call: history.SetSavepoint) -> None:
    """Record what is sent inside it from now on."""
    world.savepoints[call.transaction].append(call.savepoint)


def savepoint_ended(world: World, operation: Operation, call: history.EndSavepoint, returned: history.Returned) -> None:
    """Forget what was rolled back."""
    if returned.end != "done":
        return
    if call.way == "rollback":
        bound = world.transactions[call.transaction]
        _undo(world, call.transaction, [entry for entry in bound if call.savepoint in entry.savepoints])
        bound[:] = [entry for entry in bound if call.savepoint not in entry.savepoints]
    inside = world.savepoints[call.transaction]
    del inside[inside.index(call.savepoint) :]


def transaction_end_began(world: World, operation: Operation, call: history.EndTransaction) -> None:
    """Allow the events of a committing transaction to be there or not from now on."""
    bound = world.transactions[call.transaction]
    if call.way == "rollback":
        _undo(world, call.transaction, bound)
        return
    arriving: set[tuple[str, ...] | bytes] = set()
    for position, one in enumerate(bound):
        if world.capabilities.dedupe and one.copy.identity in arriving:
            one.copy.become([absent(promise.RESENT_IS_ONE)])  # the earlier one of the transaction stays
        elif _may_arrive(world, one.copy):
            arriving.add(one.copy.identity)
            # What is sent on a connection is written at once, and its place is that of the send or of the commit.
            one.copy.in_line = one.due is None and not one.copy.doubtful and one.kind == "session"
            one.copy.placed, one.copy.beside = operation.op, frozenset(world.flying) - {operation.op}
            one.copy.branch((operation.op, position), arrival(one.due))
            operation.positions[position] = one.copy


def _undo(world: World, transaction: int, bound: Sequence[Bound]) -> None:
    """Record that the sends of *bound* were rolled back."""
    world.sends[transaction].update((one.number, "undone") for one in bound if one.number)


def transaction_ended(
    world: World, operation: Operation, call: history.EndTransaction, returned: history.Returned
) -> None:
    """Accept the result that the commit reports."""
    for position, copy in operation.positions.items():
        began = copy.sent[0]
        copy.sent = (
            min(began, returned.at),
            max(began, returned.at),
        )  # the clock may have been set back before the end
        copy.confirmed = returned.end == "done"
        happened = {"done": None if copy.doubtful else True, "refused": False}.get(returned.end)
        copy.resolve((operation.op, position), happened=happened)
        if happened is False:
            copy.become(replace(one, why=promise.JOINS_THE_TRANSACTION) for one in copy.possible)


def _fates(call: history.Send, returned: history.Returned) -> tuple[history.Fate, ...]:
    if isinstance(returned.value, history.Fates):
        return returned.value.fates
    fate: history.Fate = "unknown"
    match returned.end:
        case "done":
            fate = "sent"
        case "refused":
            fate = "refused"
    return (fate,) * len(call.envelopes)


def _believe(copy: Copy, tag: tuple[int, int], fate: history.Fate, why: Promise) -> None:
    match fate:
        case "sent":
            copy.confirmed = True
            copy.resolve(tag, happened=None if copy.doubtful else True)
        case "refused":
            # That it was handed out during the send and then refused is impossible.
            copy.resolve(tag, happened=False)
            copy.become(replace(one, why=why) if one.state is None else one for one in copy.possible)
        case "unknown":
            copy.resolve(tag, happened=None)


def _is_too_large(capabilities: Capabilities, call: history.Send) -> bool:
    largest = capabilities.max_body
    return largest is not None and any(len(envelope.body) > largest for envelope in call.envelopes)


def _is_no_text(envelope: Envelope) -> bool:
    """Return whether *envelope* has a text that a store may refuse."""
    own = (envelope.id, envelope.source, envelope.name, envelope.ordering_key or "")
    texts = (*own, *envelope.headers, *envelope.headers.values())
    return any(map(_NO_TEXT.search, texts))


def _has_ended(one: Situation) -> bool:
    return one.state in (State.DONE, State.GONE)


def _is_absent(one: Situation) -> bool:
    return one.state is None


def _never_came(one: Situation) -> bool:
    return one.state is None or one.state in PENDING
