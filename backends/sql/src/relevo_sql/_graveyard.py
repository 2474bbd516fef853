"""Dead letters: shown, made alive again, or given up for good."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import sqlalchemy as sa

from relevo import Clock, DeadLetterEntry
from relevo.errors import ConfigurationError, shown
from relevo_sql._database import Database
from relevo_sql._row import LONGEST, entry_of


class Graveyard:
    """
    The dead letters of a database.

    A ref is a number that is never used twice, and the queue, so that paging goes on behind one that is
    gone meanwhile.
    """

    def __init__(self, database: Database, clock: Clock):
        self._database = database
        self._statements = database.statements
        self._clock = clock

    def entries(self, queues: Sequence[str], *, after: str | None, limit: int) -> list[DeadLetterEntry]:
        """
        Return up to *limit* of them, queue by queue, the oldest first, from behind *after* on.

        Raises:
            ConfigurationError: *after* is not a ref of one of *queues*.
        """
        wanted = list(dict.fromkeys(queues))
        number = 0
        if after is not None:
            number, queue = _parsed(after)
            if not number or queue not in wanted:
                known = ", ".join(f'"{name}"' for name in wanted)
                raise ConfigurationError(
                    f"{shown(after)} is not the ref of a dead letter of {known}; give one that was listed"
                )
            wanted = wanted[wanted.index(queue) :]

        def list_them(connection: sa.Connection) -> list[DeadLetterEntry]:
            found: list[DeadLetterEntry] = []
            behind = number
            for name in wanted:
                rows = self._statements.dead.run(connection, queue=name, after=behind, bound=limit - len(found))
                found.extend(map(entry_of, rows))
                if len(found) >= limit:
                    break
                behind = 0
            return found

        return self._database.read(list_them) if limit > 0 else []

    def revive(self, refs: Mapping[str, bytes]) -> list[str]:
        """Make them ready as new ones, each with the state given for it; return the refs that were not found."""

        def wake(connection: sa.Connection) -> list[str]:
            now = self._database.dialect.now(self._clock)
            missing = []
            for ref, state in refs.items():
                number, queue = _parsed(ref)
                # One that lives again stays: it began with nothing done, and so does all that this one would.
                self._statements.revive.run(connection, ref=number, queue=queue, kept=state, now=now)
                if not self._statements.discard.run(connection, ref=number, queue=queue).rowcount:
                    missing.append(ref)
            return missing

        return self._database.write(wake, durable=True) if refs else []

    def discard(self, refs: Iterable[str]) -> list[str]:
        """Delete them; return the refs that were not found."""
        wanted = list(refs)

        def delete(connection: sa.Connection) -> list[str]:
            missing = []
            for ref in wanted:
                number, queue = _parsed(ref)
                if not self._statements.discard.run(connection, ref=number, queue=queue).rowcount:
                    missing.append(ref)
            return missing

        return self._database.write(delete, durable=True) if wanted else []


def _parsed(ref: str) -> tuple[int, str]:
    """Return the number and the queue of *ref*; 0 is the number of none."""
    number, _, queue = ref.partition("@")
    value = int(number) if number.isascii() and number.isdigit() and len(number) < 20 else 0
    return (value if value < LONGEST else 0, queue)
