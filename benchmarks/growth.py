"""
How large a database is while a number of events pass through it, with the option ``keep`` and without.

    python benchmarks/growth.py sqlite://
    python benchmarks/growth.py postgresql://postgres@localhost/postgres --events 10000000 --keep 60

There is no worker and no listener: 1000 events are sent, received and acked at a time, through the transport alone. A
line shows the size of relevo's tables, or of the file with its log, after each tenth of the events. Without growth, the
size at the end is that of the middle; the exit code is 1 if it is larger by more than a quarter. A database reaches its
size only after *keep*, so a run has to take more than twice as long. On PostgreSQL the tables are vacuumed after each
tenth, and at least after 200,000 events, as autovacuum does it once a minute; without autovacuum they grow, and claims
get slower, since they pass the dead rows in the index.
"""

from __future__ import annotations

import argparse
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import attrs
import sqlalchemy as sa

from peers import database
from relevo import Ack, Envelope, SystemClock
from relevo_sql import SqlOptions, SqlTransport

PARTS = 10
MOST = 1.25
"""The ratio of the size at the end to that in the middle above which the database grows."""

_AT_ONCE = 1000
_VACUUMED = 200_000
"""Events after which tables are vacuumed."""

_CLAIMED_AT_ONCE = 250
_QUEUE = "default"

_SIZE: Mapping[str, str] = {
    "postgresql": "SELECT sum(pg_total_relation_size(oid)) FROM pg_class "
    "WHERE relkind = 'r' AND relname LIKE 'relevo%%'",
    "mariadb": "SELECT sum(file_size) FROM information_schema.innodb_sys_tablespaces "
    "WHERE name LIKE concat(database(), '/%%')",
}


@attrs.frozen
class Part:
    """What was there after a tenth of the events."""

    events: int
    size: int
    kept: int
    """Events in the archive."""

    rate: float
    """Events a second."""


def passed(url: str, *, events: int, keep: float | None) -> Iterator[Part]:
    """Let that number of *events* pass through a new database beside *url*; yield what is there after each tenth."""
    with database.fresh(url) as own:
        options = SqlOptions(url=own, keep=keep)
        transport = SqlTransport.open(options, name="bench", clock=SystemClock())
        transport.setup([_QUEUE])
        try:
            for number in range(1, PARTS + 1):
                part = events * number // PARTS - events * (number - 1) // PARTS
                began = time.perf_counter()
                for start in range(0, part, _VACUUMED):
                    _pass(transport, min(_VACUUMED, part - start))
                    _vacuum(own)
                rate = part / (time.perf_counter() - began)
                yield Part(events * number // PARTS, size_of(own), _kept(own), rate)
        finally:
            transport.close()


def _pass(transport: SqlTransport, events: int) -> None:
    for start in range(0, events, _AT_ONCE):
        transport.send([_envelope() for _ in range(min(_AT_ONCE, events - start))])
        while deliveries := transport.receive([_QUEUE], limit=_CLAIMED_AT_ONCE, lease=600.0, wait=0.0):
            transport.settle([(delivery, Ack()) for delivery in deliveries])


def _vacuum(url: str) -> None:
    if database.kind_of(url) == "postgresql":
        engine = database.engine_of(url)
        with database.connected(engine) as connection:
            connection.exec_driver_sql("VACUUM relevo_event, relevo_done")
        engine.dispose()


def _envelope() -> Envelope:
    body = b'{"specversion":"1.0","type":"image.created","data":{"image_id":7,"filename":"coffee.jpg"}}' + b" " * 200
    return Envelope(id=str(uuid.uuid4()), source="bench", name="image.created", body=body)


def size_of(url: str) -> int:
    """Return how many bytes the database at *url* takes."""
    kind = database.kind_of(url)
    if kind in _SIZE:
        return database.scalar(url, _SIZE[kind])
    path = Path(sa.make_url(url).database or "")
    return sum(each.stat().st_size for each in path.parent.glob(f"{path.name}*"))


def _kept(url: str) -> int:
    return database.scalar(url, "SELECT count(*) FROM relevo_done")


def growth(sizes: Sequence[int]) -> float:
    """Return the ratio of the last of *sizes* to that in the middle."""
    return sizes[-1] / sizes[len(sizes) // 2 - 1]


def shown(title: str, parts: Iterator[Part], tell: Callable[[str], None]) -> float:
    """Tell each of *parts* as it comes; return the growth."""
    tell(f"{title:32}{'events':>12}{'MB':>10}{'kept':>10}{'events/s':>10}")
    sizes: list[int] = []
    for part in parts:
        sizes.append(part.size)
        tell(f"{'':32}{part.events:12,}{part.size / 1e6:10.1f}{part.kept:10,}{part.rate:10,.0f}")
    tell(f"{'':32}the size at the end is {growth(sizes):.2f} of that in the middle\n")
    return growth(sizes)


def main(words: Sequence[str] | None = None) -> int:
    """Print the sizes; return 1 if the database grows."""
    parser = argparse.ArgumentParser(
        description="How large a database is while events pass through it.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("url", help="a server on which databases can be created, or sqlite://")
    parser.add_argument("--events", type=int, default=200_000, help="events that pass")
    parser.add_argument("--keep", type=float, default=5.0, help="seconds for which done events are kept")
    parser.add_argument("--only", choices=("keep", "plain"), help="measure only with the option, or without it")
    options = parser.parse_args(words)
    if options.events < PARTS:
        parser.error(f"--events has to be at least {PARTS}")
    keeps = {"plain": None, "keep": options.keep}
    grown = []
    for name, keep in keeps.items():
        if options.only in (None, name):
            title = "without keep" if keep is None else f"keep = {keep:g} s"
            parts = passed(options.url, events=options.events, keep=keep)
            grown.append(shown(title, parts, lambda text: print(text, flush=True)))
    return int(max(grown) > MOST)


if __name__ == "__main__":
    sys.exit(main())
