"""Check settle, extend and checkpoint: the whole effect for a held delivery, else none."""

from __future__ import annotations

from math import inf

import attrs
from msgspec.structs import replace

from relevo import Action, Envelope, State, action_of
from relevo_conformance import history, promise
from relevo_conformance._world import Operation, Trace, World, set_adrift
from relevo_conformance.model import Change, Copy, Situation
from relevo_conformance.promise import Promise

_PROMISED: dict[Action, Promise] = {
    Action.ACK: promise.ACK_IS_FINAL,
    Action.NACK: promise.NACK_RETURNS_LATER,
    Action.DEAD_LETTER: promise.DEAD_IS_KEPT_WITH_REASON,
    Action.RELEASE: promise.RELEASE_COUNTS_NOTHING,
    Action.POSTPONE: promise.RELEASE_COUNTS_NOTHING,
    Action.LOSE: promise.LOST_LEASES_ARE_COUNTED,
}


def settle_began(world: World, operation: Operation, call: history.Settle) -> None:
    """Allow the effect of each outcome from now on, where the delivery is held."""
    for position, item in enumerate(call.items):
        holder = world.holders.get(item.delivery)
        if holder is not None:
            copy = holder.copy = _held(world, holder.copy, item.delivery, operation.began)
            operation.positions[position] = copy
            operation.before[position] = copy.possible
            copy.branch((operation.op, position), _settlement(item, operation.began))


def _held(world: World, copy: Copy, delivery: int, now: float) -> Copy:
    """
    Return the copy that *delivery* holds: *copy*, or an equal one if it can no longer hold *copy*.

    Which of equal copies a worker received is a guess.
    """
    alike = (copy, *world.same(copy.queue, copy.event))
    return next((one for one in alike if one.maybe(lambda there: there.may_be_held(delivery, now))), copy)


def _settlement(item: history.Item, began: float) -> Change:
    return lambda one: one.settled(item.delivery, item.outcome, began)


def settle_ended(world: World, operation: Operation, call: history.Settle, returned: history.Returned) -> None:
    """Check for each settlement whether it could happen, and whether it could be refused."""
    answer = returned.value if isinstance(returned.value, history.Settled) else None
    for position, item in enumerate(call.items):
        copy = operation.positions.get(position)
        if copy is None:
            continue
        tag = (operation.op, position)
        if answer is None:
            copy.resolve(tag, happened=False if returned.end == "refused" else None)
            if returned.end != "refused" and action_of(item.outcome) is Action.DEAD_LETTER:
                _replace_earlier(world, copy)
            _may_be_in_both_places(world, operation, position, item)
        elif _is_lost(call, position, answer):
            copy.resolve(tag, happened=False)
            _was_lost(world, operation, item.delivery, returned.at, _PROMISED[action_of(item.outcome)])
        elif item.delivery in answer.unsettled:
            copy.resolve(tag, happened=False)
            _may_be_in_both_places(world, operation, position, item)
        else:
            _was_settled(world, operation, position, item, returned.at)


def _is_lost(call: history.Settle, position: int, answer: history.Settled) -> bool:
    """Return whether *answer* reports the item at *position* as lost; of a delivery that is there twice, the second."""
    lost = answer.lost.count(call.items[position].delivery)
    behind = sum(item.delivery == call.items[position].delivery for item in call.items[position + 1 :]) if lost else 0
    return behind < lost


def _may_be_in_both_places(world: World, operation: Operation, position: int, item: history.Item) -> None:
    """
    Allow an event that was settled during a fault to be in its new place and in the old one, if settling has two steps.

    Which of the two is the original is a guess, so its double may be in either place.
    """
    if operation.worker in world.broken and world.capabilities.settlement == "sent":
        was = [one for one in operation.before[position] if one.holder == item.delivery]
        there = (one.settled(item.delivery, item.outcome, operation.began) for one in was)
        places = [*was, *(one for one in there if one is not None)]
        world.double(operation.worker, operation.positions[position], places)


