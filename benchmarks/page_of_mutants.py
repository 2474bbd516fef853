"""The page that lists the planted bugs: what the last run found, by transport and bug."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import attrs

from relevo_conformance.mutant import Mutant

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "mutants.md"

PROFILES = ("quick", "standard")
"""Those of which the page has a column."""


@attrs.frozen
class Row:
    """What the page says of one bug: the scenario, and with how many seeds each profile found it."""

    wrong: str = ""
    breaks: str = ""
    scenario: str = ""
    dead: Mapping[str, str] = attrs.field(factory=dict)
    """By profile; empty if it did not look."""

    random: str = ""

    @property
    def test(self) -> str:
        """The name of the test that the page shows in words as :attr:`scenario`; empty if no test found the bug."""
        return f"test_{self.scenario}".replace(" ", "_") if self.scenario else ""

    def is_found(self, profile: str, seeds: int) -> bool:
        """Return whether *profile* found it with each of its *seeds*."""
        return self.dead.get(profile) == str(seeds)


Rows = Mapping[tuple[str, str], Row]
"""By the name of the transport and of the bug."""


@functools.cache
def known_rows() -> Rows:
    """Return what the page says."""
    rows = {}
    for section in PAGE.read_text().split("\n## ")[1:]:
        transport = section.partition("The ")[2].partition(" transport")[0]
        for line in re.findall(r"^\| `.+", section, re.MULTILINE):
            name, wrong, breaks, scenario, *dead, random = (cell.strip() for cell in line[1:-1].split(" | "))
            found = dict(zip(PROFILES, dead, strict=True))
            rows[transport, name.strip("`")] = Row(wrong, breaks.strip("`"), scenario, found, random)
    return rows


def finder_of(transport: str, mutant: Mutant) -> str:
    """Return the name of the test that found *mutant* in the last run, which is tried first; empty if none did."""
    return known_rows().get((transport, mutant.name), Row()).test


def differences(transport: str, mutants: Sequence[Mutant]) -> Iterator[str]:
    """Yield what the page says of *transport* otherwise than *mutants*, and each bug that is not described well."""
    planted = {one.name: (one.wrong, one.breaks.id) for one in mutants}
    listed = {name: (row.wrong, row.breaks) for (where, name), row in known_rows().items() if where == transport}
    yield from (f"{name} is not on the page; make mutants writes it" for name in planted if name not in listed)
    yield from (f"{name} is on the page, and not planted" for name in listed if name not in planted)
    for name, described in planted.items():
        if listed.get(name, described) != described:
            yield f"{name} is described in another way on the page"
        if not re.fullmatch(r"[A-Z][^\n]+\.", described[0]):
            yield f"{name} is not described in one sentence"
    yield from (f"{name} is planted twice" for name, times in Counter(one.name for one in mutants).items() if times > 1)
    yield from (
        f'"{wrong}" is there twice' for wrong, times in Counter(one.wrong for one in mutants).items() if times > 1
    )
