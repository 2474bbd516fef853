"""What the documents say about the repository is so."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

from relevo.cli._main import _COMMANDS

from .workspace import ROOT, files

DOCUMENTS = [path for path in files() if path.suffix == ".md"]
TARGETS = {
    target
    for line in (ROOT / "Makefile").read_text().splitlines()
    if (rule := re.match(r"([a-z][a-z ]*):(?!=)", line))
    for target in rule[1].split()
}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_readme_has_its_two_commands() -> None:
    told = re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(), flags=re.MULTILINE)

    assert told == ["demo", "test"]


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if path.name == "README.md"], ids=relative)
def test_a_readme_shows_all_that_its_examples_need(document: Path) -> None:
    assert "<!--" not in document.read_text()


def test_every_command_of_make_that_is_told_exists() -> None:
    told = {
        (relative(document), target)
        for document in DOCUMENTS
        for target in re.findall(r"(?:^|`)make ([a-z]+)", document.read_text(), flags=re.MULTILINE)
    }

    assert {each for each in told if each[1] not in TARGETS} == set()
    assert told


def test_every_command_of_relevo_that_is_told_exists() -> None:
    told = {
        (relative(document), command)
        for document in DOCUMENTS
        if relative(document) not in OF_OTHERS
        for command in re.findall(r"(?:^\$ |`)relevo ([a-z]+)", document.read_text(), flags=re.MULTILINE)
    }

    assert {each for each in told if each[1] not in _COMMANDS} == set()
    assert told


OF_OTHERS = (
    "docs/reference/words.md",
    "docs/how-to/come-from-symfony-messenger.md",
    "changes/+more-words.added.md",
    "changes/+synonym-events.fixed.md",
)
"""They name commands of other programs, and what relevo answers to them."""


PLACES = re.findall(r"`(\w+)` in `([\w./-]+\.py)`", (ROOT / "CONTRIBUTING.md").read_text())


def test_contributing_says_where_to_put_the_five_things_that_are_asked_for() -> None:
    asked = [
        "a dead-letter reason",
        "a field of the retry policy",
        "a difference between databases",
        "an option",
        "a hook",
    ]

    rows = re.findall(r"^\| (.*?) \| .*`.*\.py`", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)

    assert [each for each in asked if not any(row.startswith(each) for row in rows)] == []


@pytest.mark.parametrize(("name", "path"), PLACES)
def test_what_contributing_says_to_change_is_there(name: str, path: str) -> None:
    assert re.search(rf"^(class|def) {name}\b|^{name}\b.* = ", (ROOT / path).read_text(), flags=re.MULTILINE)


def test_each_part_of_the_core_that_the_architecture_names_is_there() -> None:
    text = (ROOT / "docs" / "explanation" / "architecture.md").read_text()
    named = {name.replace(".", "/") for name in re.findall(r"`(_\w+(?:\.\w+)?)`", text)}
    core = ROOT / "core" / "src" / "relevo"

    assert "_worker/caller" in named
    assert [each for each in sorted(named) if not (core / each).is_dir() and not (core / f"{each}.py").is_file()] == []


def test_every_link_into_the_repository_leads_somewhere() -> None:
    links = [
        (document, link)
        for document in DOCUMENTS
        for link in re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", document.read_text())
    ]

    assert [(relative(document), link) for document, link in links if not (document.parent / link).exists()] == []
    assert links


def test_the_footer_of_the_pages_names_the_holder_of_the_licence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))

    footer = runpy.run_path(str(ROOT / "docs" / "conf.py"))["project_copyright"]

    assert f"Copyright (c) {footer.replace(',', '')}\n" in (ROOT / "LICENSE").read_text()
