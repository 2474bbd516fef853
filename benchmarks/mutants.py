"""
Look for every planted bug, and write what finds it to docs/reference/mutants.md.

    make mutants
    PYTHONPATH=. python benchmarks/mutants.py --new

The scenarios look for each bug under quick and under standard, with five seeds; for RabbitMQ under quick with one, and
only if RELEVO_TEST_AMQP names a server. The scenario that found a bug before is tried first. Where no scenario finds
it, the random histories look for it; with the first seed also where they alone must find it. It takes an hour or two on
all cores; with --new it looks only for bugs without figures, and the others keep theirs. First it examines transports
without a bug, in which nothing may be found. The exit code is 1 if the suite is too weak: with every seed standard must
find all bugs, and quick 95 %.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

import attrs
from backends.amqp.tests import mutants as amqp
from backends.sql.tests import mutants as sql
from tests.conformance.tests import mutants as memory

from page_of_mutants import PAGE, Row, Rows, finder_of, known_rows
from relevo_amqp.conformance import AmqpHarness
from relevo_conformance import Harness
from relevo_conformance.mutant import Mutant, hunt_by_chance, hunt_by_scenarios
from relevo_conformance.promise import NO_INVENTION
from relevo_memory.conformance import MemoryHarness
from relevo_sql.conformance import SqlHarness

MUTANTS: Mapping[str, Sequence[Mutant]] = {"memory": memory.MUTANTS, "SQL": sql.MUTANTS, "RabbitMQ": amqp.MUTANTS}
SOUND: Mapping[str, type[Harness]] = {"memory": MemoryHarness, "SQL": SqlHarness, "RabbitMQ": AmqpHarness}
SEEDS = (1, 2, 3, 4, 5)
TRIALS: Mapping[str, Sequence[tuple[str, int]]] = {
    "memory": [(profile, seed) for profile in ("quick", "standard") for seed in SEEDS],
    "SQL": [(profile, seed) for profile in ("quick", "standard") for seed in SEEDS],
    "RabbitMQ": [("quick", 1)],
}
"""The profiles and seeds of each transport."""

WANTED = {"quick": 0.95, "standard": 1.0}
"""The share of the bugs that each profile must find with every seed."""

HEAD = """\
# Planted bugs

