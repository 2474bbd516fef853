"""The runner for supervisor: a number of processes that handle events as they come, restarted when they end."""

from __future__ import annotations

from pathlib import Path

from relevo import App, LoopRunner, RunOptions
from relevo.unit import supervisor


class SupervisorRunner(LoopRunner):
    """
    Handles events as they come until it is told to stop, and waits for a server that is down.

    Args:
        processes: How many supervisor keeps alive.

        folder: As :func:`relevo.unit.supervisor` takes it.

        signals: Listen to TERM and INT, where this is the main thread; else that is left to the program.
    """

    def __init__(self, *, processes: int = 1, folder: Path | None = None, signals: bool = True):
        super().__init__(patient=True, signals=signals)
        self._processes = processes
        self._folder = None if folder is None else folder.absolute()

    def unit(self, app: App, options: RunOptions) -> str:
        """Return what :func:`relevo.unit.supervisor` returns."""
        return supervisor(app, options, processes=self._processes, folder=self._folder)