def _was_settled(world: World, operation: Operation, position: int, item: history.Item, now: float) -> None:
    copy = operation.positions[position]
    if not copy.resolve((operation.op, position), happened=True) and not _was_of_another(
        world, operation, position, item
    ):
        what = f"delivery {item.delivery} of {copy} was settled although it was no longer held"
        world.report(promise.STALE_SETTLE_IS_REFUSED, operation.op, what)
        return
    copy = operation.positions[position]
    if action_of(item.outcome) is Action.DEAD_LETTER:
        _replace_earlier(world, copy)
    for before in operation.before[position]:
        if before.holder == item.delivery and before.state is State.LEASED:
            world.traces[operation.worker].append(Trace(copy, before, now))


def _was_of_another(world: World, operation: Operation, position: int, item: history.Item) -> bool:
    """Assume that the delivery held an equal copy, since its own was handed out meanwhile; return whether it could."""
    own = operation.positions[position]
    other = _held(world, own, item.delivery, operation.began)
    if other is own:
        return False
    settled = (one.settled(item.delivery, item.outcome, operation.began) for one in other.possible)
    operation.positions[position], operation.before[position] = other, other.possible
    world.holders[item.delivery].copy = other
    other.become(one for one in settled if one is not None)
    return True


def _was_lost(world: World, operation: Operation, delivery: int, now: float, broken: Promise) -> None:
    holder = world.holders[delivery]
    copy = holder.copy
    own = holder.worker == operation.worker
    if own and copy.surely(lambda one: one.surely_held(delivery, now, world.slack)):
        what = f"delivery {delivery} of {copy} was held, but refused as lost"
        world.report(copy.spared or broken, operation.op, what)
    set_adrift(copy, delivery)


def _replace_earlier(world: World, copy: Copy) -> None:
    """Remove an earlier dead letter of the same event: there may be one for each event and queue."""
    if not isinstance(copy.event, Envelope):  # bytes without an id are never the same event, though they may be equal
        return
    for other in world.same(copy.queue, copy.event):
        if other is not copy and other.event == copy.event and other.maybe(lambda one: one.state is State.DEAD):
            gone = (
                replace(one, state=State.GONE, why=promise.DEAD_IS_KEPT_WITH_REASON)
                for one in other.possible
                if one.state is State.DEAD
            )
            other.become((*other.possible, *gone))


def extend_began(world: World, operation: Operation, call: history.Extend) -> None:
    """Allow each lease to end later from now on, where the delivery is held."""
    for position, delivery in enumerate(call.deliveries):
        holder = world.holders.get(delivery)
        if holder is not None:
            operation.positions[position] = holder.copy
            holder.copy.branch((operation.op, position), _extension(delivery, operation.began, call.lease))


def _extension(delivery: int, began: float, lease: float) -> Change:
    def extend(one: Situation) -> Situation | None:
        if not one.may_be_held(delivery, began):
            return None
        return one.step(Action.EXTEND, until=began + lease, over=inf)  # known when the call ends

    return extend


def extend_ended(world: World, operation: Operation, call: history.Extend, returned: history.Returned) -> None:
    """Check for each delivery whether its lease could be extended, and extend it."""
    answer = returned.value if isinstance(returned.value, history.Settled) else None
    for position, delivery in enumerate(call.deliveries):
        copy = operation.positions.get(position)
        if copy is None:
            continue
        tag = (operation.op, position)
        if answer is None:
            copy.resolve(tag, happened=False if returned.end == "refused" else None)
        elif delivery in answer.lost:
            copy.resolve(tag, happened=False)
            _was_lost(world, operation, delivery, returned.at, promise.EXTEND_KEEPS_THE_LEASE)
        elif not copy.resolve(tag, happened=True):
            what = f"delivery {delivery} of {copy} was extended although it was no longer held"
            world.report(promise.STALE_SETTLE_IS_REFUSED, operation.op, what)
        elif not operation.overlapped:
            over = returned.at + call.lease + world.slack
            copy.become(replace(one, over=over) if one.holder == delivery else one for one in copy.possible)


