"""
The cost of a distant RabbitMQ: a worker behind a connection with latency.

    python benchmarks/distance.py --amqp amqp://guest:guest@127.0.0.1/

A proxy delays the data in both directions. Each listener waits for 2 ms, inline or eight at once in threads. A worker
has at most one flush of acks in flight, see docs/explanation/decisions/0003. So the rate falls with the distance, while
the number of events that a crash repeats does not grow.
"""

from __future__ import annotations

import argparse
import contextlib
import secrets
import time
from collections.abc import Iterator, Sequence

import relevo
from peers.rabbitmq import borrowed
from relevo_amqp import AmqpOptions, AmqpTransport
from relevo_conformance.fault.proxy import Proxy

ROUND_TRIPS = (0.0, 0.002, 0.01, 0.05)
TERMS = (
    relevo.RunOptions(until_empty=True, execution="inline"),
    relevo.RunOptions(until_empty=True, execution="threads", concurrency=8),
)
WORK = 0.002
EVENTS = 1000


@relevo.listener("number.counted")
def wait(_: relevo.Event) -> None:
    """Wait, as a listener that does work would."""
    time.sleep(WORK)


class Stopwatch:
    """Records the time of each settlement."""

    def __init__(self) -> None:
        self.settled: list[tuple[float, int]] = []

    @relevo.hookimpl
    @contextlib.contextmanager
    def relevo_around_settle(self, settlements: Sequence[object]) -> Iterator[None]:
        """Record the time."""
        yield
        self.settled.append((time.perf_counter(), len(settlements)))

    def rate(self) -> float:
        """Return the events a second between the first settlement and the last one."""
        seconds = self.settled[-1][0] - self.settled[0][0]
        return sum(number for _, number in self.settled[1:]) / seconds


def rate(url: str, round_trip: float, events: int, terms: relevo.RunOptions) -> float:
    """Return how many events a second a worker handles at this distance."""
    proxy = Proxy(url, port=5672)
    prefix = f"bench-{secrets.token_hex(4)}"
    near = AmqpTransport(AmqpOptions(url=url, prefix=prefix, levels=8))
    far = AmqpTransport(AmqpOptions(url=proxy.url, prefix=prefix, levels=8))
    watch = Stopwatch()
    with (
        relevo.App(transports={"main": near}, routes={"*": "main"}) as sender,
        relevo.App(transports={"main": far}, routes={"*": "main"}, listeners=[wait], plugins=[watch]) as app,
        borrowed(sender, url),
        contextlib.closing(proxy),
        contextlib.closing(app),
    ):
        sender.dispatch_many(relevo.Event("number.counted") for _ in range(events))
        app.prepare("main")
        proxy.delay = round_trip / 2
        app.worker(terms).run()
        proxy.delay = 0.0
    return watch.rate()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--amqp", default="amqp://guest:guest@127.0.0.1/")
    parser.add_argument("--events", type=int, default=EVENTS)
    said = parser.parse_args()
    print(f"a listener that waits {WORK * 1e3:g} ms, events a second")
    print(f"{'round trip':>12}{'inline':>10}{'8 threads':>12}")
    for round_trip in ROUND_TRIPS:
        rates = [rate(said.amqp, round_trip, said.events, terms) for terms in TERMS]
        print(f"{round_trip * 1e3:>9g} ms{rates[0]:>10.0f}{rates[1]:>12.0f}", flush=True)


if __name__ == "__main__":
    main()
