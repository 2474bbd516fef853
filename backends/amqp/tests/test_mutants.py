"""The suite finds the bugs that are planted in the RabbitMQ transport, too."""

from __future__ import annotations

import pytest

from page_of_mutants import differences, finder_of
from relevo_conformance.mutant import Mutant, hunt_by_scenarios

from .mutants import MUTANTS, NOT_FOUND

found = [mutant for mutant in MUTANTS if mutant.name not in NOT_FOUND]


@pytest.mark.conformance
@pytest.mark.soak
@pytest.mark.usefixtures("rabbitmq_url")
@pytest.mark.parametrize("mutant", found, ids=lambda mutant: mutant.name)
def test_the_scenarios_find_the_bug_and_name_the_promise_that_it_breaks(mutant: Mutant) -> None:
    hunt = hunt_by_scenarios(mutant, first=finder_of("RabbitMQ", mutant))

    assert hunt.killer, f"{mutant.breaks} was not found broken, but {hunt}"


def test_the_page_lists_these_bugs_and_no_others() -> None:
    assert list(differences("RabbitMQ", MUTANTS)) == []
    assert len(MUTANTS) >= 30


def test_the_bugs_that_nothing_finds_are_among_them() -> None:
    assert {mutant.name for mutant in MUTANTS} >= NOT_FOUND
