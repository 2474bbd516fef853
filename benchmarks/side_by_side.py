"""
relevo, its peers and the drivers alone in one run: events a second, and the time from upload to listener.

    make bench
    make bench OPTIONS="--rounds 5 --events 40000 --json figures.json --check"

Each contestant sends durably (confirmed or committed) and has one process that handles events, started as its
documentation says, with the best settings for tiny events; the settings are in peers/*.py. A measurement begins when
the machine is quiet, in a separate process, and ends with an empty queue. Rounds are interleaved. The figures are
medians of the rounds; their ratios are more reliable than the figures.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import attrs

from peers import workload
from peers.workload import Measured
from summary import RELEVO, Bar, Figures, Verdict, bars, latencies, rates

RATE = 50.0
"""Events a second that are sent to an idle worker."""

ON_RABBITMQ = "consuming, RabbitMQ"
ON_SQLITE = "consuming, SQLite"
LATENCY = "upload to listener, RabbitMQ"


@attrs.frozen
class Contestant:
    """One line of a table."""

    table: str
    name: str
    kind: str
    """Its class, as module:name."""

    share: float = 1.0
    """The number of its events relative to relevo's, so that all take a few seconds."""


CONTESTANTS = (
    Contestant(ON_RABBITMQ, "pika alone", "peers.pika:Pika", 2.0),
    Contestant(ON_RABBITMQ, "relevo", "peers.relevo:OnRabbitMQ"),
    Contestant(ON_RABBITMQ, "Celery, solo", "peers.celery:Solo", 0.2),
    Contestant(ON_RABBITMQ, "Celery, prefork", "peers.celery:Prefork", 0.2),
    Contestant(ON_RABBITMQ, "Dramatiq", "peers.dramatiq:Dramatiq", 0.5),
    Contestant(ON_SQLITE, "sqlite3 alone", "peers.sqlite:Sqlite", 3.0),
    Contestant(ON_SQLITE, "relevo", "peers.relevo:OnSqlite", 1.5),
    Contestant(ON_SQLITE, "Huey", "peers.huey:Huey", 0.25),
    Contestant(LATENCY, "pika alone", "peers.pika:Pika"),
    Contestant(LATENCY, "relevo", "peers.relevo:OnRabbitMQ"),
)
BARS = (
    Bar(table=ON_RABBITMQ, beside="Celery", times=3.0),
    Bar(table=ON_RABBITMQ, beside="Dramatiq", times=1.2),
    Bar(table=ON_SQLITE, beside="Huey", times=6.0),
    Bar(table=LATENCY, beside="pika alone", within=2.0),
)
DISTRIBUTIONS = ("relevo", "pika", "SQLAlchemy", "celery", "dramatiq", "huey", "supervisor")


Found = dict[str, dict[str, list[Measured]]]
"""The rounds, by table and contestant."""


def found(contestants: Sequence[Contestant], options: argparse.Namespace) -> Found:
    """Measure all contestants in turns, and print the progress."""
    rounds: Found = {}
    for number in range(1, options.rounds + 1):
        for one in contestants:
            began = time.monotonic()
            measured = measure(one, options)
            rounds.setdefault(one.table, {}).setdefault(one.name, []).append(measured)
            busy = "" if measured.machine.busy is None else f"{measured.machine.busy:.0%} busy before, "
            about = f"{busy}fsync {measured.machine.sync:.0f} µs, {time.monotonic() - began:.0f} s"
            line = f"{number} of {options.rounds}  {one.table:30}{one.name:18}{measured.value:12,.6g}   {about}"
            print(line, file=sys.stderr, flush=True)
    return rounds


def measure(contestant: Contestant, options: argparse.Namespace) -> Measured:
    """Measure one round of one contestant, in a new process."""
    work: Callable[..., Measured]
    if contestant.table == LATENCY:
        work = partial(workload.latency, seconds=options.seconds, rate=RATE)
    else:
        work = partial(workload.consume, events=round(options.events * contestant.share))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(work, contestant.kind, options.amqp, patience=options.patience).result()


def report(rounds: Found) -> Sequence[Verdict]:
    """Print the tables and the bars; return the verdict for each bar that was measured."""
    tables = {title: {name: Figures(each) for name, each in lines.items()} for title, lines in rounds.items()}
    for title, table in tables.items():
        print("\n".join(("", *(latencies if title == LATENCY else rates)(title, table))))
    verdicts = [verdict for bar in BARS if (verdict := bar.verdict(tables.get(bar.table, {})))]
    if verdicts:
        print("\n".join(("", *bars(verdicts))))
    print("\n" + "\n".join(surroundings()))
    return verdicts


def surroundings() -> Iterator[str]:
    """Yield the versions, and the machine."""
    yield f"{os.cpu_count()} processors, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
    yield ", ".join(f"{name} {version(name)}" for name in DISTRIBUTIONS)


def as_json(rounds: Found, verdicts: Sequence[Verdict]) -> str:
    """Return all results as JSON."""
    document = {
        "surroundings": list(surroundings()),
        "tables": {
            title: {name: [attrs.asdict(each) for each in measured] for name, measured in lines.items()}
            for title, lines in rounds.items()
        },
        "bars": [{**attrs.asdict(each.bar), "reached": each.reached, "met": each.met} for each in verdicts],
    }
    return json.dumps(document, indent=2) + "\n"


def main() -> int:
    """Measure what the command line asks for; with --check, return 1 unless all bars were met."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").strip().partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--amqp", metavar="URL", help="address of RabbitMQ; without it, only SQLite is measured")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each contestant")
    parser.add_argument(
        "--events", type=int, default=20_000, help="events that relevo handles in a round; others in proportion"
    )
    parser.add_argument("--seconds", type=float, default=6.0, help="seconds of sending events to an idle worker")
    parser.add_argument("--patience", type=float, default=15.0, help="seconds to wait for a quiet machine each time")
    parser.add_argument("--only", metavar="WORD", action="append", help="tables or contestants with this in their name")
    parser.add_argument("--json", metavar="FILE", type=Path, help="file to which all figures are also written")
    parser.add_argument("--check", action="store_true", help="exit with 1 unless relevo met all bars and left no event")
    options = parser.parse_args()
    if missing := [name for name in DISTRIBUTIONS if not _installed(name)]:
        parser.error(f"not installed: {', '.join(missing)}; make bench installs everything that is measured")
    contestants = [
        one
        for one in CONTESTANTS
        if (options.amqp or one.table == ON_SQLITE)
        and (not options.only or any(word in f"{one.table}: {one.name}" for word in options.only))
    ]
    if not contestants:
        parser.error(f"no table and no contestant has {' or '.join(map(repr, options.only))} in its name")
    rounds = found(contestants, options)
    verdicts = report(rounds)
    if options.json:
        options.json.write_text(as_json(rounds, verdicts))
    met = len(verdicts) == len(BARS) and all(each.met for each in verdicts)
    empty = not any(each.left for lines in rounds.values() for each in lines.get(RELEVO, ()))
    return 1 if options.check and not (met and empty) else 0


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
