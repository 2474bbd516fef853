"""The runner for cron: whatever is due, every minute, one process at a time."""

from __future__ import annotations

import re
import shlex

import attrs

from relevo import App, LoopRunner, Report, RunOptions
from relevo.errors import ConfigurationError

_LONGEST = 55.0
"""Seconds for which a run takes further events, so that the next minute's finds the lock free."""

_EVERY_MINUTE = "* * * * *"


class CronRunner(LoopRunner):
    """
    Handles what is due and ends, as cron wants it: one at a time, within the minute.

    Args:
        signals: Listen to TERM and INT, where this is the main thread; else that is left to the program.

        max_memory: Bytes; stop when the process has grown so large.

        max_failures: Stop soon after so many hand-overs ended in a retry or a dead letter.
    """

    def __init__(self, *, signals: bool = True, max_memory: int | None = None, max_failures: int | None = None):
        super().__init__(signals=signals, single_flight=True, max_memory=max_memory, max_failures=max_failures)

    def run(self, app: App, options: RunOptions) -> Report:
        return super().run(app, _within_the_minute(options))

    def unit(self, app: App, options: RunOptions) -> str:
        """
        Return the line of a crontab.

        Raises:
            ConfigurationError: A path in it has a form that no crontab can hold.
        """
        command = super().unit(app, _within_the_minute(options))
        if app.found_in is not None:
            command = f"cd {shlex.quote(str(app.found_in))} && exec {command}"
        if found := re.search(r"[\\\x00-\x1f\x7f]", command):
            raise ConfigurationError(
                f"a crontab cannot hold {found[0]!r}, and it is in {command!r}; give the folder another name"
            )
        escaped = command.replace("%", r"\%")  # cron takes a bare one for a line break
        return f"{_EVERY_MINUTE} {escaped}"


def _within_the_minute(options: RunOptions) -> RunOptions:
    longest = _LONGEST if options.max_seconds is None else options.max_seconds
    return attrs.evolve(options, until_empty=True, max_seconds=longest)
