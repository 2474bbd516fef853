"""What there is in the repository: its distributions, its modules, its files."""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def distributions() -> dict[str, Path]:
    """Return the folders of the workspace's distributions by their names, as workspace.txt lists them."""
    lines = (ROOT / "workspace.txt").read_text().splitlines()
    folders = [ROOT / line.removeprefix("-e ") for line in lines if line.startswith("-e ")]
    return {project(folder)["name"]: folder for folder in folders}


def project(folder: Path) -> dict[str, Any]:
    """Return the [project] table of the distribution in *folder*."""
    table: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    return table


def sources(folder: Path) -> Path:
    """Return the folder of the one package that the distribution in *folder* ships."""
    (package,) = (entry for entry in (folder / "src").iterdir() if (entry / "__init__.py").exists())
    return package


def module_names(folder: Path) -> list[str]:
    """Return the full names of all modules of the distribution in *folder*."""
    base = folder / "src"
    paths = (path.relative_to(base).with_suffix("") for path in sources(folder).rglob("*.py"))
    return sorted(".".join(path.parts).removesuffix(".__init__") for path in paths)


@cache
def files() -> Sequence[Path]:
    """Return every file of the project when it is first called: those that git knows, or would take."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return tuple(path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file())
