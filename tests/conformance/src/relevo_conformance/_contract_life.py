"""Scenarios of long lives: one event, and all operations of its holder, in each order."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from random import Random

from relevo_conformance._life import KINDS, OPERATIONS, Life, operations_of, walks
from relevo_conformance.bench import Bench, tolerated
from relevo_conformance.contract import Contract

_LENGTH = 25
"""The number of operations in a life."""

Walk = tuple[str, Sequence[str]]
"""The kind of the event, and the names of the operations."""


class LifeContract(Contract):
    """Whatever the holder does after whatever it did before."""

    def test_each_operation_after_each_other_keeps_every_promise(self) -> None:
        seed = secrets.randbelow(10**9) if self.profile.seed is None else self.profile.seed
        names = operations_of(self.harness)
        found = walks(names, strength=self.profile.operations, length=_LENGTH, rng=Random(seed))  # noqa: S311 - no secret
        kinds = [kind for kind in KINDS if self._can_be(kind)]
        lives = zip(cycle(kinds), found, strict=False)
        most = None if self.harness.is_prompt else 0 if self.harness.fake else self.profile.slow_lives
        self.each(islice(lives, most), self._try_life)

    def _try_life(self, walk: Walk) -> None:
        """Live *walk*; if it breaks a promise, name the operations that are needed."""
        self.play(walk, self._live, in_words=told, simpler=map(without, reversed(range(_LENGTH))))

    def _can_be(self, kind: str) -> bool:
        claimed = self.harness.capabilities
        match kind:
            case "an urgent event":
                return claimed.urgency
            case "an event with a key":
                return claimed.order == "per key"
            case "foreign bytes":
                return self.harness.has("put_raw")
            case _:
                return True

    def _live(self, walk: Walk) -> None:
        kind, operations = walk
        with Bench(self.harness, queues=2, tolerated=tolerated(self.harness)) as bench:
            life = Life(bench, kind)
            for operation in operations:
                OPERATIONS[operation].act(life)
            life.finish()


def without(place: int) -> Callable[[Walk], Walk]:
    """Return a function that leaves out the operation at *place*."""
    return lambda walk: (walk[0], [*walk[1][:place], *walk[1][place + 1 :]])


def told(walk: Walk) -> str:
    """Return *walk* in words."""
    return f"{walk[0]}: {', '.join(walk[1])}"
