"""
relevo, its peers and the drivers alone in one run: events a second, and the time from upload to listener.

    make bench
    make bench OPTIONS="--rounds 5 --events 40000 --json figures.json --check"
    make bench OPTIONS="--only PostgreSQL"

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

from peers import database, workload
from peers.workload import Measured
from relevo import SystemClock
from relevo.errors import ConfigurationError
from relevo_sql import SqlOptions, SqlTransport
from summary import RELEVO, Bar, Figures, Verdict, bars, latencies, rates

RATE = 50.0
"""Events a second that are sent to an idle worker."""

SENDING_ON_SQLITE = "dispatching, SQLite"
SENDING_ON_POSTGRESQL = "dispatching, PostgreSQL"
SENDING_ON_MARIADB = "dispatching, MariaDB"
ON_RABBITMQ = "consuming, RabbitMQ"
ON_SQLITE = "consuming, SQLite"
ON_POSTGRESQL = "consuming, PostgreSQL"
ON_MARIADB = "consuming, MariaDB"
LATENCY_ON_RABBITMQ = "upload to listener, RabbitMQ"
LATENCY_ON_POSTGRESQL = "upload to listener, PostgreSQL"

LATENCY_ON_MARIADB = "upload to listener, MariaDB"
LATENCY_ON_SQLITE = "upload to listener, SQLite"

LATENCIES = (LATENCY_ON_RABBITMQ, LATENCY_ON_POSTGRESQL, LATENCY_ON_MARIADB, LATENCY_ON_SQLITE)
DISPATCHES = (SENDING_ON_SQLITE, SENDING_ON_POSTGRESQL, SENDING_ON_MARIADB)
SERVERS = {
    SENDING_ON_POSTGRESQL: "postgresql",
    SENDING_ON_MARIADB: "mariadb",
    ON_RABBITMQ: "amqp",
    LATENCY_ON_RABBITMQ: "amqp",
    ON_POSTGRESQL: "postgresql",
    LATENCY_ON_POSTGRESQL: "postgresql",
    ON_MARIADB: "mariadb",
    LATENCY_ON_MARIADB: "mariadb",
}
"""The option that names the server of a table, which is left out without it."""

DATABASES = ("postgresql", "mariadb")


@attrs.frozen
class Contestant:
    """One line of a table."""

    table: str
    name: str
    kind: str
    """Its class, as module:name."""

    share: float = 1.0
    """The number of its events relative to relevo's, so that all take a few seconds."""

    needs: str = ""
    """The distribution of :data:`OPTIONAL` without which it is left out."""


AFTER_A_CRASH = {
    "relevo": "again, alone",
    "pika alone": "again",
    "Celery": "again",
    "Dramatiq": "again",
    "sqlite3 alone": "stays leased",
    "SQLAlchemy alone": "stays leased",
    "Huey": "lost",
    "PgQueuer": "again, 30 s later",
    "Procrastinate": "stays, until retried",
    "django-tasks-db": "stays running",
    "Chancy": "again, 1 to 3 min later",
    "DBOS": "again, on a restart",
    "Oban": "again, 5 min later",
}
"""The fate of the event that a worker was handling when it was killed, by the beginning of a contestant's name."""

