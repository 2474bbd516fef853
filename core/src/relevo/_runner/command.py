"""The command that runs a worker, for the units of host systems."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from relevo._app.app import parts_of
from relevo._worker.run import RunOptions, flags

if TYPE_CHECKING:
    from pathlib import Path

    from relevo._app.app import App


def command(app: App, options: RunOptions) -> list[str]:
    """Return the words of the command that runs *app* with *options*; it works in any folder."""
    words = [sys.executable, "-m", "relevo", *_verb(options), *_found_by(app)]
    if options.transport is not None:
        words += ["--transport", options.transport]
    for queue in options.queues:
        words += ["--queue", queue]
    if (level := parts_of(app).loaded_from.log_level) is not None:
        words += ["--log-level", level]
    for field, flag in flags().items():
        value = getattr(options, field)
        if value != attrs.fields_dict(RunOptions)[field].default:
            words += [flag.name, flag.text_of(value)]
    return words


def _verb(options: RunOptions) -> Sequence[str]:
    if options.relay_only:
        return ("relay", "--until-empty") if options.until_empty else ("relay",)
    return ("drain",) if options.until_empty else ("worker",)


def folder_of(app: App) -> Path:
    """Return the working directory of the command."""
    from pathlib import Path  # noqa: PLC0415 - dispatching alone does not need it

    parts = parts_of(app)
    return parts.loaded_from.folder or (parts.config.directory if parts.config is not None else Path.cwd())


def unprintable_in(text: str) -> str | None:
    """Return the first character of *text* that a terminal obeys or hides, such as a mark that changes directions."""
    return next((each for each in text if not each.isprintable()), None)


def _found_by(app: App) -> Sequence[str]:
    parts = parts_of(app)
    if parts.loaded_from.options or parts.config is None or parts.config.path is None:
        return parts.loaded_from.options
    return ("--config", str(parts.config.path))
