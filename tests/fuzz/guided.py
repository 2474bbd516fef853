"""
Fuzz one surface guided by coverage, with atheris.

    .venv/bin/python tests/fuzz/guided.py delivery 60

It ends after the seconds that are given, or at the first error that is not documented, with its traceback.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from random import Random

import atheris

with atheris.instrument_imports(include=["relevo", "relevo_sql", "relevo_amqp", "relevo_memory", "relevo_redis"]):
    from mutation import mutated
    from surfaces import SURFACES


def main(name: str, seconds: str) -> None:
    """Fuzz the surface *name*; this does not return."""
    surface = next(each for each in SURFACES if each.name == name)

    def case(data: bytes) -> None:
        error = surface.run(data, limited=False)  # libFuzzer has a limit of its own, by the same signal
        if error is not None and not surface.is_known(error):
            raise error

    def mutate(data: bytes, size: int, seed: int) -> bytes:
        random = Random(seed)
        if random.random() < 0.3:
            return bytes(atheris.Mutate(data, size))
        return mutated(data, surface.shape, random)[:size]

    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(surface.seeds.values()):
            Path(corpus, str(number)).write_bytes(seed)
        limits = [f"-max_total_time={seconds}", "-timeout=60", "-rss_limit_mb=2048", "-max_len=20000"]
        atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={corpus}/", corpus], case, custom_mutator=mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
