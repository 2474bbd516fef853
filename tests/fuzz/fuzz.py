"""
Run many cases on each surface, and print what went wrong, the slowest case, and the growth of memory.

    .venv/bin/python tests/fuzz/fuzz.py --cases 1000000

Each surface has a process of its own, with a limit of memory and a limit of time for each case. It begins with the
oversized inputs, once each. The exit code is 1 if an error that is not documented was raised, a case hung, an oversized
input took too long, or memory grew.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gc
import logging
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from random import Random

import attrs

from mutation import mutated, shortest
from surface import HANG, Surface, innermost
from surfaces import SURFACES

MEMORY = 2 * 1024**3
"""The most bytes of address space that a surface may take beyond those of the started process."""

GROWTH = 16.0
"""The most MiB that a surface may keep between a tenth of the cases and the last one."""

_KEPT = 64
"""The number of earlier inputs of a surface that are changed further."""


@attrs.frozen(kw_only=True)
class Failure:
    """An error that is not documented, with the shortest input that raises it."""

    what: str
    where: str
    data: bytes
    times: int


@attrs.frozen(kw_only=True)
class Result:
    """What the cases of one surface showed."""

    name: str
    cases: int
    seconds: float
    slowest: float
    slowest_case: bytes
    growth: float
    """MiB."""

    known: int
    failures: Sequence[Failure]


def inputs(surface: Surface, random: Random) -> Iterator[bytes]:
    """Yield the seeds of *surface*, and then changed ones, without end; half of them come from the first seed."""
    seeds = list(surface.seeds.values())
    yield from seeds
    kept: list[bytes] = []
    while True:
        chosen = random.choice(kept if kept and random.random() < 0.2 else random.choice((seeds, seeds[:1])))
        data = mutated(chosen, surface.shape, random)
        if len(data) < 20_000:
            kept = [*kept[-_KEPT:], data] if random.random() < 0.1 else kept
        yield data


def examine(name: str, cases: int, seed: int, *, apart: bool = True) -> Result:
    """Run *cases* on the surface *name*; if *apart*, limit the memory of this process and discard its output."""
    surface = next(each for each in SURFACES if each.name == name)
    if apart:
        _limit_memory()
        _be_quiet()
    oversized = [each for name in surface.oversized if (each := _oversized_failure(surface, name)) is not None]
    found: dict[tuple[str, str], tuple[bytes, int]] = {}
    known, slowest, slowest_case, before = 0, 0.0, b"", _resident()
    began = time.monotonic()
    source = inputs(surface, Random(seed))
    for number in range(cases):
        data = next(source)
        faulthandler.dump_traceback_later(3 * HANG, exit=True, file=2)
        start = time.process_time()
        error = surface.run(data)
        took = time.process_time() - start
        faulthandler.cancel_dump_traceback_later()
        if took > slowest:
            slowest, slowest_case = took, data
        if error is not None and surface.is_known(error):
            known += 1
        elif error is not None:
            key = (type(error).__name__, innermost(error))
            first, times = found.get(key, (data, 0))
            found[key] = (min(first, data, key=len), times + 1)
        if number == cases // 10:
            before = _resident()
    growth = (_resident() - before) / 1024**2
    seconds = time.monotonic() - began
    failures = [*oversized, *(_failure(surface, *each) for each in found.items())]
    return Result(
        name=name, cases=cases, seconds=seconds, slowest=slowest, slowest_case=slowest_case, growth=growth,
        known=known, failures=failures,
    )  # fmt: skip


def _oversized_failure(surface: Surface, name: str) -> Failure | None:
    """Run the oversized input *name* once; return what is wrong, with the name in place of the input."""
    faulthandler.dump_traceback_later(3 * HANG, exit=True, file=2)
    error = surface.run_oversized(name)
    faulthandler.cancel_dump_traceback_later()
    if error is None or surface.is_known(error):
        return None
    where = innermost(error) if error.__traceback__ is not None else surface.name
    return Failure(what=repr(error)[:300], where=where, data=f"<{name}>".encode(), times=1)


def _failure(surface: Surface, key: tuple[str, str], found: tuple[bytes, int]) -> Failure:
    def fails(data: bytes) -> bool:
        error = surface.run(data)
        return error is not None and (type(error).__name__, innermost(error)) == key

    data, times = found
    data = shortest(data, fails)
    return Failure(what=repr(surface.run(data))[:300], where=key[1], data=data, times=times)


def _resident() -> int:
    """Return the bytes of memory that this process has, after a collection."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _be_quiet() -> None:
    """Discard what targets log and write to standard output; tracebacks of a hang go to standard error."""
    logging.getLogger("relevo").setLevel(logging.CRITICAL + 1)
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - until the process ends


def _apart(name: str, cases: int, seed: int) -> Result | None:
    """Run *cases* in a process of their own; return ``None`` if it ended otherwise than by returning."""
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(examine, name, cases, seed).result()
    except BrokenProcessPool:
        return None


def show(surface: Surface, result: Result | None) -> bool:
    """Print *result*; return whether nothing is wrong."""
    if result is None:
        print(f"{surface.name:<16} its process ended: memory, a hang or a crash; see above", flush=True)
        return False
    grows = result.growth > GROWTH
    print(
        f"{result.name:<16}{result.cases:>9,}{len(result.failures):>11}{result.known:>8,}{result.slowest:>10.3f}"
        f"{result.growth:>9.1f}{result.seconds:>9.0f}{'  memory grows' if grows else ''}",
        flush=True,
    )
    for each in result.failures:
        print(f"    {each.times} times: {each.what}\n      in {each.where}, with {each.data[:400]!r}", flush=True)
    if result.slowest > 1.0:
        print(f"    the slowest case: {result.slowest_case[:200]!r} ({len(result.slowest_case)} bytes)", flush=True)
    return not (result.failures or grows)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the cases, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000, help="over all surfaces together")
    parser.add_argument("--only", action="append", choices=[each.name for each in SURFACES], help="may be repeated")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args(argv)
    seed = Random().randrange(2**32) if options.seed is None else options.seed
    chosen = [each for each in SURFACES if not options.only or each.name in options.only]
    total = sum(each.weight for each in chosen)
    print(f"seed {seed}\n{'surface':<16}{'cases':>9}{'unhandled':>11}{'known':>8}{'slowest s':>10}{'MiB':>9}{'s':>9}")
    good = True
    with ThreadPoolExecutor(options.jobs) as pool:  # each thread waits for processes
        for surface, result in zip(
            chosen,
            pool.map(lambda each: _apart(each.name, max(1, round(options.cases * each.weight / total)), seed), chosen),
            strict=True,
        ):
            good &= show(surface, result)
    print("nothing was found" if good else "see above")
    return 0 if good else 1


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
