"""
The pytest plugin: ``pytest --harness TYPE`` runs the suite and prints its report card.

Without the option it does nothing, and imports nothing.
"""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("relevo-conformance")
    group.addoption(
        "--harness",
        metavar="TYPE",
        help="Run the conformance suite on TYPE, as `relevo-conformance run TYPE` does, and no test files.",
    )
    group.addoption(
        "--harness-option",
        dest="harness_options",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="An option of the harness; repeatable.",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("harness") is not None:
        from relevo_conformance._plugin import CardPlugin  # noqa: PLC0415 - takes 0.5 s, and must not import Hypothesis early

        config.pluginmanager.register(CardPlugin.from_config(config), "relevo-conformance-card")
