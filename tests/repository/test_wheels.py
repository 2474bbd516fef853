"""What is built is what was written: whole packages, typed, with metadata and a README that stand alone."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import attrs
import pytest

from pythons import SUPPORTED

from .workspace import ROOT, distributions, files, sources

pytestmark = pytest.mark.slow("builds every distribution")

TESTED = [version.partition(".")[2] for version in SUPPORTED]
"""The minor versions of Python on which tests/machine/run.py runs the tests, where they are installed."""


@attrs.frozen
class Built:
    """A distribution's folder, its sdist unpacked, and the wheels that are built from both."""

    folder: Path
    unpacked: Path
    wheel: Path
    wheel_of_sdist: Path

    @property
    def metadata(self) -> list[Message]:
        """What the wheel and the sdist say about themselves."""
        with zipfile.ZipFile(self.wheel) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            wheel = archive.read(name).decode()
        return [Parser().parsestr(text) for text in (wheel, (self.unpacked / "PKG-INFO").read_text())]


@pytest.fixture(name="built", scope="module", params=distributions().items(), ids=lambda item: item[0])
def _built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    name, folder = request.param
    place = tmp_path_factory.mktemp(name)
    sdist = build(folder, "sdist", place / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(place / "unpacked", filter="data")
    (unpacked,) = (place / "unpacked").iterdir()
    return Built(folder, unpacked, build(folder, "wheel", place / "tree"), build(unpacked, "wheel", place / "again"))


def build(folder: Path, kind: str, place: Path) -> Path:
    """Build *kind* of the distribution in *folder*; return the one file that lies in *place* then."""
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", place], cwd=folder, check=True)
    (found,) = place.iterdir()
    return found


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_a_wheel_tells_type_checkers_that_it_is_typed(built: Built) -> None:
    assert f"{sources(built.folder).name}/py.typed" in contents(built.wheel)


def test_a_wheel_holds_what_is_in_src_and_nothing_else(built: Built) -> None:
    written = {
        str(path.relative_to(built.folder / "src"))
        for path in (built.folder / "src").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    assert {name for name in contents(built.wheel) if ".dist-info/" not in name} == written


def test_an_sdist_holds_every_file_of_the_distribution(built: Built) -> None:
    known = {str(path.relative_to(built.folder)) for path in files() if path.is_relative_to(built.folder)}

    held = {str(path.relative_to(built.unpacked)) for path in built.unpacked.rglob("*") if path.is_file()}

    assert known <= held


def test_a_wheel_built_from_the_sdist_is_the_same(built: Built) -> None:
    assert contents(built.wheel_of_sdist) == contents(built.wheel)


def test_a_distribution_carries_the_licence(built: Built) -> None:
    licence = (ROOT / "LICENSE").read_bytes()

    assert [text for name, text in contents(built.wheel).items() if name.endswith("/licenses/LICENSE")] == [licence]
    assert (built.unpacked / "LICENSE").read_bytes() == licence
    assert [(each["License-Expression"], each["License-File"]) for each in built.metadata] == [("MIT", "LICENSE")] * 2


def test_a_distribution_says_who_wrote_it(built: Built) -> None:
    holder = re.findall(r"^Copyright \(c\) \d+ (.*)$", (ROOT / "LICENSE").read_text(), re.MULTILINE)

    assert [each.get_all("Author") for each in built.metadata] == [holder] * 2


def test_a_distribution_names_the_pythons_on_which_it_is_tested_and_no_others(built: Built) -> None:
    for each in built.metadata:
        named = [match for line in each.get_all("Classifier", []) for match in re.findall(r"Python :: 3\.(\d+)$", line)]

        assert sorted(named) == sorted(TESTED)
        assert each["Requires-Python"] == f">=3.{min(map(int, TESTED))}"


def test_tox_has_an_environment_for_each_python() -> None:
    (environments,) = re.findall(r"^env_list = (.*)$", (ROOT / "tox.ini").read_text(), re.MULTILINE)

    assert sorted(re.findall(r"\bpy3(\d+)\b", environments)) == TESTED


def test_a_distribution_carries_its_readme(built: Built) -> None:
    readme = (built.folder / "README.md").read_text()

    assert [each["Description-Content-Type"] for each in built.metadata] == ["text/markdown"] * 2
    assert [each.get_payload() for each in built.metadata] == [readme] * 2


def test_a_readme_stands_alone(built: Built) -> None:
    """On the page of a package index a link into the repository leads nowhere."""
    readme = (built.folder / "README.md").read_text()

    assert re.findall(r"\]\((?!https://|#)[^)]*\)", readme) == []
    assert "Python" in readme
    assert re.search(rf"^pip install .*\./{built.folder.relative_to(ROOT)}\b", readme, re.MULTILINE)


def test_the_distributions_name_the_same_addresses_if_any() -> None:
    tables = [tomllib.loads((each / "pyproject.toml").read_text())["project"] for each in distributions().values()]

    urls = [table.get("urls", {}) for table in tables]

    assert all(each == urls[0] for each in urls)
    assert all(url.startswith("https://") for url in urls[0].values())
