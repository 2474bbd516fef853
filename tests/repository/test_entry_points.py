"""What the distributions announce can be loaded, under the names that configuration uses."""

from __future__ import annotations

import inspect
import tomllib
from importlib.metadata import EntryPoint, distribution

import pytest

from relevo_conformance import Harness

from .workspace import ROOT, distributions, project

POINTS = [(name, point) for name in distributions() for point in distribution(name).entry_points]
LOADABLE = [point for _, point in POINTS if point.group != "relevo.schemes"]
MODULES = {"pytest11"}
"""Groups whose points are whole modules."""
SCHEMES = [(name, point) for name, point in POINTS if point.group == "relevo.schemes"]


@pytest.mark.parametrize("point", LOADABLE, ids=lambda point: f"{point.group}: {point.name}")
def test_what_is_announced_can_be_loaded(point: EntryPoint) -> None:
    loaded = point.load()

    assert inspect.ismodule(loaded) if point.group in MODULES else callable(loaded)


@pytest.mark.parametrize("name, scheme", SCHEMES, ids=lambda value: getattr(value, "name", value))
def test_a_url_scheme_leads_to_a_transport_of_the_same_distribution(name: str, scheme: EntryPoint) -> None:
    transports = [point.name for owner, point in POINTS if owner == name and point.group == "relevo.transports"]

    assert scheme.value in transports


def test_every_transport_is_announced() -> None:
    assert {point.name for point in LOADABLE if point.group == "relevo.transports"} == {"memory", "sql", "amqp"}


def test_every_transport_ships_the_harness_that_drives_it() -> None:
    transports = {(name, point.name): point.load() for name, point in POINTS if point.group == "relevo.transports"}
    harnesses = {(name, point.name): point.load() for name, point in POINTS if point.group == "relevo.harnesses"}

    assert {key: harness.transport for key, harness in harnesses.items()} == transports
    assert all(issubclass(harness, Harness) for harness in harnesses.values())


def test_who_installs_a_backend_gets_no_test_tool_without_asking() -> None:
    backends = {name: project(folder) for name, folder in distributions().items() if name != "relevo-conformance"}

    needed = " ".join(line for table in backends.values() for line in table["dependencies"])
    assert not any(tool in needed for tool in ("relevo-conformance", "hypothesis", "pytest"))
    extras = [name for name, table in backends.items() if "conformance" in table.get("optional-dependencies", {})]
    assert sorted(extras) == ["relevo-amqp", "relevo-memory", "relevo-sql"]


def test_the_package_on_the_page_about_transports_has_the_modules_of_its_entry_points() -> None:
    page = (ROOT / "docs" / "how-to" / "write-a-transport.md").read_text(encoding="utf-8")
    package = tomllib.loads(page.partition("# pyproject.toml\n")[2].partition("```")[0])
    harness = package["project"]["entry-points"]["relevo.harnesses"]["spool"]
    named = [
        value.partition(":")[0]
        for group in ("relevo.transports", "relevo.harnesses")
        for value in package["project"]["entry-points"][group].values()
    ]

    assert set(named) <= set(package["tool"]["setuptools"]["py-modules"])
    assert f"relevo-conformance run {harness} " in page
