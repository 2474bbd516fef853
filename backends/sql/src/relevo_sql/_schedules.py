"""Up to when schedules have fired: rows among the locks, each written in the transaction of the events of its ticks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from uuid import uuid4

import sqlalchemy as sa

from relevo.backend import Firing
from relevo_sql._database import Database
from relevo_sql._locks import exactly
from relevo_sql._row import Sent

_HOLDER = "schedule"
"""Shows in the table what the row is; no caller of a lock has its name."""

_SECOND = 1_000_000
"""In microseconds."""


class Schedules:
    """
    The schedules of a database, by name: the end of the lock is the time up to which one has fired.

    Args:
        database: The database.
    """

    def __init__(self, database: Database):
        self._database = database
        self._statements = database.statements

    def fired(self, names: Iterable[str]) -> Mapping[str, int]:
        """Return up to when each of *names* has fired, without those that were never stored."""
        stored = {exactly(name): name for name in names}
        rows = self._database.read(lambda connection: self._rows(connection, [*stored]))
        return {stored[name]: _seconds(until) for name, (until, _) in rows.items() if name in stored}

    def fire(self, firings: Sequence[Firing], rows: Callable[[Firing], Sequence[Sent]]) -> Collection[str]:
        """
        Store the new times, and what *rows* returns for each firing, unless its schedule was fired meanwhile.

        Returns:
            The names of those that were stored.
        """
        ordered = sorted(firings, key=lambda each: each.name)  # so that no two transactions wait for each other
        written = {each.name: rows(each) for each in ordered}

        def fire(connection: sa.Connection) -> list[str]:
            receipt = uuid4().hex
            won = [each.name for each in ordered if self._advance(connection, each, receipt)]
            sent = [row for name in won for row in written[name]]
            if sent:
                self._statements.write(connection, sent)
            return won

        return self._database.write(fire, durable=True, sends=True)

    def _advance(self, connection: sa.Connection, firing: Firing, receipt: str) -> bool:
        """Store the new time of *firing* if the stored one is as it expects; return whether it was."""
        which = exactly(firing.name)
        terms: dict[str, str | int] = {"receipt": receipt, "until": firing.until * _SECOND}
        if firing.fired is not None:
            fired = firing.fired * _SECOND
            terms |= {"fired": fired, "following": fired + _SECOND}
            return self._statements.fire_schedule.run(connection, which=which, **terms).rowcount > 0
        self._statements.lock_first.run(connection, which=which, holder=_HOLDER, **terms)
        # Not every database tells whether that has written the row.
        return self._rows(connection, [which]).get(which, (0, ""))[1] == receipt

    def _rows(self, connection: sa.Connection, names: Sequence[str]) -> dict[str, tuple[object, str]]:
        listed = self._database.dialect.listed(names)
        found = self._statements.fired_schedules.rows(connection, names=listed) if names else ()
        return {str(name): (until, str(receipt)) for name, until, receipt in found}


def _seconds(until: object) -> int:
    """Return the time *until* in seconds; an impossible one if it is text, which SQLite stores too."""
    return until // _SECOND if isinstance(until, int) else -1
