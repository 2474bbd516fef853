"""The table of pairs is covered, and a bug in a pair of features is found and told in words."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from random import Random

import attrs
import pytest

from relevo import Envelope
from relevo_conformance._contract_pair import PairContract
from relevo_conformance._cover import combos, cover
from relevo_conformance._pair import DANGEROUS, FACTORS, fits, in_words, pairs_of, pairs_that_can_exist, rows
from relevo_conformance.harness import Observed
from relevo_conformance.profile import PROFILES, Profile
from relevo_conformance.verdict import BrokenPromiseError
from relevo_memory import MemoryTransport

from .memory import MemoryHarness


def chance(seed: int) -> Random:
    return Random(seed)  # noqa: S311 - it decides what is tested


LETTERS = {"a": (1, 2, 3), "b": (10, 20), "c": (100, 200, 300), "d": (1000, 2000)}
QUICK = PROFILES["quick"]


def apart(one: int, other: int) -> bool:
    """Two and two hundred never meet."""
    return {one, other} != {2, 200}


@pytest.mark.parametrize("strength", [2, 3])
def test_a_cover_has_each_combination_that_can_exist_and_no_other(strength: int) -> None:
    found = list(cover(LETTERS, strength=strength, fits=apart, rng=chance(1)))

    met = {frozenset(some) for row in found for some in combinations(row.items(), strength)}
    assert met == set(combos(LETTERS, strength, apart))
    assert all(list(row) == list(LETTERS) for row in found)
    assert len(found) < 3 * 3 * 3


def test_a_cover_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    first, again, other = (list(cover(LETTERS, fits=apart, rng=chance(seed))) for seed in (1, 1, 2))

    assert first == again != other


def test_a_cover_of_some_factors_gives_the_others_any_level() -> None:
    found = list(cover(LETTERS, of=("a", "b"), fits=apart, rng=chance(1)))

    assert len(found) == 6
    assert {row["c"] for row in found} > {100}


def test_the_usual_level_of_each_factor_fits_all_others_and_needs_nothing() -> None:
    for name, levels in FACTORS.items():
        others = [level for other in FACTORS if other != name for level in FACTORS[other]]

        assert levels[0].needs(MemoryHarness())
        assert all(fits(levels[0], other) for other in others), name


def test_what_never_meets_exists() -> None:
    words = {level.words for levels in FACTORS.values() for level in levels}

    assert all(level.never_with <= words for levels in FACTORS.values() for level in levels)
    assert set(DANGEROUS) <= set(FACTORS)


def test_the_rows_meet_all_pairs_that_can_exist() -> None:
    harness = MemoryHarness()

    met = {pair for row in rows(harness, QUICK, chance(1)) for pair in pairs_of(row)}

    assert met == set(pairs_that_can_exist(harness))


def test_standard_looks_at_other_things_than_quick() -> None:
    quick, standard = PROFILES["quick"], PROFILES["standard"]

    assert standard.covers > quick.covers
    assert standard.triples > quick.triples == 0
    assert standard.slow_rows > quick.slow_rows


class IgnoresTheDelayOfUrgentEvents(MemoryTransport):
    """Two features that work alone, and not together."""

    def send(self, envelopes: Sequence[Envelope], *, delay: float = 0.0) -> None:
        for envelope in envelopes:
            super().send([envelope], delay=0.0 if envelope.urgency == "high" else delay)


class BrokenHarness(MemoryHarness):
    transport = IgnoresTheDelayOfUrgentEvents


def examined(harness: type[MemoryHarness], profile: Profile = QUICK) -> PairContract:
    class Tests(PairContract):
        harness_type = harness

    Tests.profile = profile

    Tests.setup_class()
    return Tests()


def test_a_bug_in_a_pair_is_found_and_told_by_the_fewest_features() -> None:
    with pytest.raises(BrokenPromiseError) as raised:
        examined(BrokenHarness).test_each_pair_of_features_keeps_every_promise()

    case, _, _ = str(raised.value).partition(":\n")
    assert "urgency: urgent" in case
    assert "delay: a " in case
    assert case.count(";") <= 2, case


def test_the_pairs_that_were_met_are_noted() -> None:
    observed = Observed()
    few = attrs.evolve(QUICK, rows=100)

    examined(MemoryHarness.watched(observed), few).test_each_pair_of_features_keeps_every_promise()

    assert len(observed.pairs) > 1000
    assert 500 < sum(observed.pairs.values()) < len(observed.pairs)


def test_a_row_is_told_by_its_unusual_levels() -> None:
    usual = {name: levels[0] for name, levels in FACTORS.items()}

    assert in_words(usual) == "the usual"
    assert in_words({**usual, "urgency": FACTORS["urgency"][1]}) == "urgency: urgent"
