"""Pairs on purpose: an event with two features that are seldom tested together."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from random import Random

from relevo_conformance._pair import FACTORS, Row, in_words, pairs_of, pairs_that_can_exist, rows, try_foreign_headers
from relevo_conformance._play import Play
from relevo_conformance.bench import Bench, tolerated
from relevo_conformance.contract import Contract


class PairContract(Contract):
    """Each pair of features, in a short history."""

    def test_each_pair_of_features_keeps_every_promise(self) -> None:
        seed = secrets.randbelow(10**9) if self.profile.seed is None else self.profile.seed
        try_foreign_headers(self.harness)
        observed = self.harness.observed
        if observed is not None:
            observed.expect_pairs(pairs_that_can_exist(self.harness))
        rng = Random(seed)  # noqa: S311 - decides what is tested
        self.each(rows(self.harness, self.profile, rng), self._try_row)

    def _try_row(self, row: Row) -> None:
        """Play *row*; if it breaks a promise, name the fewest features that break it."""
        self.play(row, self._play_row, in_words=in_words, simpler=map(usual, reversed([*FACTORS])))
        if self.harness.observed is not None:
            self.harness.observed.meet_pairs(pairs_of(row))

    def _play_row(self, row: Row) -> None:
        suffixes = (*row["twin"].value.suffixes, "-third")
        with Bench(self.harness, names=suffixes, tolerated=tolerated(self.harness)) as bench:
            Play(bench, row).run()


def usual(name: str) -> Callable[[Row], Row]:
    """Return a function that sets the factor *name* to its usual level."""
    return lambda row: {**row, name: FACTORS[name][0]}
