"""
Pin the newest versions of everything that develops, tests and measures the workspace, in constraints.txt.

    make constraints

pip resolves the requirements on the oldest and the newest supported Python, and on any installed one between them.
If the results differ, the lines have a marker.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from pythons import SUPPORTED, present

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "constraints.txt"
HEAD = "# Pinned versions for the tools, the examples and the tests; `make constraints` rewrites this file.\n"

WANTED = [
    *("--requirement", "workspace.txt"),
    *("--requirement", "examples/images/requirements.txt"),
    *("--requirement", "benchmarks/requirements.txt"),
    *("--editable", "examples/transport-redis"),
    *("--group", "dev"),
    *("--group", "bench"),
    *("--group", "fuzz"),
    *("--group", "judge"),
    "pip>=25.1",
]


def resolved(program: str) -> dict[str, str]:
    """
    Return the newest versions that fit together under the Python *program*.

    Raises:
        CalledProcessError: pip found none, and has printed why.
    """
    dry = ["install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    command = [sys.executable, "-m", "pip", "--python", program, *dry, *WANTED]
    report = json.loads(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)
    return {
        re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower(): item["metadata"]["version"]
        for item in report["install"]
        if "dir_info" not in item["download_info"]  # the packages of the workspace have no version to pin
    }


def lines(versions: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """
    Yield the lines of the file.

    Args:
        versions: By a Python's minor version, the oldest first, the version of each package.
    """
    for name in sorted({name for pins in versions.values() for name in pins}):
        pinned = [(python, pins[name]) for python, pins in versions.items() if name in pins]
        starts = [next(alike) for _, alike in groupby(pinned, key=itemgetter(1))]
        for place, (python, pin) in enumerate(starts):
            bounds = [f'python_version >= "{python}"'] if place else []
            bounds += [f'python_version < "{starts[place + 1][0]}"'] if place + 1 < len(starts) else []
            yield f"{name}=={pin}" + (f"; {' and '.join(bounds)}" if bounds else "")


def main() -> int:
    """Rewrite the file."""
    found = {version: program for version, program in present().items() if version in SUPPORTED}
    if missing := {SUPPORTED[0], SUPPORTED[-1]}.difference(found):
        print(f"constraints: Python {' and '.join(sorted(missing))} is missing; install it first", file=sys.stderr)
        return 69
    FILE.write_text("\n".join([HEAD.rstrip(), *lines({version: resolved(found[version]) for version in found})]) + "\n")
    print(f"{FILE.name} fits Python {', '.join(found)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
