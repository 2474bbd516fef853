"""The message from which a child process creates its parent's application."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from relevo._execution.pipe import Hello
from relevo.errors import ConfigurationError


def recipe(
    app: object,
    *,
    config: Path | None,
    is_configured: bool,
    transport: str,
    time_limit: float,
    name: str | None = None,
) -> Hello:
    """
    Return the message from which a child can create *app* again.

    Args:
        app: The application.

        config: The file of its configuration, if there is one.

        is_configured: It was created from configuration alone.

        transport: The name of the transport that is served.

        time_limit: Seconds for listeners without a time limit of their own.

        name: The name by which *app* was imported here, ``module:name``; by default it is searched for in all modules.

    Raises:
        ConfigurationError: It is neither in a module nor created from configuration.
    """
    name = name or _name_of(app)
    if name is None and not is_configured:
        raise ConfigurationError(
            "execution: a child process cannot create this application, since no module has a name for it; write "
            'app = relevo.App(…) at the top of a module, or set execution = "threads"'
        )
    return Hello(
        path=list(sys.path),
        app=name,
        config=None if config is None else str(config),
        transport=transport,
        time_limit=time_limit,
        log_levels=_log_levels(),
    )


def _log_levels() -> dict[str, int]:
    """Return the levels that were set for loggers, by name; empty if logging is not configured."""
    root = logging.root
    if not root.handlers:
        return {}
    loggers = {name: each for name, each in root.manager.loggerDict.items() if isinstance(each, logging.Logger)}
    return {"": root.level} | {name: each.level for name, each in loggers.items() if each.level != logging.NOTSET}


def _name_of(app: object) -> str | None:
    """Return the name of *app* in a module that another process can import, as ``module:name``."""
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
