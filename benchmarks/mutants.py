"""
Look for every planted bug, and write what finds it to docs/reference/mutants.md.

    make mutants

The scenarios look for each bug until one of them finds it. The random histories look for it separately if they must
find it too, or if no scenario finds it. Both run under quick and standard, with five seeds; for RabbitMQ with one, and
only if RELEVO_TEST_AMQP names a server. It takes an hour or two on all cores. The exit code is 1 if the suite is too
weak: with every seed standard must find all bugs, and quick nine of ten.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import attrs
from backends.amqp.tests import mutants as amqp
from backends.sql.tests import mutants as sql
from tests.conformance.tests import mutants as memory

from relevo_conformance.mutant import Mutant, hunt_by_chance, hunt_by_scenarios

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "mutants.md"
MUTANTS: Mapping[str, Sequence[Mutant]] = {"memory": memory.MUTANTS, "SQL": sql.MUTANTS, "RabbitMQ": amqp.MUTANTS}
SEEDS = (1, 2, 3, 4, 5)
SEEDS_OF: Mapping[str, Sequence[int]] = {
    "memory": SEEDS,
    "SQL": SEEDS,
    "RabbitMQ": SEEDS[:1] if os.environ.get("RELEVO_TEST_AMQP") else (),
}
PROFILES = ("quick", "standard")
NINE_OF_TEN = 0.9

HEAD = """\
# Planted bugs

A suite that misses bugs proves nothing. So bugs are planted, one at a time, in transports that keep every promise. The
conformance suite has to find each bug and to name the promise that it breaks. `make mutants` runs this and writes this
page.
"""

TELLS = """\
*A scenario* is one that found the bug. The other columns count the seeds, of {seeds}, with which the scenarios found it
under `quick` and under `standard`, and with which the random histories alone found it. They are not run where there is
no number.
"""


@attrs.frozen
class Task:
    """One mutant, one profile, one seed."""

    transport: str
    place: int
    profile: str
    seed: int


@attrs.frozen
class Outcome:
    """The outcome of a task."""

    scenario: str | None
    by_chance: bool | None
    """Whether random histories found it; ``None`` if they were not run."""

    @property
    def dead(self) -> bool:
        return bool(self.scenario or self.by_chance)


def look_for(task: Task) -> Outcome:
    """Carry out *task*."""
    mutant = MUTANTS[task.transport][task.place]
    scenario = hunt_by_scenarios(mutant, profile=task.profile, seed=task.seed).killer
    if task.transport == "RabbitMQ" or (scenario and not mutant.by_chance):
        return Outcome(scenario, None)
    return Outcome(scenario, bool(hunt_by_chance(mutant, profile=task.profile, seed=task.seed).killer))


def tasks() -> Iterator[Task]:
    """Yield all tasks."""
    for transport, mutants in MUTANTS.items():
        for place in range(len(mutants)):
            for profile in PROFILES:
                for seed in SEEDS_OF[transport]:
                    yield Task(transport, place, profile, seed)


def carried_out(todo: Sequence[Task], processes: int) -> Mapping[Task, Outcome]:
    """Return the outcome of each task; print the progress."""
    found: dict[Task, Outcome] = {}
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(look_for, task): task for task in todo}
        for number, future in enumerate(as_completed(futures), start=1):
            task = futures[future]
            found[task] = future.result()
            if not found[task].dead:
                name = MUTANTS[task.transport][task.place].name
                print(f"\r{name} lives under {task.profile} with seed {task.seed}", file=sys.stderr)
            print(f"\r{number} of {len(todo)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found


def page(found: Mapping[Task, Outcome], *, seconds: float, processes: int) -> Iterator[str]:
    """Yield the lines of the page."""
    yield from HEAD.splitlines()
    yield ""
    yield summary(found)
    yield f"That took {max(1, round(seconds / 60))} minutes in {processes} processes."
    yield ""
    yield from TELLS.format(seeds=len(SEEDS)).splitlines()
    for transport, mutants in MUTANTS.items():
        yield from ("", f"## The {transport} transport", "")
        yield "| bug | what is wrong | breaks | a scenario | quick | standard | random, quick | random, standard |"
        yield "|---|---|---|---|---|---|---|---|"
        for place, mutant in enumerate(mutants):
            yield row(
                mutant, {task: one for task, one in found.items() if (task.transport, task.place) == (transport, place)}
            )


def summary(found: Mapping[Task, Outcome]) -> str:
    """Return the number of bugs, and how many were found with the worst seed."""
    of_all = sum(map(len, MUTANTS.values()))
    parts = [f"{len(mutants)} in the {transport} transport" for transport, mutants in MUTANTS.items()]
    finds = (
        f"`{name}` finds {'all' if number == looked_for() else f'at least {number}'}"
        for name in PROFILES
        for number in [least(found, name)]
    )
    return (
        f"There are {of_all}: {', '.join(parts[:-1])} and {parts[-1]}. {looked_for()} were looked for; with every seed "
        f"{' and '.join(finds)} of them."
    )


def looked_for() -> int:
    """Return the number of bugs that are looked for with any seed."""
    return sum(len(mutants) for transport, mutants in MUTANTS.items() if SEEDS_OF[transport])


def least(found: Mapping[Task, Outcome], profile: str) -> int:
    """Return the number of bugs that *profile* finds with the worst seed of each transport."""
    dead = Counter((task.transport, task.seed) for task, one in found.items() if task.profile == profile and one.dead)
    return sum(min(dead[name, seed] for seed in seeds) for name, seeds in SEEDS_OF.items() if seeds)


def row(mutant: Mutant, found: Mapping[Task, Outcome]) -> str:
    """Return the line of *mutant*."""
    killers = Counter(one.scenario for one in found.values() if one.scenario)
    scenario = killers.most_common(1)[0][0].removeprefix("test_").replace("_", " ") if killers else "none"
    by_scenario, by_chance = [], []
    for profile in PROFILES:
        outcomes = [one for task, one in found.items() if task.profile == profile]
        by_scenario.append(str(sum(bool(one.scenario) for one in outcomes)) if outcomes else "")
        ran = any(one.by_chance is not None for one in outcomes)
        by_chance.append(str(sum(bool(one.by_chance) for one in outcomes)) if ran else "")
    cells = (f"`{mutant.name}`", mutant.wrong, f"`{mutant.breaks}`", scenario, *by_scenario, *by_chance)
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """Run all tasks and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().partition("\n")[0])
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--check", action="store_true", help="do not write the page")
    options = parser.parse_args()
    processes: int = options.processes
    began = time.monotonic()
    found = carried_out(list(tasks()), processes)
    if not options.check:
        lines = page(found, seconds=time.monotonic() - began, processes=processes)
        PAGE.write_text("\n".join(lines) + "\n")
    print(summary(found))
    quick, standard = (least(found, name) for name in PROFILES)
    return 0 if standard == looked_for() and quick >= NINE_OF_TEN * looked_for() else 1


if __name__ == "__main__":
    sys.exit(main())
