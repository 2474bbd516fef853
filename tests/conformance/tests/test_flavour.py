"""Under standard each scenario is also played with other events than usual."""

from __future__ import annotations

import attrs
import pytest

from relevo_conformance._flavour import PLAIN, flavours
from relevo_conformance.examination import examine
from relevo_conformance.profile import PROFILES
from relevo_memory import MemoryTransport

from .memory import MemoryHarness
from .mutants_of_mechanisms import GuessesTheTypesOfHeaders, PutsNackedUrgentEventsInFront
from .planting import MUTANTS

QUICK = PROFILES["quick"]
LATER = "test_what_is_given_back_for_later_does_not_come_early"
FAIRLY = "test_an_event_comes_although_its_neighbour_fails_for_ever_and_more_are_sent"


@pytest.mark.parametrize(
    ("bug", "test", "words"),
    [(GuessesTheTypesOfHeaders, LATER, "odd texts"), (PutsNackedUrgentEventsInFront, FAIRLY, "urgent events")],
)
def test_a_bug_of_other_events_is_found_by_a_usual_scenario(bug: type, test: str, words: str) -> None:
    (mutant,) = (one for one in MUTANTS if one.name == bug.__name__)

    with mutant.plant() as harness:
        (quick,) = examine(harness, profile=QUICK, matching=lambda name, _: name == test)
        flavoured = attrs.evolve(QUICK, flavours=True)
        (standard,) = examine(harness, profile=flavoured, matching=lambda name, _: name == test)

    assert quick.status == "kept"
    assert standard.status == "broken"
    assert words in standard.what


def test_standard_plays_flavours_and_quick_does_not() -> None:
    assert {name: profile.flavours for name, profile in PROFILES.items()} == {
        "quick": False,
        "standard": True,
        "nightly": True,
    }


def test_a_flavour_needs_no_capability_that_is_not_claimed() -> None:
    modest = attrs.evolve(MemoryTransport.capabilities, order="none", urgency=False)

    fields = [dict(flavour.defaults("an id")) for flavour in flavours(modest)]

    assert all(one.get("ordering_key") is None and one.get("urgency", "normal") == "normal" for one in fields)
    assert PLAIN.defaults("an id") == {"id": "an id"}


def test_the_memory_transport_keeps_its_promises_with_each_flavour() -> None:
    flavoured = attrs.evolve(QUICK, flavours=True)

    findings = list(examine(MemoryHarness, profile=flavoured, matching=lambda name, _: name in (LATER, FAIRLY)))

    assert [one.status for one in findings] == ["kept", "kept"]
