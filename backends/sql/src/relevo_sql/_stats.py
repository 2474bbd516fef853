"""Counting, and taking out what nobody holds."""

from __future__ import annotations

from typing import Any

from relevo import Clock, Stats
from relevo_sql._database import Database
from relevo_sql._schema import LEASED, READY, SCHEDULED

_BOUND = 10_000
"""How many rows one transaction of a purge deletes, so that other writers have their turn."""


class Counter:
    """Figures of a queue, and what takes events out of it without handing them out."""

    def __init__(self, database: Database, clock: Clock):
        self._database = database
        self._statements = database.statements
        self._clock = clock

    def stats(self, queue: str) -> Stats:
        """Return how many events *queue* holds; what time has made ready is ready, looked at or not."""
        now = self._now()
        row: Any = self._database.read(lambda c: self._statements.stats.run(c, queue=queue, now=now).one())
        ready, oldest, leased, over, oldest_over, scheduled, due, oldest_due, dead = row
        sent = [time for time in (oldest, oldest_over, oldest_due) if isinstance(time, int)]
        return Stats(
            ready=ready + over + due,
            leased=leased - over,
            scheduled=scheduled - due,
            dead=dead,
            oldest_age=max(0.0, (now - min(sent)) / 1_000_000) if sent else None,
        )

    def cancel(self, event_id: str) -> int:
        """Take out the events of *event_id* that nobody holds; return how many."""
        return self._database.write(
            lambda c: self._statements.cancel.run(c, id=event_id, now=self._now()).rowcount, durable=True
        )

    def purge(self, queue: str) -> int:
        """Take out all events of *queue* that nobody holds now; return how many."""
        last = self._database.read(lambda c: self._statements.last.run(c).scalar()) or 0
        taken = 0
        for state in (READY, SCHEDULED, LEASED):
            statement = self._statements.purge[state]
            count = _BOUND
            while count == _BOUND:
                count = self._database.write(
                    lambda c: statement.run(c, queue=queue, now=self._now(), last=last, bound=_BOUND).rowcount,  # noqa: B023 - used up at once
                    durable=True,
                )
                taken += count
        return taken

    def _now(self) -> int:
        return self._database.dialect.now(self._clock)
