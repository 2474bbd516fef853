"""
The time of a dispatch to a database, beside the driver alone.

    python benchmarks/dispatch_sql.py postgresql://postgres@localhost/postgres
    python benchmarks/dispatch_sql.py mariadb://root@localhost/test --rounds 9 --events 2000
    python benchmarks/dispatch_sql.py sqlite://

It creates a database on that server, or a file, and deletes it at the end. The driver inserts the same row into a table
with the same columns, constraints and indexes: one by one, each with a commit of its own, and a list in one
transaction. Several threads have a connection each; on SQLite they share one by a lock, which is quicker there. In a
session, a row of the application is inserted and committed with and without events: what counts is what they add,
beside what the driver's own insert of such a row adds there. Rounds are interleaved. Figures are medians of wall-clock
time; their ratios are more reliable.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager

import attrs
import sqlalchemy as sa
from sqlalchemy.orm import Session

import relevo
from dispatch import BY_NAME
from drivers import AT_ONCE, DRIVERS, Driver, Sqlite3
from peers import database
from relevo_sql import SqlTransport

IN_A_SESSION = (1, 100)
THREADS = 8

Work = Callable[[], object]


@attrs.frozen
class Pair:
    """What relevo does, and what it is compared with: the driver, or a session without events."""

    name: str
    events: int
    relevo: Work
    floor: Work
    beside: str = ""
    """The row of the application that a session commits anyway; empty if the floor is the driver."""


class Shop:
    """
    An application with rows of its own.

    Args:
        engine: The engine of the database in which relevo stores its events.

        app: The application that dispatches.
    """

    def __init__(self, engine: sa.Engine, app: relevo.App):
        self._engine, self._app = engine, app
        self._order = sa.Table(
            "shop_order",
            sa.MetaData(),
            sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
            sa.Column("text", sa.String(255), nullable=False),
        )
        self._order.create(engine)

    def commit(self, number: int, *, events: int, driver: Driver | None = None) -> None:
        """Insert a row that number of times, and dispatch some *events*, or let *driver* insert, in the transaction."""
        for _ in range(number):
            with Session(self._engine) as session:
                session.execute(self._order.insert(), {"text": "a row of the application"})
                if driver:
                    driver.send_within(session.connection())
                elif events == 1:
                    self._app.dispatch(BY_NAME, session=session)
                elif events:
                    self._app.dispatch_many([BY_NAME] * events, session=session)
                session.commit()


@contextmanager
def pairs(url: str, *, events: int) -> Iterator[Sequence[Pair]]:
    """Yield what is measured, on a new database of the server at *url*."""
    with ExitStack() as stack:
        own = stack.enter_context(database.fresh(url))
        engine = database.engine_of(own)
        stack.callback(engine.dispose)
        app = stack.enter_context(
            relevo.App(transports={"main": SqlTransport(engine)}, routes={"*": "main"}, source="bench")
        )
        app.setup()
        app.dispatch(BY_NAME)
        driver = DRIVERS[database.kind_of(own)](own)
        shop = Shop(engine, app)
        connections = [stack.enter_context(closing(driver.connected())) for _ in range(THREADS)]
        shared = connections[:1] * THREADS if isinstance(driver, Sqlite3) else connections
        pool = stack.enter_context(ThreadPoolExecutor(THREADS))
        share = max(1, events // THREADS)

        def dispatch(number: int) -> None:
            for _ in range(number):
                app.dispatch(BY_NAME)

        yield (
            Pair(
                "dispatch, one by one",
                events,
                lambda: dispatch(events),
                lambda: driver.send(connections[0], events),
            ),
            Pair(
                f"dispatch_many of {AT_ONCE:,}",
                AT_ONCE,
                lambda: app.dispatch_many([BY_NAME] * AT_ONCE),
                lambda: driver.send_many(connections[0]),
            ),
            Pair(
                f"{THREADS} threads, one by one",
                share * THREADS,
                lambda: list(pool.map(dispatch, [share] * THREADS)),
                lambda: list(pool.map(driver.send, shared, [share] * THREADS)),
            ),
            *(_in_a_session(shop, many, events) for many in IN_A_SESSION),
            Pair(
                "the driver's row, 1 a commit",
                events,
                lambda: shop.commit(events, events=0, driver=driver),
                lambda: shop.commit(events, events=0),
                beside="own row",
            ),
        )


def _in_a_session(shop: Shop, many: int, events: int) -> Pair:
    commits = max(1, events // many)
    return Pair(
        f"session=, {many} a commit",
        commits * many,
        lambda: shop.commit(commits, events=many),
        lambda: shop.commit(commits, events=0),
        beside="own row",
    )


def measured(contestants: Sequence[Pair], *, rounds: int) -> Iterator[tuple[Pair, list[float], list[float]]]:
    """Measure in turns; yield the microseconds for an event in each round, of relevo and of the other."""
    own: list[list[float]] = [[] for _ in contestants]
    other: list[list[float]] = [[] for _ in contestants]
    for number in range(-1, rounds):  # the first round is a warm-up
        for place, pair in enumerate(contestants):
            turns = [(pair.relevo, own[place]), (pair.floor, other[place])]
            for work, times in turns[:: 1 if number % 2 else -1]:
                began = time.perf_counter()
                work()
                taken = time.perf_counter() - began
                if number >= 0:
                    times.append(taken / pair.events * 1e6)
    yield from zip(contestants, own, other, strict=True)


def lines(results: Iterator[tuple[Pair, list[float], list[float]]], *, driver: str) -> Iterator[str]:
    """Yield the lines of a table."""
    yield f"{'microseconds an event':28}{'relevo':>10}{'beside':>12}{'':>10}{'relevo is':>12}{'events/s':>12}"
    for pair, own, other in results:
        one, two = statistics.median(own), statistics.median(other)
        # Of a session, what the events add in each round; beside a driver, relevo's share of its rate.
        adds = statistics.median(a - b for a, b in zip(own, other, strict=True))
        ratio = f"+{adds:.0f} µs" if pair.beside else f"{two / one:.2f} x"
        yield f"{pair.name:28}{one:10.1f}{pair.beside or driver:>12}{two:10.1f}{ratio:>12}{1e6 / one:12,.0f}"


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description="The time of a dispatch to a database, beside its driver.")
    parser.add_argument("url", help="a server on which a database can be created, or sqlite://")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each (7)")
    parser.add_argument("--events", type=int, default=1000, help="events in a round (1000)")
    options = parser.parse_args()
    with pairs(options.url, events=options.events) as contestants:
        driver = DRIVERS[database.kind_of(options.url)].name
        print("\n".join(lines(measured(contestants, rounds=options.rounds), driver=driver)))
    if database.is_server(options.url):
        print("\n" + "\n".join(database.about(options.url)))


if __name__ == "__main__":
    main()
