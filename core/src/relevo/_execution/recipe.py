"""How a child process makes its parent's application."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from relevo._execution.pipe import Hello
from relevo.errors import ConfigurationError


def recipe(app: object, *, config: Path | None, is_configured: bool, transport: str, time_limit: float) -> Hello:
    """
    Return what a child has to be told to make *app* again.

    Args:
        app: The application.

        config: The file that it was made of, if it was.

        is_configured: It was made of configuration alone.

        transport: The name of the one that is served.

        time_limit: Seconds for listeners that say nothing themselves.

    Raises:
        ConfigurationError: It is in no module, nor made of configuration.
    """
    name = _name_of(app)
    if name is None and not is_configured:
        raise ConfigurationError(
            "execution: a child process cannot make this application again, since no module has a name for it; write "
            'app = relevo.App(…) at the top of a module, or say execution = "threads"'
        )
    root = logging.getLogger()
    return Hello(
        path=list(sys.path),
        app=name,
        config=None if config is None else str(config),
        transport=transport,
        time_limit=time_limit,
        log_level=root.level if root.handlers else None,
    )


def _name_of(app: object) -> str | None:
    """Return what *app* is called in a module that another process can import, as ``module:name``."""
    for module_name, module in list(sys.modules.items()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is app and name.isidentifier():
                found = _importable(module_name, module)
                if found is not None:
                    return f"{found}:{name}"
    return None


def _importable(module_name: str, module: object) -> str | None:
    if module_name != "__main__":
        return module_name
    spec = getattr(module, "__spec__", None)
    if spec is not None:
        return str(spec.name).removesuffix(".__main__")
    file = getattr(module, "__file__", None)
    return Path(file).stem if file else None
