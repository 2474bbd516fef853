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
    Give the application of the project in *folder*, imported as the command line would.

    While the block runs, modules are looked for in that folder too, since those of listeners are imported later.

    Args:
        folder: Where to look for a configuration, upwards, and for modules.

        environ: The process's environment. ``RELEVO_CONFIG`` in it wins; during the import it is what was found.

        name: ``module:name``; the ``app`` of the configuration if empty.

    Raises:
        ConfigurationError: None is named, or it cannot be imported, or is not an application.
    """
    from relevo._app.load import app_named, configured, modules_of  # noqa: PLC0415 - they know of what is tested

    path: Path | None = None
    if not name:
        name, folder, path = _named(folder, environ)
    with modules_of(folder):
        with configured(path, environ):
            app = app_named(name)
        yield app


def _named(folder: Path, environ: MutableMapping[str, str]) -> tuple[str, Path, Path | None]:
    from relevo._config.opening import read  # noqa: PLC0415 - whoever has the application in hand does without

    found = read(None, environ, start=folder)
    if found.app is not None:
        return found.app, found.directory, found.path
    if found.path is not None:
        raise ConfigurationError(f'{found.path} names no application; add app = "module:name"')
    raise ConfigurationError(
        f'which one? There is no relevo.toml in {folder} or above whose app = "module:name" would say'
    )
