"""The pinned versions of the workspace: every requirement is pinned, once for each Python."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from configparser import ConfigParser

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import constraints
from pythons import SUPPORTED

from . import workspace

ROOT = workspace.ROOT
LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
FILES = ["examples/images/requirements.txt", "benchmarks/requirements.txt"]


def pins(python: str) -> dict[str, str]:
    """Return the one version of each package that is installed on *python*."""
    found: dict[str, str] = {}
    for requirement in map(Requirement, LINES):
        if requirement.marker is None or requirement.marker.evaluate(environment(python)):
            assert requirement.name not in found
            found[requirement.name] = str(requirement.specifier).removeprefix("==")
    return found


def environment(python: str) -> dict[str, str]:
    return {**default_environment(), "python_version": python, "python_full_version": f"{python}.0"}  # type: ignore[dict-item]


def requirements() -> Iterator[str]:
    """Yield the requirements of the groups, the distributions, their builds and the examples."""
    for group in tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"].values():
        yield from (each for each in group if isinstance(each, str))
    for folder in (*workspace.distributions().values(), ROOT / "examples" / "transport-redis"):
        project = workspace.project(folder)
        yield from project.get("dependencies", ())
        yield from tomllib.loads((folder / "pyproject.toml").read_text())["build-system"]["requires"]
    for file in FILES:
        yield from re.findall(r"^[^#\s].*?(?=\s+#|$)", (ROOT / file).read_text(), re.MULTILINE)


def wanted() -> dict[str, Requirement]:
    parsed = map(Requirement, requirements())
    return {str(each): each for each in parsed if not canonicalize_name(each.name).startswith("relevo")}


@pytest.mark.parametrize("python", SUPPORTED)
def test_what_is_asked_for_is_pinned_to_a_version_that_does(python: str) -> None:
    asked, pinned = wanted(), pins(python)

    assert asked
    assert [
        text
        for text, each in asked.items()
        if not each.specifier.contains(pinned.get(canonicalize_name(each.name), "0.dev0"))
    ] == []


def test_a_line_names_a_package_a_version_and_perhaps_a_python_and_no_place_to_get_it_from() -> None:
    line = r'[a-z0-9-]+==[\w.]+(; python_version (>=|<) "3\.\d+"( and python_version < "3\.\d+")?)?'

    assert [each for each in LINES if not re.fullmatch(line, each)] == []


@pytest.mark.parametrize("file", ["Makefile", "tox.ini"])
def test_whatever_installs_is_held_to_the_versions(file: str) -> None:
    text = re.sub(r"\\\n", "", (ROOT / file).read_text())

    installing = [line for line in text.splitlines() if re.search(r"\bpip\b.* install ", line)]

    assert installing
    assert [line for line in installing if not held(line)] == []


def held(line: str) -> bool:
    """Return whether *line* installs the pinned versions, the newest pip, or exactly the versions that it names."""
    named = line.partition(" install ")[2].split()
    return (
        "--constraint constraints.txt" in line
        or "--upgrade" in line
        or all("==" in each for each in named if not each.startswith("-"))
    )


def older(environment: str) -> dict[str, str]:
    """Return the versions that an environment of tox installs instead of the pinned ones."""
    settings = ConfigParser(interpolation=None)
    settings.read(ROOT / "tox.ini")
    return dict(re.findall(r"(\S+)==(\S+)", settings[f"testenv:{environment}"]["commands_pre"]))


def test_the_oldest_versions_that_the_sql_backend_accepts_are_tested() -> None:
    project = workspace.project(workspace.distributions()["relevo-sql"])
    asked = map(Requirement, [*project["dependencies"], *project["optional-dependencies"]["mariadb"]])
    lowest = {each.name: each.specifier for each in asked}

    assert {name: str(lowest[name]) for name in older("oldest")} == {
        name: f">={version.removesuffix('.0')}" for name, version in older("oldest").items()
    }
    assert "SQLAlchemy" in older("oldest")


def test_the_readme_of_the_sql_backend_names_each_sqlalchemy_that_is_tested() -> None:
    pinned = pins(SUPPORTED[0])["sqlalchemy"].rpartition(".")[0]
    tested = [older("oldest")["SQLAlchemy"], older("sqlalchemy20")["SQLAlchemy"], pinned]

    text = (workspace.distributions()["relevo-sql"] / "README.md").read_text()

    assert [version for version in tested if version not in text] == []


def test_versions_that_differ_carry_the_pythons_they_are_for() -> None:
    found = {
        "3.11": {"a": "1", "b": "1", "c": "1"},
        "3.12": {"a": "1", "b": "2"},
        "3.13": {"a": "1", "b": "3", "d": "4"},
    }

    assert list(constraints.lines(found)) == [
        "a==1",
        'b==1; python_version < "3.12"',
        'b==2; python_version >= "3.12" and python_version < "3.13"',
        'b==3; python_version >= "3.13"',
        "c==1",
        "d==4",
    ]
