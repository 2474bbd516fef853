"""
The cost of the command line over the start of Python, and over SQLAlchemy, which are measured in the same run.

    python benchmarks/command_line.py

Every run is a separate process, with bytecode compiled beforehand. The commands take turns, so that other load on the
machine affects all of them. Prints medians of wall-clock time and of processor time, and their ratios to the start of
Python; and for a command that connects, the processor time beyond importing SQLAlchemy and connecting. The fastest run
of each counts for that, since slower ones include other load on the machine.
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
CONNECT = "importing SQLAlchemy and connecting"
CONNECTING = """
import sqlalchemy
with sqlalchemy.create_engine("sqlite:///queue.db").connect() as connection:
    connection.exec_driver_sql("SELECT 1")
"""
COMMANDS = {
    START: [sys.executable, "-c", "pass"],
    CONNECT: [sys.executable, "-c", CONNECTING],
    "relevo --help": [sys.executable, "-m", "relevo", "--help"],
    "relevo --version": [sys.executable, "-m", "relevo", "--version"],
    "relevo status": [sys.executable, "-m", "relevo", "status"],
    "relevo drain, nothing to do": [sys.executable, "-m", "relevo", "drain"],
}
CONNECTED = ("relevo status", "relevo drain, nothing to do")


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
    print(f"milliseconds, median of {runs:<17} wall   ratio  processor   ratio")
    start = medians(figures[START])
    for name, measured in figures.items():
        wall, own = medians(measured)
        print(f"{name:38} {wall:10.1f} {wall / start[0]:7.1f} {own:10.1f} {own / start[1]:7.1f}")
    floor = min(own for _, own in figures[CONNECT])
    for name in CONNECTED:
        beyond = min(own for _, own in figures[name]) - floor
        print(f"{name}: {beyond:.1f} ms of processor time beyond {CONNECT}")


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
