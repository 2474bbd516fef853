"""A security rule of ruff that a line of the shipped code suppresses has its reason on the same line."""

from __future__ import annotations

import re

import pytest

from .workspace import ROOT, distributions

SHIPPED = [path for folder in distributions().values() for path in sorted((folder / "src").rglob("*.py"))]
SUPPRESSED = re.compile(r"# noqa: [A-Z0-9, ]*\bS[0-9]+")
REASONED = re.compile(r"# noqa: [A-Z]+[0-9]+(, [A-Z]+[0-9]+)* - \S")


def unreasoned(text: str) -> list[int]:
    """Return the numbers of the lines of *text* with a suppression without a reason."""
    lines = enumerate(text.split("\n"), start=1)
    return [number for number, line in lines if SUPPRESSED.search(line) and not REASONED.search(line)]


def test_each_suppression_has_a_reason() -> None:
    found = [f"{path.relative_to(ROOT)}:{line}" for path in SHIPPED for line in unreasoned(path.read_text("utf-8"))]

    assert found == []


@pytest.mark.parametrize("line", ["run()  # noqa: S603", "run()  # noqa: S603 -", "run()  # noqa: B004, S607"])
def test_a_code_alone_is_no_reason(line: str) -> None:
    assert unreasoned(f"a = 1\n{line}\n") == [2]


@pytest.mark.parametrize(
    "line", ["run()  # noqa: S603 - our own words", "run()  # noqa: S603, S607 - the same", "run()"]
)
def test_a_reason_follows_the_codes(line: str) -> None:
    assert unreasoned(line) == []
