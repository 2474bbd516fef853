"""The five distributions are released together, under one version."""

from __future__ import annotations

import re

import pytest

from .workspace import distributions, project

PROJECTS = {name: project(folder) for name, folder in distributions().items()}
VERSION = PROJECTS["relevo"]["version"]


def test_the_workspace_is_the_five() -> None:
    assert set(PROJECTS) == {"relevo", "relevo-memory", "relevo-sql", "relevo-amqp", "relevo-conformance"}


@pytest.mark.parametrize("name", PROJECTS)
def test_a_distribution_has_the_version_of_all(name: str) -> None:
    assert PROJECTS[name]["version"] == VERSION


@pytest.mark.parametrize("name", PROJECTS)
def test_a_distribution_accepts_the_patches_of_its_own_minor_version_alone(name: str) -> None:
    major, minor, _ = VERSION.split(".")
    extras = PROJECTS[name].get("optional-dependencies", {})
    requirements = [*PROJECTS[name]["dependencies"], *(line for extra in extras.values() for line in extra)]

    inner = [line for line in requirements if re.match(r"relevo\b", line)]

    assert name == "relevo" or any(re.match(r"relevo(\[.*\])?~=", line) for line in inner)
    assert [line for line in inner if not line.endswith(f"~={major}.{minor}.0")] == []


@pytest.mark.parametrize("key", ["requires-python", "license"])
def test_the_distributions_agree_on(key: str) -> None:
    assert len({table[key] for table in PROJECTS.values()}) == 1


def test_a_transport_can_be_asked_for_as_an_extra_of_the_core() -> None:
    extras = PROJECTS["relevo"]["optional-dependencies"]

    for backend in ("memory", "sql", "amqp"):
        assert any(line.startswith(f"relevo-{backend}~=") for line in extras[backend])
