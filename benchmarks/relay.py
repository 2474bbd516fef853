"""
How many events a second a relay moves, beside its two sides alone.

    python benchmarks/relay.py --from sqlite:// --to amqp://localhost
    python benchmarks/relay.py --from sqlite:// --from postgresql://postgres@localhost/postgres --to sqlite://
    python benchmarks/relay.py --from sqlite:// --to sqlite:// --key same --events 2000

The source alone receives 250 events of the outbox at once, as a worker does, and acks them; the target alone is sent
250 at once. Both do so in one thread, one step after the other, through the transport. The relay does the same work, in
its worker, with up to 1000 at once. Each round has new databases and queues, and measures one after the other, so that
other load on the machine affects all of them.

The column "apart" is the slower side while both work at the same time, each in a process of its own: the machine has to
serve the two servers and both processes, so a relay cannot be expected to be faster. The last columns are the rate of
the relay as a share of that of its slower side, alone and apart: the median of the rounds, with the least and the most.

With `--key each` every event has an ordering key of its own, and with `--key same` all have one, so that a claim finds
one event at a time; RabbitMQ takes no keys.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from threading import Barrier

import attrs

import relevo
from peers import database
from relevo._identity import uuid7
from relevo._transport.route import outbox_queue

AT_ONCE = 250
LEASE = 600.0
QUEUE = outbox_queue("main")
RATES = ("source", "target", "apart", "relay")
KEYS: Mapping[str, Callable[[int], str | None]] = {"none": lambda _: None, "each": str, "same": lambda _: "7"}

_BODY = b'{"specversion":"1.0","type":"image.created","data":{"image_id":7,"filename":"coffee.jpg","tags":["food"]}}'


@attrs.frozen
class Round:
    """Events a second in one round."""

    source: float
    target: float
    relay: float
    apart: float = float("nan")

    @property
    def share(self) -> float:
        """The rate of the relay as a share of that of its slower side."""
        return self.relay / min(self.source, self.target)

    @property
    def share_apart(self) -> float:
        """The same while both sides work at the same time, each in a process of its own."""
        return self.relay / self.apart


def measure(source: str, target: str, *, events: int, key: str = "none") -> Round:
    """Return the rates between new stores on the servers at *source* and *target*."""
    with opened(source, target) as app:
        sent = _envelopes(events, KEYS[key])
        fill(app, source, sent)
        consumed = _timed(lambda: _consume(app), events)
        fill(app, source, sent)
        relayed = _timed(lambda: _relay(app), events)
        again = _envelopes(events, KEYS[key])
        return Round(source=consumed, target=_timed(lambda: _send(app, again), events), relay=relayed)


def apart(source: str, target: str, *, events: int, key: str = "none") -> float:
    """Return the rate of the slower side while both work, each in a process of its own on new stores."""
    spawn = multiprocessing.get_context("spawn")
    with spawn.Manager() as manager, spawn.Pool(2) as pool:
        together = manager.Barrier(2)
        side = partial(_side, source=source, target=target, events=events, key=key, together=together)
        return min(pool.map(side, ["source", "target"], chunksize=1))


def _side(side: str, *, source: str, target: str, events: int, key: str, together: Barrier) -> float:
    with opened(source, target) as app:
        envelopes = _envelopes(events, KEYS[key])
        if side == "source":
            fill(app, source, envelopes)
        together.wait()
        return _timed(lambda: _consume(app) if side == "source" else _send(app, envelopes), events)


@contextmanager
def opened(source: str, target: str) -> Iterator[relevo.App]:
    """Yield an application whose transport is at *target*, with an outbox at *source*, both of them new."""
    with ExitStack() as stack:
        outbox = stack.enter_context(database.fresh(source))
        is_amqp = database.kind_of(target) in ("amqp", "amqps")
        prefix = f', prefix = "bench-{uuid.uuid4().hex[:8]}", levels = 4' if is_amqp else ""
        main = target if is_amqp else stack.enter_context(database.fresh(target))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "relevo.toml").write_text(
            f'source = "bench"\n[transports]\nmain = {{ url = "{main}"{prefix}, outbox = "{outbox}" }}\n'
            f'[routes]\n"*" = "main"\n'
        )
        app = stack.enter_context(relevo.App.from_config(folder / "relevo.toml", environ={}))
        if is_amqp:
            from peers.rabbitmq import borrowed  # noqa: PLC0415 - needs pika

            stack.enter_context(borrowed(app, target))
        app.prepare("main")
        yield app


def fill(app: relevo.App, source: str, envelopes: Sequence[relevo.Envelope]) -> None:
    """Commit *envelopes* to the outbox, as a program does that dispatches them in a session."""
    outbox = app.outboxes["main"]
    engine = database.engine_of(outbox.url.render_as_string(hide_password=False))  # type: ignore[attr-defined]
    try:
        with engine.begin() as connection:
            outbox.bound_to(connection, relay_to="main").send(lambda: envelopes)
        if database.kind_of(source) == "postgresql":  # what autovacuum does within a minute
            with database.connected(engine) as connection:
                connection.exec_driver_sql("VACUUM ANALYZE relevo_event")
    finally:
        engine.dispose()


def _envelopes(number: int, key: Callable[[int], str | None]) -> list[relevo.Envelope]:
    made = partial(relevo.Envelope, source="bench", name="image.created", body=_BODY)
    return [made(id=uuid7(time.time()), ordering_key=key(each)) for each in range(number)]  # as dispatch makes them


def _timed(move: Callable[[], int], events: int) -> float:
    """Return how many events a second *move* moves, which has to be *events*."""
    began = time.perf_counter()
    moved = move()
    taken = time.perf_counter() - began
    if moved != events:
        raise SystemExit(f"{moved} of {events} events were moved")
    return events / taken


def _consume(app: relevo.App) -> int:
    outbox, done = app.outboxes["main"], 0
    while batch := outbox.receive([QUEUE], limit=AT_ONCE, lease=LEASE, wait=0.0):
        outbox.settle([(delivery, relevo.Ack()) for delivery in batch])
        done += len(batch)
    return done


def _send(app: relevo.App, envelopes: Sequence[relevo.Envelope]) -> int:
    for start in range(0, len(envelopes), AT_ONCE):
        app.transport().send(envelopes[start : start + AT_ONCE])
    return len(envelopes)


def _relay(app: relevo.App) -> int:
    relay = app.relay("main", relevo.RunOptions(until_empty=True))
    return 0 if relay is None else relay.run().done


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for, and print a table of medians."""
    parser = argparse.ArgumentParser(description="How many events a second a relay moves, beside its two sides alone.")
    parser.add_argument("--from", metavar="URL", action="append", required=True, dest="sources", help="the outbox")
    parser.add_argument("--to", metavar="URL", action="append", required=True, dest="targets", help="the transport")
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--key", choices=KEYS, default="none", help="the ordering key of the events")
    options = parser.parse_args(arguments)
    pairs = list(product(options.sources, options.targets))
    rounds: dict[tuple[str, str], list[Round]] = {pair: [] for pair in pairs}
    for _ in range(options.rounds):
        for pair in pairs:
            alone = measure(*pair, events=options.events, key=options.key)
            rounds[pair].append(attrs.evolve(alone, apart=apart(*pair, events=options.events, key=options.key)))
    heads = "".join(f"{name:>10}" for name in RATES)
    print(f"{'events a second':28}{heads}   {'of the slower side':22}of both apart")
    for (source, target), found in rounds.items():
        rates = [statistics.median(getattr(each, name) for each in found) for name in RATES]
        columns = "".join(f"{rate:10,.0f}" for rate in rates)
        name = f"{database.kind_of(source)} to {database.kind_of(target)}"
        shares = _spread([each.share for each in found]), _spread([each.share_apart for each in found])
        print(f"{name:28}{columns}   {shares[0]:22}{shares[1]}")


def _spread(shares: Sequence[float]) -> str:
    return f"{statistics.median(shares):.2f} ({min(shares):.2f} to {max(shares):.2f})"


if __name__ == "__main__":
    main()
