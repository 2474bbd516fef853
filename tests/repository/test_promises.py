"""What the documents say of the promises is so."""

from __future__ import annotations

import re

from relevo_conformance import PROMISES

from .workspace import ROOT

RECORD = ROOT / "docs" / "explanation" / "decisions" / "0009-the-contract-property-by-property.md"
WHERE = ("core/tests", "backends", "tests/conformance/src")


def test_every_property_of_the_contract_is_a_promise_or_says_why_not() -> None:
    rows = re.findall(r"^\| (\d+) \| .+? \| (.+?) \| .*\|$", RECORD.read_text(), re.MULTILINE)

    assert [int(number) for number, _ in rows] == list(range(1, 35))
    for _, promised in rows:
        assert promised.startswith("none") or set(re.findall(r"`([\w-]+)`", promised)) <= PROMISES.keys()


def test_what_is_named_as_showing_a_property_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", RECORD.read_text()))
    texts = [path.read_text() for folder in WHERE for path in (ROOT / folder).rglob("*.py")]

    assert {name for name in named if not any(f"def {name}(" in text for text in texts)} == set()
