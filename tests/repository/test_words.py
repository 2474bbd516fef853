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
