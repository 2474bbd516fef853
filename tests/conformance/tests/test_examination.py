"""What a test found is told whole, and within its time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import pytest
from hypothesis import Phase, given, settings, strategies as st

from relevo import Presence
from relevo_conformance import BrokenPromiseError, Violation, examine
from relevo_conformance.examination import _attempt
from relevo_conformance.harness import Observed
from relevo_conformance.history import Returned
from relevo_conformance.profile import PROFILES, Profile
from relevo_memory import MemoryTransport

from .memory import MemoryHarness


def test_failures_that_come_together_are_told_one_by_one() -> None:
    def act() -> None:
        first, second = AssertionError("it came again"), KeyError("receipt")
        first.add_note("<state machine>\nstate = M()\n")
        raise ExceptionGroup("Hypothesis found 2 distinct failures.", [first, second])

    found = _attempt("test_it", frozenset({"ack-is-final"}), act, Observed())

    assert "AssertionError: it came again" in found.what
    assert "KeyError: 'receipt'" in found.what
    assert found.program == "state = M()"


class Unseen(MemoryTransport):
    """Sees no heartbeat."""

    def presence(self, workers: Sequence[str]) -> Mapping[str, Presence]:
        return {}


class UnseenHarness(MemoryHarness):
    transport = Unseen


def test_an_assertion_names_its_promises_and_shows_what_it_compared() -> None:
    findings = examine(UnseenHarness, matching=lambda _, promises: "presence-is-seen" in promises)

    told = [one.what for one in findings if one.status == "broken"]
    assert told
    assert [what for what in told if not what.startswith("AssertionError: presence-is-seen: assert ")] == []


def test_each_promise_that_a_test_found_broken_has_the_history_that_breaks_it() -> None:
    observed = Observed()
    shown = {
        broken: ((Returned(op=number, at=0.0, end="done"),), (Violation(broken, number, "so"),))
        for number, broken in enumerate(("ack-is-final", "purged-is-gone"))
    }

    def act() -> None:
        for history, violations in shown.values():
            observed.take_in({}, {}, (history, violations))
        raise ExceptionGroup("two", [BrokenPromiseError(violations) for _, violations in shown.values()])

    found = _attempt("test_it", frozenset(), act, observed)

    assert found.promises == set(shown)
    assert found.histories == {broken: history for broken, (history, _) in shown.items()}


def tried(profile: Profile) -> int:
    runs = 0

    @settings(database=None, phases=[Phase.generate, Phase.shrink], deadline=None, derandomize=True)
    @given(st.lists(st.integers(), min_size=20))
    def fails(numbers: list[int]) -> None:
        nonlocal runs
        runs += 1
        assert sum(numbers) < 1000

    with pytest.raises(AssertionError), profile.limit_shrinking():
        fails()
    return runs


def test_no_longer_than_the_profile_says_is_a_shorter_program_looked_for() -> None:
    profile = PROFILES["quick"]

    assert tried(attrs.evolve(profile, shrinking=-1.0)) < tried(profile) / 2