A suite that misses bugs proves nothing. So bugs are planted, one at a time, in transports that keep every promise. The
conformance suite has to find each bug, and with the first seed to name the promise that it breaks. `make mutants` runs
this and writes this page.
"""

TELLS = """\
*A scenario* is one that found the bug. The next columns count the seeds with which the suite found it under `quick` and
under `standard`, of {seeds}; on RabbitMQ only `quick` runs, with one seed. The last one says whether random histories
found it without any scenario, where they were tried.
"""


@attrs.frozen
class Outcome:
    """What one profile with one seed found."""

    profile: str
    scenario: str | None
    by_chance: bool | None
    """Whether random histories found it; ``None`` if they were not run."""

    @property
    def dead(self) -> bool:
        return bool(self.scenario or self.by_chance)


Place = tuple[str, int]
"""The name of a transport, and the position of a bug in the list of its bugs."""

Found = Mapping[Place, Sequence[Outcome]]


def look_for(place: Place) -> Sequence[Outcome]:
    """Look for one bug under each profile with each seed."""
    transport, number = place
    mutant = MUTANTS[transport][number]
    outcomes: list[Outcome] = []
    likely = finder_of(transport, mutant)
    for profile, seed in TRIALS[transport]:
        began = time.monotonic()
        # The first run has to name the promise, too; which of several broken ones shows first differs with the seed.
        sought = attrs.evolve(mutant, exactly=mutant.exactly and not outcomes)
        hunt = hunt_by_scenarios(sought, profile=profile, seed=seed, first=likely)
        scenario = hunt.killer
        tries_chance = not scenario or (mutant.by_chance and not outcomes)
        chance = bool(hunt_by_chance(mutant, profile=profile, seed=seed).killer) if tries_chance else None
        outcomes.append(Outcome(profile, scenario, chance))
        if not outcomes[-1].dead:  # reported now: each other seed looks everywhere, too, and takes long
            where = f"under {profile} with seed {seed}, after {time.monotonic() - began:.0f} s"
            others = ", ".join(sorted(frozenset[str]().union(*(one.promises for one in hunt.findings))))
            instead = f"; it was found to break {others}, not {mutant.breaks}" if others else ""
            print(f"\r{mutant.name} ({transport}) lives {where}{instead}", file=sys.stderr)
        likely = scenario or likely
    return outcomes


def carried_out(todo: Sequence[Place], processes: int) -> Found:
    """Return the outcomes of each bug; print the progress."""
    found: dict[Place, Sequence[Outcome]] = {}
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(look_for, place): place for place in todo}
        for number, future in enumerate(as_completed(futures), start=1):
            found[futures[future]] = future.result()
            print(f"\r{number} of {len(todo)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found


def row_of(outcomes: Sequence[Outcome]) -> Row:
    """Return the row of the bug with *outcomes*."""
    killers = Counter(one.scenario for one in outcomes if one.scenario)
    scenario = killers.most_common(1)[0][0].removeprefix("test_").replace("_", " ") if killers else ""
    of_profile = {profile: [one for one in outcomes if one.profile == profile] for profile in WANTED}
    dead = {profile: str(sum(one.dead for one in some)) if some else "" for profile, some in of_profile.items()}
    chances = [one.by_chance for one in outcomes if one.by_chance is not None]
    return Row(scenario=scenario, dead=dead, random="" if not chances else "yes" if all(chances) else "no")


def require_no_false_alarm(missing: Collection[str]) -> None:
    """Require that the suite finds nothing in transports without a bug, or each bug would seem to be found."""
    for transport, harness in SOUND.items():
        for profile, seed in TRIALS[transport] if transport not in missing else ():
            mutant = Mutant(name="none", wrong="Nothing.", harness=harness, breaks=NO_INVENTION, exactly=False)
            for hunt in (hunt_by_scenarios, hunt_by_chance):
                found = hunt(mutant, profile=profile, seed=seed)
                if found.killer:
                    sys.exit(f"{found.killer} accuses {harness.__name__}, under {profile} with seed {seed}")


def page(rows: Rows, *, looked_for: int, seconds: float, processes: int) -> Iterator[str]:
    """Yield the lines of the page."""
    yield from HEAD.splitlines()
    yield ""
    yield summary(rows)
    took = f"{max(1, round(seconds / 60))} min in {processes} processes"
    yield f"The last run looked for {looked_for} of them and took {took}."
    yield ""
    yield from TELLS.format(seeds=len(SEEDS)).splitlines()
    for transport, mutants in MUTANTS.items():
        yield from ("", f"## The {transport} transport", "")
        yield "| bug | what is wrong | breaks | a scenario | quick | standard | random histories |"
        yield "|---|---|---|---|---|---|---|"
        for mutant in mutants:
            row = rows.get((transport, mutant.name), Row())
            dead = (row.dead.get(profile, "") for profile in WANTED)
            cells = (f"`{mutant.name}`", mutant.wrong, f"`{mutant.breaks}`", row.scenario, *dead, row.random)
            yield f"| {' | '.join(cells)} |"


def summary(rows: Rows) -> str:
    """Return the number of bugs, and how many were found with every seed."""
    parts = [f"{len(mutants)} in the {transport} transport" for transport, mutants in MUTANTS.items()]
    finds = []
    for profile in WANTED:
        found, of = score(rows, profile)
        finds.append(f"`{profile}` finds {f'all {of}' if found == of else f'{found} of {of}'}")
    return (
        f"There are {sum(map(len, MUTANTS.values()))}: {', '.join(parts[:-1])} and {parts[-1]}. With every seed "
        f"{' and '.join(finds)} that it looked for."
    )


def score(rows: Rows, profile: str) -> tuple[int, int]:
    """Return how many bugs *profile* found with every seed, and how many it looked for."""
    found = of = 0
    for transport, mutants in MUTANTS.items():
        seeds = sum(one == profile for one, _ in TRIALS[transport])
        if seeds:
            looked_for = [
                row for mutant in mutants if (row := rows.get((transport, mutant.name), Row())).dead.get(profile)
            ]
            found += sum(row.is_found(profile, seeds) for row in looked_for)
            of += len(looked_for)
    return found, of


def main() -> int:
    """Run all tasks and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().partition("\n")[0])
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--check", action="store_true", help="do not write the page")
    parser.add_argument("--new", action="store_true", help="look only for bugs without figures")
    options = parser.parse_args()
    processes: int = options.processes
    began = time.monotonic()
    places = [(transport, number) for transport, mutants in MUTANTS.items() for number in range(len(mutants))]
    names = {(transport, number): (transport, MUTANTS[transport][number].name) for transport, number in places}
    missing = {"RabbitMQ"} if "RELEVO_TEST_AMQP" not in os.environ else set()
    known = {
        name: row
        for name, row in known_rows().items()
        if any(row.dead.values()) and (options.new or name[0] in missing)
    }
    if not options.new:
        require_no_false_alarm(missing)
    todo = [place for place in places if place[0] not in missing and names[place] not in known]
    found = carried_out(todo, processes)
    rows = {**known, **{names[place]: row_of(outcomes) for place, outcomes in found.items()}}
    if not options.check:
        lines = page(rows, looked_for=len(todo), seconds=time.monotonic() - began, processes=processes)
        PAGE.write_text("\n".join(lines) + "\n")
    print(summary(rows))
    scores = {profile: score(rows, profile) for profile in WANTED}
    return 0 if all(found >= WANTED[profile] * of for profile, (found, of) in scores.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
