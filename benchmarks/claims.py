"""
How many events a second can be claimed and settled, by what else is in the database.

    python benchmarks/claims.py sqlite://
    python benchmarks/claims.py postgresql://postgres@localhost/postgres --pending 1000 1000000
    python benchmarks/claims.py URL --only workers --shared 100000

There is no worker and no listener: 250 events are received and then acked at once, through the transport alone. Each
line has a new database, on the server of the URL; for SQLite it is in the folder of the URL's file, or without one in
the folder for temporary files. The number of pending events stays the same: as many are sent as were claimed, outside
of the measured time. The lines of a table take turns, batch by batch, so that other load on the machine affects all of
them. A figure is that of the median batch; the last column compares it with the first of its table.

Several workers are processes that empty one queue together; their line says if an event was handed out twice, or not
at all, and the exit code is then 1.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import chain
from multiprocessing.synchronize import Barrier

import attrs

from peers import database
from relevo import Ack, Delivery, Envelope, SystemClock
from relevo_sql import SqlOptions, SqlTransport

AT_ONCE = 250
QUEUE = "default"
LEASE = 600.0
LATER = 86_400.0
"""Seconds until scheduled events are due."""

_SENT_AT_ONCE = 1000
_START = 60.0
"""Seconds for all workers to start."""

_BODY = b'{"specversion":"1.0","type":"image.created","data":{"image_id":7,"filename":"coffee.jpg","tags":["food"]}}'


@attrs.frozen
class Line:
    """One line of a table."""

    name: str
    rate: float
    wrong: str = ""
    """What must not be."""


class Bench:
    """
    A transport with a new database.

    Args:
        url: Its address.
    """

    def __init__(self, url: str):
        self.url = url
        self._engine = database.engine_of(url)
        self._transport = SqlTransport.open(SqlOptions(url=url), name="bench", clock=SystemClock())
        self._transport.setup([QUEUE])

    def fill(self, number: int, *, delay: float = 0.0, key: str | None = None) -> None:
        """Send that number of events."""
        for start in range(0, number, _SENT_AT_ONCE):
            many = min(_SENT_AT_ONCE, number - start)
            self._transport.send([_envelope(key) for _ in range(many)], delay=delay)

    def hold(self) -> None:
        """Receive one event and keep it."""
        self._transport.receive([QUEUE], limit=1, lease=LEASE, wait=0.0)

    def analyse(self) -> None:
        """Do now what autovacuum of PostgreSQL does within a minute, so that no measurement has it in its middle."""
        if database.kind_of(self.url) == "postgresql":
            with database.connected(self._engine) as connection:
                connection.exec_driver_sql("VACUUM ANALYZE relevo_event")

    def connect(self) -> None:
        """Connect now, rather than at the first claim."""
        self._transport.stats(QUEUE)

    def claim(self) -> Sequence[Delivery]:
        """Receive and ack, and return what was received."""
        deliveries = self._transport.receive([QUEUE], limit=AT_ONCE, lease=LEASE, wait=0.0)
        if self._transport.settle([(delivery, Ack()) for delivery in deliveries]):
            raise SystemExit(f"a lease of {LEASE:g} s was lost")
        return deliveries

    def rate(self, *, refill: bool = True) -> float:
        """Return how many events a second are claimed and acked, of one batch."""
        began = time.perf_counter()
        came = len(self.claim())
        taken = time.perf_counter() - began
        if not came:
            raise SystemExit("no event was received, although some are pending")
        if refill:
            self.fill(came)
        return came / taken

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Keep a transaction open in another session, which has read something."""
        level = " ISOLATION LEVEL REPEATABLE READ" if database.kind_of(self.url) == "postgresql" else ""
        with database.connected(self._engine) as connection:
            connection.exec_driver_sql(f"BEGIN{level}")
            connection.exec_driver_sql("SELECT count(*) FROM relevo_event").scalar()
            yield
            connection.exec_driver_sql("ROLLBACK")

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()
        self._engine.dispose()


@contextmanager
def opened(url: str) -> Iterator[Bench]:
    """Yield the transport at *url*."""
    bench = Bench(url)
    try:
        yield bench
    finally:
        bench.close()


@contextmanager
def fresh(url: str) -> Iterator[Bench]:
    """Yield a transport with a new database beside *url*."""
    with database.fresh(url) as own, opened(own) as bench:
        yield bench


def _envelope(key: str | None) -> Envelope:
    return Envelope(id=str(uuid.uuid4()), source="bench", name="image.created", body=_BODY, ordering_key=key)


# --- the tables -----------------------------------------------------------------------------------


def backlog(options: argparse.Namespace) -> Iterator[Line]:
    """Yield the rates beside pending, scheduled and waiting events."""
    least = min(options.pending)

    def nothing(bench: Bench) -> None:
        pass

    def schedule(bench: Bench) -> None:
        bench.fill(options.scheduled, delay=LATER)

    def wait_in_line(bench: Bench) -> None:
        bench.fill(options.line, key="one")
        bench.hold()  # the first one, so that all others wait

    cases = [(f"{pending:,} pending", pending, nothing) for pending in options.pending]
    cases += [
        (f"{least:,} pending, {options.scheduled:,} scheduled", least, schedule),
        (f"{least:,} pending, {options.line:,} of one key", least, wait_in_line),
    ]
    with ExitStack() as stack:
        benches = [stack.enter_context(fresh(options.url)) for _ in cases]
        for bench, (_, pending, beside) in zip(benches, cases, strict=True):
            beside(bench)
            bench.fill(pending)
            bench.analyse()
        rates = in_turns(benches, _batches(options.events))
    yield from (Line(name, rate) for (name, _, _), rate in zip(cases, rates, strict=True))


