"""
What a limit costs: the rate of an inline worker with a listener that does nothing, with and without one.

    python benchmarks/limits.py                                      # SQLite
    python benchmarks/limits.py --url postgresql://localhost/empty   # another, empty database
    python benchmarks/limits.py --at-once 3                          # a narrow limit

The limits are so wide that they hold nothing back. The rounds of the cases take turns, and the figures are ratios of
medians, since other load on the machine comes and goes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import relevo

WIDE = relevo.QueueOptions(concurrency=100_000, rate="1000000/s")


def cases(at_once: int | None) -> Mapping[str, tuple[Mapping[str, relevo.QueueOptions], str]]:
    """Return the options of queues, and the queue that is measured, by the names of the cases."""
    narrow = (
        {}
        if at_once is None
        else {f"{at_once} at once": ({"first": relevo.QueueOptions(concurrency=at_once)}, "first")}
    )
    return {
        "no limit": ({}, "first"),
        "a rate": ({"first": relevo.QueueOptions(rate="1000000/s")}, "first"),
        "a concurrency": ({"first": relevo.QueueOptions(concurrency=100_000)}, "first"),
        "both": ({"first": WIDE}, "first"),
        "of another queue": ({"second": WIDE}, "first"),
        **narrow,
    }


def rate_of(url: str, queues: Mapping[str, relevo.QueueOptions], queue: str, events: int) -> float:
    """Return how many events a second a worker handles."""
    routes = {"first.made": "main/first", "second.made": "main/second"}
    with relevo.App(transports={"main": url}, routes=routes, queues=queues, source="limits") as app:
        app.add_listener(f"{queue}.made", lambda _: None, id="pass")
        app.setup()
        app.dispatch_many([relevo.Event(f"{queue}.made", {"number": each}) for each in range(events)])
        began = time.perf_counter()
        report = app.drain()
        took = time.perf_counter() - began
        if report.done != events:
            raise SystemExit(f"{report.done} of {events} events were handled")
        return events / took


def main() -> None:
    """Measure, and print the rates and their ratios."""
    parser = argparse.ArgumentParser(description="The cost of a limit.")
    parser.add_argument("--url", help="an empty database; by default a new file of SQLite")
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--at-once", type=int, help="measure this limit of the concurrency, too")
    given = parser.parse_args()
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        url = given.url or f"sqlite:///{Path(folder) / 'limits.db'}"
        for _ in range(given.rounds):
            for name, (queues, queue) in cases(given.at_once).items():
                found.setdefault(name, []).append(rate_of(url, queues, queue, given.events))
    without = statistics.median(found["no limit"])
    for name, rates in found.items():
        median = statistics.median(rates)
        print(f"{name:20}{median:10,.0f} events/s{median / without:8.2f}")


if __name__ == "__main__":
    main()
