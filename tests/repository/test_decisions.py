"""The list of decisions has each record."""

from __future__ import annotations

import re

from .workspace import ROOT

FOLDER = ROOT / "docs" / "explanation" / "decisions"


def test_the_list_has_each_decision_in_order() -> None:
    listed = re.findall(r"^\| \[(\d+)\]\((\S+)\) \| (.+) \|$", (FOLDER / "README.md").read_text(), re.MULTILINE)

    records = sorted(path for path in FOLDER.iterdir() if path.name != "README.md")
    assert [name for _, name, _ in listed] == [path.name for path in records]
    assert [int(number) for number, _, _ in listed] == [int(path.name[:4]) for path in records]
