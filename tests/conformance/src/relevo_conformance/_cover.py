"""Covering arrays: few rows that contain each combination of the levels of any two, or any three, factors."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations, product
from random import Random
from typing import TypeVar

Level = TypeVar("Level", bound=Hashable)

Cell = tuple[str, Level]
"""A factor and one of its levels."""


def combos(
    factors: Mapping[str, Sequence[Level]], strength: int, fits: Callable[[Level, Level], bool]
) -> Iterator[frozenset[Cell[Level]]]:
    """Yield each combination of the levels of *strength* factors that can exist."""
    for names in combinations(factors, strength):
        for levels in product(*(factors[name] for name in names)):
            if all(fits(one, other) for one, other in combinations(levels, 2)):
                yield frozenset(zip(names, levels, strict=True))


def cover(
    factors: Mapping[str, Sequence[Level]],
    *,
    strength: int = 2,
    of: Sequence[str] = (),
    fits: Callable[[Level, Level], bool],
    rng: Random,
) -> Iterator[Mapping[str, Level]]:
    """
    Yield rows, a level for each factor, that together contain each combination which can exist.

    A greedy search: each row begins with a combination that is missing, and each further level is the one that adds the
    most. It is not the smallest cover, and the same for the same state of *rng*.

    Args:
        factors: The levels of each factor. The first level fits all others, so that any row can be completed.

        strength: The number of factors in a combination.

        of: The factors whose combinations must be covered; all by default. Others get levels by chance.

        fits: Whether two levels can be in one row.

        rng: Where chance comes from.
    """
    covered = {name: factors[name] for name in of or factors}
    todo = list(combos(covered, strength, fits))
    rng.shuffle(todo)
    missing = set(todo)
    while todo:
        seed = todo.pop()
        if seed not in missing:
            continue
        row = dict(sorted(seed))
        for name in rng.sample(list(factors), len(factors)):
            if name not in row:
                allowed = [one for one in factors[name] if all(fits(one, other) for other in row.values())]
                rng.shuffle(allowed)
                before = [cell for cell in row.items() if cell[0] in covered and name in covered]
                row[name] = max(allowed, key=partial(_gain, before, name, strength=strength, missing=missing))
        cells = [cell for cell in row.items() if cell[0] in covered]
        missing.difference_update(map(frozenset, combinations(cells, strength)))
        yield {name: row[name] for name in factors}


def _gain(
    before: Sequence[Cell[Level]], name: str, level: Level, *, strength: int, missing: set[frozenset[Cell[Level]]]
) -> int:
    """Return how many missing combinations *level* of the factor *name* completes in a row with the cells *before*."""
    return sum(frozenset((*others, (name, level))) in missing for others in combinations(before, strength - 1))
