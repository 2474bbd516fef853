"""What the distributions announce can be loaded, under the names that configuration uses."""

from __future__ import annotations

import inspect
from importlib.metadata import EntryPoint, distribution

import pytest

from .workspace import distributions

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
