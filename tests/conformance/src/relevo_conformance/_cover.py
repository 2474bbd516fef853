"""Covering arrays: few rows that contain each combination of the levels of any two, or any three, factors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, combinations, product
from random import Random
from typing import Generic, TypeVar

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
    missing = _Missing(covered, strength, todo)
    excluded = _excluded(factors, fits)
    while todo:
        seed = todo.pop()
        if seed not in missing:
            continue
        row = dict(sorted(seed))
        for name in rng.sample(list(factors), len(factors)):
            if name not in row:
                allowed = [one for one in factors[name] if excluded[one].isdisjoint(row.values())]
                rng.shuffle(allowed)
                before = [cell for cell in row.items() if cell[0] in covered]
                row[name] = max(allowed, key=missing.gain(before, name)) if name in covered else allowed[0]
        missing.remove([cell for cell in row.items() if cell[0] in covered])
        yield {name: row[name] for name in factors}


def _excluded(
    factors: Mapping[str, Sequence[Level]], fits: Callable[[Level, Level], bool]
) -> Mapping[Level, frozenset[Level]]:
    """Return for each level the levels that it does not fit."""
    levels = list(chain.from_iterable(factors.values()))
    return {one: frozenset(other for other in levels if not fits(one, other)) for one in levels}


class _Missing(Generic[Level]):
    """
    The combinations that no row has yet.

    Each cell has a bit. For all but one cell of a combination, one number has the bits of the cells that complete it.
    """

    def __init__(
        self, factors: Mapping[str, Sequence[Level]], strength: int, todo: Iterable[frozenset[Cell[Level]]]
    ) -> None:
        cells = ((name, level) for name, levels in factors.items() for level in levels)
        self._bits = {cell: 1 << place for place, cell in enumerate(cells)}
        self._strength = strength
        self._last: defaultdict[int, int] = defaultdict(int)
        for combination in todo:
            bits = self._of(combination)
            for cell in combination:
                self._last[bits - self._bits[cell]] |= self._bits[cell]

    def __contains__(self, combination: frozenset[Cell[Level]]) -> bool:
        last = self._bits[next(iter(combination))]
        return bool(self._last.get(self._of(combination) - last, 0) & last)

    def gain(self, before: Sequence[Cell[Level]], name: str) -> Callable[[Level], int]:
        """
        Return what rates a level of the factor *name* by the missing combinations that it completes with *before*.

        It counts each combination once for each choice of its last cell, which is the same number for all.
        """
        row = self._of(before)
        others = [self._of(cells) for cells in combinations(before, self._strength - 2)]

        def rate(level: Level) -> int:
            own = self._bits[name, level]
            return sum((self._last.get(other + own, 0) & row).bit_count() for other in others)

        return rate

    def remove(self, row: Sequence[Cell[Level]]) -> None:
        """Forget all combinations of cells of *row*."""
        bits = self._of(row)
        for cells in combinations(row, self._strength - 1):
            self._last[self._of(cells)] &= ~bits

    def _of(self, cells: Iterable[Cell[Level]]) -> int:
        return sum(map(self._bits.__getitem__, cells))
