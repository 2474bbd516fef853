"""The architecture page lists the modules that an event passes; a walk that gets longer has to be written there."""

from __future__ import annotations

import re
import subprocess
import sys
from difflib import unified_diff
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs/explanation/architecture.md"
HEADINGS = ("### From `dispatch` to the row", "### From the claim to the settlement")

_PASSED = re.compile(r"^\| `([\w.]+)` \|", re.MULTILINE)
_ASKED = re.compile(r"^Asked[^:]*: ([^:]*?)\.$", re.MULTILINE)
_CALLED_BACK = re.compile(r"^- `([\w.]+)` → `([\w.]+)`", re.MULTILINE)


@pytest.fixture(name="walks", scope="module")
def _walks() -> list[list[str]]:
    # In a process of its own: other tests leave threads behind, and these must not be profiled.
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("walk.py"))], stdout=subprocess.PIPE, text=True, check=True
    )
    return [walk.splitlines() for walk in done.stdout.strip().split("\n\n")]


@pytest.mark.lengthy("starts processes")
@pytest.mark.parametrize("number", [0, 1], ids=["dispatch", "delivery"])
def test_an_event_passes_the_modules_that_the_page_lists(walks: list[list[str]], number: int) -> None:
    listed = written(PAGE.read_text(), HEADINGS[number])

    found = walks[number]

    assert "\n".join(unified_diff(listed, found, PAGE.name, "the code", lineterm="", n=0)) == ""


@pytest.mark.parametrize(("number", "most"), [(0, 12), (1, 14)], ids=["dispatch", "delivery"])
def test_an_event_passes_few_modules(walks: list[list[str]], number: int, most: int) -> None:
    passed = [line for line in walks[number] if line.startswith("passes ")]

    assert 0 < len(passed) <= most


def written(page: str, heading: str) -> list[str]:
    """Return the walk that *page* has under *heading*, as ``walk.py`` prints it."""
    section = re.split(r"^##", page.partition(f"{heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    asked = [module for names in _ASKED.findall(section) for module in re.findall(r"`([\w.]+)`", names)]
    return sorted(
        [
            *(f"passes {module}" for module in _PASSED.findall(section)),
            *(f"asks {module}" for module in asked),
            *(f"{caller} calls back {called}" for caller, called in _CALLED_BACK.findall(section)),
        ]
    )
