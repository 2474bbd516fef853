"""Scenes of queries: lists of unfinished events, filtered dead letters, and groups."""

from __future__ import annotations

from typing import Any

import attrs

from relevo import DeadLetterFilter, Envelope, EventFilter, EventGroup, WaitingEntry
from relevo_conformance import history, promise

from .scene import SCENES, scene
from .script import LEASE, NOTHING, Script, event

ALL = history.ListWaiting(queues=("q", "r"), whole=True)


def entry(script: Script, what: Envelope, **fields: Any) -> WaitingEntry:
    return WaitingEntry(**attrs.asdict(script.living(what, **fields), recurse=False), cursor=what.id)


def group(key: str, count: int, *, oldest: float = 1000.0, newest: float = 1000.0) -> EventGroup:
    return EventGroup(key=key, count=count, oldest=oldest, newest=newest)


@scene(promise.LIMIT_IS_RESPECTED)
def a_page_is_longer_than_its_limit(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1), event(2))
    call = history.ListWaiting(queues=("q", "r"), limit=2 if honest else 1)
    script.call(call, history.Waiting((entry(script, event(1)), entry(script, event(2)))))
    return script


@scene(promise.QUERIED_AS_IT_IS)
def a_held_event_is_listed_as_ready(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    script.receive(event())
    right = entry(script, event(), status="leased", until=script.now + LEASE)
    script.call(ALL, history.Waiting((right if honest else entry(script, event()),)))
    return script


@scene(promise.QUERIED_AS_IT_IS)
def an_event_is_listed_that_the_filter_does_not_choose(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    where = EventFilter(names=("image.*" if honest else "order.*",))
    script.call(history.ListWaiting(queues=("q",), where=where), history.Waiting((entry(script, event()),)))
    return script


@scene(promise.QUERIED_AS_IT_IS)
def the_queues_are_listed_in_another_order(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1), event(2, queue="r"))
    entries = (entry(script, event(1)), entry(script, event(2, queue="r")))
    script.call(ALL, history.Waiting(entries if honest else entries[::-1]))
    return script


@scene(promise.QUERIED_AS_IT_IS)
def an_event_is_on_no_page(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1), event(2))
    entries = (entry(script, event(1)), entry(script, event(2)))
    script.call(ALL, history.Waiting(entries[: 2 if honest else 1]))
    return script


@scene(promise.QUERIED_AS_IT_IS)
def an_event_is_on_two_pages(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1))
    script.call(ALL, history.Waiting((entry(script, event(1)),) * (1 if honest else 2)))
    return script


@scene(promise.QUERIED_AS_IT_IS)
def an_event_that_the_filter_chooses_is_on_no_page(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1))
    script.send(event(2), delay=10.0)
    where = EventFilter(states=("scheduled",), names=("image.created",))
    delayed = entry(script, event(2), status="scheduled", until=script.now + 10.0)
    script.call(attrs.evolve(ALL, where=where), history.Waiting((delayed,) if honest else ()))
    return script


@scene(promise.QUERIED_AS_IT_IS)
def an_event_that_was_sent_in_time_is_on_no_page(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1))
    script.call(ALL, history.Waiting((entry(script, event(1)),)))
    script.receive(event(1))
    where = EventFilter(since=script.now if honest else script.now - 1.0, until=script.now + (0.0 if honest else 1.0))
    script.call(attrs.evolve(ALL, where=where), history.Waiting(()))
    return script


@scene(promise.QUERIED_AS_IT_IS)
def a_dead_letter_is_listed_that_the_filter_does_not_choose(*, honest: bool) -> Script:
    script = Script()
    script.send(event())
    (held,) = script.receive(event())
    script.bury(held)
    where = DeadLetterFilter(reasons=("failed" if honest else "expired",))
    script.call(history.ListMatching(queues=("q",), where=where), history.Entries((script.entry(event()),)))
    return script


@scene(promise.QUERIED_AS_IT_IS)
def the_smallest_group_comes_first(*, honest: bool) -> Script:
    script = Script()
    script.send(event(1), event(2), event(3, name="b"))
    groups = (group("image.created", 2), group("b", 1))
    call = history.CountGroups(queues=("q",), by="event")
    script.call(call, history.Groups(groups if honest else groups[::-1]))
    return script


def a_group_has_another_number(call: history.CountGroups, *right: EventGroup) -> None:
    def play(*, honest: bool) -> Script:
        script = Script()
        script.send(event(1), event(2), event(3, name="b", queue="r"), event(4))
        script.bury(script.receive(event(1))[0])
        wrong = [attrs.evolve(one, count=one.count + 1) for one in right]
        script.call(call, history.Groups(right if honest else tuple(wrong)))
        return script

    play.__name__ = f"a_group_{'of_the_dead_' if call.dead else ''}by_{call.by}_has_another_number"
    SCENES.append((promise.QUERIED_AS_IT_IS, play))


Q, QR = ("q",), ("q", "r")
a_group_has_another_number(history.CountGroups(queues=QR, by="event"), group("image.created", 2), group("b", 1))
a_group_has_another_number(history.CountGroups(queues=Q, by="state"), group("ready", 2))
a_group_has_another_number(
    history.CountGroups(queues=QR, by="queue", where=EventFilter(states=("ready",))), group("q", 2), group("r", 1)
)
a_group_has_another_number(history.CountGroups(queues=QR, by="reason", dead=True), group("failed", 1))
a_group_has_another_number(
    history.CountGroups(queues=QR, by="event", dead=True, where=DeadLetterFilter(reasons=("failed",))),
    group("image.created", 1),
)


def a_query_is_not_claimed(call: history.Call, value: history.Value) -> None:
    def play(*, honest: bool) -> Script:
        script = Script(NOTHING)
        if honest:
            script.call(call, end="refused", error="UnsupportedError")
        else:
            script.call(call, value)
        return script

    play.__name__ = f"{type(call).__name__.lower()}_is_not_claimed_and_done"
    SCENES.append((promise.UNCLAIMED_IS_REFUSED, play))


a_query_is_not_claimed(ALL, history.Waiting(()))
a_query_is_not_claimed(history.CountGroups(queues=Q, by="event"), history.Groups(()))
a_query_is_not_claimed(history.ListMatching(queues=Q, where=DeadLetterFilter()), history.Entries(()))
