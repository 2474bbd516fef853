"""
The cost of the command line over the start of Python, which is measured in the same run.

    python benchmarks/command_line.py

Every run is a separate process, with bytecode compiled beforehand. The commands take turns, so that other load on the
machine affects all of them. Prints medians of wall-clock time and of processor time, and their ratios to the start of
Python.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

CONFIGURATION = '[transports]\nmain = "sqlite:///queue.db"\n'
START = "python -c pass"
COMMANDS = {
    START: [sys.executable, "-c", "pass"],
    "relevo --help": [sys.executable, "-m", "relevo", "--help"],
    "relevo --version": [sys.executable, "-m", "relevo", "--version"],
    "relevo drain, nothing to do": [sys.executable, "-m", "relevo", "drain"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description="The cost of the command line over the start of Python.")
    parser.add_argument("--runs", type=int, default=30, help="runs of each command (30)")
    runs = parser.parse_args().runs
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "relevo.toml").write_text(CONFIGURATION)
        for words in COMMANDS.values():
            once(words, folder)  # compiles, and creates the tables
        for _ in range(runs):
            for name, words in COMMANDS.items():
                figures[name].append(once(words, folder))
    print(f"milliseconds, median of {runs}         wall   ratio  processor   ratio")
    start = medians(figures[START])
    for name, measured in figures.items():
        wall, own = medians(measured)
        print(f"{name:30} {wall:10.1f} {wall / start[0]:7.1f} {own:10.1f} {own / start[1]:7.1f}")


def once(words: Sequence[str], folder: str) -> tuple[float, float]:
    """Return the milliseconds of wall-clock and of processor time that the command *words* takes in *folder*."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RELEVO_")}
    environ = {**clean, "PYTHONPYCACHEPREFIX": f"{folder}/compiled", "PYTHONDONTWRITEBYTECODE": ""}
    before, began = used(), time.perf_counter()
    subprocess.run(words, cwd=folder, env=environ, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    return (time.perf_counter() - began) * 1000, (used() - before) * 1000


def used() -> float:
    """Return the seconds of processor time of all processes that were started here."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime


def medians(measured: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return statistics.median(wall for wall, _ in measured), statistics.median(own for _, own in measured)


if __name__ == "__main__":
    main()
