"""The runner for cron: drain every minute, in one process at a time."""

from __future__ import annotations

from relevo import App, LoopRunner, Report, RunOptions
from relevo.unit import cron, within_the_minute


class CronRunner(LoopRunner):
    """
    Handles what is due and ends within the minute, in one process at a time.

    Args:
        signals: Handle TERM and INT if this is the main thread; otherwise the program has to.
    """

    def __init__(self, *, signals: bool = True):
        super().__init__(signals=signals, single_flight=True)

    def run(self, app: App, options: RunOptions | None = None) -> Report:
        return super().run(app, within_the_minute(options or RunOptions()))

    def unit(self, app: App, options: RunOptions) -> str:
        """Return what :func:`relevo.unit.cron` returns."""
        return cron(app, options)
