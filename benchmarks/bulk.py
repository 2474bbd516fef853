"""
The speed and the memory of many events at once, on SQLite.

    python benchmarks/bulk.py [--lines 200000]

Measures ``relevo dispatch --lines``, and ``dispatch_many`` of a generator: events in a second of wall-clock and of
processor time, and the largest memory of the process. The floor is a process that only loads the application. Every
figure is of a process of its own, with a new database.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import attrs

CONFIGURATION = '[transports]\nmain = "sqlite:///queue.db"\n'
GENERATOR = """
import json, relevo
app = relevo.App.from_config()
with open("rows.jsonl") as file:
    app.dispatch_many(relevo.Event("row.imported", json.loads(line)) for line in file)
"""
FLOOR = "loading the application"
LINES = "relevo dispatch --lines"
EVENTS = "dispatch_many of a generator"
CONTESTANTS: dict[str, Sequence[str]] = {
    FLOOR: ["-c", "import relevo; relevo.App.from_config()"],
    LINES: ["-m", "relevo", "dispatch", "row.imported", "--lines", "rows.jsonl"],
    "  with --resume": ["-m", "relevo", "dispatch", "row.imported", "--lines", "rows.jsonl", "--resume", "position"],
    EVENTS: ["-c", GENERATOR],
}
"""From a name to the arguments of Python."""


@attrs.frozen
class Used:
    """What a process used."""

    wall: float
    own: float
    """Seconds of processor time."""

    memory: float
    """MB."""


def main() -> None:
    parser = argparse.ArgumentParser(description="The speed and the memory of many events at once.")
    parser.add_argument("--lines", type=int, default=200_000, help="number of lines (200000)")
    options = parser.parse_args()
    print(f"{options.lines} lines{'':22}{'wall':>10}{'processor':>12}{'memory':>10}")
    floor: Used | None = None
    for name, words in CONTESTANTS.items():
        used = once(words, options.lines)
        floor = floor or used
        rates = f"{'-':>10}{'-':>12}"
        if used is not floor:
            rates = f"{options.lines / used.wall:8,.0f}/s{options.lines / (used.own - floor.own):10,.0f}/s"
        print(f"{name:32}{rates}{used.memory:7,.0f} MB")


def once(words: Sequence[str], lines: int) -> Used:
    """Return what Python used with the arguments *words* in a folder with a file of *lines* lines."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "relevo.toml").write_text(CONFIGURATION)
        with Path(folder, "rows.jsonl").open("w") as file:
            for number in range(lines):
                row = {"id": number, "name": f"row {number}", "price": 9.5, "tags": ["a", "b"]}
                file.write(json.dumps(row) + "\n")
        began = time.perf_counter()
        process = subprocess.Popen([sys.executable, *words], cwd=folder, stdout=subprocess.DEVNULL)
        _, status, found = os.wait4(process.pid, 0)
        taken = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{words} ended with {process.returncode}")
        return Used(taken, found.ru_utime + found.ru_stime, found.ru_maxrss / 1024)


if __name__ == "__main__":
    main()
