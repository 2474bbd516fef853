"""
How many events a second are handled whose listener asks for their subject, by how the subjects are loaded.

    python benchmarks/subjects.py sqlite://
    python benchmarks/subjects.py postgresql+psycopg://postgres@localhost/postgres --distance 1

The events are in memory, so that the time is that of the worker and of loading. Each line handles the same events, and
the lines take turns, so that other load on the machine affects all of them; a figure is that of the median turn. The
rows are in a table that is dropped afterwards; for SQLite it is in memory.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm

from relevo import App, Call, Event, Subject
from relevo_memory import MemoryTransport
from relevo_sql import orm_subject


class Base(orm.DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = "relevo_benchmark_subject"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(sa.String(40))


def rate(engine: sa.Engine, number: int, *, asks: bool, batch: bool) -> float:
    """Return how many of *number* events are handled in a second."""

    def listen(_: Event, call: Call) -> None:
        if asks and not call.subject.name:
            raise SystemExit("a row has no name")

    subjects = [orm_subject(Row, orm.sessionmaker(engine), batch=batch)]
    with App(transports={"main": MemoryTransport()}, subjects=subjects, source="benchmark") as app:
        app.add_listener("row.changed", listen, id="look")
        app.dispatch_many([Event("row.changed", subject=Subject("row", str(each))) for each in range(1, number + 1)])
        began = time.perf_counter()
        report = app.drain()
        taken = time.perf_counter() - began
    if report.done != number:
        raise SystemExit(f"{report.done} of {number} events were done")
    return number / taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="of the database of the rows")
    parser.add_argument("--events", type=int, default=2000)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--distance", type=float, default=0.0, help="milliseconds that each query takes longer")
    chosen = parser.parse_args()
    options: dict[str, Any] = {"poolclass": sa.StaticPool} if chosen.url == "sqlite://" else {}
    engine = sa.create_engine(chosen.url, **options)
    Base.metadata.create_all(engine)
    with orm.Session(engine) as session:
        session.add_all(Row(id=each, name=f"row {each}") for each in range(1, chosen.events + 1))
        session.commit()
    if chosen.distance:
        sa.event.listen(engine, "before_cursor_execute", lambda *_: time.sleep(chosen.distance / 1000))
    lines = {
        "no subject": {"asks": False, "batch": False},
        "each subject alone": {"asks": True, "batch": False},
        "a query for a batch": {"asks": True, "batch": True},
    }
    try:
        turns = [[rate(engine, chosen.events, **how) for how in lines.values()] for _ in range(chosen.turns)]
    finally:
        Base.metadata.drop_all(engine)
        engine.dispose()
    for name, rates in zip(lines, zip(*turns, strict=True), strict=True):
        print(f"{name:<20} {statistics.median(rates):>8.0f} events/s")


if __name__ == "__main__":
    main()
