"""
SQLAlchemy alone: the floor on MariaDB, one table from which 250 events are leased and then deleted at once.

SQLAlchemy Core over PyMySQL, as relevo uses it. A lease is a query that locks and an update, in one transaction; a
deletion commits by itself. Each commit is durable: so are a send, a lease and a deletion of relevo.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import sqlalchemy as sa

from peers import database
from peers.meter import note
from peers.peer import Place, Sender, arguments

AT_ONCE = 250
IDLE = 0.01
"""Seconds after which a worker without events looks again."""

READY, LEASED = 0, 1

event = sa.Table(
    "event",
    sa.MetaData(),
    sa.Column("seq", sa.BigInteger, primary_key=True),
    sa.Column("state", sa.SmallInteger, nullable=False, server_default=sa.text(str(READY))),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Index("event_state", "state", "seq"),
)

READY_ONES = (
    sa.select(event.c.seq, event.c.body)
    .where(event.c.state == sa.literal_column(str(READY)))
    .order_by(event.c.seq)
    .limit(sa.bindparam("limit"))
    .with_for_update(skip_locked=True)
)
CHOSEN = event.c.seq.in_(sa.bindparam("seqs", expanding=True))
LEASE = event.update().where(CHOSEN).values(state=LEASED)
DELETE = event.delete().where(CHOSEN)


class Floor(Sender):
    """Sends all events at once."""

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
                connection.execute(event.insert(), {"body": json.dumps(arguments()).encode()})

            yield send

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "peers.mariadb"]

    def left(self) -> int:
        return database.scalar(self.place.url, "SELECT count(*) FROM event")

    def clear(self) -> None:
        self._engine.dispose()


def work(connection: sa.Connection) -> None:
    """Handle events without end."""
    connection.exec_driver_sql("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
    while True:
        connection.exec_driver_sql("BEGIN")
        rows = connection.execute(READY_ONES, {"limit": AT_ONCE}).all()
        seqs = [seq for seq, _ in rows]
        if rows:
            connection.execute(LEASE, {"seqs": seqs})
        connection.exec_driver_sql("COMMIT")
        for _, body in rows:
            note(json.loads(body)["sent"])
        if rows:
            connection.execute(DELETE, {"seqs": seqs})
        else:
            time.sleep(IDLE)


if __name__ == "__main__":
    with database.connected(database.engine_of(Place.here().url)) as opened:
        work(opened)
