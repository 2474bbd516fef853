"""Counts, and the removal of events that no worker holds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import sqlalchemy as sa

from relevo import Clock, Found, Stats
from relevo_sql._database import Database
from relevo_sql._row import found_of, stray_flaw
from relevo_sql._settle import advance
from relevo_sql._statement import Prepared

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
        sent = [time for time in (row[1], row[4], row[7], row[10], row[13]) if isinstance(time, int)]
        ready, leased, ended, scheduled, due, waiting, late, dead = (row[i] for i in (0, 2, 3, 5, 6, 8, 9, 11))
        endless, strays, strays_held, strays_later = (row[i] for i in (12, 14, 15, 16))
        over = ended + endless
        return Stats(
            ready=ready + over + due + late + strays,
            leased=leased - over - strays_held,
            scheduled=scheduled - due + waiting - late - strays_later,
            dead=dead,
            oldest_age=max(0.0, (now - min(sent)) / 1_000_000) if sent else None,
        )

    def problems(self, queues: Sequence[str]) -> list[str]:
        """Return why rows of *queues* cannot be handed out as they are; rows without a queue are reported once."""
        flaws: dict[tuple[str, str], set[int]] = {}

        def look(connection: sa.Connection) -> None:
            flaws.clear()
            seen, now = set[int](), self._now()
            for queue in queues:
                for row in self._statements.strays.run(connection, queue=queue, bound=_BOUND, now=now):
                    if row[0] not in seen:
                        seen.add(row[0])
                        flaws.setdefault((queue, stray_flaw(row)), set()).add(row[0])

        self._database.read(look)
        return [
            f'the queue "{queue}": {len(seqs)} of its rows cannot be handed out as they are: {flaw} '
            f"(the first has seq {min(seqs)}); the next worker makes them dead letters"
            for (queue, flaw), seqs in flaws.items()
        ]

    def find(self, event_id: str) -> list[Found]:
        """Return the living events of *event_id*; what time has made ready is ready, looked at or not."""
        now = self._now()
        rows: Any = self._database.read(lambda c: self._statements.find.run(c, id=event_id).all())
        found = (found_of(row, now) for row in rows)
        return [each for each in found if each is not None]

    def cancel(self, event_id: str) -> int:
        """Take out the events of *event_id* that nobody holds; return how many."""
        return self._database.write(lambda c: self._take_out(c, self._statements.cancel, id=event_id), durable=True)

    def purge(self, queue: str) -> int:
        """Take out all events of *queue* that nobody holds now; return how many."""
        last = self._database.read(lambda c: self._statements.last.run(c).scalar()) or 0
        taken = 0
        for statement in (*self._statements.purge.values(), self._statements.purge_strays):
            some = partial(self._take_out, statement=statement, queue=queue, last=last, bound=_BOUND)
            count = _BOUND
            while count == _BOUND:
                count = self._database.write(some, durable=True)
                taken += count
        return taken

    def _take_out(self, connection: sa.Connection, statement: Prepared, **values: object) -> int:
        now = self._now()
        lines: Any = statement.run(connection, now=now, **values).all()
        # Who waited behind one of them may have its turn now.
        advance(connection, self._statements, lines, now)
        return len(lines)

    def _now(self) -> int:
        return self._database.dialect.now(self._clock)
