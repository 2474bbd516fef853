"""
The scenarios find the bugs that are planted in the SQL transport, too.

Random histories look for them in ``make mutants``, which ``make test-all`` runs.
"""

from __future__ import annotations

import pytest

from page_of_mutants import differences, finder_of
from relevo_conformance.mutant import Mutant, hunt_by_scenarios

from .mutants import MUTANTS


def case(mutant: Mutant) -> object:
    """Return a case of a test; a bug of pairs takes minutes, so ``make test-all`` looks for those."""
    return pytest.param(mutant, marks=[] if mutant.exactly else [pytest.mark.soak], id=mutant.name)


found_by_scenario = [case(mutant) for mutant in MUTANTS]


@pytest.mark.conformance
@pytest.mark.parametrize("mutant", found_by_scenario)
def test_the_scenarios_find_the_bug_and_name_the_promise_that_it_breaks(mutant: Mutant) -> None:
    hunt = hunt_by_scenarios(mutant, first=finder_of("SQL", mutant))

    assert hunt.killer, f"{mutant.breaks} was not found broken, but {hunt}"


def test_the_page_lists_these_bugs_and_no_others() -> None:
    assert list(differences("SQL", MUTANTS)) == []
    assert len(MUTANTS) >= 60
