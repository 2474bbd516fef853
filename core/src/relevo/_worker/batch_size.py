"""The adaptive number of events that a worker receives at once."""

from __future__ import annotations

_SHORT, _LONG = 0.1, 0.5


class Pace:
    """
    Finds a batch size that is worth the round trip and hides few events from other workers.

    It begins with one, doubles while a full batch takes less than a tenth of a second, and halves when one
    takes more than half a second. A delivery with lost leases resets it to one, since it is handled alone
    and what is received with it has to be given back.

    Args:
        most: The largest batch.
    """

    def __init__(self, most: int):
        self._most = most
        self._limit = 1
        self._asked = 0
        self._came = 0
        self._at = 0.0

    def limit(self) -> int:
        """Return how many to receive now."""
        return self._limit

    def adapt(self, came: int, *, asked: int, now: float, suspect: bool = False) -> None:
        """
        Adapt the size to the batch that came.

        Args:
            came: The number of deliveries in it.

            asked: The number that was asked for.

            now: Monotonic seconds.

            suspect: One of them has lost leases.
        """
        took = now - self._at
        if suspect:
            self._limit = 1
        elif self._came and took > _LONG:
            self._limit = max(1, self._limit // 2)
        elif self._came >= self._asked > 0 and took < _SHORT:
            self._limit = min(self._most, self._limit * 2)
        self._asked, self._came, self._at = asked, came, now
