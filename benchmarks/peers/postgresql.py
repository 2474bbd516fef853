"""
SQLAlchemy alone: the floor on PostgreSQL, one table from which 250 events are leased and then deleted at once.

SQLAlchemy Core over psycopg, as relevo uses it. Each statement is a transaction that commits by itself, durably: so are
a send, a lease and a deletion of relevo. A worker without events waits for a notification.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from peers import database
from peers.meter import note
from peers.peer import Immediate, Place, arguments

AT_ONCE = 250
IDLE = 0.25
"""Seconds after which a worker that waits looks again."""

READY, LEASED = 0, 1

event = sa.Table(
    "event",
    sa.MetaData(),
    sa.Column("seq", sa.BigInteger, primary_key=True),
    sa.Column("state", sa.SmallInteger, nullable=False, server_default=sa.text(str(READY))),
    sa.Column("body", sa.LargeBinary, nullable=False),
)
sa.Index("event_ready", event.c.seq, postgresql_where=event.c.state == READY)


def _lease() -> sa.UpdateBase:
    ready = sa.select(event.c.seq).where(event.c.state == sa.literal_column(str(READY))).order_by(event.c.seq)
    picked = ready.limit(sa.bindparam("limit")).with_for_update(skip_locked=True).scalar_subquery()
    statement = event.update().where(event.c.seq == sa.func.any(sa.func.array(picked))).values(state=LEASED)
    return statement.returning(event.c.seq, event.c.body)


LEASE = _lease()
DELETE = event.delete().where(event.c.seq == sa.func.any(sa.bindparam("seqs", type_=ARRAY(sa.BigInteger))))
SEND = sa.text(
    "WITH sent AS (INSERT INTO event (body) VALUES (:body) RETURNING seq) SELECT pg_notify('event', '') FROM sent"
)


class Floor(Immediate):
    """Sends all events at once; single events in one statement that also notifies."""

    def __init__(self, place: Place):
        super().__init__(place)
        self._engine = database.engine_of(place.url)
        event.metadata.create_all(self._engine)

    def fill(self, number: int) -> None:
        with self._engine.begin() as connection:
            connection.execute(event.insert(), [{"body": json.dumps(arguments()).encode()} for _ in range(number)])

    @contextmanager
    def sending(self) -> Iterator[Callable[[], None]]:
        with database.connected(self._engine) as connection:

            def send() -> None:
                connection.execute(SEND, {"body": json.dumps(arguments(time.monotonic_ns())).encode()})

            yield send

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "peers.postgresql"]

    def left(self) -> int:
        return database.scalar(self.place.url, "SELECT count(*) FROM event")

    def clear(self) -> None:
        self._engine.dispose()


def work(connection: sa.Connection) -> None:
    """Handle events without end."""
    driver = connection.connection.driver_connection
    assert driver is not None  # noqa: S101 - it is connected
    listening = False
    while True:
        rows = connection.execute(LEASE, {"limit": AT_ONCE}).all()
        for _, body in sorted(rows):
            note(json.loads(body)["sent"])
        if rows:
            connection.execute(DELETE, {"seqs": [seq for seq, _ in rows]})
        elif not listening:
            connection.exec_driver_sql("LISTEN event")
            listening = True
        else:
            list(driver.notifies(timeout=IDLE, stop_after=1))


if __name__ == "__main__":
    with database.connected(database.engine_of(Place.here().url)) as opened:
        work(opened)
