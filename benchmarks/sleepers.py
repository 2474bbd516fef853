"""
How much sooner many listeners that wait are done on an event loop than one after the other.

    python benchmarks/sleepers.py                                  # 1000 sleepers of 50 ms, all at once
    python benchmarks/sleepers.py --sleepers 4000 --at-once 2000 --seconds 0.01

Each event has one async listener, which sleeps. All events are dispatched to memory, and then drained inline and with
``execution = "async"`` in turn, in one run; inline a part of them, since that takes its time. Only the ratio is
meaningful; the ideal one is the number at once.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time

import relevo
from relevo_memory import MemoryTransport

_INLINE = 40
"""How many are handled inline."""


def seconds_for(app: relevo.App, number: int, options: relevo.RunOptions) -> float:
    """Return how long *app* takes for each of that *number* of events."""
    app.dispatch_many([relevo.Event("image.created", {"number": each}) for each in range(number)])
    began = time.perf_counter()
    report = app.drain(options)
    took = time.perf_counter() - began
    if report.done != number:
        raise SystemExit(f"{number} events were dispatched, and this became of them: {report}")
    return took / number


def main() -> None:
    """Measure, and print the ratio."""
    parser = argparse.ArgumentParser(description="Many listeners that wait: on an event loop, and inline.")
    parser.add_argument("--sleepers", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=0.05)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    app = relevo.App(transports={"main": MemoryTransport()})

    async def wait(_: relevo.Event) -> None:
        await asyncio.sleep(given.seconds)

    app.add_listener("image.created", wait)
    at_once = relevo.RunOptions(execution="async", concurrency=given.at_once)
    seconds_for(app, 10, at_once)  # so that imports do not count
    rounds = [
        (seconds_for(app, _INLINE, relevo.RunOptions()), seconds_for(app, given.sleepers, at_once))
        for _ in range(given.rounds)
    ]
    inline, on_loop = (statistics.median(times) for times in zip(*rounds, strict=True))
    print(f"inline {inline * 1e3:8.3f} ms an event")
    print(f"async  {on_loop * 1e3:8.3f} ms an event, {on_loop * given.sleepers:.3f} s for all")
    print(f"ratio  {inline / on_loop:8.0f}")


if __name__ == "__main__":
    main()
