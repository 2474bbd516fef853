"""Profiles: the effort of the suite, for each change, for a release, or overnight."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import TypeVar

import attrs
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.internal.conjecture import engine

Test = TypeVar("Test", bound=Callable[..., None])

_PART = 150
"""A quarter of the rows of a cover; the first ones hold the most pairs."""

VARIABLE = "RELEVO_CONFORMANCE_PROFILE"
"""The environment variable that names the profile."""


@attrs.frozen(kw_only=True)
class Profile:
    """The number and the length of random histories."""

    name: str
    histories: int
    steps: int
    payloads: int
    """How many random payloads."""

    schedules: int
    """How many random schedules of two concurrent calls."""

    durable_histories: int
    durable_schedules: int
    """The same in a store that outlives the process, where each call takes time."""

    slow_histories: int
    slow_steps: int
    slow_payloads: int
    """The same on a real clock, where every step takes time; as many schedules as payloads."""

    covers: int
    """How often each pair of features is met, in other rows each time."""

    triples: int = 0
    """The largest number of rows for each combination of three dangerous features."""

    flavours: bool = False
    """Whether each scenario is also played with odd texts, with a key for each event, and with urgent events."""

    rows: int | None = None
    """The largest number of rows of each cover; ``None`` for all."""

    slow_rows: int = 0
    """The largest number of rows of each cover on a real clock."""

    operations: int = 2
    """How many operations follow one another in each order in the lives of events."""

    slow_lives: int = 0
    """The largest number of these lives on a real clock."""

    shrinking: float = 300.0
    """Seconds that each failing test may spend on finding the shortest program."""

    seed: int | None
    """The seed of each run; ``None``: a new one each time, and earlier failures are tried first."""

    def of_histories(self, *, fake: bool, durable: bool = False, phases: Iterable[Phase] | None = None) -> settings:
        """Return Hypothesis' settings for random histories."""
        examples = self.slow_histories if not fake else self.durable_histories if durable else self.histories
        return settings(self._settings(examples, phases), stateful_step_count=self.steps if fake else self.slow_steps)

    def of_payloads(self, *, fake: bool, phases: Iterable[Phase] | None = None) -> settings:
        """Return Hypothesis' settings for random payloads."""
        return self._settings(self.payloads if fake else self.slow_payloads, phases)

    def of_schedules(self, *, fake: bool, durable: bool = False, phases: Iterable[Phase] | None = None) -> settings:
        """Return Hypothesis' settings for random schedules of two concurrent calls."""
        examples = self.slow_payloads if not fake else self.durable_schedules if durable else self.schedules
        return self._settings(examples, phases)

    def part(self) -> Profile:
        """Return a profile with a quarter of the histories and pairs, for a run that tests only a few promises."""
        kinds = ("histories", "durable_histories", "slow_histories")
        return attrs.evolve(self, rows=_PART, **{kind: -(-getattr(self, kind) // 4) for kind in kinds})

    @contextmanager
    def limit_shrinking(self) -> Iterator[None]:
        """Limit Hypothesis' shrinking to :attr:`shrinking`; it has no setting for that."""
        before = engine.MAX_SHRINKING_SECONDS
        engine.MAX_SHRINKING_SECONDS = self.shrinking  # type: ignore[assignment]
        try:
            yield
        finally:
            engine.MAX_SHRINKING_SECONDS = before

    def seeded(self, test: Test) -> Test:
        """Return *test* with the seed of this profile, if any."""
        return test if self.seed is None else seed(self.seed)(test)

    def _settings(self, examples: int, phases: Iterable[Phase] | None) -> settings:
        parent = settings(
            max_examples=examples,
            deadline=None,
            # No other is suppressed: Hypothesis' other warnings are about real mistakes.
            suppress_health_check=[HealthCheck.too_slow],
            derandomize=self.seed is not None,
            phases=tuple(Phase) if phases is None else tuple(phases),
        )
        return settings(parent, database=None) if self.seed is not None else parent


PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            Profile(
                name="quick",
                histories=200,
                steps=30,
                payloads=25,
                schedules=25,
                durable_histories=32,
                durable_schedules=6,
                slow_histories=10,
                slow_steps=15,
                slow_payloads=5,
                covers=1,
                slow_rows=96,
                slow_lives=12,
                shrinking=20.0,
                seed=20_260_101,
            ),
            Profile(
                name="standard",
                histories=200,
                steps=50,
                payloads=100,
                schedules=100,
                durable_histories=100,
                durable_schedules=50,
                slow_histories=50,
                slow_steps=25,
                slow_payloads=25,
                covers=3,
                triples=2000,
                flavours=True,
                slow_rows=192,
                operations=3,
                slow_lives=48,
                shrinking=60.0,
                seed=None,
            ),
            Profile(
                name="nightly",
                histories=2000,
                steps=100,
                payloads=1000,
                schedules=1000,
                durable_histories=1000,
                durable_schedules=500,
                slow_histories=500,
                slow_steps=40,
                slow_payloads=100,
                covers=10,
                triples=20_000,
                flavours=True,
                slow_rows=384,
                operations=3,
                slow_lives=384,
                seed=None,
            ),
        )
    }
)


def chosen(name: str | Profile | None = None) -> Profile:
    """
    Return the profile *name*, or else the one that the environment names, or else the quick one.

    Raises:
        ValueError: There is no such profile.
    """
    if isinstance(name, Profile):
        return name
    name = name or os.environ.get(VARIABLE) or "quick"
    if name not in PROFILES:
        raise ValueError(f'no profile "{name}"; there are {", ".join(PROFILES)}')
    return PROFILES[name]
