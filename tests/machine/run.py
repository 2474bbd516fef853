"""
Run the checks and the tests with tox on the Pythons of this machine, and print at the end which ones were used.

    make test
    make test-all    (--all)

Each Python runs the unit tests that take little time. What hardly depends on the version of Python runs on only one.
With several Pythons, the oldest runs the conformance suite in memory and on RabbitMQ and Redis. The newest runs the
checks, the suite on databases, the other tests of servers, the slow and the lengthy tests, the report cards, and the
tests of the project's files and pages. A single Python runs everything, so no test depends on a second one.
``--all`` runs everything on each, and the soaks. It also runs the SQL backend with older releases of its libraries.

The newest takes longest, and waits for servers and processes much of the time. So the others run beside it, with half
as many processes, and their output follows its own. With ``--all`` the parts run one after another.

The newest measures which lines the tests ran, in the processes that run tests, but not in processes that a test
starts: some of these check what is imported, and others are killed. The share of each package is printed at the end.
``--all`` measures branches too: before Python 3.14 that doubles the processor time of the tests, and lines cost none.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import attrs

import covered
from pythons import SUPPORTED, present

ROOT = Path(__file__).resolve().parents[2]

REPORT = ROOT / ".tox" / "coverage.json"

SERVERS = "amqp or redis or postgresql or mariadb"
WHOLE = "not soak"
OLDEST = (
    f"not (card or soak or repository) and "
    f"(conformance and not sql or not (slow or lengthy or conformance or {SERVERS}))"
)
BETWEEN = f"not (slow or lengthy or {SERVERS} or conformance or card or soak or repository)"
NEWEST = "not soak and (card or not conformance or sql)"
OLDER = "not (slow or card or soak)"

BESIDE = 2
"""Parts that run at a time beside the longest one: the checks use one core, and its first tests wait."""


@attrs.frozen
class Part:
    """One environment of tox, and the selection of its tests."""

    environment: str
    marks: str = ""
    measures: Literal["", "lines", "branches"] = ""
    """What it measures of the tests' coverage."""

    python: str = ""
    """The version on which it runs, if its environment does not say so."""

    def __str__(self) -> str:
        return f"{self.environment} ({self.marks})" if self.marks else self.environment

    def run(self, discover: Sequence[str]) -> bool:
        """Run it and return whether it succeeded; *discover* lists the programs from which tox chooses its Python."""
        self._compile(discover)
        return subprocess.run(self._command(discover), cwd=ROOT, check=False).returncode == 0

    def run_beside(self, discover: Sequence[str]) -> tuple[bool, str]:
        """
        Run it beside another one, and return whether it succeeded and its output.

        It has a process for each core, half of what the other has: each process collects all tests once more.
        """
        self._compile(discover)
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(
                self._command(discover),
                cwd=ROOT,
                env={"PYTEST_XDIST_AUTO_NUM_WORKERS": str(cores()), **os.environ},
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
            output.seek(0)
            return done.returncode == 0, output.read().decode(errors="replace")

    def _compile(self, discover: Sequence[str]) -> None:
        """
        Import all tests once, so that pytest keeps the bytecode with the rewritten asserts.

        Otherwise each of its processes does that work itself, at the same time, in a new checkout. What fails here
        fails again in the run, which reports it.
        """
        if self.marks:
            words = ["exec", "-e", self.environment, "--discover", *discover, "--"]
            command = [sys.executable, "-m", "tox", *words, "pytest", "--collect-only", "-qqq", "-m", self.marks]
            subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)

    def _command(self, discover: Sequence[str]) -> Sequence[str]:
        base = ["-x", f"testenv:{self.environment}.base_python={self.python}"] if self.python else []
        tests = ["--", "-m", self.marks] if self.marks else []
        if self.measures:
            tests += ["--cov", f"--cov-report=json:{REPORT}"]
        if self.measures == "branches":
            tests.append("--cov-branch")
        return [sys.executable, "-m", "tox", "run", "-e", self.environment, *base, "--discover", *discover, *tests]


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parts(versions: Sequence[str], *, everything: bool = False) -> Iterator[Part]:
    """
    Yield the parts that run if the Pythons *versions* are installed.

    Args:
        versions: Minor versions, the oldest first.

        everything: Run every test on each Python, the soaks, the outside judge, and the SQL backend with older
            libraries.
    """
    yield Part("checks", python=versions[-1])
    for version in versions:
        is_newest, is_oldest = version == versions[-1], version == versions[0]
        if everything or (is_newest and is_oldest):
            marks = WHOLE
        else:
            marks = NEWEST if is_newest else OLDEST if is_oldest else BETWEEN
        types = "" if everything or is_newest else "-tests"
        measures: Literal["", "lines", "branches"] = "" if not is_newest else "branches" if everything else "lines"
        yield Part(f"py{version.replace('.', '')}{types}", marks, measures=measures)
    if everything:
        yield Part("judge")
        yield Part("sqlalchemy20", OLDER)
        yield Part("oldest", OLDER)
        yield Part("soak", "soak")


def run_one_by_one(wanted: Sequence[Part], discover: Sequence[str]) -> Mapping[Part, bool]:
    """Run one part after the other, and return which succeeded."""
    return {part: part.run(discover) for part in wanted}


def run_side_by_side(wanted: Sequence[Part], discover: Sequence[str]) -> Mapping[Part, bool]:
    """Run the last part, which takes longest, and BESIDE others at a time; return which succeeded."""
    *others, longest = wanted
    with ThreadPoolExecutor(max_workers=BESIDE) as beside:
        running = {part: beside.submit(part.run_beside, discover) for part in others}
        try:
            succeeded = longest.run(discover)
        except BaseException:  # an interruption ends the other that runs too, as both are in the foreground
            beside.shutdown(cancel_futures=True)
            raise
        ended = {}
        for part, future in running.items():
            ended[part], output = future.result()
            print(f"\n{part}\n{output}", flush=True)
    return ended | {longest: succeeded}


def main() -> int:
    """Run them all and return 1 if any failed."""
    parser = argparse.ArgumentParser(description="Run the checks and the tests on the Pythons of this machine.")
    parser.add_argument("--all", action="store_true", help="everything on each Python, older libraries, and the soaks")
    everything = parser.parse_args().all
    found = present()
    REPORT.unlink(missing_ok=True)
    run = run_one_by_one if everything else run_side_by_side
    ended = run(list(parts(list(found), everything=everything)), list(found.values()))
    print()
    if REPORT.exists():
        print(*covered.table(REPORT.read_bytes()), "", sep="\n")
    for part, succeeded in ended.items():
        print(f"{'passed' if succeeded else 'FAILED'}  {part}")
    missing = ", ".join(version for version in SUPPORTED if version not in found)
    print(f"Python {', '.join(found)}" + (f"; not on this machine: {missing}" if missing else ""), flush=True)
    return 0 if all(ended.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
