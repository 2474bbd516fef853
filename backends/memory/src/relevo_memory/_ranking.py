"""Numbers in the order of their ranks: the heap for each state of a queue."""

from __future__ import annotations

import heapq

Rank = tuple[float, int]

_SLACK = 64
"""This number of stale entries is tolerated without a sweep."""


class Ranking:
    """
    Numbers, each with a rank; the lowest rank comes first, and of equal ranks the lowest number.

    A number that is removed or ranked again leaves a stale entry in the heap, which is skipped when it comes first.
    Stale entries that stay long, such as the end of a lease that was settled long before, are removed when they
    outnumber the valid ones: every operation stays cheap, and the heap stays small.
    """

    def __init__(self) -> None:
        self._ranks: dict[int, Rank] = {}
        self._heap: list[tuple[Rank, int]] = []

    def __len__(self) -> int:
        return len(self._ranks)

    def put(self, number: int, rank: Rank) -> None:
        """Rank *number*; a rank that it has already is replaced."""
        if number in self._ranks:
            self.remove(number)
        self._ranks[number] = rank
        heapq.heappush(self._heap, (rank, number))

    def remove(self, number: int) -> None:
        """Forget *number*; nothing happens if it is not ranked."""
        self._ranks.pop(number, None)
        if len(self._heap) > 2 * len(self._ranks) + _SLACK:
            self._heap = [(rank, number) for number, rank in self._ranks.items()]
            heapq.heapify(self._heap)

    def first(self) -> tuple[Rank, int] | None:
        """Return the lowest rank and its number; ``None`` if nothing is ranked."""
        while self._heap:
            rank, number = self._heap[0]
            if self._ranks.get(number) == rank:
                return rank, number
            heapq.heappop(self._heap)
        return None
