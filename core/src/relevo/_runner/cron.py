"""The line of a crontab: drain every minute, one process at a time."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import attrs

from relevo._app.app import parts_of
from relevo._runner.command import command, unprintable_in
from relevo._worker.run import RunOptions
from relevo.errors import ConfigurationError

if TYPE_CHECKING:
    from relevo._app.app import App

_LONGEST = 55.0
"""Seconds for which a run takes further events, so that the lock is free for the run of the next minute."""

_EVERY_MINUTE = "* * * * *"


def within_the_minute(options: RunOptions) -> RunOptions:
    """Return *options* for cron: until empty, and for 55 s unless they set another limit."""
    longest = _LONGEST if options.max_seconds is None else options.max_seconds
    return attrs.evolve(options, until_empty=True, max_seconds=longest)


def cron(app: App, options: RunOptions) -> str:
    """
    Return the line of a crontab.

    Args:
        app: The application whose events it handles.

        options: Transport, queues and limits of a run; :func:`within_the_minute` completes them.

    Raises:
        ConfigurationError: A path contains a character that a crontab cannot hold.
    """
    line = shlex.join(command(app, within_the_minute(options)))
    folder = parts_of(app).loaded_from.folder
    if folder is not None:
        line = f"cd {shlex.quote(str(folder))} && exec {line}"
    if found := "\\" if "\\" in line else unprintable_in(line):
        raise ConfigurationError(f"a crontab cannot hold {found!r}, which is in {line!r}; give the folder another name")
    escaped = line.replace("%", r"\%")  # cron replaces a bare one by a line break
    return f"{_EVERY_MINUTE} {escaped}"
