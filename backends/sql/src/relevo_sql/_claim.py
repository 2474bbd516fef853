"""Receiving: a look that disturbs nobody, and a claim only where it found something."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import sqlalchemy as sa

from relevo import Clock, Delivery
from relevo_sql._database import Database
from relevo_sql._fork import new_token
from relevo_sql._row import CLAIMED, EVIDENCE, delivery_of, micros, place_of

_BOUND = 1000
"""How many rows that are due, or whose lease is past, one claim moves; never fewer than it hands out."""

_BEGUN, _DEATHS = (len(CLAIMED) + EVIDENCE.index(name) for name in ("begun", "deaths"))


@attrs.frozen
class Prospect:
    """What a queue holds."""

    queue: str
    ready: bool
    due: int | None
    """When its next delay ends, in microseconds since the epoch."""

    lease_end: int | None
    """When its next lease ends."""

    def worthwhile(self, now: int) -> bool:
        """Return whether a claim would find something."""
        return self.ready or _is_past(self.due, now) or _is_past(self.lease_end, now)


@attrs.frozen
class Claim:
    """What one try to receive brought."""

    deliveries: Sequence[Delivery]
    next_change: int | None = None
    """When time alone will next make something ready, in microseconds since the epoch."""


class Claimer:
    """Takes events out of queues."""

    def __init__(self, database: Database, clock: Clock):
        self._database = database
        self._statements = database.statements
        self._clock = clock

    def claim(self, queues: Sequence[str], *, limit: int, lease: float) -> Claim:
        """Lease up to *limit* ready events for *lease* seconds."""
        prospects = self._database.read(lambda connection: self._look(connection, queues))
        now = self._now()
        promising = [prospect for prospect in prospects if prospect.worthwhile(now)]
        if not promising:
            ends = [end for p in prospects for end in (p.due, p.lease_end) if type(end) is int]
            return Claim((), min(ends, default=None))
        return Claim(self._database.write(lambda connection: self._take(connection, promising, limit, lease)))

    def _now(self) -> int:
        return self._database.dialect.now(self._clock)

    def _look(self, connection: sa.Connection, queues: Sequence[str]) -> list[Prospect]:
        found: Any = self._statements.look.run(connection, queues=self._database.dialect.listed(queues))
        return [Prospect(queue, bool(ready), due, end) for queue, ready, due, end in found]

    def _take(
        self, connection: sa.Connection, prospects: Sequence[Prospect], limit: int, lease: float
    ) -> list[Delivery]:
        # The time is that of the lock, which may have been long in coming.
        now, token = self._now(), new_token()
        until = now + micros(lease)
        taken: list[Sequence[Any]] = []
        for prospect in prospects:
            self._pass_time(connection, prospect, now, max(limit, _BOUND))
            rows = self._statements.claim.run(
                connection, now=now, until=until, claim=token, queue=prospect.queue, bound=limit - len(taken)
            ).all()
            taken.extend(sorted(rows, key=place_of))  # what RETURNING returns has no order
            if len(taken) >= limit:
                break
        return [delivery_of(row, token, row[_BEGUN], row[_DEATHS]) for row in taken]

    def _pass_time(self, connection: sa.Connection, prospect: Prospect, now: int, bound: int) -> None:
        """Do what time does in one queue: make ready what is due, end the leases that are past."""
        if _is_past(prospect.due, now):
            self._statements.promote.run(connection, queue=prospect.queue, now=now, bound=bound)
        if _is_past(prospect.lease_end, now):
            self._statements.reap.run(connection, queue=prospect.queue, now=now, bound=bound)


def _is_past(end: object, now: int) -> bool:
    return isinstance(end, int) and end <= now
