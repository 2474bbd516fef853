"""What is built is what was written: whole packages, typed, and nothing beside them."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from .workspace import distributions, sources

pytestmark = pytest.mark.slow


@pytest.fixture(name="wheel", scope="module", params=distributions().items(), ids=lambda item: item[0])
def _wheel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """Give a distribution's folder, and the names of the files in its wheel."""
    name, folder = request.param
    built = tmp_path_factory.mktemp(name)
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", built], cwd=folder, check=True)
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return folder, {entry for entry in archive.namelist() if ".dist-info/" not in entry}


def test_a_wheel_tells_type_checkers_that_it_is_typed(wheel: tuple[Path, set[str]]) -> None:
    folder, entries = wheel

    assert f"{sources(folder).name}/py.typed" in entries


def test_a_wheel_holds_what_is_in_src_and_nothing_else(wheel: tuple[Path, set[str]]) -> None:
    folder, entries = wheel
    written = {
        str(path.relative_to(folder / "src"))
        for path in (folder / "src").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    assert entries == written
