"""The README says what is so."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from relevo_conformance import PROMISES, suite
from relevo_conformance.examination import examine
from relevo_conformance.profile import PROFILES
from relevo_memory import MemoryTransport

REFERENCE = Path(__file__).parents[3] / "docs" / "reference" / "conformance.md"
README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.fixture(name="example")
def _example() -> dict[str, Any]:
    """Run the first block of Python."""
    block = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert block is not None
    names: dict[str, Any] = {"__name__": "readme"}
    exec(block[1], names)  # noqa: S102 - the text is ours
    return names


def test_what_an_author_writes_is_a_suite_that_runs(example: dict[str, Any]) -> None:
    def scenario(name: str, promises: frozenset[str]) -> bool:
        return not name.startswith(("test_random_", "test_each_pair_", "test_hundreds_"))

    findings = list(examine(example["MemoryHarness"], profile=PROFILES["quick"].part(), matching=scenario))

    assert [one for one in findings if one.status == "broken"] == []
    assert sum(one.status == "kept" for one in findings) > 80
    assert example["TestMemory"].__mro__[1] is suite(example["MemoryHarness"]).__mro__[1]


def test_all_promises_are_told() -> None:
    told = dict(re.findall(r"^\| `([a-z-]+)` \| (?:core|must|optional) \| (.*) \|$", README, re.MULTILINE))

    assert told == {promise.id: promise.sentence for promise in PROMISES.values()}


@pytest.mark.parametrize("name", PROFILES)
def test_the_profiles_are_told_as_they_are(name: str) -> None:
    profile = PROFILES[name]

    row = f"| `{name}` | {profile.histories} of {profile.steps}"

    assert row in README
    assert f"{profile.slow_histories} of {profile.slow_steps}" in README


def test_the_card_that_the_reference_shows_is_one_of_today() -> None:
    """RELEVO_TEST_ACCEPT=1 runs the command and writes its card anew."""
    before, rest = REFERENCE.read_text(encoding="utf-8").split("$ relevo-conformance run memory\n")
    card, after = rest.split("```", 1)
    if os.environ.get("RELEVO_TEST_ACCEPT") == "1":
        command = Path(sys.executable).with_name("relevo-conformance")
        card = subprocess.run([command, "run", "memory"], capture_output=True, text=True, check=True).stdout
        REFERENCE.write_text(f"{before}$ relevo-conformance run memory\n{card}```{after}", encoding="utf-8")

    shown = re.findall(r"^([a-z-]+) +(core|must|optional) +(PASS|FAIL|UNKNOWN|N/A|DEVIATES)", card, re.MULTILINE)

    made = {promise.id for promise in PROMISES.values() if promise.is_made_by(MemoryTransport)}
    assert shown == [(each.id, each.level, "PASS" if each.id in made else "N/A") for each in PROMISES.values()]
    assert f"conformant: {len(made)} PASS" in card


def test_the_races_that_a_promise_needs_are_told() -> None:
    needed = {
        (*situation.split(" raced "), promise.id)
        for promise in PROMISES.values()
        for situation in promise.floors
        if " raced " in situation
    }

    told = re.findall(r"^\| (\w+), (\w+) \| `([a-z-]+)` \|$", REFERENCE.read_text(encoding="utf-8"), re.MULTILINE)

    assert {*told} == needed
