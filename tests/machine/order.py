"""The order of tests for several processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Test = TypeVar("Test")


def slow_first(tests: Sequence[Test], is_slow: Callable[[Test], bool], *, processes: int) -> list[Test]:
    """
    Order *tests* so that each process begins with its share of the slow ones.

    ``--dist=worksteal`` gives each process equally many consecutive tests, and moves only the last ones of a process
    to another that is idle. If a slow test begins late, all processes wait for it.
    """
    slow, quick = list(filter(is_slow, tests)), [test for test in tests if not is_slow(test)]
    ordered: list[Test] = []
    for left in range(processes, 0, -1):
        share = (len(slow) + len(quick)) // left
        first = min(len(slow) // left, share)
        ordered += slow[:first] + quick[: share - first]
        del slow[:first], quick[: share - first]
    return ordered
