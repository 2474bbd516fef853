"""Each process begins with slow tests, and every test runs."""

from __future__ import annotations

import pytest

from order import slow_first


def is_slow(test: str) -> bool:
    return test.startswith("slow")


def test_each_process_begins_with_its_share_of_the_slow_tests() -> None:
    tests = ["a", "b", "c", "slow d", "slow e", "f", "slow g", "h"]

    assert slow_first(tests, is_slow, processes=2) == ["slow d", "a", "b", "c", "slow e", "slow g", "f", "h"]


@pytest.mark.parametrize("processes", [1, 2, 4, 7])
@pytest.mark.parametrize("slow", [0, 1, 20])
@pytest.mark.parametrize("quick", [0, 6])
def test_no_test_is_lost_or_runs_twice(slow: int, quick: int, processes: int) -> None:
    tests = [f"quick {number}" for number in range(quick)] + [f"slow {number}" for number in range(slow)]

    assert sorted(slow_first(tests, is_slow, processes=processes)) == sorted(tests)
