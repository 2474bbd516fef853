"""The command that runs a worker, for the units of host systems."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from relevo._worker.run import RunOptions

if TYPE_CHECKING:
    from pathlib import Path

    from relevo._app.app import App


def command(app: App, options: RunOptions) -> list[str]:
    """Return the words of the command that handles the events of *app* with *options*; it works in any folder."""
    words = [sys.executable, "-m", "relevo", "drain" if options.until_empty else "worker", *_found_by(app)]
    if options.transport is not None:
        words += ["--transport", options.transport]
    for queue in options.queues:
        words += ["--queue", queue]
    given = {
        "--execution": options.execution,
        "--concurrency": options.concurrency,
        "--max-events": options.max_events,
        "--max-time": None if options.max_seconds is None else f"{options.max_seconds:g}s",
        "--max-memory": options.max_memory,
        "--max-failures": options.max_failures,
        "--settle": f"{options.settle:g}s" if options.settle else None,
    }
    return [*words, *(word for name, value in given.items() if value is not None for word in (name, str(value)))]


def folder_of(app: App) -> Path:
    """Return the working directory of the command."""
    from pathlib import Path  # noqa: PLC0415 - dispatching alone does not need it

    return app.loaded_from.folder or (app.config.directory if app.config is not None else Path.cwd())


def _found_by(app: App) -> Sequence[str]:
    if app.loaded_from.options or app.config is None or app.config.path is None:
        return app.loaded_from.options
    return ("--config", str(app.config.path))