CONTESTANTS = (
    Contestant(SENDING_ON_SQLITE, "sqlite3 alone", "peers.sqlite:Sqlite", 0.2),
    Contestant(SENDING_ON_SQLITE, "relevo", "peers.relevo:OnSqliteResident", 0.1),
    Contestant(SENDING_ON_SQLITE, "Huey", "peers.huey:Huey", 0.1),
    Contestant(SENDING_ON_POSTGRESQL, "SQLAlchemy alone", "peers.postgresql:Floor", 0.1),
    Contestant(SENDING_ON_POSTGRESQL, "relevo", "peers.relevo:OnPostgresql", 0.1),
    Contestant(SENDING_ON_POSTGRESQL, "PgQueuer", "peers.pgqueuer:PgQueuer", 0.1),
    Contestant(SENDING_ON_POSTGRESQL, "Procrastinate", "peers.procrastinate:Procrastinate", 0.05),
    Contestant(SENDING_ON_POSTGRESQL, "django-tasks-db", "peers.django_tasks_db:Django", 0.05, "django-tasks-db"),
    Contestant(SENDING_ON_POSTGRESQL, "Chancy", "peers.chancy:Chancy", 0.1, "chancy"),
    Contestant(SENDING_ON_POSTGRESQL, "DBOS", "peers.dbos:Dbos", 0.05, "dbos"),
    Contestant(SENDING_ON_POSTGRESQL, "Oban", "peers.oban:Oban", 0.1, "oban"),
    Contestant(SENDING_ON_MARIADB, "SQLAlchemy alone", "peers.mariadb:Floor", 0.1),
    Contestant(SENDING_ON_MARIADB, "relevo", "peers.relevo:OnMariadb", 0.1),
    Contestant(ON_RABBITMQ, "pika alone", "peers.pika:Pika", 2.0),
    Contestant(ON_RABBITMQ, "relevo", "peers.relevo:OnRabbitMQ"),
    Contestant(ON_RABBITMQ, "Celery, solo", "peers.celery:Solo", 0.2),
    Contestant(ON_RABBITMQ, "Celery, prefork", "peers.celery:Prefork", 0.2),
    Contestant(ON_RABBITMQ, "Dramatiq", "peers.dramatiq:Dramatiq", 0.5),
    Contestant(ON_SQLITE, "sqlite3 alone", "peers.sqlite:Sqlite", 3.0),
    Contestant(ON_SQLITE, "relevo", "peers.relevo:OnSqlite", 1.5),
    Contestant(ON_SQLITE, "Huey", "peers.huey:Huey", 0.25),
    Contestant(ON_POSTGRESQL, "SQLAlchemy alone", "peers.postgresql:Floor", 1.5),
    Contestant(ON_POSTGRESQL, "relevo", "peers.relevo:OnPostgresql", 1.5),
    Contestant(ON_POSTGRESQL, "PgQueuer", "peers.pgqueuer:PgQueuer"),
    Contestant(ON_POSTGRESQL, "Procrastinate", "peers.procrastinate:Procrastinate", 0.1),
    Contestant(ON_POSTGRESQL, "django-tasks-db", "peers.django_tasks_db:Django", 0.03, "django-tasks-db"),
    Contestant(ON_POSTGRESQL, "Chancy", "peers.chancy:Chancy", 0.5, "chancy"),
    Contestant(ON_POSTGRESQL, "DBOS", "peers.dbos:Dbos", 0.2, "dbos"),
    Contestant(ON_POSTGRESQL, "Oban", "peers.oban:Oban", 0.3, "oban"),
    Contestant(ON_MARIADB, "SQLAlchemy alone", "peers.mariadb:Floor", 1.5),
    Contestant(ON_MARIADB, "relevo", "peers.relevo:OnMariadb", 1.5),
    Contestant(LATENCY_ON_RABBITMQ, "pika alone", "peers.pika:Pika"),
    Contestant(LATENCY_ON_RABBITMQ, "relevo", "peers.relevo:OnRabbitMQ"),
    Contestant(LATENCY_ON_POSTGRESQL, "SQLAlchemy alone", "peers.postgresql:Floor"),
    Contestant(LATENCY_ON_POSTGRESQL, "relevo", "peers.relevo:OnPostgresql"),
    Contestant(LATENCY_ON_POSTGRESQL, "PgQueuer", "peers.pgqueuer:PgQueuer"),
    Contestant(LATENCY_ON_MARIADB, "relevo", "peers.relevo:OnMariadb"),
    Contestant(LATENCY_ON_SQLITE, "relevo", "peers.relevo:OnSqliteResident"),
)
BARS = (
    Bar(table=SENDING_ON_SQLITE, beside="Huey", times=1.0),
    Bar(table=SENDING_ON_POSTGRESQL, beside="PgQueuer", times=1.0),
    Bar(table=SENDING_ON_POSTGRESQL, beside="Procrastinate", times=1.0),
    Bar(table=ON_RABBITMQ, beside="Celery", times=3.0),
    Bar(table=ON_RABBITMQ, beside="Dramatiq", times=1.2),
    Bar(table=ON_SQLITE, beside="Huey", times=12.0),
    Bar(table=ON_POSTGRESQL, beside="SQLAlchemy alone", times=1.0),
    Bar(table=ON_POSTGRESQL, beside="PgQueuer", times=2.0),
    Bar(table=ON_MARIADB, beside="SQLAlchemy alone", times=0.75),
    Bar(table=LATENCY_ON_POSTGRESQL, most=3.0),
    Bar(table=LATENCY_ON_SQLITE, most=5.0),
    Bar(table=LATENCY_ON_MARIADB, most=30.0),
    Bar(table=LATENCY_ON_RABBITMQ, beside="pika alone", within=2.0),
)
DISTRIBUTIONS = (
    *("relevo", "pika", "SQLAlchemy", "psycopg", "celery", "dramatiq", "huey", "pgqueuer", "asyncpg", "procrastinate"),
    "supervisor",
)
OPTIONAL = {"django-tasks-db": "3.11", "chancy": "3.11", "dbos": "3.11", "oban": "3.12"}
"""The distributions whose contestants are left out without them, and the oldest Python that can install each."""


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
            line = f"{number} of {options.rounds}  {one.table:32}{one.name:18}{measured.value:12,.6g}   {about}"
            print(line, file=sys.stderr, flush=True)
    return rounds


