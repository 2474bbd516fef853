"""
relevo's plugin for pytest: the fixture ``relevo_app``.

It provides what ``with app.testing() as t:`` does, for the application of the project, and undoes it after the test::

    def test_an_upload_is_announced(relevo_app):
        upload("sea.jpg")
        relevo_app.dispatched("image.created", path="sea.jpg")
        relevo_app.drain()

The first of these that exists determines the application:

- a fixture ``relevo_application`` in the project, of any scope, that returns it;
- the setting ``relevo_app = "shop:app"`` of pytest;
- ``app = "shop:app"`` in the configuration: ``RELEVO_CONFIG``, else the nearest ``relevo.toml`` or
  ``[tool.relevo]`` upwards from pytest's root folder.

This module is outside the package and imports relevo only in its fixtures: pytest loads it in every run, also without a
test of relevo, and before coverage can be measured.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from relevo import App
    from relevo.testing import AppTesting

_SETTING = "relevo_app"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the setting."""
    parser.addini(_SETTING, 'the application for the fixture relevo_app, such as "shop:app"', default="")


@pytest.fixture(scope="session")
def relevo_application(pytestconfig: pytest.Config) -> Iterator[App]:
    """Find the application of this project; a fixture of this name in the project overrides it."""
    from relevo.errors import ConfigurationError  # noqa: PLC0415 - only tests that ask for it pay for it
    from relevo.testing import project_app  # noqa: PLC0415

    name = str(pytestconfig.getini(_SETTING))
    with ExitStack() as stack:
        try:
            app = stack.enter_context(project_app(pytestconfig.rootpath, environ=os.environ, name=name))
        except ConfigurationError as error:
            raise pytest.UsageError(
                f"the fixture relevo_app needs an application: {error}\n"
                f'Name it in the configuration, or as {_SETTING} = "module:name" in pytest\'s settings, '
                f"or write a fixture relevo_application that returns it."
            ) from None
        yield app


@pytest.fixture
def relevo_app(relevo_application: App) -> Iterator[AppTesting]:
    """Return the application of this project for a test: its transports in memory, its clock stopped."""
    with relevo_application.testing() as t:
        yield t
