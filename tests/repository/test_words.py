"""The project stands for itself: nothing in it depends on where it happened to be written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .workspace import ROOT, files

# Put together here, so that this file does not hold them.
FORBIDDEN = {
    "a folder of one machine": ["/" + "root/", "/" + "work/", "/" + "home/"],
    "a folder outside the repository": [".." + "/shared"],
    "the host of a package registry": [
        "pypi" + ".org",
        "python" + "hosted.org",
        "deb.debian" + ".org",
        "registry.npmjs" + ".org",
    ],
}

TEXTS = {path: text for path in files() if (text := path.read_bytes()) and b"\0" not in text}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_names(what: str) -> None:
    pattern = re.compile("|".join(map(re.escape, FORBIDDEN[what])).encode())

    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.decode(errors='replace').strip()}"
        for path, text in TEXTS.items()
        for number, line in enumerate(text.splitlines(), start=1)
        if pattern.search(line)
    ]

    assert found == []


# Phrases that read as if translated, and what to write instead; more may join them, none comes back.
PHRASES = {
    r"\bunsaid\b": "by default",
    r"\banew\b": "again",
    r"to become of": "the outcome of",
    r"who hears": "the receiver",
    r"to be said against": "after validating",
    r"manieth": "the index of",
    r"an? [a-z]+ is none\b": "is invalid, is not a …",
    r"\bit is none\.": "it is invalid, it is not a …",
}
READ_BY_USERS = ("core/src/", "backends/", "docs/", "tests/conformance/src/", "README.md", "CONTRIBUTING.md")
GENERATED = "docs/reference/mutants.md"  # from the names of scenarios


@pytest.mark.parametrize("phrase", PHRASES)
def test_a_phrase_that_was_replaced_does_not_come_back(phrase: str) -> None:
    pattern = re.compile(phrase, re.IGNORECASE)
    names = {path: str(path.relative_to(ROOT)) for path in TEXTS}

    found = [
        f"{name}:{number}: {line.strip()}; rather: {PHRASES[phrase]}"
        for path, name in names.items()
        if name.startswith(READ_BY_USERS) and "/tests/" not in name and name != GENERATED
        for number, line in enumerate(TEXTS[path].decode().splitlines(), start=1)
        if pattern.search(line)
    ]

    assert found == []


def test_every_text_is_utf_8_and_ends_with_a_line_break() -> None:
    assert [str(path) for path, text in TEXTS.items() if not _well_formed(text)] == []


def _well_formed(text: bytes) -> bool:
    try:
        return text.decode().endswith("\n")
    except UnicodeDecodeError:
        return False


def test_the_files_that_people_look_for_are_there() -> None:
    wanted = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "workspace.txt", "Makefile", "tox.ini"]

    assert [name for name in wanted if not Path(ROOT, name).is_file()] == []