def measure(contestant: Contestant, options: argparse.Namespace) -> Measured:
    """Measure one round of one contestant, in a new process."""
    work: Callable[..., Measured]
    url = getattr(options, SERVERS[contestant.table]) if contestant.table in SERVERS else ""
    if contestant.table in LATENCIES:
        work = partial(workload.latency, seconds=options.seconds, rate=RATE)
    elif contestant.table in DISPATCHES:
        work = partial(workload.dispatch, events=round(options.events * contestant.share))
    else:
        work = partial(workload.consume, events=round(options.events * contestant.share))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(work, contestant.kind, url, patience=options.patience).result()


def absent(options: argparse.Namespace) -> dict[str, str]:
    """Return the reason for each table that cannot be measured."""
    reasons = {}
    for table, option in SERVERS.items():
        url = getattr(options, option)
        if not url:
            reasons[table] = f"no server; name one with --{option}"
        elif option in DATABASES and (refusal := _refusal(url)):
            reasons[table] = refusal
    return reasons


def without(distribution: str, *, python: Sequence[int] = sys.version_info[:3]) -> str:
    """Return why what needs *distribution*, which is not installed, is left out on that version of Python."""
    oldest = OPTIONAL[distribution]
    if tuple(python) < tuple(map(int, oldest.split("."))):
        return f"{distribution} needs Python {oldest} or newer; this is {'.'.join(map(str, python))}"
    return f"{distribution} is not installed; make bench installs everything that is measured"


def report(rounds: Found, options: argparse.Namespace) -> Sequence[Verdict]:
    """Print the tables and the bars; return the verdict for each bar that was measured."""
    tables = {title: {name: Figures(each) for name, each in lines.items()} for title, lines in rounds.items()}
    for title, table in tables.items():
        lines = latencies(title, table) if title in LATENCIES else rates(title, table, AFTER_A_CRASH)
        print("\n".join(("", *lines)))
    verdicts = [verdict for bar in BARS if (verdict := bar.verdict(tables.get(bar.table, {})))]
    if verdicts:
        print("\n".join(("", *bars(verdicts))))
    print("\n" + "\n".join(surroundings(rounds, options)))
    return verdicts


def surroundings(rounds: Found, options: argparse.Namespace) -> Iterator[str]:
    """Yield the versions, the machine, and whether the servers of databases are durable."""
    yield f"{os.cpu_count()} processors, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
    names = (*DISTRIBUTIONS, *filter(_installed, OPTIONAL))
    yield ", ".join(f"{name} {version(name)}" for name in names)
    measured = {SERVERS[table] for table in rounds if table in SERVERS}
    for option in DATABASES:
        if option in measured:
            yield from database.about(getattr(options, option))


def as_json(rounds: Found, verdicts: Sequence[Verdict], options: argparse.Namespace) -> str:
    """Return all results as JSON."""
    document = {
        "surroundings": list(surroundings(rounds, options)),
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
    parser.add_argument("--amqp", metavar="URL", help="address of RabbitMQ; without it, its tables are left out")
    parser.add_argument("--postgresql", metavar="URL", help="the same for PostgreSQL; databases are created there")
    parser.add_argument("--mariadb", metavar="URL", help="the same for MariaDB")
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
    wanted = [
        one
        for one in CONTESTANTS
        if not options.only or any(word in f"{one.table}: {one.name}" for word in options.only)
    ]
    if not wanted:
        parser.error(f"no table and no contestant has {' or '.join(map(repr, options.only))} in its name")
    reasons = absent(options)
    for table in dict.fromkeys(one.table for one in wanted if one.table in reasons):
        print(f'"{table}" is left out: {reasons[table]}', file=sys.stderr)
    served = [one for one in wanted if one.table not in reasons]
    lacking = {one.name: without(one.needs) for one in served if one.needs and not _installed(one.needs)}
    for name, reason in lacking.items():
        print(f"{name} is left out: {reason}", file=sys.stderr)
    contestants = [one for one in served if one.name not in lacking]
    if not contestants:
        return 1 if options.check else 0
    rounds = found(contestants, options)
    verdicts = report(rounds, options)
    if options.json:
        options.json.write_text(as_json(rounds, verdicts, options))
    met = len(verdicts) == len(BARS) and all(each.met for each in verdicts)
    empty = not any(each.left for lines in rounds.values() for each in lines.get(RELEVO, ()))
    return 1 if options.check and not (met and empty) else 0


def _refusal(url: str) -> str:
    """Return why relevo cannot use the database at *url*; empty if it can."""
    try:
        SqlTransport.open(SqlOptions(url=url), name="main", clock=SystemClock()).close()
    except ConfigurationError as error:
        return str(error)
    return ""


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
