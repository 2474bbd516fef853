"""The suite finds the bugs that are planted in the RabbitMQ transport, too."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from relevo_conformance.mutant import Mutant, hunt_by_scenarios

from .mutants import MUTANTS, NOT_FOUND

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "mutants.md"
SECTION = PAGE.read_text().partition("\n## The RabbitMQ transport\n")[2].partition("\n## ")[0]

SCENARIOS = dict(re.findall(r"^\| `(\w+)` \| .+? \| `[\w-]+` \| ([\w ]*) \|", SECTION, re.MULTILINE))
"""The test that found each bug in the last run, which is tried first."""

found = [mutant for mutant in MUTANTS if mutant.name not in NOT_FOUND]


@pytest.mark.conformance
@pytest.mark.soak
@pytest.mark.usefixtures("rabbitmq_url")
@pytest.mark.parametrize("mutant", found, ids=lambda mutant: mutant.name)
def test_the_scenarios_find_the_bug_and_name_the_promise_that_it_breaks(mutant: Mutant) -> None:
    hunt = hunt_by_scenarios(mutant, first=f"test_{SCENARIOS.get(mutant.name, '')}".replace(" ", "_"))

    assert hunt.killer, f"{mutant.breaks} was not found broken, but {hunt}"


def test_each_bug_is_one_that_is_told_and_no_other_is() -> None:
    told = [mutant.wrong for mutant in MUTANTS]
    names = [mutant.name for mutant in MUTANTS]

    assert len(set(told)) == len(told) >= 30
    assert len(set(names)) == len(names)
    assert set(names) >= NOT_FOUND
    assert all(re.fullmatch(r"[A-Z][^\n]+\.", sentence) for sentence in told)


def test_the_page_lists_the_bugs_that_are_planted_in_the_rabbitmq_transport() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| `([\w-]+)` \|", SECTION, re.MULTILINE)

    planted = [(one.name, one.wrong, one.breaks.id) for one in MUTANTS]  # in the order of import
    assert sorted(rows) == sorted(planted), "make mutants rewrites it"
