"""The suite finds what it is there to find: every planted bug, under the profile of CI itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import Phase

from relevo_conformance import Harness
from relevo_conformance.examination import Finding, examine

from .mutants import MUTANTS, Mutant

SOONEST = (Phase.generate,)
"""Without shrinking: one failure is enough."""

RANDOM = "test_random_histories_keep_every_promise"

every_mutant = pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)


def told(findings: list[Finding]) -> str:
    return "\n".join(f"{one.test}: {one.what[:200]}" for one in findings[:5]) or "nothing"


def scenarios(mutant: Mutant, harness: type[Harness]) -> Iterator[Finding]:
    """Examine *harness*, first by what proves the promise that it breaks."""
    proving = mutant.breaks.id
    yield from examine(harness, profile="quick", phases=SOONEST, matching=lambda name, ids: proving in ids)
    yield from examine(
        harness, profile="quick", phases=SOONEST, matching=lambda name, ids: proving not in ids and name != RANDOM
    )


@every_mutant
def test_the_scenarios_find_the_bug_and_name_the_promise_that_it_breaks(mutant: Mutant) -> None:
    findings = []

    with mutant.planted() as harness:
        for finding in scenarios(mutant, harness):
            if finding.status == "broken":
                findings.append(finding)
                if mutant.breaks.id in finding.promises:
                    return

    pytest.fail(f"{mutant.breaks} was not found broken, but {told(findings)}")


@pytest.mark.parametrize("mutant", [mutant for mutant in MUTANTS if mutant.by_chance], ids=lambda mutant: mutant.name)
def test_the_random_histories_alone_find_the_bug(mutant: Mutant) -> None:
    with mutant.planted() as harness:
        (finding,) = examine(harness, profile="quick", phases=SOONEST, matching=lambda name, _: name == RANDOM)

    assert finding.status == "broken"
