"""Check receives: an event that is there, to one holder, as it was sent, with the right counters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf

import attrs
from msgspec.structs import replace

from relevo import Action, Counters, Envelope, State, Unreadable
from relevo_conformance import history, promise
from relevo_conformance._difference import difference
from relevo_conformance._world import Holder, Operation, World
from relevo_conformance.model import PENDING, Copy, Situation, is_pending, missing_headers
from relevo_conformance.promise import Promise

_TIME_TOLERANCE = 1.0
"""Seconds; some stores keep the time of sending in whole seconds."""

_BEFORE_A_RECEIVE = (State.READY, State.SCHEDULED)
"""A tuple, since it is searched for every event at every receive, and hashing an enum is slow."""

_MOST_PASSED_OVER = 5
"""Receives in a row that may return only normal events while an urgent one is ready."""

_NOBODY = -1
"""The number of a delivery that was never handed out."""

Lease = tuple[float, float]
"""It cannot have run out before the first time, and has run out after the second."""

_AFTER: dict[Action | None, Promise] = {
    None: promise.LOST_LEASES_ARE_COUNTED,
    Action.NACK: promise.NACK_RETURNS_LATER,
    Action.RELEASE: promise.RELEASE_COUNTS_NOTHING,
    Action.POSTPONE: promise.RELEASE_COUNTS_NOTHING,
    Action.REVIVE: promise.REVIVED_IS_RECEIVED,
    Action.EXTEND: promise.EXTEND_KEEPS_THE_LEASE,
    Action.LOSE: promise.LOST_LEASES_ARE_COUNTED,
}


_EARLY: dict[Action | None, Promise] = {
    Action.NACK: promise.NACK_RETURNS_LATER,
    Action.POSTPONE: promise.RELEASE_COUNTS_NOTHING,
}


Receiving = history.Receive | history.Take


def receive_began(world: World, operation: Operation, call: Receiving) -> None:
    """Record which events the receive may hold from now on."""
    world.subscribe(operation.worker, call.queues)


def receive_ended(world: World, operation: Operation, call: history.Receive, returned: history.Returned) -> None:
    """Check each delivery, in the order of the batch."""
    if not isinstance(returned.value, history.HandedOut):
        if returned.end == "unknown":
            for queue in call.queues:
                world.broke(queue)
            _may_be_leased_unseen(world, operation, call, returned.at)
        return
    handed_out = returned.value.deliveries
    if len(handed_out) > call.limit:
        world.report(
            promise.LIMIT_IS_RESPECTED,
            operation.op,
            f"{len(handed_out)} events were handed out with a limit of {call.limit}",
        )
    _judge_wait(world, operation, call, returned.at)
    for queue in {one.queue for one in handed_out if _is_urgent(one.event)}:
        world.passed_over[queue] = 0
    if not operation.overlapped and not world.flying and not world.set_back:
        _judge_preference(world, operation, call, handed_out)
        if world.capabilities.lost_leases == "exact":  # otherwise another instance may have fetched an event ahead
            _note_overlooked(world, operation, call, returned)
            _judge_urgency(world, operation, handed_out)
    _hand_out(world, operation, call, handed_out, returned.at)


def take_ended(world: World, operation: Operation, call: history.Take, returned: history.Returned) -> None:
    """Check what was leased by its id, and whether something was left that could be leased."""
    if not isinstance(returned.value, history.HandedOut):
        if returned.end == "unknown":
            world.broke(call.queue)
            _may_be_leased_unseen(world, operation, call, returned.at)
        return
    for handed in returned.value.deliveries:
        if not _is_meant(handed.event, call):
            came = repr(handed.event.id) if isinstance(handed.event, Envelope) else "foreign bytes"
            what = f'the event {call.event_id!r} of "{call.queue}" was to be taken, and {came} was handed out'
            world.report(promise.TAKEN_BY_ITS_ID, operation.op, what)
    if not operation.overlapped and not world.flying and not world.set_back and not world.broken:
        given = [copy for one in returned.value.deliveries for copy in world.same(one.queue, one.event)]
        for copy in world.copies:
            is_meant = copy.queue == call.queue and _is_meant(copy.event, call) and not _has_key(copy)
            if is_meant and copy not in given and copy.surely(lambda one: one.state in _BEFORE_A_RECEIVE):
                what = f"{copy} was not handed out, although nothing held it"
                world.report(promise.TAKEN_BY_ITS_ID, operation.op, what)
    _hand_out(world, operation, call, returned.value.deliveries, returned.at)


def _is_meant(event: Envelope | Unreadable, call: history.Take) -> bool:
    return isinstance(event, Envelope) and event.id == call.event_id


def _hand_out(
    world: World, operation: Operation, call: Receiving, handed_out: Sequence[history.Handed], now: float
) -> None:
    """Check each delivery."""
    lease = _lease(world, operation, call, now)
    for handed in handed_out:
        if handed.queue not in call.queues:
            what = f'an event was handed out from "{handed.queue}", which is not an argument of the receive'
            world.report(promise.QUEUES_ARE_ISOLATED, operation.op, what)
        copy = _hand_over(world, operation, call, handed, now, lease)
        if copy is not None:
            world.holders[handed.number] = Holder(copy, operation.worker, handed)
            for other in world.flying.values():
                other.meanwhile.add(copy.number)
            _judge_content(world, operation, copy, handed)
            _judge_order(world, operation, copy)


def _receivable(world: World, call: Receiving, one: Situation, now: float) -> Situation | None:
    """Return the situation in which *one* can be handed out to *call*; a take need not wait until it is due."""
    is_early = isinstance(call, history.Take) and one.state is State.SCHEDULED
    return one.receivable(max(now, one.due) if is_early else now, world.slack)


def _may_be_leased_unseen(world: World, operation: Operation, call: Receiving, now: float) -> None:
    """Let each event be leased without a known holder, after a receive whose answer was lost."""
    connected = world.capabilities.lease == "connection"
    lease = _lease(world, operation, call, now)
    for copy in world.copies:
        is_meant = isinstance(call, history.Receive) or _is_meant(copy.event, call)
        if copy.queue in call.queues and is_meant:
            ready = (_receivable(world, call, one, now) for one in copy.possible)
            taken = (replace(one.handed(_NOBODY, *lease), adrift=connected) for one in ready if one is not None)
            copy.become((*copy.possible, *taken))


def _lease(world: World, operation: Operation, call: Receiving, now: float) -> Lease:
    if world.capabilities.lease == "connection":
        return inf, inf
    return operation.began + call.lease, now + call.lease + world.slack


def _hand_over(
    world: World, operation: Operation, call: Receiving, handed: history.Handed, now: float, lease: Lease
) -> Copy | None:
    copies = world.same(handed.queue, handed.event)
    if not copies:
        world.report(*_invention(world, operation, handed))
        return None
    ready = [
        (copy, one, old)
        for copy in copies
        for old in copy.possible
        if (one := _receivable(world, call, old, now)) is not None
    ]
    fitting = [(copy, one, old) for copy, one, old in ready if _fits(world, copy, one, old, handed)]
    if fitting:
        # If an event was sent several times: a copy with this content and time, and of these one that must be there.
        alike = [copy for copy, _, _ in fitting if copy.event == handed.event] or [copy for copy, _, _ in fitting]
        alike = [copy for copy in alike if not _mistimed(world, copy, handed)] or alike
        copy = min(alike, key=lambda one: not one.surely(is_pending))
        world.swap(copy, alike)
        copy.become(
            _held(one, handed, _from_the_hand_over(lease, operation.began, _ready_since(world, call, old)))
            for other, one, old in fitting
            if other is copy
        )
        _judge_found(world, operation, copy)
    elif ready:
        copy, one, _ = ready[0]
        world.report(_blamed(one, handed), operation.op, f"{copy} came {_differs(one, handed)}")
        copy.become([_held(one, handed, lease)])
    else:
        copy = _second(copies) or _nearest(copies)
        one = copy.possible[0]
        if copy.number in operation.meanwhile:  # whatever has changed since
            what = f"{copy} was handed out to this receive and to another one that was in flight at the same time"
            world.report(promise.LEASED_IS_HIDDEN, operation.op, what)
        else:
            world.report(_obstacle(one), operation.op, f"{copy} was handed out while {_whereabouts(one, now)}")
        copy.become(
            [replace(one, state=State.LEASED, holder=handed.number, until=lease[0], over=lease[1], adrift=False)]
        )
    copy.breaks = world.breaks[copy.queue]
    copy.spared = copy.overlooked = None
    return copy


def _ready_since(world: World, call: Receiving, before: Situation) -> float:
    """Return the earliest time at which the event can have become ready; minus infinity if that is not known."""
    if world.set_back or isinstance(call, history.Take):
        return -inf
    match before.state:
        case State.SCHEDULED:
            return before.due - world.slack
        case State.LEASED if not before.adrift:
            return before.until - world.slack
        case _:
            return -inf


def _from_the_hand_over(lease: Lease, began: float, ready: float) -> Lease:
    """Return *lease*, of a receive that *began* then, for an event that was *ready* only while it waited."""
    first, last = lease
    return first + max(0.0, ready - began), last


def _held(ready: Situation, handed: history.Handed, lease: Lease) -> Situation:
    held = ready.handed(handed.number, *lease)
    return replace(
        held,
        counters=Counters(attempt=handed.attempt, lost_leases=handed.lost_leases),
        kept=handed.state,
        begun=handed.begun,
        deaths=handed.deaths,
    )


def _fits(world: World, copy: Copy, ready: Situation, before: Situation, handed: history.Handed) -> bool:
    surplus = handed.lost_leases - ready.counters.lost_leases
    # Which of several equal copies was fetched ahead is not known.
    alike = world.same(copy.queue, copy.event) if world.capabilities.lost_leases == "at least" else []
    allowed = world.breaks[copy.queue] - min((one.breaks for one in alike), default=world.breaks[copy.queue])
    if before.state is State.LEASED and allowed and world.capabilities.lease == "connection":
        allowed -= 1  # the lost lease that is already counted was caused by a break; a reported one was not
    counted = 0 <= surplus <= allowed and handed.attempt - ready.counters.attempt == surplus
    noted = (handed.begun, handed.deaths) == (ready.begun, ready.deaths) or not world.capabilities.presence
    return counted and handed.state == ready.kept and (noted or _is_like_another(world, copy))


def _is_like_another(world: World, copy: Copy) -> bool:
    """
    Return whether nothing tells the notes of *copy* and of an equal event apart.

    This is so if one call sent both, and for foreign bytes in a store that fetches ahead: they have no id.
    """
    others = [other for other in world.same(copy.queue, copy.event) if other is not copy]
    has_no_id = isinstance(copy.event, Unreadable) and world.capabilities.lost_leases == "at least"
    return any(has_no_id or other.op == copy.op for other in others)


def _blamed(ready: Situation, handed: history.Handed) -> Promise:
    """Return the promise that a wrong counter, state or note breaks."""
    counted = Counters(attempt=handed.attempt, lost_leases=handed.lost_leases) == ready.counters
    noted = (handed.begun, handed.deaths) == (ready.begun, ready.deaths)
    if counted and handed.state == ready.kept and not noted:
        return promise.BEGUN_IS_KEPT
    if ready.last is Action.LOSE and ready.checkpointed:
        return promise.CHECKPOINT_SURVIVES_A_LOST_LEASE
    return _AFTER.get(ready.last, promise.LOST_LEASES_ARE_COUNTED)


def _differs(ready: Situation, handed: history.Handed) -> str:
    wanted = f"attempt {ready.counters.attempt}, lost leases {ready.counters.lost_leases}, state {ready.kept[:20]!r}"
    found = f"attempt {handed.attempt}, lost leases {handed.lost_leases}, state {handed.state[:20]!r}"
    if (handed.begun, handed.deaths) != (ready.begun, ready.deaths):
        wanted += f", begun {ready.begun}, deaths {ready.deaths}"
        found += f", begun {handed.begun}, deaths {handed.deaths}"
    return f"as {found} instead of {wanted}"


def _second(copies: Sequence[Copy]) -> Copy | None:
    """Return a copy that should not exist, if there may be one."""
    return next((copy for copy in copies if copy.possible[0].why is promise.RESENT_IS_ONE), None)


def _nearest(copies: Sequence[Copy]) -> Copy:
    """Return the most likely copy, although none can be handed out: one that is there, or was."""
    there = [copy for copy in copies if copy.maybe(lambda one: one.state in PENDING)]
    were = [copy for copy in copies if copy.maybe(lambda one: one.state is not None)]
    return (there or were or list(copies))[-1]


def _obstacle(one: Situation) -> Promise:
    match one.state:
        case State.DONE:
            return promise.ACK_IS_FINAL
        case State.DEAD:
            return promise.DEAD_IS_KEPT_WITH_REASON
        case State.LEASED:
            return promise.EXTEND_KEEPS_THE_LEASE if one.last is Action.EXTEND else promise.LEASED_IS_HIDDEN
        case State.SCHEDULED:
            return _EARLY.get(one.last, promise.DELAY_IS_RESPECTED)
        case _:
            return one.why


def _whereabouts(one: Situation, now: float) -> str:
    match one.state:
        case None:
            return "it was never in the store"
        case State.LEASED:
            return f"delivery {one.holder} holds it"
        case State.SCHEDULED:
            return f"it is due {one.due - now:g} s later"
        case _:
            return f"it is {one.state}"


def _invention(world: World, operation: Operation, handed: history.Handed) -> tuple[Promise, int, str]:
    """Return which promise an event breaks that was never sent in this form."""
    match handed.event:
        case Unreadable(raw=raw, why=why):
            if any(isinstance(copy.event, Unreadable) for copy in world.copies if copy.queue == handed.queue):
                return (
                    promise.MALFORMED_IS_QUARANTINED,
                    operation.op,
                    f"the bytes {raw[:40]!r} were never put there",
                )
            return promise.PAYLOAD_IS_UNTOUCHED, operation.op, f"an envelope came as unreadable: {why}"
        case Envelope(id=event_id):
            for copy in world.copies:
                if isinstance(copy.event, Envelope) and copy.event.id == event_id:
                    if copy.queue != handed.queue:
                        return promise.QUEUES_ARE_ISOLATED, operation.op, f'{copy} came from "{handed.queue}"'
                    return (
                        promise.PAYLOAD_IS_UNTOUCHED,
                        operation.op,
                        f"{copy} came with another source or queue",
                    )
    return promise.NO_INVENTION, operation.op, f"{handed.event!r} was never sent"


def _judge_content(world: World, operation: Operation, copy: Copy, handed: history.Handed) -> None:
    if isinstance(copy.event, Envelope):
        if copy.event != handed.event:
            changed = ", ".join(
                f"{field.name} ({difference(found, sent)})"
                for field in attrs.fields(Envelope)
                if (found := getattr(handed.event, field.name, None)) != (sent := getattr(copy.event, field.name))
            )
            world.report(promise.PAYLOAD_IS_UNTOUCHED, operation.op, f"{copy} came with another {changed}")
        elif (what := _mistimed(world, copy, handed)) and not _of_another(world, copy, handed):
            world.report(promise.PAYLOAD_IS_UNTOUCHED, operation.op, what)
    elif isinstance(handed.event, Unreadable) and (missing := missing_headers(copy.event, handed.event)):
        world.report(promise.MALFORMED_IS_QUARANTINED, operation.op, f"{copy} came without the headers {missing}")
    copy.enqueued_at = handed.enqueued_at


def _of_another(world: World, copy: Copy, handed: history.Handed) -> bool:
    """
    Return whether this may be another copy of an event that was sent several times, since they are equal.

    Which copy was handed out is a guess, and a copy of a wrong guess has the time of another one. So the test is
    whether another copy was sent at this time, not with which time it was handed out before.
    """
    others = (other for other in world.same(handed.queue, handed.event) if other is not copy)
    return any(sent_then(world, other, handed.enqueued_at) for other in others)


def sent_then(world: World, copy: Copy, when: float) -> bool:
    """Return whether *copy* may have been sent at *when*."""
    tolerance = world.slack + _TIME_TOLERANCE
    return copy.revived or copy.sent[0] - tolerance <= when <= copy.sent[1] + tolerance


def _mistimed(world: World, copy: Copy, handed: history.Handed) -> str:
    """Return what is wrong with the time of sending that *copy* was handed out with; empty if nothing is."""
    if not isinstance(copy.event, Envelope):
        return ""
    when = handed.enqueued_at
    if copy.enqueued_at is not None:
        known = f"{copy} was handed out with the time of sending {copy.enqueued_at!r} before, and now with {when!r}"
        return "" if copy.enqueued_at == when else known
    if sent_then(world, copy, when):
        return ""
    return f"{copy} has the time of sending {when!r}; expected {copy.sent[0]!r} to {copy.sent[1]!r}"


def _judge_order(world: World, operation: Operation, copy: Copy) -> None:
    """Check that no earlier event of the same key is unfinished, and that none is held."""
    if world.capabilities.order != "per key" or not isinstance(copy.event, Envelope) or copy.event.ordering_key is None:
        return
    for other in world.copies:
        if other is copy or not _has_the_same_key(copy, other):
            continue
        if _is_held(world, other):
            world.report(promise.ORDER_IS_KEPT, operation.op, f"{copy} came while {other}, of its key, was held")
            return
        if _is_earlier(other, copy) and other.surely(is_pending):
            world.report(promise.ORDER_IS_KEPT, operation.op, f"{copy} overtook {other}, which has the same key")
            return


def _is_earlier(other: Copy, copy: Copy) -> bool:
    """Return whether *other* was surely sent before *copy*, of the same key."""
    if not (copy.in_line and other.in_line) or (other.placed, other.number) > (copy.placed, copy.number):
        return False
    return other.placed == copy.placed or other.placed not in copy.beside


def _has_the_same_key(copy: Copy, other: Copy) -> bool:
    if not isinstance(other.event, Envelope) or not isinstance(copy.event, Envelope):
        return False
    # In an outbox the events for different queues may pass one another.
    theirs = other.queue, other.event.queue, other.event.ordering_key
    return theirs == (copy.queue, copy.event.queue, copy.event.ordering_key)


def _is_held(world: World, copy: Copy) -> bool:
    """Return whether *copy* was surely held all the while."""
    return all(
        one.holder is not None and one.surely_held(one.holder, world.last, world.slack) and not one.tags
        for one in copy.possible
    )


def _judge_preference(
    world: World, operation: Operation, call: history.Receive, handed_out: Sequence[history.Handed]
) -> None:
    """Check that no ready event was left in a queue while events of a later queue were handed out."""
    if not promise.PREFERENCE_IS_KEPT.claimed(world.capabilities):
        return
    last = max((call.queues.index(one.queue) for one in handed_out if one.queue in call.queues), default=0)
    given = [copy for one in handed_out for copy in world.same(one.queue, one.event)]
    for copy in world.copies:
        passed_over = copy.queue in call.queues[:last] and copy not in given and not _has_key(copy)
        if passed_over and copy.surely(lambda one: _waits(one, _surely_due(world, operation))):
            what = f'{copy} was left waiting while events of "{call.queues[last]}" were handed out'
            world.report(promise.PREFERENCE_IS_KEPT, operation.op, what)
            return


def _judge_wait(world: World, operation: Operation, call: history.Receive, now: float) -> None:
    """Check that the receive returned not long after its wait was over."""
    took = now - operation.began
    if took > call.wait + world.overtime and not world.set_back:
        what = f"a receive with a wait of {call.wait:g} s returned after {took:g} s"
        world.report(promise.WAIT_IS_KEPT, operation.op, what)


def _note_overlooked(world: World, operation: Operation, call: history.Receive, returned: history.Returned) -> None:
    """
    Note the events that an empty receive should have returned.

    Each may be lost instead. So the receive is reported when one of them is handed out, and a loss by the drain.
    """
    came = isinstance(returned.value, history.HandedOut) and returned.value.deliveries
    patient = returned.at - operation.began >= world.patience
    if came or not patient or call.limit < 1 or world.broken:
        return
    for copy in _waiting(world):
        if copy.queue in call.queues and copy.surely(lambda one: _waits(one, _surely_due(world, operation))):
            copy.overlooked = operation.op


def _surely_due(world: World, operation: Operation) -> float:
    """Return the time up to which what is due was surely ready when *operation* began: delays may be rounded up."""
    return operation.began - world.slack - _TIME_TOLERANCE - (world.capabilities.delay or 0.0)


def _judge_found(world: World, operation: Operation, copy: Copy) -> None:
    """Report the receive that overlooked *copy*, which is handed out now."""
    if copy.overlooked is not None:
        what = f"a receive returned nothing although {copy} was ready; call {operation.op} handed it out"
        world.report(promise.WAIT_IS_KEPT, copy.overlooked, what)


def _judge_urgency(world: World, operation: Operation, handed_out: Sequence[history.Handed]) -> None:
    """
    Check that receive after receive does not return only normal events while an urgent one is ready.

    Some may, so that normal events do not starve. Urgent events that were handed out before may be behind the others.
    """
    if not promise.URGENT_OVERTAKES.claimed(world.capabilities):
        return
    urgent = [copy for copy in _waiting(world) if _is_urgent(copy.event) and copy.surely(_is_new)]
    for queue in {one.queue for one in handed_out} - {one.queue for one in handed_out if _is_urgent(one.event)}:
        waiting = next((copy for copy in urgent if copy.queue == queue), None)
        if waiting is None:
            world.passed_over[queue] = 0
            continue
        world.passed_over[queue] += 1
        if world.passed_over[queue] > _MOST_PASSED_OVER:
            what = f"{waiting} is urgent, but {world.passed_over[queue]} receives in a row returned only normal events"
            world.report(promise.URGENT_OVERTAKES, operation.op, what)
            world.passed_over[queue] = 0


def _waiting(world: World) -> Iterator[Copy]:
    """Yield the copies that may be ready, and that wait for no other event with their key."""
    for copy in world.copies:
        if copy.possible[0].state in _BEFORE_A_RECEIVE and not _has_key(copy):
            yield copy


def _is_urgent(event: Envelope | Unreadable) -> bool:
    return isinstance(event, Envelope) and event.urgency == "high"


def _is_new(one: Situation) -> bool:
    return one.state is State.READY and one.last is None


def _has_key(copy: Copy) -> bool:
    return isinstance(copy.event, Envelope) and copy.event.ordering_key is not None


def _waits(one: Situation, now: float) -> bool:
    return one.state is State.READY or (one.state is State.SCHEDULED and one.due < now)
