"""Check the results of queries: lists of unfinished events, filtered dead letters, and counts by groups."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from relevo import DeadLetterFilter, Envelope, EventFilter, EventGroup, State, WaitingEntry
from relevo_conformance import history, promise
from relevo_conformance._judge_store import View, judge_entry, judge_living, views
from relevo_conformance._world import Operation, World
from relevo_conformance.model import Copy, Identity, Situation, identity, is_pending


def list_waiting_ended(
    world: World, operation: Operation, call: history.ListWaiting, returned: history.Returned
) -> None:
    """Check, if no other call is in flight, that the list has what the filter chooses, once, and nothing else."""
    if not isinstance(returned.value, history.Waiting):
        return
    entries = returned.value.entries
    if not call.whole and len(entries) > call.limit:
        what = f"{len(entries)} events were listed with a limit of {call.limit}"
        world.report(promise.LIMIT_IS_RESPECTED, operation.op, what)
    if operation.overlapped or world.set_back:
        return
    where = call.where or EventFilter()
    meant = [copy for copy in world.copies if copy.queue in call.queues and isinstance(copy.event, Envelope)]
    copies: dict[Identity, list[Copy]] = {}
    for copy in meant:
        copies.setdefault(copy.identity, []).append(copy)
    listed = defaultdict[Identity, list[WaitingEntry]](list)
    for entry in entries:
        same = identity(entry.queue, entry.envelope)
        listed[same].append(entry)
        judge_living(world, operation, promise.QUERIED_AS_IT_IS, copies.get(same, []), entry, returned.at)
        if not where.matches(entry):
            what = f"{entry.envelope.id!r} is listed as {entry.status}, although {where} does not choose it"
            world.report(promise.QUERIED_AS_IT_IS, operation.op, what)
    order = list(dict.fromkeys(call.queues))
    places = [order.index(entry.queue) if entry.queue in order else -1 for entry in entries]
    if places != sorted(places):
        found = ", ".join(f'"{queue}"' for queue in dict.fromkeys(entry.queue for entry in entries))
        what = f"the events are not listed queue by queue: asked for {', '.join(map(repr, order))}, listed from {found}"
        world.report(promise.QUERIED_AS_IT_IS, operation.op, what)
    if not call.whole:
        return
    for same, alike in copies.items():
        chosen = [_chosen(world, operation, copy, where, returned.at) for copy in alike]
        number = sum(any(copy.event == one.envelope for copy in alike) for one in listed[same])
        least, most = sum(True in one and len(one) == 1 for one in chosen), sum(True in one for one in chosen)
        if not least <= number <= most:
            what = f"{alike[-1]} is listed {number} times, not {least}" + (f" to {most}" if most > least else "")
            world.report(promise.QUERIED_AS_IT_IS, operation.op, what)


def _chosen(world: World, operation: Operation, copy: Copy, where: EventFilter, now: float) -> set[bool]:
    """Return whether *where* chooses *copy*: one answer, or both if that is not known."""
    answers = {_is_chosen(copy, view, where) for view in views(world, operation, copy, now)}
    answers |= set() if copy.surely(is_pending) else {frozenset((False,))}
    return set().union(*answers)


def _is_chosen(copy: Copy, view: View, where: EventFilter) -> frozenset[bool]:
    assert isinstance(copy.event, Envelope)
    if where.states and view.status not in where.states:
        return frozenset((False,))
    if not where.matches_name(copy.event.name):
        return frozenset((False,))
    if where.since is None and where.until is None:
        return frozenset((True,))
    if view.sent is None:
        return frozenset((True, False))
    return frozenset((where.matches_time(view.sent),))


def list_matching_ended(
    world: World, operation: Operation, call: history.ListMatching, returned: history.Returned
) -> None:
    """Check that each dead letter is as it died, and that the filter chooses it."""
    if not isinstance(returned.value, history.Entries):
        return
    for entry in returned.value.entries:
        judge_entry(world, operation, entry)
        name = entry.envelope.name if isinstance(entry.envelope, Envelope) else None
        if not call.where.matches(name=name, reason=entry.reason, died_at=entry.died_at):
            what = f"the dead letter {entry.ref!r} is listed, although {call.where} does not choose it"
            world.report(promise.QUERIED_AS_IT_IS, operation.op, what)


def groups_ended(world: World, operation: Operation, call: history.CountGroups, returned: history.Returned) -> None:
    """Check the numbers of the groups, if no other call is in flight."""
    if not isinstance(returned.value, history.Groups) or operation.overlapped or world.set_back:
        return
    groups = returned.value.groups
    if any(group.oldest > group.newest or not group.count for group in groups) or not _in_order(groups):
        sizes = ", ".join(f"{group.key!r}: {group.count} ({group.oldest} to {group.newest})" for group in groups)
        what = f"expected groups, the largest first, each with its oldest and newest time; got {sizes}"
        world.report(promise.QUERIED_AS_IT_IS, operation.op, what)
    where = call.where
    if where is not None and (where.since is not None or where.until is not None):
        return  # the times of what was never listed are not known
    counts = {group.key: group.count for group in groups}
    keys = [set(_keys(world, operation, call, copy, returned.at)) for copy in world.copies if copy.queue in call.queues]
    for key in {*counts, *(key for each in keys for key in each if key is not None)}:
        least, most = sum(each == {key} for each in keys), sum(key in each for each in keys)
        if not least <= counts.get(key, 0) <= most:
            what = f"the group {key!r} by {call.by} has {counts.get(key, 0)} events, not {least}"
            what += f" to {most}" if most > least else ""
            world.report(promise.QUERIED_AS_IT_IS, operation.op, what)


def _in_order(groups: Iterable[EventGroup]) -> bool:
    sizes = [group.count for group in groups]
    return sizes == sorted(sizes, reverse=True)


def _keys(
    world: World, operation: Operation, call: history.CountGroups, copy: Copy, now: float
) -> Iterator[str | None]:
    """Yield the groups that may have *copy*; also ``None`` if it may be in none."""
    name = copy.event.name if isinstance(copy.event, Envelope) else None
    if call.dead:
        dead = call.where if isinstance(call.where, DeadLetterFilter) else DeadLetterFilter()
        for one in copy.possible:
            is_wanted = one.state is State.DEAD and dead.matches(name=name, reason=one.reason, died_at=0.0)
            yield _dead_key(call.by, copy, one, name or "") if is_wanted else None
        return
    living = call.where if isinstance(call.where, EventFilter) else EventFilter()
    if name is None or not copy.surely(is_pending) or not living.matches_name(name):
        yield None
    if name is not None and living.matches_name(name):
        for view in views(world, operation, copy, now):
            is_wanted = not living.states or view.status in living.states
            yield {"event": name, "queue": copy.queue, "state": view.status}[call.by] if is_wanted else None


def _dead_key(by: str, copy: Copy, one: Situation, name: str) -> str:
    return {"event": name, "queue": copy.queue, "reason": one.reason}[by]