def order(options: argparse.Namespace) -> Iterator[Line]:
    """Yield the rates of events of one key, which are handed out one by one."""
    claimed = min(options.line, options.ordered)
    numbers = sorted({claimed, options.line})
    with ExitStack() as stack:
        benches = [stack.enter_context(fresh(options.url)) for _ in numbers]
        for bench, number in zip(benches, numbers, strict=True):
            bench.fill(number, key="one")
            bench.analyse()
        rates = in_turns(benches, claimed, refill=False)
    yield from (Line(f"{number:,} of one key", rate) for number, rate in zip(numbers, rates, strict=True))


def snapshot(options: argparse.Namespace) -> Iterator[Line]:
    """Yield the rates at first and after many events, without and with a snapshot of another session."""
    with fresh(options.url) as free, fresh(options.url) as held:
        for bench in (free, held):
            bench.fill(4 * AT_ONCE)
        with held.snapshot():
            first = in_turns([free, held], _batches(options.events))
            in_turns([free, held], _batches(options.passed))
            later = in_turns([free, held], _batches(options.events))
    for name, one, two in zip(("no snapshot", "a snapshot"), first, later, strict=True):
        yield Line(f"{name}, at first", one)
        yield Line(f"{name}, {options.passed:,} events later", two)


def in_turns(benches: Sequence[Bench], batches: int, *, refill: bool = True) -> Sequence[float]:
    """Claim that number of batches from each in turns; return the median rates."""
    rates = [[bench.rate(refill=refill) for bench in benches] for _ in range(batches)]
    return [statistics.median(own) for own in zip(*rates, strict=True)]


def _batches(events: int) -> int:
    return max(1, events // AT_ONCE)


def workers(options: argparse.Namespace) -> Iterator[Line]:
    """Yield the total rates of several processes that empty one queue."""
    for number in options.workers:
        with fresh(options.url) as bench:
            bench.fill(options.shared)
            bench.analyse()
            yield emptied(bench.url, workers=number, events=options.shared)


def emptied(url: str, *, workers: int, events: int) -> Line:
    """Empty the queue of the database at *url* by that number of processes."""
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(workers)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_wait_for, initargs=(start,)) as pool:
        results = [each.result() for each in [pool.submit(_empty, url) for _ in range(workers)]]
    ids = list(chain.from_iterable(came for _, _, came in results))
    seconds = max(ended for _, ended, _ in results) - min(began for began, _, _ in results)
    twice, missed = len(ids) - len(set(ids)), events - len(set(ids))
    wrong = f"{twice} twice, {missed} missed" if twice or missed else ""
    return Line(f"{workers} {'process' if workers == 1 else 'processes'}", len(ids) / seconds, wrong)


_starts: list[Barrier] = []
"""Where a process waits for the others; each one has its own list."""


def _wait_for(start: Barrier) -> None:
    _starts.append(start)


def _empty(url: str) -> tuple[float, float, list[str]]:
    """Return when this process began, when its last event was acked, and the ids of all its events."""
    ids: list[str] = []
    with opened(url) as bench:
        bench.connect()
        _starts[0].wait(_START)
        began = ended = time.monotonic()  # the clock is the same in all processes
        while deliveries := bench.claim():
            ids += [delivery.envelope.id for delivery in deliveries if isinstance(delivery.envelope, Envelope)]
            ended = time.monotonic()
    return began, ended, ids


# --- the command line -----------------------------------------------------------------------------

TABLES: dict[str, Callable[[argparse.Namespace], Iterator[Line]]] = {
    "backlog": backlog,
    "order": order,
    "snapshot": snapshot,
    "workers": workers,
}


def shown(title: str, lines: Iterator[Line]) -> Iterator[tuple[str, bool]]:
    """Yield each line of a table as it comes, and whether all is right."""
    yield f"{title:46}{'events/s':>10}{'of the first':>14}", True
    first: float | None = None
    for line in lines:
        first = first or line.rate
        text = f"  {line.name:44}{line.rate:10,.0f}{line.rate / first:14.2f}   {line.wrong.upper()}"
        yield text.rstrip(), not line.wrong


def main(words: Sequence[str] | None = None) -> int:
    """Print the tables; return 1 if an event was handed out twice, or not at all."""
    parser = argparse.ArgumentParser(
        description="How many events a second can be claimed and settled.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("url", help="a server on which databases can be created, or sqlite://")
    parser.add_argument("--only", choices=TABLES, action="append", help="measure this table; may be repeated")
    parser.add_argument("--events", type=int, default=10_000, help="events that are claimed for a line")
    parser.add_argument("--pending", type=int, nargs="+", default=[1000, 1_000_000], help="pending events")
    parser.add_argument("--scheduled", type=int, default=200_000, help="events that are due tomorrow")
    parser.add_argument("--line", type=int, default=10_000, help="events of one key")
    parser.add_argument("--ordered", type=int, default=500, help="events of one key that are claimed")
    parser.add_argument("--passed", type=int, default=50_000, help="events that pass beside a snapshot")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8], help="processes")
    parser.add_argument("--shared", type=int, default=50_000, help="events that the processes share")
    options = parser.parse_args(words)
    if min(options.pending) < AT_ONCE:
        parser.error(f"--pending has to be at least {AT_ONCE}, which are claimed at once")
    wrong = False
    for title in options.only or TABLES:
        for text, is_right in shown(title, TABLES[title](options)):
            print(text, flush=True)
            wrong = wrong or not is_right
        print()
    if database.is_server(options.url):
        print("\n".join(database.about(options.url)))
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
