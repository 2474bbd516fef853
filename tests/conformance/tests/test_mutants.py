"""The suite finds what it is there to find: every planted bug, under the profile of CI itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from relevo_conformance.mutant import Mutant, hunt_by_chance, hunt_by_scenarios

from .mutants import MUTANTS

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "mutants.md"
SECTION = PAGE.read_text().partition("\n## The memory transport\n")[2].partition("\n## ")[0]

SCENARIOS = dict(re.findall(r"^\| `(\w+)` \| .+? \| `[\w-]+` \| ([\w ]*) \|", SECTION, re.MULTILINE))
"""The test that found each bug in the last run, which is tried first."""

SHARE = 5
"""One of this many bugs of pairs is looked for in ``make test``, the others in ``make test-all``."""


def case(place: int, mutant: Mutant) -> object:
    """Return a case of a test."""
    return pytest.param(mutant, marks=[] if mutant.exactly or not place % SHARE else [pytest.mark.soak], id=mutant.name)


found_by_scenario = [case(place, mutant) for place, mutant in enumerate(MUTANTS)]
found_by_chance = [mutant for mutant in MUTANTS if mutant.by_chance]


@pytest.mark.parametrize("mutant", found_by_scenario)
def test_the_scenarios_find_the_bug_and_name_the_promise_that_it_breaks(mutant: Mutant) -> None:
    hunt = hunt_by_scenarios(mutant, first=f"test_{SCENARIOS.get(mutant.name, '')}".replace(" ", "_"))

    assert hunt.killer, f"{mutant.breaks} was not found broken, but {hunt}"


@pytest.mark.parametrize("mutant", found_by_chance, ids=lambda mutant: mutant.name)
def test_the_random_histories_alone_find_the_bug(mutant: Mutant) -> None:
    assert hunt_by_chance(mutant).killer


def test_each_bug_is_one_that_is_told_and_no_other_is() -> None:
    told = [mutant.wrong for mutant in MUTANTS]
    names = [mutant.name for mutant in MUTANTS]

    assert len(set(told)) == len(told) >= 200
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[A-Z][^\n]+\.", sentence) for sentence in told)


def test_the_page_lists_the_bugs_that_are_planted_in_the_memory_transport() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| `([\w-]+)` \|", SECTION, re.MULTILINE)

    planted = [(one.name, one.wrong, one.breaks.id) for one in MUTANTS]  # in the order of import
    assert sorted(rows) == sorted(planted), "make mutants rewrites it"
