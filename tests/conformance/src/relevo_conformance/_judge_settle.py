"""What settling, extending and checkpointing may do: all that was said if it is held, else nothing."""

from __future__ import annotations

import attrs

from relevo import Action, State, action_of
from relevo_conformance import history, promise
from relevo_conformance._world import Operation, Trace, World, set_adrift
from relevo_conformance.model import Change, Copy, Situation
from relevo_conformance.promise import Promise

_PROMISED: dict[Action, Promise] = {
    Action.ACK: promise.ACK_IS_FINAL,
    Action.NACK: promise.NACK_RETURNS_LATER,
    Action.DEAD_LETTER: promise.DEAD_IS_KEPT_WITH_REASON,
    Action.RELEASE: promise.RELEASE_COUNTS_NOTHING,
    Action.LOSE: promise.LOSSES_ARE_COUNTED,
}


def settle_began(world: World, operation: Operation, call: history.Settle) -> None:
    """Let each outcome have its effect from now on, where the delivery is held."""
    for position, item in enumerate(call.items):
        holder = world.holders.get(item.delivery)
        if holder is not None:
            operation.positions[position] = holder.copy
            operation.before[position] = holder.copy.possible
            holder.copy.branch((operation.op, position), _settlement(item, operation.began))


def _settlement(item: history.Item, began: float) -> Change:
    return lambda one: one.settled(item.delivery, item.outcome, began)


def settle_ended(world: World, operation: Operation, call: history.Settle, returned: history.Returned) -> None:
    """Judge of each settlement whether it could happen, and whether it could be refused."""
    answer = returned.value if isinstance(returned.value, history.Settled) else None
    for position, item in enumerate(call.items):
        copy = operation.positions.get(position)
        if copy is None:
            continue
        tag = (operation.op, position)
        if answer is None:
            copy.resolve(tag, happened=False if returned.end == "refused" else None)
        elif item.delivery in answer.lost:
            copy.resolve(tag, happened=False)
            _was_lost(world, operation, item.delivery, returned.at, _PROMISED[action_of(item.outcome)])
        elif item.delivery in answer.unsettled:
            copy.resolve(tag, happened=False)
        else:
            _was_settled(world, operation, position, item, returned.at)


def _was_settled(world: World, operation: Operation, position: int, item: history.Item, now: float) -> None:
    copy = operation.positions[position]
    if not copy.resolve((operation.op, position), happened=True):
        what = f"delivery {item.delivery} of {copy} was settled although it was no longer held"
        world.report(promise.STALE_SETTLE_IS_REFUSED, operation.op, what)
        return
    if action_of(item.outcome) is Action.DEAD_LETTER:
        _replace_earlier(world, copy)
    for before in operation.before[position]:
        if before.holder == item.delivery and before.state is State.LEASED:
            world.traces[operation.worker].append(Trace(copy, before, now))


def _was_lost(world: World, operation: Operation, delivery: int, now: float, broken: Promise) -> None:
    holder = world.holders[delivery]
    copy = holder.copy
    own = holder.worker == operation.worker
    if own and copy.surely(lambda one: one.surely_held(delivery, now, world.slack)):
        world.report(broken, operation.op, f"delivery {delivery} of {copy} was held, and refused as lost")
    set_adrift(copy, delivery)


def _replace_earlier(world: World, copy: Copy) -> None:
    """Let an earlier dead letter of the same event be gone: there may be one for each event and queue."""
    for other in world.same(copy.queue, copy.event):
        if other is not copy and other.maybe(lambda one: one.state is State.DEAD):
            gone = (
                attrs.evolve(one, state=State.GONE, why=promise.DEAD_IS_KEPT_WITH_REASON)
                for one in other.possible
                if one.state is State.DEAD
            )
            other.become((*other.possible, *gone))


def extend_ended(world: World, operation: Operation, call: history.Extend, returned: history.Returned) -> None:
    """Judge of each delivery whether its lease could be extended, and let it hold."""
    answer = returned.value if isinstance(returned.value, history.Settled) else None
    if answer is None:
        return
    for delivery in call.deliveries:
        holder = world.holders.get(delivery)
        if holder is None:
            continue
        copy = holder.copy
        if delivery in answer.lost:
            _was_lost(world, operation, delivery, returned.at, promise.EXTEND_KEEPS_THE_LEASE)
            continue
        held = [one for one in copy.possible if one.state is State.LEASED and one.holder == delivery]
        if held:
            copy.become(attrs.evolve(one, until=operation.began + call.lease) for one in held)
        else:
            what = f"delivery {delivery} of {copy} was extended although it was no longer held"
            world.report(promise.STALE_SETTLE_IS_REFUSED, operation.op, what)


def checkpoint_began(world: World, operation: Operation, call: history.Checkpoint) -> None:
    """Let the state be kept from now on, where the delivery is held."""
    holder = world.holders.get(call.delivery)
    if holder is None:
        return

    def keep(one: Situation) -> Situation | None:
        if one.state is not State.LEASED or one.holder != call.delivery:
            return None
        return one.step(Action.CHECKPOINT, kept=call.state, checkpointed=True)

    operation.positions[0] = holder.copy
    holder.copy.branch((operation.op, 0), keep)


def checkpoint_ended(world: World, operation: Operation, call: history.Checkpoint, returned: history.Returned) -> None:
    """Judge whether the checkpoint could happen, and whether it could be refused."""
    copy = operation.positions.get(0)
    if copy is None:
        return
    tag = (operation.op, 0)
    if returned.end == "done":
        if not copy.resolve(tag, happened=True):
            what = f"delivery {call.delivery} of {copy} kept a checkpoint although it was no longer held"
            world.report(promise.STALE_SETTLE_IS_REFUSED, operation.op, what)
    elif returned.end == "refused":
        copy.resolve(tag, happened=False)
        if returned.error == "LeaseLostError":
            _was_lost(world, operation, call.delivery, returned.at, promise.CHECKPOINT_SURVIVES_A_LOSS)
    else:
        copy.resolve(tag, happened=None)
