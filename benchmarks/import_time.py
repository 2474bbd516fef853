"""
The cost of importing all public names of relevo over its dependencies; ``import relevo`` alone loads nothing.

    python benchmarks/import_time.py

Every run is a separate process, with bytecode compiled beforehand. The two take turns, and the fastest run of each
counts, since slower ones include other load on the machine. Prints milliseconds of processor time and wall-clock time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile

GROUND = "attrs, pluggy, msgspec"
WHOLE = f"{GROUND}, relevo; relevo.App"

PROGRAM = """
import time
wall, own = time.perf_counter(), time.process_time()
import {names}
print((time.process_time() - own) * 1000, (time.perf_counter() - wall) * 1000)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="The cost of importing relevo over its dependencies.")
    parser.add_argument("--runs", type=int, default=20, help="runs of each of the two (20)")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        environ = {**os.environ, "PYTHONPYCACHEPREFIX": folder, "PYTHONDONTWRITEBYTECODE": ""}
        once(WHOLE, environ)  # compiles
        pairs = [(once(GROUND, environ), once(WHOLE, environ)) for _ in range(runs)]
    print(f"milliseconds, quickest of {runs}   processor      wall")
    ground = tuple(min(figures[at] for figures, _ in pairs) for at in (0, 1))
    whole = tuple(min(figures[at] for _, figures in pairs) for at in (0, 1))
    show(f"import {GROUND}", *ground)
    show(f"import {WHOLE}", *whole)
    show("difference", whole[0] - ground[0], whole[1] - ground[1])


def once(names: str, environ: dict[str, str]) -> tuple[float, float]:
    program = [sys.executable, "-c", PROGRAM.format(names=names)]
    own, wall = subprocess.run(program, env=environ, capture_output=True, text=True, check=True).stdout.split()
    return float(own), float(wall)


def show(what: str, own: float, wall: float) -> None:
    print(f"{what:34} {own:9.1f} {wall:9.1f}")


if __name__ == "__main__":
    main()
