"""
The cost of handling an event inline, in threads, and in a child process; and the gain of threads if listeners wait.

    python benchmarks/execution.py
    python benchmarks/execution.py --check     # exits with 1 unless both bars are met

Everything runs on SQLite in a temporary folder, in turns, and the medians of the rounds are compared. Other load on the
machine affects all figures of a run, so only the ratio and the difference are meaningful.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import relevo
from relevo._execution.surroundings import Keeper

EVENTS = 2000
WAITING_EVENTS = 1000
FRESH_EVENTS = 40
LOOKS = 5000
WAIT = 0.005
ROUNDS = 5

MOST_OVER_INLINE = 300.0
"""Microseconds for each event that a child process may cost."""

LEAST_GAIN = 7.0
"""How many times as fast as inline eight threads must be if listeners wait."""

LISTENERS = f"""
import time
import relevo

@relevo.listener("nothing.done")
def do_nothing(event: relevo.Event) -> None: ...

@relevo.listener("a-while.waited")
def wait(event: relevo.Event) -> None:
    time.sleep({WAIT})
"""
CONFIG = """
source = "bench"
listeners = ["listening"]
{}
[transports]
main = "sqlite:///bench.db"
"""


def drained(folder: Path, name: str, number: int, *, kind: str, concurrency: int) -> float:
    """Return the seconds that a worker takes for that number of events after it and its children have started."""
    sys.path.insert(0, str(folder))
    with relevo.App.from_config(folder / "relevo.toml", environ={}) as app:
        app.prepare("main")
        app.dispatch_many(relevo.Event(name) for _ in range(number))
        watch = Stopwatch()
        app.hooks.add(watch)
        terms = relevo.RunOptions(until_empty=True, execution=kind, concurrency=concurrency)  # type: ignore[arg-type]
        report = app.worker(terms).run()
        if report.done != number:
            raise SystemExit(f"{kind}: {report}")
        return (watch.ended - watch.began) * number / watch.number


class Stopwatch:
    """Measures from the first settlement, when the children have started, to the last one."""

    def __init__(self) -> None:
        self.began = 0.0
        self.ended = 0.0
        self.number = 0
        """The number of events settled after the first settlement."""

    @relevo.hookimpl
    @contextlib.contextmanager
    def relevo_around_settle(self, settlements: Sequence[object]) -> Iterator[None]:
        """Record the time."""
        yield
        self.ended = time.perf_counter()
        if self.began:
            self.number += len(settlements)
        self.began = self.began or self.ended


def looked() -> float:
    """Return the seconds that a child takes after each listener to check that its process has not changed."""
    keeper = Keeper((0, 1, 2))
    return min(timeit.repeat(keeper.look, number=LOOKS, repeat=ROUNDS)) / LOOKS


def once(name: str, number: int, kind: str, concurrency: int, more: str = "") -> float:
    """Measure in a separate process, so that nothing is left from the previous one."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "listening.py").write_text(LISTENERS)
        Path(folder, "relevo.toml").write_text(CONFIG.format(more))
        words = [sys.executable, __file__, "--one", json.dumps([folder, name, number, kind, concurrency])]
        output = subprocess.run(words, env={**os.environ}, check=True, capture_output=True, text=True).stdout
    return float(output)


def medians(contestants: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Return the median of each kind, measured in turns."""
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, measure in contestants.items():
            found[name].append(measure())
    return {name: statistics.median(each) for name, each in found.items()}


def main() -> int:
    """Measure and print; with --check, return 1 unless both bars were met."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--check", action="store_true", help="exit with 1 unless both bars were met")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.one:
        folder, name, number, kind, concurrency = json.loads(said.one)
        print(drained(Path(folder), name, number, kind=kind, concurrency=concurrency))
        return 0
    quick = medians(
        {kind: partial(once, "nothing.done", said.events, kind, 1) for kind in ("inline", "threads", "process")},
        said.rounds,
    )
    waiting = medians(
        {
            "inline": partial(once, "a-while.waited", WAITING_EVENTS, "inline", 1),
            "threads, 8": partial(once, "a-while.waited", WAITING_EVENTS, "threads", 8),
        },
        said.rounds,
    )
    fresh = once("nothing.done", FRESH_EVENTS, "process", 1, "recycle_after = 1") / FRESH_EVENTS
    print("a listener that does nothing, one at a time")
    for kind, seconds in quick.items():
        each = seconds / said.events * 1e6
        over = (seconds - quick["inline"]) / said.events * 1e6
        print(f"  {kind:<12}{each:8.0f} µs an event{over:+9.0f} µs over inline")
    print(f"  a child checks its process in {looked() * 1e6:.0f} µs, after each listener")
    print(f"  {'fresh':<12}{fresh * 1e3:8.0f} ms an event, with recycle_after = 1")
    print(f"a listener that waits {WAIT * 1e3:g} ms")
    for kind, seconds in waiting.items():
        each = seconds / WAITING_EVENTS * 1e6
        print(f"  {kind:<12}{each:8.0f} µs an event{waiting['inline'] / seconds:9.1f} times inline")
    over = (quick["process"] - quick["inline"]) / said.events * 1e6
    gain = waiting["inline"] / waiting["threads, 8"]
    met = {
        f"a child costs {over:.0f} µs, at most {MOST_OVER_INLINE:g}": over <= MOST_OVER_INLINE,
        f"eight threads gain {gain:.1f} times, at least {LEAST_GAIN:g}": gain >= LEAST_GAIN,
    }
    for bar, reached in met.items():
        print(f"{bar}: {'met' if reached else 'MISSED'}")
    return 1 if said.check and not all(met.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
