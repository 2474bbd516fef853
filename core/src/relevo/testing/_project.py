"""The application of the project under test."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from relevo.errors import ConfigurationError

if TYPE_CHECKING:
    from relevo._app.app import App


@contextmanager
def project_app(folder: Path, *, environ: MutableMapping[str, str], name: str = "") -> Iterator[App]:
    """
    Import the application of the project in *folder* as the command line does, and yield it.

    While the block runs, *folder* is searched for modules too, since those of listeners are imported later.

    Args:
        folder: The folder to search for modules, and, with the folders above it, for a configuration.

        environ: The process's environment. ``RELEVO_CONFIG`` wins; it is set to the file found during the import.

        name: ``module:name``; by default the ``app`` of the configuration.

    Raises:
        ConfigurationError: No application is named, it cannot be imported, or is not an application.
    """
    from relevo._app.load import app_named, modules_of, use_config  # noqa: PLC0415 - App imports relevo.testing

    path: Path | None = None
    if not name:
        name, folder, path = _named(folder, environ)
    with modules_of(folder):
        with use_config(path, environ):
            app = app_named(name)
        yield app


def _named(folder: Path, environ: MutableMapping[str, str]) -> tuple[str, Path, Path | None]:
    from relevo._config.opening import read  # noqa: PLC0415 - a test with its own App does not need it

    found = read(None, environ, start=folder)
    if found.app is not None:
        return found.app, found.directory, found.path
    if found.path is not None:
        raise ConfigurationError(f'{found.path} names no application; add app = "module:name"')
    raise ConfigurationError(
        f'there is no relevo.toml in {folder} or above that names an application; add app = "module:name" to one'
    )
