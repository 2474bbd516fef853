"""Receive: a read without a lock, and a claim if the read found something; or a claim at once while there is much."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import attrs
import sqlalchemy as sa

from relevo import Clock, Delivery
from relevo_sql._database import Database
from relevo_sql._front import URGENCIES, Fronts
from relevo_sql._row import (
    FARTHEST,
    OrderingGroup,
    Row,
    Stray,
    delivery_of,
    lease_end,
    micros,
    place_of,
    stray_flaw,
    stray_of,
)
from relevo_sql._schema import SCHEDULED
from relevo_sql._settle import advance
from relevo_sql._token import new_token

_BOUND = 1000
"""How many rows that are due, or whose lease is over, one claim moves; never fewer than it hands out."""


_TURNS = 60.0
"""Seconds between two checks for rows that wait for a row that no longer exists."""


_LOOKS = 0.05
"""Seconds between two looks at what is due, or whose lease is over, while the first queue fills each claim."""


@attrs.frozen
class Prospect:
    """What a queue holds."""

    queue: str
    ready: bool
    due: int | None
    """When the next delay ends, in microseconds since the epoch."""

    lease_end: int | None
    """When the next lease ends."""

    last_lease_end: int | None = None
    stray: bool = False
    """Whether it has stray rows, which no claim would find."""

    def worthwhile(self, now: int) -> bool:
        """Return whether a claim would find something."""
        return (
            self.ready or self.stray or self.endless(now) or any(_is_past(e, now) for e in (self.due, self.lease_end))
        )

    def endless(self, now: int) -> bool:
        """Return whether a lease ends later than every lease that relevo gives."""
        return isinstance(self.last_lease_end, (int, float)) and self.last_lease_end > now + FARTHEST


def _ready(queue: str) -> Prospect:
    return Prospect(queue, ready=True, due=None, lease_end=None)


@attrs.frozen
class Claim:
    """The result of one attempt to receive."""

    deliveries: Sequence[Delivery]
    next_change: int | None = None
    """When time alone will next make something ready, in microseconds since the epoch."""

    changes: int | None = None
    """What :meth:`Dialect.changes` returned before the queues were looked at."""


class _Meant(NamedTuple):
    """A row that is meant by its id."""

    seq: int
    queue: Any
    target: Any
    ordering_key: Any
    state: Any
    ready_at: Any

    @property
    def line(self) -> OrderingGroup:
        return OrderingGroup(self.queue, self.target, self.ordering_key)


class Claimer:
    """Leases events of queues."""

    def __init__(self, database: Database, clock: Clock):
        self._database = database
        self._statements = database.statements
        self._clock = clock
        self._next_turns = 0.0
        self._looked_at: tuple[str, ...] = ()
        self._next_look = float("-inf")
        self._fronts = Fronts(clock.monotonic)
        self._leaves_deleted_rows = database.dialect.leaves_deleted_rows
        self._is_cut = False
        """Whether the last attempt left rows that had become ready, since there were too many at once."""

    def claim(
        self, queues: Sequence[str], *, limit: int, lease: float, sent: bool = False, waits: bool = False
    ) -> Claim:
        """
        Lease up to *limit* ready events for *lease* seconds.

        Args:
            queues: In order of preference.

            limit: The most to lease.

            lease: Seconds.

            sent: Something was just sent: it is leased without a look at the queues, where one statement does that.

            waits: The caller tries again after :attr:`Claim.next_change` if nothing is found.
        """
        if (left := self._fronts.left(queues)) > 0:
            found = self._claim_from_fronts(queues, limit, lease)
            if found or waits:
                return Claim(found, None if found else self._now() + micros(left))
        if self._looked_at == tuple(queues) and self._clock.monotonic() < self._next_look:
            found = self._take_ready(queues[:1], limit, lease)  # something may be due in it, which comes before others
            if len(found) >= limit:
                return Claim(found)
            self._next_look = float("-inf")
            rest = self._look_and_claim(queues, limit - len(found), lease)
            return attrs.evolve(rest, deliveries=[*found, *rest.deliveries])
        if sent and self._is_one_statement(queues) and (found := self._take_ready(queues, limit, lease)):
            return Claim(found)
        return self._look_and_claim(queues, limit, lease)

    def take(self, queue: str, event_id: str, *, lease: float) -> list[Delivery]:
        """Lease the events of *queue* with the id *event_id* for *lease* seconds, also those that are not due yet."""
        return self._database.write(lambda connection: self._take_meant(connection, queue, event_id, lease))

    def _take_meant(self, connection: sa.Connection, queue: str, event_id: str, lease: float) -> list[Delivery]:
        statements, listed = self._statements, self._database.dialect.listed
        rows = [_Meant._make(row) for row in statements.meant.rows(connection, id=event_id, queue=queue)]
        if not rows:
            return []
        lines = [row.line for row in rows if row.line.ordering_key is not None and row.line.target is not None]
        self._database.dialect.lock_lines(connection, lines)
        now, token = self._now(connection), new_token()
        seqs = listed([row.seq for row in rows])
        statements.reap_meant.rows(connection, seqs=seqs, now=now)
        late = [row for row in rows if row.state == SCHEDULED and row.line in lines]
        for row in late:
            statements.join_line.run(connection, which=row.seq, now=now)
        advance(connection, self._database, lines, now)
        for row in late:  # it waits for an earlier one, so it stays as it was
            statements.leave_line.run(connection, which=row.seq, at=row.ready_at)
        until = lease_end(lease, now)
        taken = statements.claim_meant.rows(connection, seqs=seqs, now=now, until=until, claim=token)
        return [delivery_of(row, token) for row in taken]

    def _take_ready(self, queues: Sequence[str], limit: int, lease: float) -> list[Delivery]:
        ready = [_ready(queue) for queue in queues]
        write = self._database.update if self._is_one_statement(queues) else self._database.write
        return write(lambda connection: self._take(connection, ready, limit, lease))

    def _is_one_statement(self, queues: Sequence[str]) -> bool:
        return len(queues) == 1 and self._statements.claim.is_one and self._database.dialect.commits_statements

    def _claim_from_fronts(self, queues: Sequence[str], limit: int, lease: float) -> list[Delivery]:
        """Claim what became ready behind what was claimed before, without a look."""
        began = self._clock.monotonic()
        found = self._database.write(lambda connection: self._take_from_fronts(connection, queues, limit, lease))
        self._fronts.note_claim(self._clock.monotonic() - began)
        return found

    def _take_from_fronts(
        self, connection: sa.Connection, queues: Sequence[str], limit: int, lease: float
    ) -> list[Delivery]:
        now, token = self._now(connection), new_token()
        until = lease_end(lease, now)
        taken: list[Row] = []
        for queue in queues:
            front = self._fronts.of(queue)
            for urgency in URGENCIES:
                if len(taken) < limit:
                    found = self._statements.claim_since.rows(
                        connection,
                        now=now,
                        until=until,
                        claim=token,
                        queue=queue,
                        urgency=urgency,
                        since=front.since(urgency),
                        bound=limit - len(taken),
                    )
                    rows = sorted(found, key=place_of)
                    front.note(rows, now)
                    taken += rows
        return [delivery_of(row, token) for row in taken]

    def _look_and_claim(self, queues: Sequence[str], limit: int, lease: float) -> Claim:
        """Look at the queues, and claim what is ready; note how long that took."""
        began = self._clock.monotonic()
        claim = self._claim_what_is_seen(queues, limit, lease)
        if self._leaves_deleted_rows:
            self._fronts.note_look(queues, self._clock.monotonic() - began)
        return claim

    def _claim_what_is_seen(self, queues: Sequence[str], limit: int, lease: float) -> Claim:
        changes, prospects = self._database.read(lambda connection: self._look(connection, queues))
        now = self._now()
        promising = [prospect for prospect in prospects if prospect.worthwhile(now)]
        if not promising and not self._give_turns(queues):
            ends = [end for p in prospects for end in (p.due, p.lease_end) if type(end) is int]
            return Claim((), min(ends, default=None), changes)
        promising = promising or [_ready(queue) for queue in queues]
        found = self._database.write(lambda connection: self._take(connection, promising, limit, lease))
        while not found and self._is_cut:  # all of them wait for others, and one behind them may not
            found = self._database.write(lambda connection: self._take(connection, promising, limit, lease))
        if len(found) >= limit and all(delivery.queue == queues[0] for delivery in found):
            self._looked_at, self._next_look = tuple(queues), self._clock.monotonic() + _LOOKS
        return Claim(found)

    def _give_turns(self, queues: Sequence[str]) -> bool:
        """
        Make rows ready that wait for a row that no longer exists; return whether there were any.

        Another program deleted the row before them. The check reads every waiting row, so it runs only when there is
        nothing else to do, and at most once a minute.
        """
        elapsed = self._clock.monotonic()
        if elapsed < self._next_turns:
            return False
        self._next_turns = elapsed + _TURNS

        def look(connection: sa.Connection) -> list[Any]:
            run = self._statements.left_waiting.run
            return [line for queue in queues for line in run(connection, queue=queue, bound=_BOUND)]

        lines = self._database.read(look)
        if lines:
            self._database.write(lambda connection: advance(connection, self._database, lines, self._now(connection)))
        return bool(lines)

    def _now(self, connection: sa.Connection | None = None) -> int:
        return self._database.now(self._clock, connection)

    def _look(self, connection: sa.Connection, queues: Sequence[str]) -> tuple[int | None, list[Prospect]]:
        changes = self._database.dialect.changes(connection)
        rows: Any = self._statements.look.run(connection, queues=self._database.dialect.listed(queues))
        found = {
            queue: Prospect(queue, bool(ready), due, end, last, bool(stray))
            for queue, ready, due, end, last, stray in rows
        }
        return changes, [found[queue] for queue in queues if queue in found]

    def _take(
        self, connection: sa.Connection, prospects: Sequence[Prospect], limit: int, lease: float
    ) -> list[Delivery]:
        # Read after the lock was acquired, which may have taken long.
        now, token = self._now(connection), new_token()
        until = lease_end(lease, now)
        taken: list[Row] = []
        strays: list[Delivery] = []
        self._pass_time(connection, prospects, now, max(limit, _BOUND))
        for prospect in prospects:
            if prospect.stray:
                bound = limit - len(taken) - len(strays)
                strays += self._take_strays(connection, prospect.queue, bound, now=now, until=until, claim=token)
            if prospect.endless(now):
                self._statements.reap_endless.rows(connection, queue=prospect.queue, now=now, bound=max(limit, _BOUND))
            rows = self._statements.claim.rows(
                connection,
                now=now,
                until=until,
                claim=token,
                queue=prospect.queue,
                bound=limit - len(taken) - len(strays),
            )
            rows = sorted(rows, key=place_of)  # RETURNING has no order
            if self._leaves_deleted_rows:
                self._fronts.of(prospect.queue).note(rows, now)
            taken += rows
            if len(taken) + len(strays) >= limit:
                break
        return [*strays, *(delivery_of(row, token) for row in taken)]

    def _take_strays(
        self, connection: sa.Connection, queue: str, bound: int, *, now: int, until: int, claim: int
    ) -> list[Delivery]:
        """Lease stray rows, which no claim finds, as unreadable deliveries."""
        found = map(Stray._make, self._statements.strays.run(connection, queue=queue, bound=bound, now=now).all())
        flaws = {row.seq: stray_flaw(row) for row in found}
        seqs = self._database.dialect.listed(flaws)
        rows = self._statements.claim_strays.rows(connection, seqs=seqs, now=now, until=until, claim=claim)
        return [stray_of(row, claim, queue=queue, flaw=flaws[row[0]]) for row in rows]

    def _pass_time(self, connection: sa.Connection, prospects: Sequence[Prospect], now: int, bound: int) -> None:
        """Bring queues up to date, all before the first claim: lines are locked once, and so in one order."""
        lines: list[Any] = []
        self._is_cut = False
        for prospect in prospects:
            of_queue = {"queue": prospect.queue, "now": now, "bound": bound}
            if _is_past(prospect.due, now):
                promoted = self._statements.promote.rows(connection, **of_queue)
                lines += promoted
                self._is_cut |= len(promoted) >= bound
            if _is_past(prospect.lease_end, now):
                self._statements.reap.rows(connection, **of_queue)
        if lines:
            advance(connection, self._database, lines, now)


def _is_past(end: object, now: int) -> bool:
    return isinstance(end, (int, float)) and end <= now  # relevo writes no fractions, but another writer may
