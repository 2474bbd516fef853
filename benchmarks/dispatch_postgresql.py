"""
The time of a dispatch to PostgreSQL, beside the driver alone.

    python benchmarks/dispatch_postgresql.py postgresql://postgres@localhost/postgres
    python benchmarks/dispatch_postgresql.py URL --rounds 9 --events 2000

It creates a database on that server, and deletes it at the end. psycopg inserts the same row into a table with the same
columns, constraints and indexes: one by one by a prepared statement that commits by itself, a list by executemany in
one transaction. In a session, a row of the application is inserted and committed with and without events: what counts
is what they add, beside what the driver's own insert of such a row adds there. Rounds are interleaved. Figures are
medians of wall-clock time; their ratios are more reliable.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import attrs
import psycopg
import sqlalchemy as sa
from sqlalchemy.orm import Session

import relevo
from dispatch import BY_NAME, FIELDS
from peers import database
from relevo_sql import SqlTransport

AT_ONCE = 1000
IN_A_SESSION = (1, 100)
THREADS = 8

Work = Callable[[], object]


@attrs.frozen
class Pair:
    """What relevo does, and what it is compared with."""

    name: str
    events: int
    relevo: Work
    floor: Work
    beside: str = "psycopg"


class Driver:
    """
    psycopg on a table like relevo's.

    Args:
        url: A database in which relevo has stored one event.
    """

    def __init__(self, url: str):
        self._url = database.plain(url)
        with self.connected() as connection:
            connection.execute("CREATE TABLE floor (LIKE relevo_event INCLUDING ALL)")
            cursor = connection.execute("SELECT * FROM relevo_event")
            columns = [column.name for column in cursor.description or ()]
            row = dict(zip(columns, cursor.fetchone() or (), strict=True))
        del row["seq"]
        self._row = row
        places = ", ".join(f"%({column})s" for column in row)
        self._insert = f"INSERT INTO floor ({', '.join(row)}) VALUES ({places})"  # noqa: S608 - relevo's own columns

    def connected(self) -> psycopg.Connection:
        """Return a connection whose statements commit by themselves."""
        return psycopg.connect(self._url, autocommit=True)

    def send(self, connection: psycopg.Connection, number: int) -> None:
        """Insert that number of rows, one by one."""
        for _ in range(number):
            connection.execute(self._insert, self._new())

    def send_many(self, connection: psycopg.Connection) -> None:
        """Insert :data:`AT_ONCE` rows in one transaction."""
        with connection.transaction():
            connection.cursor().executemany(self._insert, [self._new() for _ in range(AT_ONCE)])

    def send_within(self, connection: sa.Connection) -> None:
        """Insert one row in the transaction of *connection*."""
        connection.exec_driver_sql(self._insert, self._new())

    def _new(self) -> dict[str, object]:
        """Return a row as every sender has to make it: with a new id and an encoded event."""
        return {**self._row, "event_id": str(uuid.uuid4()), "body": json.dumps(FIELDS).encode()}


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
            sa.Column("id", sa.BigInteger, primary_key=True),
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
        driver = Driver(own)
        shop = Shop(engine, app)
        connections = [stack.enter_context(driver.connected()) for _ in range(THREADS)]
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
                lambda: list(pool.map(driver.send, connections, [share] * THREADS)),
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


def lines(results: Iterator[tuple[Pair, list[float], list[float]]]) -> Iterator[str]:
    """Yield the lines of a table."""
    yield f"{'microseconds an event':28}{'relevo':>10}{'beside':>12}{'':>10}{'relevo is':>12}{'events/s':>12}"
    for pair, own, other in results:
        one, two = statistics.median(own), statistics.median(other)
        # Of a session, what the events add in each round; of a driver, how much slower relevo is.
        adds = statistics.median(a - b for a, b in zip(own, other, strict=True))
        ratio = f"{one / two:.2f} x" if pair.beside == "psycopg" else f"+{adds:.0f} µs"
        yield f"{pair.name:28}{one:10.1f}{pair.beside:>12}{two:10.1f}{ratio:>12}{1e6 / one:12,.0f}"


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description="The time of a dispatch to PostgreSQL, beside psycopg.")
    parser.add_argument("url", help="a PostgreSQL on which a database can be created")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each (7)")
    parser.add_argument("--events", type=int, default=1000, help="events in a round (1000)")
    options = parser.parse_args()
    with pairs(options.url, events=options.events) as contestants:
        print("\n".join(lines(measured(contestants, rounds=options.rounds))))
    print("\n" + "\n".join(database.about(options.url)))


if __name__ == "__main__":
    main()