def checkpoint_began(world: World, operation: Operation, call: history.Checkpoint) -> None:
    """Allow the state to be stored from now on, where the delivery is held."""
    holder = world.holders.get(call.delivery)
    if holder is None:
        return

    def keep(one: Situation) -> Situation | None:
        if not one.may_be_held(call.delivery, operation.began):
            return None
        return one.step(Action.CHECKPOINT, kept=call.state, checkpointed=True)

    operation.positions[0] = holder.copy
    holder.copy.branch((operation.op, 0), keep)


def checkpoint_ended(world: World, operation: Operation, call: history.Checkpoint, returned: history.Returned) -> None:
    """Check whether the checkpoint could happen, and whether it could be refused."""
    copy = operation.positions.get(0)
    if copy is None:
        return
    tag = (operation.op, 0)
    if returned.end == "done":
        if not copy.resolve(tag, happened=True):
            what = f"delivery {call.delivery} of {copy} stored a checkpoint although it was no longer held"
            world.report(promise.STALE_SETTLE_IS_REFUSED, operation.op, what)
    elif returned.end == "refused":
        copy.resolve(tag, happened=False)
        if returned.error == "LeaseLostError":
            _was_lost(world, operation, call.delivery, returned.at, promise.CHECKPOINT_SURVIVES_A_LOST_LEASE)
    else:
        copy.resolve(tag, happened=None)


def begin_began(world: World, operation: Operation, call: history.Begin) -> None:
    """Allow the note to be stored from now on, if the delivery is held."""
    holder = world.holders.get(call.delivery)
    if holder is None:
        return

    def note(one: Situation) -> Situation | None:
        if not one.may_be_held(call.delivery, operation.began):
            return None
        return replace(one, begun=call.note, deaths=call.note.deaths)

    operation.positions[0] = holder.copy
    holder.copy.branch((operation.op, 0), note)


def begin_ended(world: World, operation: Operation, call: history.Begin, returned: history.Returned) -> None:
    """Check whether the note could be stored, and whether it could be refused."""
    copy = operation.positions.get(0)
    if copy is None:
        return
    tag = (operation.op, 0)
    if returned.end == "done":
        if not copy.resolve(tag, happened=True):
            what = f"delivery {call.delivery} of {copy} stored a note although it was no longer held"
            world.report(promise.STALE_SETTLE_IS_REFUSED, operation.op, what)
    elif returned.end == "refused":
        copy.resolve(tag, happened=False)
        if returned.error == "LeaseLostError":
            _was_lost(world, operation, call.delivery, returned.at, promise.BEGUN_IS_KEPT)
    else:
        copy.resolve(tag, happened=None)


def excuse_began(world: World, operation: Operation, call: history.Excuse) -> None:
    """Allow the note to be excused from now on, if it is the last one."""
    holder = world.holders.get(call.delivery)
    if holder is None:
        return

    def excuse(one: Situation) -> Situation | None:
        return replace(one, begun=attrs.evolve(call.note, excused=True)) if one.begun == call.note else None

    operation.positions[0] = holder.copy
    holder.copy.branch((operation.op, 0), excuse)


def excuse_ended(world: World, operation: Operation, call: history.Excuse, returned: history.Returned) -> None:
    """Check nothing yet: a later delivery shows the note. After the event was settled, the note may stay."""
    copy = operation.positions.get(0)
    if copy is None:
        return
    tag = (operation.op, 0)
    excused = [one for one in copy.possible if tag in one.tags]
    is_unsettled = all(one.state is State.LEASED and one.holder == call.delivery for one in excused)
    if returned.end == "done":
        copy.resolve(tag, happened=True if excused and is_unsettled else None)
    else:
        copy.resolve(tag, happened=False if returned.end == "refused" else None)
