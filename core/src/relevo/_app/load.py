"""Find the application of a project by its name."""

from __future__ import annotations

import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress
from pathlib import Path

from relevo._app.app import App
from relevo._config.check import checked_app_name
from relevo._config.trust import distrust_of
from relevo._listener.importing import import_object
from relevo.errors import ConfigurationError, shown

_VARIABLE = "RELEVO_CONFIG"


def app_named(name: str) -> App:
    """
    Import and return the application called *name*, ``module:name``.

    Raises:
        ConfigurationError: It cannot be imported, or is not an application.
    """
    app = import_object(_whole(name), where="app")
    if not isinstance(app, App):
        raise ConfigurationError(
            f'app: "{name}": expected a relevo.App; got {type(app).__name__}; name the App in that module'
        )
    return app


def _whole(name: str) -> str:
    """
    Return *name* if it is ``module:name``.

    Raises:
        ConfigurationError: It is not; names the application if it is that of a module with a single one.
    """
    try:
        return checked_app_name(name)
    except ConfigurationError as error:
        found: list[str] = []
        with suppress(ConfigurationError):  # there is no such module, or its import fails
            found = [each for each, value in vars(import_object(name, where="app")).items() if isinstance(value, App)]
        if len(found) != 1:
            raise
        raise ConfigurationError(f'app: expected "{name}:{found[0]}"; got {shown(name)}') from error


@contextmanager
def modules_of(folder: Path) -> Iterator[None]:
    """Search *folder* first for modules while the block runs."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


@contextmanager
def modules_of_config(folder: Path, *, config: Path) -> Iterator[None]:
    """
    Search *folder*, that of the file *config*, first for modules while the block runs.

    Raises:
        ConfigurationError: The block raises it since a module is missing; if it is in the working directory, which is
            another folder, the place that is searched is added.
    """
    with modules_of(folder):
        try:
            yield
        except ConfigurationError as error:
            found = _in_working_directory(error.__cause__)
            if found is not None and found.parent != folder.resolve():
                why = f"this is {folder}, since {config} was found"
                error.args = (f"{error}; {why}; {found} is in the working directory, which is not searched",)
            raise


def _in_working_directory(error: BaseException | None) -> Path | None:
    """Return the file or package in the working directory that has the name of the module which *error* misses."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    here, name = Path.cwd(), error.name.partition(".")[0]
    return next((each for each in (here / f"{name}.py", here / name) if each.exists()), None)


@contextmanager
def modules_without_config(folder: Path) -> Iterator[None]:
    """
    Do the same for the working directory, if no configuration was found and if other users cannot write to it.

    Otherwise a file there, such as ``click.py``, would run in place of an installed module.

    Raises:
        ConfigurationError: The block raises it since a module is missing; the reason is added.
    """
    distrust = distrust_of(folder)
    if distrust is None:
        with modules_of(folder):
            yield
        return
    try:
        yield
    except ConfigurationError as error:
        if isinstance(error.__cause__, ModuleNotFoundError):
            error.args = (f"{error}; the working directory is not searched: {distrust}; name a file with --config",)
        raise


@contextmanager
def use_config(path: Path | None, environ: MutableMapping[str, str]) -> Iterator[None]:
    """Make the application's own ``App.from_config()`` find the configuration at *path* while the block runs."""
    before = environ.get(_VARIABLE)
    if path is not None:
        environ[_VARIABLE] = str(path)
    try:
        yield
    finally:
        environ.pop(_VARIABLE, None)
        if before is not None:
            environ[_VARIABLE] = before
