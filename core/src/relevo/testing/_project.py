"""The application of the project that is tested."""

from __future__ import annotations

import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from relevo.errors import ConfigurationError, shown

if TYPE_CHECKING:
    from relevo._app import App

_VARIABLE = "RELEVO_CONFIG"


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
        ConfigurationError: None is named, or it cannot be imported, or is none.
    """
    path: Path | None = None
    if not name:
        name, folder, path = _named(folder, environ)
    sys.path.insert(0, str(folder))
    try:
        with _configured(path, environ):
            app = _imported(name)
        yield app
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


@contextmanager
def _configured(path: Path | None, environ: MutableMapping[str, str]) -> Iterator[None]:
    """Let the application's own ``App.from_config()`` find what was found here."""
    before = environ.get(_VARIABLE)
    if path is not None:
        environ[_VARIABLE] = str(path)
    try:
        yield
    finally:
        environ.pop(_VARIABLE, None)
        if before is not None:
            environ[_VARIABLE] = before


def _named(folder: Path, environ: MutableMapping[str, str]) -> tuple[str, Path, Path | None]:
    from relevo._config import read  # noqa: PLC0415 - whoever has the application in hand does without

    found = read(None, environ, start=folder)
    if found.app is not None:
        return found.app, found.directory, found.path
    if found.path is not None:
        raise ConfigurationError(f'{found.path} names no application; add app = "module:name"')
    raise ConfigurationError(
        f'which one? There is no relevo.toml in {folder} or above whose app = "module:name" would say'
    )


def _imported(name: str) -> App:
    from relevo._app import App  # noqa: PLC0415 - it is what is tested, and knows of this module
    from relevo._module import imported  # noqa: PLC0415 - as above

    module, _, inside = name.partition(":")
    if not (module and inside):
        raise ConfigurationError(f'app: write "module:name", as in "shop:app", not {shown(name)}')
    app = imported(name, where="app")
    if not isinstance(app, App):
        raise ConfigurationError(f'app: "{name}" is {type(app).__name__}, not a relevo.App')
    return app
