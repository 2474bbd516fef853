"""What counts against the limit of a queue: no window has more than its rate, and no more run than may."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import example, given, strategies as st

from relevo._transport.limit import Limit, Rate, rate_from
from relevo._worker.usage import SOON, Grant, Usage, packed, requested, unpacked, validity
from relevo.errors import ConfigurationError

LEASE = 60.0


def ask(
    usage: Usage, limit: Limit, now: float, wanted: int = 1, *, worker: str = "a", keeps: int = 0, **more: object
) -> tuple[Usage, Grant]:
    return requested(usage, limit, worker=worker, now=now, wanted=wanted, keeps=keeps, lease=LEASE, **more)  # type: ignore[arg-type]  # by name


# --- rates ---------------------------------------------------------------------------------------------------


@attrs.frozen
class Ask:
    """A worker asks after a time, and begins each event that it may some time later, as long as it may."""

    after: float
    wanted: int
    begins: float
    """The part of the validity after which it begins; more than 1: it begins none, and says so."""

    slow: float = 0.0
    """How much longer than usual it may begin, as a part of the window."""


asks = st.lists(
    st.builds(
        Ask,
        after=st.floats(0.0, 3.0),
        wanted=st.integers(1, 12),
        begins=st.sampled_from([0.0, 0.5, 1.0, 1.0, 2.0]),
        slow=st.sampled_from([0.0, 0.0, 0.1, 0.9]),
    ),
    min_size=1,
    max_size=60,
)
rates = st.builds(Rate, st.integers(1, 10), st.sampled_from([0.1, 0.5, 1.0, 2.0, 60.0]))


@given(asks=asks, rate=rates, at=st.floats(0.0, 4e9))
@example(
    asks=[Ask(0.0, 1, 1.0), Ask(1.01, 1, 0.0)], rate=Rate(1, 1.0), at=0.0
)  # the first one waits, the other does not
@example(asks=[Ask(0.0, 1, 1.0, 0.5), Ask(1.4, 1, 0.0)], rate=Rate(1, 1.0), at=0.0)  # a slow store
@example(asks=[Ask(0.0, 1, 1.0), Ask(1.0165, 1, 0.0)], rate=Rate(1, 1.0), at=0.0045)  # at the end of a part
def test_no_window_has_more_events_than_its_rate(asks: list[Ask], rate: Rate, at: float) -> None:
    limit, usage, now = Limit(rate=rate), Usage(), at
    begun: list[float] = []
    unused: list[float] = []
    for each in asks:
        now += each.after * min(rate.window, 2.0)
        valid_for = validity(rate) + each.slow * rate.window
        usage, grant = ask(unpacked(packed(usage)), limit, now, each.wanted, unused=tuple(unused), valid_for=valid_for)
        unused = []
        for _ in range(grant.number):
            if each.begins <= 1.0:
                begun.append(now + each.begins * valid_for)
            else:
                unused.append(grant.part)

    begun.sort()
    for first, last in zip(begun, begun[rate.events :], strict=False):
        assert last - first >= rate.window - 1e-5, "one more than the rate began within the window"  # 4e9 has 7 digits


def test_a_rate_is_used_up_to_two_percent() -> None:
    limit, usage, now, number = Limit(rate=Rate(10, 1.0)), Usage(), 1e9, 0
    for _ in range(100):
        usage, grant = ask(usage, limit, now, 100)
        number += grant.number
        now += grant.again or 1e-3

    assert number / (now - 1e9) == pytest.approx(10, rel=0.03)


def test_who_asks_again_after_that_time_gets_a_place() -> None:
    limit, usage = Limit(rate=Rate(2, 1.0)), Usage()
    usage, first = ask(usage, limit, 100.0, 3)
    usage, second = ask(usage, limit, 100.5)

    _, third = ask(usage, limit, 100.5 + second.again)

    assert (first.number, second.number, third.number) == (2, 0, 1)


def test_what_was_not_used_may_be_used_by_others() -> None:
    limit, usage = Limit(rate=Rate(2, 3600.0)), Usage()
    usage, first = ask(usage, limit, 100.0, 2)

    _, second = ask(usage, limit, 101.0, 2, worker="b", unused=(first.part,))

    assert second.number == 1


def test_what_counts_stays_small() -> None:
    limit, usage = Limit(rate=Rate(1_000_000, 3600.0)), Usage()
    for number in range(5_000):
        usage, _ = ask(usage, limit, 1e9 + number, 10)

    assert len(packed(usage)) < 10_000


def test_a_clock_that_was_set_back_ends_no_queue_for_longer_than_a_window() -> None:
    limit, usage = Limit(rate=Rate(1, 60.0)), Usage()
    usage, _ = ask(usage, limit, 1e9)

    _, grant = ask(usage, limit, 1e9 - 3600)

    assert grant.number == 1


# --- concurrency -----------------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.floats(0.0, 40.0), st.integers(0, 5), st.integers(0, 5)), max_size=60
    ),
    st.integers(1, 6),
)
def test_no_more_run_than_there_are_places(steps: list[tuple[str, float, int, int]], places: int) -> None:
    limit, usage, now = Limit(concurrency=places), Usage(), 1e9
    holds = dict.fromkeys("abc", 0)
    until = dict.fromkeys("abc", 0.0)
    for worker, after, settles, wanted in steps:
        now += after
        for each in holds:
            if until[each] <= now:  # a worker that does not renew in time has crashed
                holds[each] = 0
        keeps = max(0, holds[worker] - settles)
        usage, grant = ask(unpacked(packed(usage)), limit, now, wanted, worker=worker, keeps=keeps)
        holds[worker], until[worker] = keeps + grant.number, now + LEASE

        assert sum(holds.values()) <= places
        assert grant.number == min(wanted, places - sum(holds.values()) + grant.number)
        assert grant.free == places - sum(holds.values())


def test_the_places_of_a_worker_that_crashed_are_free_after_its_lease() -> None:
    limit = Limit(concurrency=1)
    usage, _ = ask(Usage(), limit, 100.0)

    usage, denied = ask(usage, limit, 100.0 + LEASE - 1, worker="b")
    _, granted = ask(usage, limit, 100.0 + LEASE, worker="b")

    assert (denied.number, denied.again, granted.number) == (0, SOON, 1)


def test_with_both_limits_the_narrower_one_holds() -> None:
    limit = Limit(concurrency=2, rate=Rate(3, 60.0))
    usage, first = ask(Usage(), limit, 100.0, 5)
    usage, none = ask(usage, limit, 100.1, 5, keeps=2)

    _, second = ask(usage, limit, 100.2, 5)

    assert (first.number, none.number, second.number) == (2, 0, 1)


def test_nothing_is_stored_when_nothing_counts() -> None:
    usage, _ = ask(Usage(), Limit(concurrency=1), 100.0)
    usage, _ = ask(usage, Limit(concurrency=1), 100.0, 0)

    assert packed(usage) == b""


# --- rates as text ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("10/s", Rate(10, 1.0)),
        ("1000/h", Rate(1000, 3600.0)),
        ("5/10m", Rate(5, 600.0)),
        ("1/1.5s", Rate(1, 1.5)),
        (" 2 / 500ms ", Rate(2, 0.5)),
        ("1/d", Rate(1, 86_400.0)),
    ],
)
def test_a_rate_is_text(text: str, rate: Rate) -> None:
    assert rate_from(text) == rate
    assert rate_from(str(rate)) == rate


@pytest.mark.parametrize(
    "text",
    ["", "10", "10/", "/s", "0/s", "-1/s", "10/0s", "10 s", "1.5/s", "9999999/s", "1/50ms", "1/32d", "10/w", None, 7],
)
def test_an_invalid_rate_is_refused(text: object) -> None:
    with pytest.raises(ConfigurationError, match="rate: expected"):
        rate_from(text)
