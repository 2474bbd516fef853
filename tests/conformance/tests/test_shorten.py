"""A history is shortened to the calls that break its promise."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import pytest

from relevo import Ack
from relevo_conformance import history
from relevo_conformance._shorten import calls_of, shorten, until_broken
from relevo_conformance.checker import Judge

from .script import EVERYTHING, Script, event

Records = Sequence[history.Record]


def never() -> bool:
    return False


def counts(number: int) -> Records:
    script = Script()
    for _ in range(number):
        script.count()
    return script.records


def needing(*calls: int) -> Callable[[Records], Records | None]:
    """Return a replay that breaks the promise if all of *calls* are there."""
    return lambda records: records if {*calls} <= {*calls_of(records)} else None


@pytest.mark.parametrize("needed", [(1,), (40,), (7, 8), (1, 20, 40), (3, 5, 7, 9)])
def test_only_the_needed_calls_stay(needed: tuple[int, ...]) -> None:
    shorter = shorten(counts(40), needing(*needed), is_over=never)

    assert calls_of(shorter) == [*needed]
    assert len(shorter) == 2 * len(needed)


def test_a_call_that_only_a_dropped_one_needed_is_dropped_too() -> None:
    def again(records: Records) -> Records | None:
        calls = {*calls_of(records)}
        return records if 1 in calls and (4 not in calls or 2 in calls) else None

    assert calls_of(shorten(counts(5), again, is_over=never)) == [1]


def test_parts_of_calls_that_are_not_needed_are_dropped_and_then_the_calls_that_only_they_needed() -> None:
    script = Script()
    script.count()
    script.send(event(1), event(2), event(3))

    def again(records: Records) -> Records | None:
        calls = [record.call for record in records if isinstance(record, history.Invoked)]
        sent = [envelope.id for call in calls if isinstance(call, history.Send) for envelope in call.envelopes]
        is_counted = any(isinstance(call, history.Count) for call in calls)
        return records if "e2" in sent and (is_counted or "e3" not in sent) else None

    shorter = shorten(script.records, again, is_over=never)

    (send,) = (record.call for record in shorter if isinstance(record, history.Invoked))
    assert isinstance(send, history.Send)
    assert [envelope.id for envelope in send.envelopes] == ["e2"]


def test_a_history_that_needs_all_its_calls_stays_the_very_same() -> None:
    records = counts(5)

    assert shorten(records, needing(1, 2, 3, 4, 5), is_over=never) is records


def test_a_replay_that_has_as_many_calls_is_not_shorter() -> None:
    records = counts(6)

    assert shorten(records, lambda _: counts(6), is_over=never) is records


def test_the_search_ends_with_its_time() -> None:
    looks = itertools.count()

    shorter = shorten(counts(40), needing(40), is_over=lambda: next(looks) >= 4)

    assert 1 < len(calls_of(shorter)) < 40


def test_a_history_ends_where_it_breaks_the_promise_and_has_no_remarks() -> None:
    script = Script()
    script.call(history.Remark("the queues are set up first"))
    script.send(event())
    (first,) = script.receive(event())
    script.ack(first)
    script.call(history.Settle(items=(history.Item(first, Ack()),)), history.Settled())
    script.count()

    found = until_broken(script.records, Judge(EVERYTHING), "stale-settle-is-refused")

    assert found is not None
    assert calls_of(found) == [2, 3, 4, 5]
    assert until_broken(script.records, Judge(EVERYTHING), "no-invention") is None
    assert until_broken(script.records[:-4], Judge(EVERYTHING), "stale-settle-is-refused") is None
