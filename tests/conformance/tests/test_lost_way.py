"""A history that is repeated may go another way, as a server or chance decides: that breaks no promise."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import attrs
import pytest
from hypothesis import Phase, settings
from hypothesis.errors import FlakyStrategyDefinition
from hypothesis.stateful import run_state_machine_as_test

from relevo import Ack, Clock, Delivery, SystemClock, Transport
from relevo_conformance import Finding, Harness, examine, suite
from relevo_conformance._contract_send import PayloadContract
from relevo_conformance.history import Invoked, Receive
from relevo_conformance.profile import PROFILES
from relevo_conformance.suite import RandomContract
from relevo_conformance.verdict import NotReproducedError
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


@pytest.mark.parametrize("harness", [RealTime, MemoryHarness])
def test_the_other_histories_are_tried_all_the_same(runs: list[int], harness: type[Harness]) -> None:
    assert found(harness).status == "kept"

    assert runs == [SHORT.histories, SHORT.histories - FIRST]


def test_what_was_broken_before_is_told(runs: list[int]) -> None:
    finding = found(type("Losing", (RealTime,), {"transport": Loses, "patience": 0.1}))

    assert finding.status == "broken"
    # Which of the events that never come is missed first depends on the way that the history took.
    assert finding.promises & {"sent-is-received", "joins-the-transaction"}
    assert len(runs) == 1


# --- what outlives a history -------------------------------------------------------------------------


def dropping_once() -> type[Harness]:
    """Return the harness of a transport that drops what the first receive of the process handed out."""
    dropped: list[Any] = []

    class DropsOnce(MemoryTransport):
        def receive(self, *args: Any, **options: Any) -> Sequence[Delivery]:
            came = super().receive(*args, **options)
            if came and not dropped:
                dropped.extend(came)
                self.settle([(one, Ack()) for one in came])
                return []
            return came

    return type("DropsOnceHarness", (MemoryHarness,), {"transport": DropsOnce})


def test_what_only_the_first_history_shows_is_told_with_its_promise_and_its_history() -> None:
    (finding,) = examine(dropping_once(), profile=SHORT, matching=lambda name, _: name == RANDOM)

    assert (finding.status, finding.reproduced) == ("broken", False)
    assert finding.promises  # which of them is noticed first depends on the history
    assert "Flaky" not in finding.what
    assert "Inconsistent" not in finding.what
    assert any(isinstance(record, Invoked) and isinstance(record.call, Receive) for record in finding.history)


@pytest.mark.parametrize(
    "test", [RANDOM, PayloadContract.test_any_payload_arrives_as_it_was_sent_and_again_after_a_nack.__name__]
)
def test_what_only_the_first_run_shows_is_told_in_words_where_pytest_runs_it(test: str) -> None:
    tests = suite(dropping_once(), profile=SHORT)
    tests.setup_class()
    try:
        with pytest.raises(AssertionError) as raised:
            getattr(tests(), test)()
    finally:
        tests.teardown_class()

    notes = "\n".join(raised.value.__notes__)
    assert "the same calls had another result the second time" in notes
    if test == RANDOM:
        assert isinstance(raised.value, NotReproducedError)
        assert "worker 1: open()" in notes


def test_what_fails_once_in_the_harness_is_told_as_its_fault() -> None:
    failed: list[None] = []

    class FailsOnce(MemoryHarness):
        def kill(self, transport: Transport) -> None:
            if not failed:
                failed.append(None)
                raise ZeroDivisionError

    few = attrs.evolve(PROFILES["quick"], histories=10)
    (finding,) = examine(FailsOnce, profile=few, matching=lambda name, _: name == RANDOM)

    assert finding.status == "error"
    assert "FailsOnce.kill raised ZeroDivisionError" in finding.what
