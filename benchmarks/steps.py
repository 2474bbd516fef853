"""
What a finished step costs, beside a bare update and commit of SQLAlchemy Core in the same database.

    python benchmarks/steps.py                                        # SQLite, in a new file
    python benchmarks/steps.py --url postgresql://localhost/empty     # on another, empty database

One listener has 50 steps, and one a cursor of as many rows. The bare loop updates a row of a table of its own by its
key, with as many bytes as the progress has in the middle, in a transaction each. All take turns in one run. The last
line is about listeners without steps: the rate of one that takes the call, by that of one that does not.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import sqlalchemy as sa

import relevo
from relevo_sql import SqlTransport

_STEPS = 50
_BYTES = 800
"""About what the progress of a listener has after the half of its steps."""


def _nothing() -> None:
    pass


def _by_steps(_: relevo.Event, call: relevo.Call) -> None:
    for number in range(_STEPS):
        call.step(f"step {number}", _nothing)


def _by_rows(_: relevo.Event, call: relevo.Call) -> None:
    for _row in call.cursor("rows", range(_STEPS)):
        pass


def _with_call(_: relevo.Event, call: relevo.Call) -> None:
    pass


def _without_call(_: relevo.Event) -> None:
    pass


def seconds_of(app: relevo.App, name: str, events: int) -> float:
    """Return how long a worker takes for that number of *events*."""
    app.dispatch_many(relevo.Event(name) for _ in range(events))
    began = time.perf_counter()
    report = app.drain()
    took = time.perf_counter() - began
    if report.done != events:
        raise SystemExit(f"{events} events were dispatched, and {report.done} are done")
    return took


def bare(engine: sa.Engine, commits: int) -> float:
    """Return how long that number of updates takes, each with its commit."""
    table = sa.Table(
        "bare", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("state", sa.LargeBinary)
    )
    update = sa.update(table).where(table.c.id == 1).values(state=sa.bindparam("kept"))
    table.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(sa.delete(table))
        connection.execute(sa.insert(table).values(id=1, state=b""))
    states = [b"x" * _BYTES, b"y" * _BYTES]  # MariaDB writes nothing if a row stays as it is
    with engine.connect() as connection:
        began = time.perf_counter()
        for number in range(commits):
            connection.execute(update, {"kept": states[number % 2]})
            connection.commit()
        return time.perf_counter() - began


def measured(app: relevo.App, engine: sa.Engine, *, events: int, rounds: int) -> None:
    """Measure by turns, and print the medians."""
    steps = events * _STEPS
    kinds: dict[str, Callable[[], float]] = {
        "bare update and commit": lambda: bare(engine, steps),
        "step": lambda: seconds_of(app, "by.steps", events),
        "row of a cursor": lambda: seconds_of(app, "by.rows", events),
    }
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind, run in kinds.items():
            found[kind].append(run())
    for kind, took in found.items():
        ratios = sorted(each / base for each, base in zip(took, found["bare update and commit"], strict=True))
        print(
            f"{kind:24}{median(took) / steps * 1e6:10.1f} µs{median(ratios):8.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description="The cost of a step.")
    parser.add_argument("--url", help="an empty database; by default a new file of SQLite")
    parser.add_argument("--events", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = given.url or f"sqlite:///{Path(folder) / 'steps.db'}"
        with relevo.App(transports={"main": url}, source="steps") as app:
            app.add_listener("by.steps", _by_steps, id="steps")
            app.add_listener("by.rows", _by_rows, id="rows")
            app.add_listener("with.call", _with_call, id="with")
            app.add_listener("without.call", _without_call, id="without")
            app.setup()
            transport = app.transport("main")
            assert isinstance(transport, SqlTransport)  # noqa: S101 - for the type checker
            engine = transport._database.engine  # noqa: SLF001 - with the settings of its connections
            measured(app, engine, events=given.events, rounds=given.rounds)
            ratios = [
                seconds_of(app, "without.call", 5000) / seconds_of(app, "with.call", 5000) for _ in range(given.rounds)
            ]
            print(f"{'a call without steps':24}{median(ratios):21.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
