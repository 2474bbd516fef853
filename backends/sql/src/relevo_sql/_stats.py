"""Counts, and the removal of events that no worker holds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import sqlalchemy as sa

from relevo import Clock, Found, Stats
from relevo_sql._database import Database
from relevo_sql._prepared import Prepared
from relevo_sql._row import FOUND, Kept, Stray, found_of, stray_flaw, warn_if_unreadable
from relevo_sql._settle import advance

_KEPT = slice(FOUND.index(Kept._fields[0]), FOUND.index(Kept._fields[-1]) + 1)

_BOUND = 10_000
"""How many rows one transaction of a purge deletes, so that other writers do not wait for long."""


class _Figures(NamedTuple):
    """
    The counts of a queue, as the statement ``stats`` returns them.

    Each ``oldest`` is when the oldest of the rows counted before it was sent.
    """

    ready: int
    oldest_ready: Any
    leased: int
    over: int
    """Of the leased ones, those whose lease has ended; likewise the parts of the scheduled and the waiting ones."""

    oldest_over: Any
    scheduled: int
    due: int
    oldest_due: Any
    waiting: int
    late: int
    oldest_late: Any
    dead: int
    endless: int
    oldest_endless: Any
    strays: int
    strays_held: int
    strays_later: int

    @property
    def oldest(self) -> int | None:
        """When the oldest event that is ready was sent."""
        sent = (self.oldest_ready, self.oldest_over, self.oldest_due, self.oldest_late, self.oldest_endless)
        return min((time for time in sent if isinstance(time, int)), default=None)


class Counter:
    """Counts the events of a queue, and removes events without handing them out."""

    def __init__(self, database: Database, clock: Clock):
        self._database = database
        self._statements = database.statements
        self._clock = clock

    def stats(self, queue: str) -> Stats:
        """Return how many events *queue* holds; an event that is due counts as ready."""
        now = self._now()
        row: Any = self._database.read(lambda c: self._statements.stats.run(c, queue=queue, now=now).one())
        found = _Figures._make(row)
        over, oldest = found.over + found.endless, found.oldest
        return Stats(
            ready=found.ready + over + found.due + found.late + found.strays,
            leased=found.leased - over - found.strays_held,
            scheduled=found.scheduled - found.due + found.waiting - found.late - found.strays_later,
            dead=found.dead,
            oldest_age=None if oldest is None else max(0.0, (now - oldest) / 1_000_000),
        )

    def problems(self, queues: Sequence[str]) -> list[str]:
        """Return why rows of *queues* cannot be handed out as they are; rows without a queue are reported once."""
        flaws: dict[tuple[str, str], set[int]] = {}

        def look(connection: sa.Connection) -> None:
            flaws.clear()
            seen, now = set[int](), self._now(connection)
            for queue in queues:
                rows: Any = self._statements.strays.run(connection, queue=queue, bound=_BOUND, now=now)
                for row in map(Stray._make, rows):
                    if row.seq not in seen:
                        seen.add(row.seq)
                        flaws.setdefault((queue, stray_flaw(row)), set()).add(row.seq)

        self._database.read(look)
        return [
            f'the queue "{queue}": {len(seqs)} of its rows cannot be handed out as they are: {flaw} '
            f"(the first has seq {min(seqs)}); the next worker makes them dead letters"
            for (queue, flaw), seqs in flaws.items()
        ]

    def find(self, event_id: str) -> list[Found]:
        """Return the living events of *event_id*; an event that is due counts as ready."""
        if not self._database.dialect.can_hold(event_id):
            return []
        now = self._now()
        rows: Any = self._database.read(lambda c: self._statements.find.run(c, id=event_id).all())
        for row in rows:
            warn_if_unreadable(self._database.name, event_id, row[_KEPT])
        found = (found_of(row, now) for row in rows)
        return [each for each in found if each is not None]

    def cancel(self, event_id: str) -> int:
        """Remove the events of *event_id* that no worker holds; return how many."""
        if not self._database.dialect.can_hold(event_id):
            return 0
        return self._database.write(lambda c: self._take_out(c, self._statements.cancel, id=event_id), durable=True)

    def purge(self, queue: str) -> int:
        """Remove all events of *queue* that no worker holds now; return how many."""
        last = self._database.read(lambda c: self._statements.last.run(c).scalar()) or 0
        taken = self._purge_once(queue, last)
        while count := self._purge_once(queue, last):  # what a receive has brought up to date meanwhile
            taken += count
        return taken

    def _purge_once(self, queue: str, last: int) -> int:
        """Remove the events of *queue* up to the key *last*, one state after the other."""
        taken = 0
        for statement in (*self._statements.purge.values(), self._statements.purge_strays):
            some = partial(self._take_out, statement=statement, queue=queue, last=last, bound=_BOUND)
            while count := self._database.write(some, durable=True):
                taken += count
        return taken

    def _take_out(self, connection: sa.Connection, statement: Prepared, **values: object) -> int:
        now = self._now(connection)
        lines = statement.rows(connection, now=now, **values)
        # Events that waited behind one of them may have their turn now.
        advance(connection, self._database, lines, now)
        return len(lines)

    def _now(self, connection: sa.Connection | None = None) -> int:
        return self._database.now(self._clock, connection)
