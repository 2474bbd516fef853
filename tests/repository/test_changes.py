"""The changelog is collected from fragments, each a line that a user can use."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

import pytest

from .workspace import ROOT

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["towncrier"]
KINDS = {each["directory"]: each["name"] for each in SETTINGS["type"]}
FRAGMENTS = [path for path in (ROOT / SETTINGS["directory"]).iterdir() if path.name not in SETTINGS["ignore"]]


@pytest.mark.lengthy("starts processes")
def test_a_release_groups_every_fragment_under_its_kind() -> None:
    command = [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "next", "--date", "today"]
    draft = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    found = dict(re.findall(r"^### (\w+)\n\n((?:- .*\n)+)", draft, re.MULTILINE))

    for kind, name in KINDS.items():
        lines = {f"- {path.read_text().strip()}" for path in FRAGMENTS if path.suffixes[-2] == f".{kind}"}
        assert set(found.get(name, "").splitlines()) == lines


def test_a_fragment_is_one_line_for_users() -> None:
    named = re.compile(rf"\+[a-z-]+\.({'|'.join(KINDS)})\.md")

    assert [path.name for path in FRAGMENTS if not named.fullmatch(path.name)] == []
    texts = {path.name: path.read_text() for path in FRAGMENTS}
    assert {name: text for name, text in texts.items() if not re.fullmatch(r"[A-Z`].{20,240}[.`]\n", text)} == {}


def test_the_changelog_has_the_place_where_a_release_is_written() -> None:
    assert (ROOT / "CHANGELOG.md").read_text().count("<!-- towncrier release notes start -->\n") == 1
