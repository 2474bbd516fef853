"""Check the store: dead letters, removed and found events, figures, and the events left at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set as AbstractSet
from functools import partial

import attrs
from msgspec.structs import replace

from relevo import Action, DeadLetterEntry, Envelope, Found, State, Stats, Unreadable
from relevo_conformance import history, promise
from relevo_conformance._difference import difference
from relevo_conformance._judge_receive import sent_then
from relevo_conformance._judge_send import batches_at_the_end, never_came
from relevo_conformance._world import Operation, Walk, World
from relevo_conformance.model import PENDING, Change, Copy, Situation, Tag, is_pending, missing_headers
from relevo_conformance.promise import Promise

_AGE_TOLERANCE = 1.0
"""Seconds."""

_SHOWN = 5
"""The number of entries of a list that a message shows."""


# --- dead letters ----------------------------------------------------------------------------------


def list_dead_ended(world: World, operation: Operation, call: history.ListDead, returned: history.Returned) -> None:
    """Check that the list has all dead letters, as they died, in order, and nothing else."""
    if not isinstance(returned.value, history.Entries):
        return
    entries = returned.value.entries
    if len(entries) > call.limit:
        what = f"{len(entries)} dead letters were listed with a limit of {call.limit}"
        world.report(promise.LIMIT_IS_RESPECTED, operation.op, what)
    if not world.set_back and not _in_order(entries, call.queues):
        listed = ", ".join(f'"{one.queue}" at {one.died_at:.3f}' for one in entries[:_SHOWN])
        what = f"the dead letters are not listed queue by queue, the oldest first: they died in {listed}"
        world.report(promise.DEAD_IS_KEPT_WITH_REASON, operation.op, what)
    due = frozenset(copy.number for copy in world.copies if copy.queue in call.queues and copy.surely(_is_dead))
    copies = [copy for entry in entries if (copy := judge_entry(world, operation, entry)) is not None]
    if call.limit > 0:
        _judge_page(world, operation, call, entries, due, frozenset(copy.number for copy in copies))


def _judge_page(
    world: World,
    operation: Operation,
    call: history.ListDead,
    page: Sequence[DeadLetterEntry],
    due: frozenset[int],
    listed: frozenset[int],
) -> None:
    """
    Check that the pages up to this one have each dead letter once, and all of them if this one is the end.

    A page may be short, so only an empty one is the end.
    """
    walk = Walk(due=due, calls=world.calls) if call.after is None else world.walks.get((call.queues, call.after))
    if walk is None:
        return
    if operation.overlapped:
        walk = attrs.evolve(walk, calls=None)
    is_still = walk.calls == world.calls
    if world.set_back and not is_still:
        return
    for copy in (world.copies[number] for number in walk.seen & listed):
        if is_still or (copy.number in walk.due and not copy.revived):
            world.report(promise.DEAD_IS_KEPT_WITH_REASON, operation.op, f"{copy} is listed on two pages")
    if page:
        refs = walk.refs | {entry.ref for entry in page}
        world.walks[call.queues, page[-1].ref] = attrs.evolve(walk, seen=walk.seen | listed, refs=refs)
    elif is_still:
        _judge_whole_list(world, operation, call, walk)
    elif not operation.overlapped:
        _judge_missing(world, operation, call, walk, due)


def _judge_whole_list(world: World, operation: Operation, call: history.ListDead, walk: Walk) -> None:
    """Check that a list during which nothing else was called has all dead letters, and note what it does not have."""
    for copy in world.copies:
        if copy.queue not in call.queues:
            continue
        _forget_replaced(world, copy, walk.refs)
        if copy.number not in walk.seen and copy.surely(_is_dead):
            world.report(promise.DEAD_IS_KEPT_WITH_REASON, operation.op, f"{copy} is dead but not listed")
        # Which of several equal copies is listed is not known.
        alike = (other for other in world.same(copy.queue, copy.event) if other is not copy)
        if copy.number in walk.seen or any(other.number in walk.seen for other in alike):
            world.unlisted.discard(copy.number)
        else:
            world.unlisted.add(copy.number)


def _judge_missing(world: World, operation: Operation, call: history.ListDead, walk: Walk, due: frozenset[int]) -> None:
    """Check that a list which changed while it was read has what was dead all the time, or died behind its end."""
    last = None if call.after is None else world.refs.get(call.after)
    for number in sorted(due - walk.seen):
        copy = world.copies[number]
        # What was revived meanwhile may have died again, and is elsewhere then.
        known = not copy.revived and len(world.same(copy.queue, copy.event)) == 1
        if known and (number in walk.due or (last is not None and _is_behind(copy, last, call.queues))):
            world.report(promise.DEAD_IS_KEPT_WITH_REASON, operation.op, f"{copy} is dead but on no page")


def _forget_replaced(world: World, copy: Copy, refs: AbstractSet[str]) -> None:
    """Exclude that *copy* is dead if a complete list has only *refs*, without its own."""
    replaced = copy.ref is not None and copy.refs_are_known and copy.ref not in refs
    if replaced and world.capabilities.settlement == "confirmed":
        alive = [one for one in copy.possible if not _is_dead(one)]
        copy.become(alive or copy.possible)


def _is_behind(copy: Copy, last: Copy, queues: Sequence[str]) -> bool:
    """Return whether the dead *copy* is listed after *last*, which may be gone."""
    if copy.queue != last.queue:
        return queues.index(copy.queue) > queues.index(last.queue)
    return not last.revived and copy.surely(lambda one: one.died[0] > max(other.died[0] for other in last.possible))


def _in_order(entries: Sequence[DeadLetterEntry], queues: Sequence[str]) -> bool:
    places = [(queues.index(entry.queue) if entry.queue in queues else -1, entry.died_at) for entry in entries]
    return places == sorted(places) and all(place >= 0 for place, _ in places)


def judge_entry(world: World, operation: Operation, entry: DeadLetterEntry) -> Copy | None:
    """Check that *entry* is a dead letter, as it died; return whose, if that is known."""
    copies = world.same(entry.queue, entry.envelope)
    copy = world.refs.get(entry.ref)
    if copy is not None and copy.ref != entry.ref:
        what = f"{copy} is listed under the ref of a dead letter that is gone"
        world.report(_gone_how(copy), operation.op, what)
        return None
    if copy is None:
        # Of several dead letters that were never listed: one that matches the entry, and of these one that
        # no later death can have replaced.
        unseen = [one for one in copies if (one.ref is None or not one.refs_are_known) and one.maybe(_is_dead)]
        unseen.sort(key=lambda one: (not _fitting(world, one, entry), not one.surely(_is_dead)))
        copy = next(iter(unseen), None)
    if copy is None:
        if copies:
            what = f"{copies[-1]} is listed as dead although it is {copies[-1].possible[0].state}"
            world.report(_gone_how(copies[-1]), operation.op, what)
        else:
            world.report(promise.NO_INVENTION, operation.op, f"a dead letter of {entry.envelope!r} was never sent")
        return None
    dead = [one for one in copy.possible if one.state is State.DEAD]
    if not dead:
        world.report(_gone_how(copy), operation.op, f"{copy} is listed as dead although it is not")
        return None
    copy.ref, copy.refs_are_known = entry.ref, True
    world.refs[entry.ref] = copy
    fitting = _fitting(world, copy, entry)
    if not fitting:
        wrong = _wrong(world, copy, dead[0], entry)
        what = f"the dead letter of {copy} has another {_with_values(wrong, dead[0], entry)}"
        world.report(promise.DEAD_IS_KEPT_WITH_REASON, operation.op, what)
    copy.become(fitting or dead)
    return copy


def _fitting(world: World, copy: Copy, entry: DeadLetterEntry) -> list[Situation]:
    """Return the situations in which *copy* is dead and matches *entry*."""
    dead = (one for one in copy.possible if one.state is State.DEAD)
    return [one for one in dead if not _wrong(world, copy, one, entry)]


def _wrong(world: World, copy: Copy, one: Situation, entry: DeadLetterEntry) -> list[str]:
    """Return the parts of *entry* that are wrong; none if all are right."""
    return [name for name, is_right in RIGHT.items() if not is_right(world, copy, one, entry)]


def _with_values(wrong: Sequence[str], one: Situation, entry: DeadLetterEntry) -> str:
    """Return the parts of *entry* that are *wrong*, each with what it is, and what it was when the event died."""
    values = {
        "reason": (entry.reason, one.reason),
        "error": (entry.error, one.error),
        "state": (entry.state, one.kept),
        "attempt": (entry.attempt, one.counters.attempt),
        "lost leases": (entry.lost_leases, one.counters.lost_leases),
    }
    return ", ".join(f"{name} ({difference(*values[name])})" if name in values else name for name in wrong)


def _is_the_event(world: World, copy: Copy, one: Situation, entry: DeadLetterEntry) -> bool:
    event = copy.event
    return entry.envelope == event if isinstance(event, Envelope) else _same_bytes(event, entry.envelope)


def _same_bytes(event: Unreadable, found: Envelope | Unreadable) -> bool:
    return isinstance(found, Unreadable) and found.raw == event.raw and not missing_headers(event, found)


RIGHT: Mapping[str, Callable[[World, Copy, Situation, DeadLetterEntry], bool]] = {
    "event": _is_the_event,
    "reason": lambda world, copy, one, entry: entry.reason == one.reason,
    "error": lambda world, copy, one, entry: entry.error == one.error,
    "state": lambda world, copy, one, entry: entry.state == one.kept,
    "attempt": lambda world, copy, one, entry: entry.attempt == one.counters.attempt,
    "lost leases": lambda world, copy, one, entry: entry.lost_leases == one.counters.lost_leases,
    "time of sending": lambda world, copy, one, entry: copy.enqueued_at in (None, entry.enqueued_at),
    "time of death": lambda world, copy, one, entry: (
        one.died[0] - world.slack - _AGE_TOLERANCE <= entry.died_at <= world.latest + world.slack
    ),
}
"""By the name of each part of a dead letter: a function that returns whether it is right."""


def _gone_how(copy: Copy) -> Promise:
    match copy.possible[0]:
        case Situation(state=State.GONE, last=Action.DISCARD):
            return promise.DISCARDED_IS_GONE
        case _:
            return promise.REVIVED_IS_RECEIVED if copy.revived else promise.DEAD_IS_KEPT_WITH_REASON


def taking_dead_began(world: World, operation: Operation, call: history.Revive | history.Discard) -> None:
    """Allow each dead letter to be revived, or discarded, from now on."""
    for position, ref in enumerate(call.refs):
        copy = world.refs.get(ref)
        if copy is None or copy.ref != ref:
            continue
        change: Change = _revival(call, ref, operation.began) if isinstance(call, history.Revive) else _discarding
        operation.positions[position] = copy
        copy.branch((operation.op, position), change)


def taking_dead_ended(
    world: World, operation: Operation, call: history.Revive | history.Discard, returned: history.Returned
) -> None:
    """Check for each ref whether it was found, and could be found."""
    broken = promise.REVIVED_IS_RECEIVED if isinstance(call, history.Revive) else promise.DISCARDED_IS_GONE
    missing = returned.value.refs if isinstance(returned.value, history.Missing) else None
    for position, ref in enumerate(call.refs):
        copy = operation.positions.get(position)
        if copy is None:
            if missing is not None and ref not in missing:
                world.report(
                    broken, operation.op, f"{ref!r} is not the ref of a dead letter, but was not reported as missing"
                )
        elif missing is None:
            copy.resolve((operation.op, position), happened=False if returned.end == "refused" else None)
            if returned.end != "refused" and isinstance(call, history.Revive):
                copy.refs_are_known = False
                _was_revived(world, operation, copy)
                _may_be_dead_and_alive(world, operation, copy, _revival(call, ref, operation.began))
        elif ref in missing:
            if copy.surely(partial(_dead_without, (operation.op, position))) and not _is_blocked(world, call, copy):
                world.report(broken, operation.op, f"{copy} is dead, but was reported as missing")
            copy.resolve((operation.op, position), happened=False)
        else:
            if not copy.resolve((operation.op, position), happened=True):
                what = f"{ref!r} is the ref of a dead letter of {copy} that is gone, but was not reported as missing"
                world.report(broken, operation.op, what)
            copy.ref = None
            if isinstance(call, history.Revive):
                _was_revived(world, operation, copy)


def _twins(world: World, copy: Copy) -> list[Copy]:
    """Return the other copies with the identity of *copy*, whatever their content."""
    return [other for other in world.same(copy.queue, copy.event) if other is not copy]


def _is_blocked(world: World, call: history.Revive | history.Discard, copy: Copy) -> bool:
    """Return whether *copy* may be unable to live again, since an event with its id but other content may be alive."""
    if not isinstance(call, history.Revive) or not world.capabilities.dedupe:
        return False
    return any(
        other.event != copy.event and other.maybe(lambda one: one.state in PENDING) for other in _twins(world, copy)
    )


def _dead_without(tag: Tag, one: Situation) -> bool:
    """Return whether the event is dead unless the call with *tag* changed that; another call in flight may have."""
    return one.state is State.DEAD or tag in one.tags


def _may_be_dead_and_alive(world: World, operation: Operation, copy: Copy, revival: Change) -> None:
    """Allow an event that was revived during a fault to be a dead letter still, if settling has two steps."""
    if operation.worker in world.broken and world.capabilities.settlement == "sent":
        alive = (revival(one) for one in copy.possible)
        world.double(operation.worker, copy, [one for one in alive if one is not None])


def _revival(call: history.Revive, ref: str, began: float) -> Change:
    def change(one: Situation) -> Situation | None:
        if one.state is not State.DEAD:
            return None
        ready = one.step(Action.REVIVE, kept=call.refs[ref])
        return replace(ready, state=State.SCHEDULED, due=began + call.delay) if call.delay else ready

    return change


def _discarding(one: Situation) -> Situation | None:
    return one.step(Action.DISCARD, why=promise.DISCARDED_IS_GONE) if one.state is State.DEAD else None


def _was_revived(world: World, operation: Operation, copy: Copy) -> None:
    copy.revived = True
    copy.in_line = False
    if isinstance(copy.event, Unreadable):  # foreign bytes are never compared
        return
    others = [other for other in _twins(world, copy) if other.event == copy.event]
    if any(other.maybe(lambda one: one.state in PENDING) for other in others):
        # Another copy of the event is unfinished: that one stays, and this one is removed where events are compared.
        gone = [replace(one, state=State.GONE, why=promise.REVIVED_IS_RECEIVED) for one in copy.possible]
        is_sure = world.capabilities.dedupe and not operation.overlapped and not world.broken
        is_sure = is_sure and any(other.surely(is_pending) for other in others)
        copy.become(gone if is_sure else (*copy.possible, *gone))


# --- removing --------------------------------------------------------------------------------------


def taking_out_began(world: World, operation: Operation, call: history.Cancel | history.Purge) -> None:
    """Allow events that are not held to be gone from now on."""
    why = promise.CANCELLED_IS_GONE if isinstance(call, history.Cancel) else promise.PURGED_IS_GONE

    def take(one: Situation) -> Situation | None:
        match one.state:
            case State.READY | State.SCHEDULED:
                return one.step(Action.CANCEL, why=why)
            case State.LEASED if one.receivable(operation.began, world.slack):
                return one.step(Action.LOSE, holder=None).step(Action.CANCEL, why=why)
            case _:
                return None

    operation.takes_out = lambda copy: take if _is_meant(copy, call) else None
    for copy in world.copies:
        if _is_meant(copy, call):
            before = copy.possible
            if not operation.closed and copy.surely(lambda one: one.state is State.LEASED):
                copy.spared = why
            if copy.branch((operation.op, copy.number), take):
                operation.positions[copy.number] = copy
                operation.before[copy.number] = before


def taking_out_ended(
    world: World, operation: Operation, call: history.Cancel | history.Purge, returned: history.Returned
) -> None:
    """Check the number of removed events, and accept it."""
    if not isinstance(returned.value, history.Number):
        for number, copy in operation.positions.items():
            copy.resolve((operation.op, number), happened=False if returned.end == "refused" else None)
        return
    number = returned.value.number
    sure = {at for at, before in operation.before.items() if all(one.surely_free(operation.began) for one in before)}
    most = len(operation.positions)
    # A concurrent call may have its effect before or after.
    if not operation.overlapped and not len(sure) <= number <= most:
        broken = promise.CANCELLED_IS_GONE if isinstance(call, history.Cancel) else promise.PURGED_IS_GONE
        name = f"a cancel of {call.event_id!r}" if isinstance(call, history.Cancel) else f'a purge of "{call.queue}"'
        what = f"{name} removed {number} events, not {len(sure)}" + (f" to {most}" if most > len(sure) else "")
        world.report(broken, operation.op, what)
    for at, copy in operation.positions.items():
        happened = True if at in sure or number == most else (False if number == len(sure) else None)
        happened = None if operation.overlapped else happened
        copy.resolve((operation.op, at), happened=happened)


def _is_meant(copy: Copy, call: history.Cancel | history.Purge | history.Find) -> bool:
    if isinstance(call, history.Purge):
        return copy.queue == call.queue
    return isinstance(copy.event, Envelope) and copy.event.id == call.event_id


# --- looking up ------------------------------------------------------------------------------------


def find_ended(world: World, operation: Operation, call: history.Find, returned: history.Returned) -> None:
    """Check, if no other call is in flight, that all unfinished events are found, unchanged, and nothing else."""
    if not isinstance(returned.value, history.Living) or operation.overlapped or world.set_back:
        return
    meant = [copy for copy in world.copies if _is_meant(copy, call)]
    for event in returned.value.events:
        judge_living(world, operation, promise.FOUND_AS_IT_IS, meant, event, returned.at)
    for queue in {copy.queue for copy in meant}:
        here = [copy for copy in meant if copy.queue == queue]
        least, most = sum(copy.surely(is_pending) for copy in here), sum(copy.maybe(is_pending) for copy in here)
        number = sum(event.queue == queue for event in returned.value.events)
        if not least <= number <= most:
            what = f'{call.event_id!r} is found {number} times in "{queue}", not {least}'
            world.report(promise.FOUND_AS_IT_IS, operation.op, what + (f" to {most}" if most > least else ""))


def judge_living(
    world: World, operation: Operation, broken: Promise, meant: Sequence[Copy], event: Found, now: float
) -> None:
    """Check that *event* is one of the copies that are *meant*, as it was between the beginning and *now*."""
    alike = [copy for copy in meant if copy.queue == event.queue and copy.event == event.envelope]
    seen = [view for copy in alike for view in views(world, operation, copy, now)]
    wrong = [misfit(world, alike, view, event) for view in seen]
    if not seen:
        what = f'{event.envelope.id!r} is found as {event.status} in "{event.queue}", which has no such event'
        world.report(broken, operation.op, what)
    elif all(wrong):
        world.report(broken, operation.op, f"{alike[-1]} is found with {min(wrong, key=len)}")


@attrs.frozen
class View:
    """How an event may be found."""

    status: str
    one: Situation
    until: tuple[float, float] | None = None
    """The earliest and the latest time that it may have; ``None`` if it has none."""

    sent: float | None = None
    """The time of sending that was seen before, if any."""


def views(world: World, operation: Operation, copy: Copy, now: float) -> Iterator[View]:
    """Yield how *copy* may be found between the beginning of *operation* and *now*, if it is unfinished."""
    began, slack = operation.began, world.slack
    for one in copy.possible:
        match one.state:
            case State.SCHEDULED if began <= one.due + slack + _AGE_TOLERANCE:
                late = one.due + slack + _AGE_TOLERANCE + (world.capabilities.delay or 0.0)
                yield View("scheduled", one, (one.due - slack, late), copy.enqueued_at)
            case State.LEASED if began <= one.over:
                until = None if world.capabilities.lease == "connection" else (one.until - slack, one.over)
                yield View("leased", one, until, copy.enqueued_at)
            case _:
                pass
        if (ready := one.receivable(now, slack)) is not None:
            yield View("ready", ready, None, copy.enqueued_at)


def misfit(world: World, alike: Sequence[Copy], view: View, event: Found) -> str:
    """Return the parts of *event* that differ from *view*, each with what it is there; empty if none does."""
    counters = view.one.counters
    surplus = event.lost_leases - counters.lost_leases
    times = view.until is not None and event.until is not None and view.until[0] <= event.until <= view.until[1]
    sent = view.sent == event.enqueued_at or (
        # Which of several equal copies was sent at which time is not known.
        (view.sent is None or len(alike) > 1) and any(sent_then(world, copy, event.enqueued_at) for copy in alike)
    )
    noted = event.begun == view.one.begun or not world.capabilities.presence or len(alike) > 1
    lost = surplus == 0 or (surplus > 0 and world.capabilities.lost_leases == "at least")
    parts = (
        (event.status == view.status, "status", event.status, view.status),
        (times if view.until is not None else event.until is None, "until", event.until, view.until),
        (event.attempt == counters.attempt + max(surplus, 0), "attempt", event.attempt, counters.attempt),
        (lost, "lost leases", event.lost_leases, counters.lost_leases),
        (event.state == view.one.kept, "state", event.state, view.one.kept),
        (noted, "note", event.begun, view.one.begun),
        (sent, "time of sending", event.enqueued_at, view.sent),
    )
    return ", ".join(f"the {name} {difference(found, wanted)}" for fits, name, found, wanted in parts if not fits)


# --- figures ---------------------------------------------------------------------------------------


def count_ended(world: World, operation: Operation, call: history.Count, returned: history.Returned) -> None:
    """Check the figures, if no other call is in flight."""
    if not isinstance(returned.value, history.Figures):
        return
    stats = returned.value.stats
    for name, figure in _figures(stats):
        if figure is not None and figure < 0:
            world.report(promise.STATS_ARE_TRUE_AT_REST, operation.op, f"{name} is {figure}")
    if world.capabilities.stats != "exact" or operation.overlapped or world.set_back:
        return
    places = [_places(copy, returned.at, world.slack) for copy in world.copies if copy.queue == call.queue]
    for name, figure in _figures(stats):
        least = sum(place == {name} for place in places)
        most = sum(name in place for place in places)
        if figure is not None and not least <= figure <= most:
            what = f'{name} of "{call.queue}" is {figure}, not {least}' + (f" to {most}" if most > least else "")
            world.report(promise.STATS_ARE_TRUE_AT_REST, operation.op, what)
    _judge_age(world, operation, call, stats, returned.at)


def _figures(stats: Stats) -> Iterator[tuple[str, int | None]]:
    for name in ("ready", "leased", "scheduled", "dead"):
        yield name, getattr(stats, name)


def _places(copy: Copy, now: float, slack: float) -> set[str]:
    """Return the figures that may count *copy*; also an empty name if it may not be there."""
    places: set[str] = set()
    for one in copy.possible:
        match one.state:
            case State.READY:
                places.add("ready")
            case State.SCHEDULED if now > one.due + slack:
                places.add("ready")
            case State.SCHEDULED if now >= one.due - slack:
                places |= {"ready", "scheduled"}
            case State.SCHEDULED:
                places.add("scheduled")
            case State.LEASED if one.receivable(now, slack):
                places |= {"ready", "leased"}
            case State.LEASED:
                places.add("leased")
            case State.DEAD:
                places.add("dead")
            case _:
                places.add("")
    return places


def _judge_age(world: World, operation: Operation, call: history.Count, stats: Stats, now: float) -> None:
    world.gives_ages = world.gives_ages or stats.oldest_age is not None
    if not world.gives_ages:  # a transport need not be able to tell
        return
    here = [copy for copy in world.copies if copy.queue == call.queue]
    unaged = [copy for copy in here if isinstance(copy.event, Unreadable) or copy.revived]
    unclear = any("ready" in _places(copy, now, world.slack) for copy in unaged)
    unclear = unclear or any(len(_places(copy, now, world.slack)) > 1 for copy in here)
    if unclear:
        return
    ready = [copy for copy in here if _places(copy, now, world.slack) == {"ready"}]
    if not ready:
        if stats.oldest_age is not None:
            what = f'nothing is ready in "{call.queue}", but the oldest event is {stats.oldest_age} s old'
            world.report(promise.STATS_ARE_TRUE_AT_REST, operation.op, what)
        return
    oldest = min(ready, key=lambda copy: copy.sent[0])
    least, most = now - oldest.sent[1] - _AGE_TOLERANCE, now - oldest.sent[0] + _AGE_TOLERANCE
    if stats.oldest_age is None:
        what = f'the oldest event of "{call.queue}" is {most:g} s old, but no age is given'
        world.report(promise.STATS_ARE_TRUE_AT_REST, operation.op, what)
    elif not least <= stats.oldest_age <= most:
        what = f'the oldest event of "{call.queue}" is {most:g} s old, not {stats.oldest_age} s'
        world.report(promise.STATS_ARE_TRUE_AT_REST, operation.op, what)


# --- the end ---------------------------------------------------------------------------------------


def drain_ended(world: World, operation: Operation, call: history.Drain, returned: history.Returned) -> None:
    """Check that no event is left that had to be handed out; a drain that did not finish proves nothing."""
    if returned.end != "done":
        return
    for copy in world.copies:
        if copy.surely(is_pending):
            world.report(_missed(copy), operation.op, f"{copy} was never handed out: it is {copy.possible[0].state}")
        elif must_come(world, copy):
            what = f"{copy} may be dead, but is not listed, and was never handed out either"
            world.report(promise.DEAD_IS_KEPT_WITH_REASON, operation.op, what)
    for copy in never_came(world):
        world.report(promise.SENT_IS_RECEIVED, operation.op, f"{copy} was sent, maybe twice, and never handed out")
    batches_at_the_end(world)
    world.drained = True


def must_come(world: World, copy: Copy) -> bool:
    """Return whether *copy* must still be handed out, since it can be nowhere else."""
    if copy.number not in world.unlisted:
        return copy.surely(is_pending)
    return copy.maybe(is_pending) and copy.surely(lambda one: is_pending(one) or _is_dead(one))


def _missed(copy: Copy) -> Promise:
    if isinstance(copy.event, Unreadable):
        return promise.MALFORMED_IS_QUARANTINED
    match copy.possible[0]:
        case Situation(state=State.LEASED):
            return copy.spared or promise.LOST_LEASE_RETURNS
        case Situation(last=Action.NACK):
            return promise.NACK_RETURNS_LATER
        case Situation(last=Action.RELEASE | Action.POSTPONE):
            return promise.RELEASE_COUNTS_NOTHING
        case Situation(last=Action.REVIVE):
            return promise.REVIVED_IS_RECEIVED
        case Situation(last=Action.LOSE):
            return promise.LOST_LEASE_RETURNS
        case Situation(why=promise.JOINS_THE_TRANSACTION):
            return promise.JOINS_THE_TRANSACTION
        case _:
            return promise.SENT_IS_RECEIVED


def _is_dead(one: Situation) -> bool:
    return one.state is State.DEAD
