"""
sqlite3 alone: the floor on SQLite, one table from which 250 events are leased and then deleted at once.

It is as durable as relevo: sends are committed with FULL, deletions of handled events with NORMAL.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from peers.meter import note
from peers.peer import Place, Sender, arguments, void

AT_ONCE = 250
IDLE = 0.01

INSERT = "INSERT INTO event (body) VALUES (?)"
TABLE = """
CREATE TABLE event (seq INTEGER PRIMARY KEY, leased INTEGER NOT NULL DEFAULT 0, body BLOB NOT NULL);
CREATE INDEX ready ON event (seq) WHERE leased = 0;
"""
LEASE = """
UPDATE event SET leased = 1 WHERE seq IN (SELECT seq FROM event WHERE leased = 0 ORDER BY seq LIMIT ?)
RETURNING seq, body
"""


def opened(folder: Path, synchronous: str) -> sqlite3.Connection:
    """Return a connection with explicit BEGIN and COMMIT."""
    connection = sqlite3.connect(folder / "floor.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    return connection


class Sqlite(Sender):
    """Sends all events at once."""

    def __init__(self, place: Place):
        super().__init__(place)
        self._connection = opened(place.folder, "FULL")
        self._connection.executescript(TABLE)

    def fill(self, number: int) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        rows = [(json.dumps(arguments()).encode(),)] * number
        self._connection.executemany(INSERT, rows)
        self._connection.execute("COMMIT")

    @contextmanager
    def sending(self) -> Iterator[Callable[[], None]]:
        yield lambda: void(self._connection.execute(INSERT, (json.dumps(arguments()).encode(),)))

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "peers.sqlite"]

    def left(self) -> int:
        return int(self._connection.execute("SELECT count(*) FROM event").fetchone()[0])

    def clear(self) -> None:
        self._connection.close()


def work(connection: sqlite3.Connection) -> None:
    """Handle events without end."""
    while True:
        connection.execute("BEGIN IMMEDIATE")
        rows = connection.execute(LEASE, (AT_ONCE,)).fetchall()
        connection.execute("COMMIT")
        for _, body in rows:
            note(json.loads(body)["sent"])
        if not rows:
            time.sleep(IDLE)
            continue
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("DELETE FROM event WHERE seq = ?", [(seq,) for seq, _ in rows])
        connection.execute("COMMIT")


if __name__ == "__main__":
    work(opened(Place.here().folder, "NORMAL"))
