"""
How many suspects a second one worker handles: events whose earlier delivery ended without a settlement.

    python benchmarks/suspects.py sqlite:// postgresql://postgres@localhost/postgres mariadb://root@localhost/test
    python benchmarks/suspects.py memory:// --events 2000 --rounds 5

A suspect is handled alone: it is received by itself, a durable note says that it is begun, and it is settled before the
next one. Each line is a transport, in a new database; beside it are events that were never lost, with the same
listener, which does nothing. Transports take turns, and figures are medians.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import relevo
from peers import database

QUEUE = "default"
_LEASE = 1.0
"""Seconds after which the leases of the first delivery have ended."""

_LONGEST = 30.0
"""Seconds within which the events come back."""


@relevo.listener("image.created")
def nothing(event: relevo.Event) -> None:
    """Do nothing."""


@contextmanager
def application(url: str) -> Iterator[relevo.App]:
    """Yield an application on a transport of its own at *url*."""
    is_database = database.is_server(url) or database.kind_of(url) == "sqlite"
    with database.fresh(url) if is_database else nullcontext(url) as own, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "relevo.toml"
        path.write_text(f'source = "bench"\n[transports]\nmain = "{own}"\n')
        with relevo.App.from_config(path, environ={}) as app:
            app.listen(nothing)
            app.prepare("main")
            yield app


def rate(url: str, *, events: int, lost: bool) -> float:
    """Return how many events a second are handled; each of them was *lost* once before, or none."""
    with application(url) as app:
        app.dispatch_many([relevo.Event("image.created", {"image_id": 7})] * events)
        if lost:
            lose(app.transport(), events)
        worker = app.worker(relevo.RunOptions(max_events=events))
        began = time.perf_counter()
        report = worker.run()
        taken = time.perf_counter() - began
    if report.done != events:
        raise SystemExit(f"{url}: {events} events were sent, and {report.done} done")
    return events / taken


def lose(transport: relevo.Transport, events: int) -> None:
    """Receive all events, and wait until their leases have ended."""
    while events:
        events -= len(transport.receive([QUEUE], limit=1000, lease=_LEASE, wait=1.0))
    ends = time.monotonic() + _LONGEST
    time.sleep(_LEASE)
    while (came := transport.receive([QUEUE], limit=1, lease=60.0, wait=1.0)) and not came[0].lost_leases:
        if time.monotonic() > ends:
            raise SystemExit("the leases do not end")
    transport.settle([(delivery, relevo.Release()) for delivery in came])


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description="How many suspects a second one worker handles.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("urls", nargs="+", help="servers on which databases can be created, sqlite:// or memory://")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each")
    parser.add_argument("--events", type=int, default=1000, help="suspects in a round; 10 times as many other events")
    options = parser.parse_args()
    suspects: dict[str, list[float]] = {url: [] for url in options.urls}
    others: dict[str, list[float]] = {url: [] for url in options.urls}
    for _ in range(options.rounds):
        for url in options.urls:
            suspects[url].append(rate(url, events=options.events, lost=True))
            others[url].append(rate(url, events=10 * options.events, lost=False))
    print(f"{'events a second':20}{'suspects':>12}{'others':>12}")
    for url in options.urls:
        own, other = statistics.median(suspects[url]), statistics.median(others[url])
        print(f"{database.kind_of(url):20}{own:12,.0f}{other:12,.0f}")
    for url in filter(database.is_server, options.urls):
        print("\n".join(database.about(url)))


if __name__ == "__main__":
    main()
