"""The open questions of a history: events without an end, and promises that it cannot show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs

from relevo import Action, Capabilities, Envelope, State, Unreadable
from relevo_conformance import history, promise
from relevo_conformance._judge_send import never_came
from relevo_conformance._world import World
from relevo_conformance.model import Copy, Situation, is_pending
from relevo_conformance.promise import PROMISES, Promise

NEVER_JUDGED = frozenset(
    {
        promise.SETUP_IS_IDEMPOTENT,  # a scenario compares the store before and after
        promise.SURVIVES_REOPENING,  # in a history it is a loss, and breaks sent-is-received
        promise.STATE_IS_BOUNDED,  # a history does not say which state is too long
        promise.NOBODY_STARVES,  # a history does not say how long is too long
        promise.WOKEN_BY_A_SEND,  # the same
        promise.PRESENCE_IS_SEEN,  # heartbeats are of workers, and a history is of events
        promise.ANNOUNCED_IS_SEEN,  # the same
        promise.CONTROL_IS_SEEN,  # the same
        promise.LIMIT_IS_COUNTED_ONCE,  # the same
        promise.ONE_EVENT_OF_A_KEY_LIVES,  # a history knows nothing of keys
        promise.EFFECT_IS_THERE_IF_DONE,  # a history knows nothing of the rows of an application
        promise.EFFECT_HAPPENS_ONCE,  # the same
        promise.FAILURE_LOSES_NOTHING,  # in a history it is a loss or a second delivery, and breaks their promises
    }
)
"""The promises that no history can break; scenarios test them."""

_LOOKS = (
    history.Open,
    history.SetUp,
    history.Close,
    history.Kill,
    history.Mend,
    history.ListDead,
    history.Find,
    history.ListWaiting,
    history.ListMatching,
    history.CountGroups,
    history.ListStuck,
    history.Count,
    history.Lock,
    history.RenewLock,
    history.Unlock,
    history.Announce,
    history.ListWorkers,
    history.SetControl,
    history.ListControls,
    history.ChangeLimit,
    history.Remark,
)
"""The calls that leave drained queues empty."""

_CAME_BACK = {
    Action.NACK: "after a nack",
    Action.RELEASE: "after a release",
    Action.POSTPONE: "after a release",
    Action.REVIVE: "after a revival",
    Action.LOSE: "after a lost lease",
}


@attrs.frozen(kw_only=True)
class Unaccounted:
    """An event that was certainly sent, and whose end is not in the history."""

    event: Envelope | Unreadable
    queue: str
    situation: str
    """Where it was when the history ended, in words; each possibility, if several are possible."""

    name: str = attrs.field(repr=False)

    def __str__(self) -> str:
        return f"{self.name}: {self.situation}"


def not_judged(capabilities: Capabilities) -> Sequence[Promise]:
    """Return the promises that a transport with *capabilities* makes, and that no history of it can break."""
    # An instance may hand out what it fetched before the urgent event was sent.
    more = {promise.URGENT_OVERTAKES} if capabilities.lost_leases != "exact" else set()
    return [one for one in PROMISES.values() if one in NEVER_JUDGED | more and one.claimed(capabilities)]


def call_began(world: World, call: history.Call) -> None:
    """Notice that the queues may no longer be empty."""
    world.drained = world.drained and isinstance(call, _LOOKS)


def unaccounted(world: World) -> Iterator[Unaccounted]:
    """Yield the events that were certainly sent and may still be unfinished; none after a drain at the end."""
    if world.drained:
        return
    sent_again = {copy.number for copy in never_came(world)}
    for copy in world.copies:
        is_stored = copy.number in sent_again or not copy.maybe(lambda one: one.state is None)
        if is_stored and copy.maybe(is_pending):
            situations = dict.fromkeys(_whereabouts(world, copy, one) for one in copy.possible if one.state)
            yield Unaccounted(event=copy.event, queue=copy.queue, name=str(copy), situation=", or ".join(situations))


def _whereabouts(world: World, copy: Copy, one: Situation) -> str:
    match one.state:
        case State.SCHEDULED if one.due > world.last:
            return f"scheduled for {one.due:.3f}"
        case State.SCHEDULED | State.READY:
            return f"ready {_CAME_BACK[one.last]}" if one.last in _CAME_BACK else "ready, and never handed out"
        case State.LEASED:
            return _held(world, one)
        case _:
            return str(one.state)


def _held(world: World, one: Situation) -> str:
    holder = None if one.holder is None else world.holders.get(one.holder)
    if holder is None:
        return "handed out by a receive whose result is unknown"
    over = one.adrift or world.last > one.over
    return f'{"was" if over else "is"} held by "{holder.worker}" as delivery {one.holder}'
