"""Numbers in the order of their ranks: the heap under each state of a queue."""

from __future__ import annotations

import heapq

Rank = tuple[float, int]

_SLACK = 64
"""So many stale traces are never worth a sweep."""


class Ranking:
    """
    Numbers, each with a rank; the lowest rank comes first, of equals the lowest number.

    What is taken out, or ranked again, leaves a trace in the heap that is skipped when it comes up.
    Traces that do not come up soon, such as the end of a lease that was settled long before, are swept
    when they outnumber the living: every operation stays cheap, and nothing grows.
    """

    def __init__(self) -> None:
        self._ranks: dict[int, Rank] = {}
        self._heap: list[tuple[Rank, int]] = []

    def __len__(self) -> int:
        return len(self._ranks)

    def put(self, number: int, rank: Rank) -> None:
        """Rank *number*, again if it has a rank already."""
        self._ranks[number] = rank
        heapq.heappush(self._heap, (rank, number))
        if len(self._heap) > 2 * len(self._ranks) + _SLACK:
            self._heap = [(rank, number) for number, rank in self._ranks.items()]
            heapq.heapify(self._heap)

    def remove(self, number: int) -> None:
        """Forget *number*; nothing happens if it is not ranked."""
        self._ranks.pop(number, None)

    def first(self) -> tuple[Rank, int] | None:
        """Return the lowest rank and whose it is; ``None`` if nothing is ranked."""
        while self._heap:
            rank, number = self._heap[0]
            if self._ranks.get(number) == rank:
                return rank, number
            heapq.heappop(self._heap)
        return None
