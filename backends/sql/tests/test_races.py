"""The suite finds a race in SQL: a claim that selects and then updates, outside of a transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import sqlalchemy as sa
from hypothesis import Phase

from relevo import Delivery, Transport
from relevo_conformance import promise
from relevo_conformance.examination import examine
from relevo_sql import SqlOptions, SqlTransport, event
from relevo_sql._row import CLAIMED, delivery_of, micros
from relevo_sql._schema import LEASED, READY
from relevo_sql._token import new_token
from relevo_sql.conformance import SqlHarness


class SelectsThenUpdates(SqlTransport):
    def receive(self, queues: Sequence[str], *, limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        token, until = new_token(), micros(self._clock.now() + lease)
        ready = (event.c.queue.in_(queues), event.c.state == READY)

        def claim(connection: sa.Connection) -> list[Delivery]:
            rows = connection.execute(sa.select(*(event.c[name] for name in CLAIMED)).where(*ready).limit(limit)).all()
            chosen = event.c.seq.in_([row[0] for row in rows])
            connection.execute(sa.update(event).where(chosen).values(state=LEASED, lease_until=until, token=token))
            return [delivery_of(row, token) for row in rows]

        # The rest, such as ending leases, is done as it should be.
        return self._database.read(claim) or super().receive(queues, limit=limit, lease=lease, wait=wait)


class RacyHarness(SqlHarness):
    transport: ClassVar[type[Transport]] = SelectsThenUpdates

    def open(self) -> Transport:
        return SelectsThenUpdates.open(SqlOptions(url=self.url), name="sql", clock=self.clock)


def test_a_claim_that_selects_and_then_updates_is_found() -> None:
    (finding,) = examine(
        RacyHarness,
        profile="quick",
        phases=(Phase.generate,),
        matching=lambda name, _: name == "test_two_receives_at_once_hand_out_each_event_once",
    )

    assert finding.status == "broken"
    assert promise.LEASED_IS_HIDDEN.id in finding.promises
