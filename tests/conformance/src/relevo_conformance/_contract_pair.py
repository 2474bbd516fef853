"""Pairs on purpose: an event with two features that are seldom tested together."""

from __future__ import annotations

import secrets
from random import Random

from hypothesis import Phase

from relevo_conformance._pair import FACTORS, Row, in_words, pairs_of, pairs_that_can_exist, rows
from relevo_conformance._play import Play
from relevo_conformance.bench import Bench, tolerated
from relevo_conformance.contract import Contract
from relevo_conformance.harness import HookMissing
from relevo_conformance.verdict import BrokenPromiseError


class PairContract(Contract):
    """Each pair of features, in a short history."""

    def test_each_pair_of_features_keeps_every_promise(self) -> None:
        seed = secrets.randbelow(10**9) if self.profile.seed is None else self.profile.seed
        observed = self.harness.observed
        if observed is not None:
            observed.expect_pairs(pairs_that_can_exist(self.harness))
        rng = Random(seed)  # noqa: S311 - decides what is tested
        self.each(rows(self.harness, self.profile, rng), self._try)

    def _try(self, row: Row) -> None:
        """Play *row*; if it breaks a promise, look for the fewest features that break it."""
        try:
            self._play_once(row)
        except HookMissing:  # this store has no place for headers of foreign bytes
            return
        except BrokenPromiseError as error:
            raise error.of(in_words(self._shrunk(row, error))) from error
        if self.harness.observed is not None:
            self.harness.observed.meet_pairs(pairs_of(row))

    def _play_once(self, row: Row) -> None:
        suffixes = (*row["twin"].value.suffixes, "-third")
        with Bench(self.harness, names=suffixes, tolerated=tolerated(self.harness)) as bench:
            Play(bench, row).run()

    def _shrunk(self, row: Row, error: BrokenPromiseError) -> Row:
        """Return *row* with the usual level of each factor for which it breaks one of the promises that it broke."""
        if not self.harness.fake or not self._may_shrink:
            return row
        for name in reversed([*FACTORS]):
            simpler = {**row, name: FACTORS[name][0]}
            if simpler != row and self._breaks(simpler, error):
                row = simpler
        self._breaks(row, error)  # so that its history is the last one
        return row

    def _breaks(self, row: Row, error: BrokenPromiseError) -> bool:
        try:
            self._play_once(row)
        except BrokenPromiseError as another:
            return another.violations[0].promise == error.violations[0].promise
        except Exception:  # noqa: BLE001 - another row, which proves nothing
            return False
        return False

    @property
    def _may_shrink(self) -> bool:
        return self.phases is None or Phase.shrink in self.phases
