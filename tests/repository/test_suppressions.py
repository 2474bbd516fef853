"""A warning of bandit that is suppressed has its reason on the same line."""

from __future__ import annotations

import re

import pytest

from .workspace import ROOT, distributions

SHIPPED = [path for folder in distributions().values() for path in sorted((folder / "src").rglob("*.py"))]
REASONED = re.compile(r"# noqa: [A-Z0-9, ]+ - \S.*  # nosec B[0-9]+$|# nosec B[0-9]+  # \S")


def unreasoned(text: str) -> list[int]:
    """Return the numbers of the lines of *text* with a suppression without a reason."""
    lines = enumerate(text.split("\n"), start=1)
    return [number for number, line in lines if re.search(r"#\s*nosec", line) and not REASONED.search(line)]


def test_each_suppression_has_a_reason() -> None:
    found = [f"{path.relative_to(ROOT)}:{line}" for path in SHIPPED for line in unreasoned(path.read_text("utf-8"))]

    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "run()  # nosec",
        "run()  # nosec B603",
        "run()  # noqa: S603  # nosec B603",
        "run()  # noqa: S603 -  # nosec B603",
    ],
)
def test_a_code_alone_is_no_reason(line: str) -> None:
    assert unreasoned(f"a = 1\n{line}\n") == [2]


@pytest.mark.parametrize(
    "line", ["import x  # nosec B404  # named here", "run()  # noqa: S603 - our own words  # nosec B603", "run()"]
)
def test_a_reason_may_stand_before_or_after(line: str) -> None:
    assert unreasoned(line) == []
