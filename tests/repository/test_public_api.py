"""
The public names are a promise: who changes them changes public_api.txt too.

    RELEVO_TEST_ACCEPT=1 pytest tests/repository/test_public_api.py

writes it anew.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import pytest

from .workspace import distributions, module_names

FROZEN = Path(__file__).with_name("public_api.txt")
NO_CHANGE: dict[str, list[str]] = {"new": [], "gone": []}

PACKAGES = [module_names(folder)[0] for folder in distributions().values()]
MODULES = [
    module
    for folder in distributions().values()
    for module in module_names(folder)
    if not any(part.startswith("_") for part in module.split("."))
]


def names(module: str) -> list[str]:
    return list(getattr(importlib.import_module(module), "__all__", ()))


def test_the_public_names_are_those_that_were_agreed_on() -> None:
    lines = [f"{module}.{name}" for module in MODULES for name in sorted(names(module))]
    lines += [f"{module} (module)" for module in MODULES]
    lines.sort()
    if os.environ.get("RELEVO_TEST_ACCEPT") == "1":
        FROZEN.write_text("\n".join(lines) + "\n")

    agreed = FROZEN.read_text().splitlines()
    assert {"new": sorted(set(lines) - set(agreed)), "gone": sorted(set(agreed) - set(lines))} == NO_CHANGE


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_says_what_is_public(package: str) -> None:
    assert names(package)


@pytest.mark.parametrize("module", MODULES)
def test_what_is_said_to_be_public_exists_once(module: str) -> None:
    public = names(module)

    assert sorted(public) == sorted(set(public))
    assert [name for name in public if not hasattr(importlib.import_module(module), name)] == []
    assert [name for name in public if name.startswith("_")] == []
