"""The suite finds what it is there to find: every planted bug, under the profile of CI itself."""

from __future__ import annotations

import pytest

from page_of_mutants import differences, finder_of, known_rows
from relevo_conformance.mutant import Mutant, hunt_by_chance, hunt_by_scenarios

from .mutants import MUTANTS

SHARE = 5
"""
One of this many bugs is looked for in ``make test``, the others in ``make test-all``.

That holds for bugs of pairs, and for what random histories or :data:`LONG` find: they take the longest.
"""

LONG = ("test_each_pair_of_features_", "test_a_wait_on_several_queues_")
"""How the names of tests begin that take long until they find a bug."""

SEEDS = 5
"""With how many seeds ``make mutants`` looks for each bug."""


def case(place: int, mutant: Mutant, *, always: bool) -> object:
    """Return a case of a test, which runs in ``make test`` *always* or for one of :data:`SHARE`."""
    return pytest.param(mutant, marks=[] if always or not place % SHARE else [pytest.mark.soak], id=mutant.name)


# A bug of pairs that not every seed of quick finds is left to the standard profile.
found_by_scenario = [
    case(place, mutant, always=mutant.exactly and not finder_of("memory", mutant).startswith(LONG))
    for place, mutant in enumerate(MUTANTS)
    if mutant.exactly or known_rows()["memory", mutant.name].is_found("quick", SEEDS)
]
by_chance = [mutant for mutant in MUTANTS if mutant.by_chance]
found_by_chance = [case(place, mutant, always=False) for place, mutant in enumerate(by_chance)]


@pytest.mark.parametrize("mutant", found_by_scenario)
def test_the_scenarios_find_the_bug_and_name_the_promise_that_it_breaks(mutant: Mutant) -> None:
    hunt = hunt_by_scenarios(mutant, first=finder_of("memory", mutant))

    assert hunt.killer, f"{mutant.breaks} was not found broken, but {hunt}"


@pytest.mark.parametrize("mutant", found_by_chance)
def test_the_random_histories_alone_find_the_bug(mutant: Mutant) -> None:
    assert hunt_by_chance(mutant).killer


def test_the_page_lists_these_bugs_and_no_others() -> None:
    assert list(differences("memory", MUTANTS)) == []
    assert len(MUTANTS) >= 200
