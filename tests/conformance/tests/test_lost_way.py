"""Where a server answers, a history that is begun anew may go another way: that breaks no promise."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, ClassVar

import attrs
import pytest
from hypothesis import Phase, settings
from hypothesis.errors import FlakyStrategyDefinition
from hypothesis.stateful import run_state_machine_as_test

from relevo import Clock, SystemClock
from relevo_conformance import Finding, Harness, examine
from relevo_conformance.profile import PROFILES
from relevo_conformance.suite import RandomContract
from relevo_memory import MemoryTransport

from .memory import MemoryHarness

RANDOM = RandomContract.test_random_histories_keep_every_promise.__name__
SHORT = attrs.evolve(PROFILES["quick"], histories=6, steps=5, slow_histories=6, slow_steps=5)
FIRST = 2
"""Histories until the way is lost."""


class RealTime(MemoryHarness):
    """Drives the memory transport by a clock that runs."""

    new_clock: ClassVar[Callable[[], Clock]] = SystemClock
    patience = 10.0  # a busy machine breaks no promise
    glance = 0.01


class Loses(MemoryTransport):
    """Hands out nothing."""

    def receive(self, *args: Any, **options: Any) -> list[Any]:
        return []


@pytest.fixture(name="runs")
def _runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let Hypothesis lose its way once; give how many histories it was asked for, each time."""
    runs: list[int] = []

    def lose_the_way(machine: Any, *, settings: Any) -> None:
        runs.append(settings.max_examples)
        if len(runs) > 1:
            run_state_machine_as_test(machine, settings=settings)
            return
        try:
            run_state_machine_as_test(machine, settings=_fewer(settings))
        finally:
            raise FlakyStrategyDefinition

    monkeypatch.setattr(sys.modules[RandomContract.__module__], "run_state_machine_as_test", lose_the_way)
    return runs


def _fewer(given: Any) -> Any:
    return settings(given, max_examples=FIRST)


def found(harness: type[Harness]) -> Finding:
    (finding,) = examine(harness, profile=SHORT, phases=[Phase.generate], matching=lambda name, _: name == RANDOM)
    return finding


def test_the_other_histories_are_tried_all_the_same(runs: list[int]) -> None:
    assert found(RealTime).status == "kept"

    assert runs == [SHORT.slow_histories, SHORT.slow_histories - FIRST]


def test_what_was_broken_before_is_told(runs: list[int]) -> None:
    finding = found(type("Losing", (RealTime,), {"transport": Loses, "patience": 0.1}))

    assert finding.status == "broken"
    # Which of the events that never come is missed first depends on the way that the history took.
    assert finding.promises & {"sent-is-received", "joins-the-transaction"}
    assert len(runs) == 1


def test_where_nobody_but_the_suite_moves_the_clock_it_is_no_excuse(runs: list[int]) -> None:
    assert found(MemoryHarness).status == "broken"

    assert len(runs) == 1
