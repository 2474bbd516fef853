"""The coordinator: locks that are rows."""

from __future__ import annotations

from hashlib import sha256
from uuid import uuid4

import sqlalchemy as sa

from relevo import Clock
from relevo_sql._database import Database
from relevo_sql._row import micros


def exactly(text: str) -> str:
    """Return what stands for *text*: some databases ignore spaces at its end, in comparisons and in keys."""
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest() if text.endswith(" ") else text


class Locks:
    """Locks by name, each held until a time on the database's clock."""

    def __init__(self, database: Database, clock: Clock):
        self._database = database
        self._statements = database.statements
        self._clock = clock

    def take(self, name: str, *, holder: str, ttl: float) -> str | None:
        """Return a receipt for the lock *name*; ``None`` if another holder has it."""
        receipt = uuid4().hex

        def take(connection: sa.Connection) -> bool:
            now = self._now(connection)
            terms = {"which": exactly(name), "holder": exactly(holder), "receipt": receipt, "until": now + micros(ttl)}
            # Not every database tells whether the first statement wrote the row; the second finds it then. On some,
            # the row of an expired lock may be deleted between the two. If another has inserted one by the second try,
            # that is a new holder.
            for _ in range(2):
                self._statements.lock_first.run(connection, **terms)
                if self._statements.lock.run(connection, now=now, **terms).rowcount > 0:
                    return True
            return False

        return receipt if self._database.write(take) else None

    def renew(self, name: str, receipt: str, *, ttl: float) -> bool:
        """Renew the lock *name*; return whether *receipt* held it."""

        def renew(connection: sa.Connection) -> bool:
            until = self._now(connection) + micros(ttl)
            mine = {"which": exactly(name), "mine": exactly(receipt)}
            return self._statements.renew_lock.run(connection, **mine, until=until).rowcount > 0

        return self._database.write(renew)

    def free(self, name: str, receipt: str) -> None:
        """Release the lock *name* if *receipt* holds it."""
        run = self._statements.unlock.run
        self._database.write(lambda connection: run(connection, which=exactly(name), mine=exactly(receipt)))

    def _now(self, connection: sa.Connection) -> int:
        return self._database.now(self._clock, connection)
