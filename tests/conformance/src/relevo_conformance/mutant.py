"""
Planted bugs: plant one in a transport, and run the suite until a test finds it.

A suite that misses a planted bug proves nothing. Authors of a transport can plant bugs of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from unittest import mock

import attrs
from hypothesis import Phase

from relevo_conformance.examination import Finding, Matching, examine
from relevo_conformance.harness import Harness
from relevo_conformance.profile import Profile, chosen
from relevo_conformance.promise import Promise
from relevo_conformance.trial import RANDOM

_OF_PAIRS = (
    "test_each_operation_after_each_other_keeps_every_promise",
    "test_each_pair_of_features_keeps_every_promise",
)
"""The tests that find most bugs of pairs."""

_SOONEST = (Phase.generate,)
"""Without shrinking: one failure is enough."""


@attrs.frozen(kw_only=True)
class Mutant:
    """One planted bug."""

    name: str
    """What the transport does wrong, in a few words."""

    wrong: str
    """The same in a sentence."""

    harness: type[Harness]
    breaks: Promise
    """The promise that must be found broken."""

    by_chance: bool = True
    """Whether the random histories alone must find it too."""

    exactly: bool = True
    """Whether this promise itself must be found broken: a bug that shows in pairs may show as another one first."""

    patches: Mapping[tuple[object, str], object] = MappingProxyType({})
    """The replacements while it is planted, by owner and attribute."""

    @contextmanager
    def plant(self) -> Iterator[type[Harness]]:
        """Plant the bug, and yield the harness of the transport that has it."""
        with ExitStack() as stack:
            for (owner, attribute), replacement in self.patches.items():
                stack.enter_context(mock.patch.object(owner, attribute, replacement))
            yield self.harness


@attrs.frozen
class Hunt:
    """The result of a search for a planted bug."""

    killer: str | None
    """The test that found it; ``None`` if none did."""

    findings: tuple[Finding, ...] = attrs.field(default=(), repr=False)
    """Other promises that were found broken before."""

    def __str__(self) -> str:
        found = (f"{one.test}: {one.what[:200]}" for one in self.findings[:5])
        return self.killer or "\n".join(found) or "nothing was found broken"


def hunt_by_scenarios(mutant: Mutant, *, profile: str = "quick", seed: int | None = None, first: str = "") -> Hunt:
    """
    Run scenarios on *mutant* until one finds its promise broken.

    Args:
        mutant: The planted bug.

        profile: ``quick``, ``standard`` or ``nightly``.

        seed: The seed; by default that of the profile.

        first: The name of the test that is likely to find it, such as the one that found it before.
    """
    proving = mutant.breaks.id
    likely = () if mutant.exactly else _OF_PAIRS
    tried = {RANDOM, first, *likely}
    found: list[Finding] = []
    with mutant.plant() as harness:
        for wanted in (  # the tests that prove the promise are usually enough; those of pairs take minutes
            lambda test, _: test == first,
            lambda test, ids: test not in tried and proving in ids,
            lambda test, _: test in likely and test != first,
            lambda test, ids: test not in tried and proving not in ids,
        ):
            for finding in _find_broken(harness, profile, seed, wanted):
                if proving in finding.promises or not mutant.exactly:
                    return Hunt(finding.test, tuple(found))
                found.append(finding)
    return Hunt(None, tuple(found))


def hunt_by_chance(mutant: Mutant, *, profile: str = "quick", seed: int | None = None) -> Hunt:
    """Run only random histories on *mutant*, as :func:`hunt_by_scenarios` runs scenarios."""
    with mutant.plant() as harness:
        found = tuple(_find_broken(harness, profile, seed, lambda test, _: test == RANDOM))
    # Chance decides which of several promises that it breaks shows first.
    return Hunt(RANDOM if found else None, found)


def _find_broken(harness: type[Harness], profile: str, seed: int | None, matching: Matching) -> Iterator[Finding]:
    whole: Profile = chosen(profile)
    if seed is not None:
        whole = attrs.evolve(whole, seed=seed)
    for finding in examine(harness, profile=whole, phases=_SOONEST, matching=matching):
        if finding.status == "broken":
            yield finding
