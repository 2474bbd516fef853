from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import attrs
import pytest
from hypothesis import example, given, strategies as st

from relevo import GiveUp, ListenerTable, Retry, RetryLater, event, listener
from relevo._listener.listener import policy_of
from relevo.errors import ConfigurationError

policies = st.builds(
    Retry,
    st.integers(1, 50),
    first=st.floats(0, 1000),
    factor=st.floats(1, 50),
    cap=st.floats(1000, 1e6),
    jitter=st.floats(0, 1),
)


@given(policies, st.integers(1, 300), st.floats(0, 1))
@example(Retry(5, first=0, factor=10), 5000, 1.0)
def test_the_wait_follows_the_formula_never_early_and_jitter_only_lengthens_it(
    policy: Retry, run: int, chance: float
) -> None:
    exact = min(Fraction(policy.cap), Fraction(policy.first) * Fraction(policy.factor) ** (run - 1))

    plain, jittered = policy.wait(run, 0.0), policy.wait(run, chance)

    assert plain == pytest.approx(float(exact), rel=1e-9)
    assert plain <= jittered <= plain * (1 + policy.jitter) * (1 + 1e-12)


@given(policies, st.integers(1, 100))
def test_waits_never_shrink_from_run_to_run(policy: Retry, run: int) -> None:
    assert policy.wait(run, 0.0) <= policy.wait(run + 1, 0.0)


def test_the_default_waits_two_seconds_then_four_times_as_long_and_runs_five_times() -> None:
    policy = Retry()

    waits = [policy.decide(run, ValueError(), 0.0) for run in range(1, 6)]

    assert waits == [2.0, 8.0, 32.0, 128.0, None]


@given(st.integers(1, 30), st.floats(0, 1))
def test_a_listener_is_run_as_often_as_its_policy_says(runs: int, chance: float) -> None:
    policy = Retry(runs)

    decided = [policy.decide(run, ValueError(), chance) for run in range(1, runs + 1)]

    assert decided[-1] is None
    assert None not in decided[:-1]


def test_one_run_never_retries() -> None:
    assert Retry(1).decide(1, ValueError(), 0.0) is None


def test_a_huge_number_of_runs_does_not_overflow() -> None:
    assert Retry(10**9, factor=4).wait(10**9, 1.0) == pytest.approx(3600.0 * 1.1)


@pytest.mark.parametrize(
    ("delay", "wait"), [(300, 300.0), ("5m", 300.0), (timedelta(minutes=5), 300.0), (0, 0.0), (None, 2.0)]
)
def test_retry_later_names_its_own_delay(delay: object, wait: float) -> None:
    assert Retry().decide(1, RetryLater(delay), 0.0) == wait


@pytest.mark.parametrize(
    ("members", "wait"),
    [
        ([RetryLater("5m")], 300.0),
        ([RetryLater("5m"), ExceptionGroup("tasks", [RetryLater(7), RetryLater("1h")])], 3600.0),
        ([RetryLater(), RetryLater(7)], 7.0),
        ([RetryLater()], 2.0),
        ([RetryLater("not a time"), RetryLater(7)], 7.0),
        ([RetryLater("5m"), KeyError(1)], 2.0),
        ([KeyError(1), ExceptionGroup("tasks", [OSError(), GiveUp("no")])], None),
        ([RetryLater("5m"), ValueError()], None),
    ],
)
def test_an_exception_group_is_retried_as_its_members(members: list[Exception], wait: float | None) -> None:
    policy = Retry(give_up_on=ValueError)

    assert policy.decide(1, ExceptionGroup("tasks", members), 0.0) == wait


def test_an_exception_group_that_hides_its_members_is_read_nevertheless() -> None:
    class Hiding(ExceptionGroup[Exception]):
        @property
        def exceptions(self) -> Any:
            return (self,)

    assert Retry().is_final(Hiding("tasks", [GiveUp("no")]))
    assert not Retry().is_final(Hiding("tasks", [KeyError(1)]))


class _Hostile:
    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf"), 1e300, "soon", True, [], _Hostile()])
def test_a_delay_that_is_none_is_as_if_none_was_named(delay: object) -> None:
    assert Retry().decide(1, RetryLater(delay), 0.0) == 2.0


def test_retry_later_counts_as_a_run() -> None:
    assert Retry(3).decide(2, RetryLater("1s"), 0.0) == 1.0
    assert Retry(3).decide(3, RetryLater("1s"), 0.0) is None


def test_giving_up_and_what_no_retry_can_mend_end_it_at_once() -> None:
    policy = Retry(give_up_on=(KeyError,))

    assert policy.decide(1, GiveUp(), 0.0) is None
    assert policy.decide(1, KeyError(), 0.0) is None
    assert policy.decide(1, IndexError(), 0.0) == 2.0


@pytest.mark.parametrize("given", ["ValueError", ("ValueError",), [ValueError()], (int,), 3, None])
def test_only_exceptions_can_be_given_up_on(given: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"Retry\.give_up_on: expected exception classes, as in .*; got "):
        Retry(3, give_up_on=given)


def test_one_exception_can_be_given_up_on_by_itself() -> None:
    assert Retry(3, give_up_on=ValueError) == Retry(3, give_up_on=[ValueError])
    assert Retry(3, give_up_on=ValueError).decide(1, UnicodeError(), 0.0) is None


@pytest.mark.parametrize(
    "fault",
    [
        {"runs": 0},
        {"runs": True},
        {"runs": 2.5},
        {"factor": 0.5},
        {"factor": "2"},
        {"jitter": True},
        {"factor": float("inf")},
        {"factor": float("nan")},
        {"jitter": 1.5},
        {"jitter": float("nan")},
        {"first": "1h", "cap": "1m"},
        {"first": -1},
        {"cap": "a while"},
    ],
)
def test_a_policy_that_cannot_be_is_refused_where_it_is_written(fault: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=r"Retry|retry delay"):
        Retry(**fault)  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [Decimal(1), Fraction(1), 1, type("Real", (float,), {})(1)])
def test_a_number_of_any_class_will_do_for_the_factor_and_the_jitter(number: Any) -> None:
    policy = Retry(factor=number, jitter=number)

    assert policy == Retry(factor=1.0, jitter=1.0)


@event("image.resized", retry=Retry(2))
@attrs.frozen
class _Resized:
    pass


@given(st.booleans(), st.booleans(), st.booleans())
def test_the_listeners_policy_comes_before_the_events_the_queues_and_the_default(
    listeners_own: bool,  # noqa: FBT001
    events_own: bool,  # noqa: FBT001
    queues_own: bool,  # noqa: FBT001
) -> None:
    @listener(_Resized if events_own else "image.created", retry=Retry(1) if listeners_own else None)
    def resize(event: object) -> None: ...

    table = ListenerTable()
    table.extend([resize])
    (registered,) = table

    policy = policy_of(registered, queue=Retry(3) if queues_own else None)

    assert policy.runs == (1 if listeners_own else 2 if events_own else 3 if queues_own else 5)
