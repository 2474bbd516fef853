"""
How many no-op events a second one worker handles on each transport, compared with the raw driver in the same run.

    python benchmarks/throughput.py                       # memory and SQLite
    python benchmarks/throughput.py --amqp amqp://localhost
    python benchmarks/throughput.py --database postgresql://postgres@localhost/postgres --database mariadb://root@localhost/mysql
    python benchmarks/throughput.py --events 50000 --rounds 5

Every event is dispatched through ``App`` (validated, encoded, sent one by one or in batches) and handled by the real
worker with one listener that does nothing, settled durably. The floor does the same bookkeeping with the driver
alone: one table for SQLite (lease, then delete, in batches of 250), one quorum queue for RabbitMQ (prefetch 1000, an
ack each 100). Rounds are interleaved; figures are medians, and the ratios within one run are more reliable. The last
column is the processor time of the worker's process, which depends less on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import math
import sqlite3
import statistics
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import relevo
from relevo_memory import MemoryTransport

ARGUMENTS = {"image_id": 7, "filename": "coffee.jpg", "width": 600, "height": 400, "tags": ["food", "table"]}


@relevo.listener("image.created")
def nothing(event: relevo.Event) -> None:
    """Do nothing."""


@contextmanager
def application(main: str, folder: Path, url: str) -> Iterator[relevo.App]:
    """Yield an application on the transport *main*; delete everything that it created on a server at *url*."""
    (folder / "relevo.toml").write_text(f'source = "bench"\n[transports]\nmain = {main}\n[routes]\n"*" = "main"\n')
    with relevo.App.from_config(folder / "relevo.toml", environ={}) as app, ExitStack() as stack:
        app.listen(nothing)
        if url:
            from peers.rabbitmq import borrowed  # noqa: PLC0415 - needs pika

            stack.enter_context(borrowed(app, url))
        app.prepare("main")
        yield app


def measure_relevo(main: str, events: int, url: str = "") -> dict[str, float]:
    """Return events a second: dispatched one by one, sent in batches of 1000, handled."""
    with tempfile.TemporaryDirectory() as folder, application(main, Path(folder), url) as app:
        event = relevo.Event("image.created", ARGUMENTS)
        single = max(50, events // 50)
        began = time.perf_counter()
        for _ in range(single):
            app.dispatch(event)
        dispatched = single / (time.perf_counter() - began)
        made = envelopes(events)
        transport = app.transport()
        began = time.perf_counter()
        for start in range(0, events, 1000):
            transport.send(made[start : start + 1000])
        sent = events / (time.perf_counter() - began)
        worker = app.worker(relevo.RunOptions(until_empty=True))
        began, worked = time.perf_counter(), time.process_time()
        report = worker.run()
        worked = time.process_time() - worked
        handled = report.done / (time.perf_counter() - began)
        if report.done != events + single:
            raise SystemExit(f"{events + single} events were sent and {report.done} done: {report}")
        return {"dispatch": dispatched, "send x 1000": sent, "handle": handled, "cpu": 1e6 * worked / report.done}


def envelopes(count: int) -> list[relevo.Envelope]:
    """Return *count* envelopes as a dispatch makes them, so that sending can be measured alone."""
    scratch = MemoryTransport()
    dispatcher = relevo.DeferredDispatcher(scratch, source="bench")
    for _ in range(count):
        dispatcher.dispatch(relevo.Event("image.created", ARGUMENTS))
    deliveries = scratch.receive(["default"], limit=count, lease=60.0, wait=0.0)
    return [delivery.envelope for delivery in deliveries if isinstance(delivery.envelope, relevo.Envelope)]


def floor_sqlite(events: int) -> dict[str, float]:
    """Return events a second of the driver alone: insert, lease and delete in batches."""
    body = json.dumps(ARGUMENTS).encode() * 3
    with tempfile.TemporaryDirectory() as folder:
        db = sqlite3.connect(Path(folder) / "floor.db", isolation_level=None)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("CREATE TABLE event (seq INTEGER PRIMARY KEY, state INTEGER, token TEXT, body BLOB)")
        db.execute("CREATE INDEX ready ON event (seq) WHERE state = 0")
        single = max(50, events // 50)
        began = time.perf_counter()
        for _ in range(single):
            db.execute("INSERT INTO event (state, body) VALUES (0, ?)", (body,))
        dispatched = single / (time.perf_counter() - began)
        began = time.perf_counter()
        for start in range(0, events, 1000):
            db.execute("BEGIN IMMEDIATE")
            db.executemany("INSERT INTO event (state, body) VALUES (0, ?)", [(body,)] * min(1000, events - start))
            db.execute("COMMIT")
        sent = events / (time.perf_counter() - began)
        db.execute("PRAGMA synchronous=NORMAL")
        began, worked = time.perf_counter(), time.process_time()
        done = 0
        claim = (
            "UPDATE event SET state = 1, token = 'x' WHERE seq IN "
            "(SELECT seq FROM event WHERE state = 0 ORDER BY seq LIMIT 250) RETURNING seq, body"
        )
        while True:
            db.execute("BEGIN IMMEDIATE")
            rows = db.execute(claim).fetchall()
            db.execute("COMMIT")
            if not rows:
                break
            for _, raw in rows:
                json.loads(raw[: len(raw) // 3])
            db.execute("BEGIN IMMEDIATE")
            db.executemany("DELETE FROM event WHERE seq = ? AND token = 'x'", [(seq,) for seq, _ in rows])
            db.execute("COMMIT")
            done += len(rows)
        worked = time.process_time() - worked
        handled = done / (time.perf_counter() - began)
        db.close()
    return {"dispatch": dispatched, "send x 1000": sent, "handle": handled, "cpu": 1e6 * worked / done}


def on_server(url: str, events: int) -> dict[str, float]:
    """Return the same on a new database of the server at *url*."""
    from peers import database  # noqa: PLC0415 - needs SQLAlchemy

    with database.fresh(url) as made:
        return measure_relevo(f'"{made}"', events)


def main() -> None:
    """Measure what the command line asks for, and print a table of medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--amqp", metavar="URL", help="address of RabbitMQ, to measure it too")
    parser.add_argument("--database", metavar="URL", action="append", default=[], help="a server to measure too")
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    subjects: dict[str, Callable[[], dict[str, float]]] = {
        "memory": lambda: measure_relevo('"memory://"', options.events),
        "sqlite": lambda: measure_relevo('"sqlite:///bench.db"', options.events),
        "sqlite3 alone": lambda: floor_sqlite(options.events),
    }
    for url in options.database:
        subjects[url.partition(":")[0]] = partial(on_server, url, options.events)
    if options.amqp:
        from floor_amqp import floor_amqp  # noqa: PLC0415 - needs a server, and pika

        prefix = f"bench-{uuid.uuid4().hex[:8]}"
        subjects["amqp"] = lambda: measure_relevo(
            f'{{ url = "{options.amqp}", prefix = "{prefix}", levels = 4 }}', options.events, options.amqp
        )
        subjects["pika alone"] = lambda: floor_amqp(options.amqp, options.events)
    figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for _ in range(options.rounds):
        for name, measure in subjects.items():
            for what, rate in measure().items():
                figures[name][what].append(rate)
    heading = f"{'events a second':16}{'dispatch':>12}{'send x 1000':>14}{'handle':>12}"
    print(f"{heading}   µs an event handled, of processor time")
    for name, rates in figures.items():
        dispatch, sent, handled = (statistics.median(rates[what]) for what in ("dispatch", "send x 1000", "handle"))
        worked = statistics.median(rates["cpu"]) if rates["cpu"] else math.nan
        print(f"{name:16}{dispatch:12,.0f}{sent:14,.0f}{handled:12,.0f}{1e6 / handled:12.1f}{worked:12.1f}")


if __name__ == "__main__":
    main()
