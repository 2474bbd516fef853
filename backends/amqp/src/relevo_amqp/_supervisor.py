"""The runner for supervisor: processes that handle events as they come, restarted when they end."""

from __future__ import annotations

from pathlib import Path

from relevo import App, LoopRunner, RunOptions
from relevo.unit import supervisor


class SupervisorRunner(LoopRunner):
    """
    Handles events as they come until it is stopped, and waits for a server that is down.

    Args:
        processes: The number of processes that supervisor keeps alive.

        folder: The folder for a complete configuration, see :func:`relevo.unit.supervisor`.

        signals: Handle TERM and INT; only possible in the main thread.
    """

    def __init__(self, *, processes: int = 1, folder: Path | None = None, signals: bool = True):
        super().__init__(patient=True, signals=signals)
        self._processes = processes
        self._folder = None if folder is None else folder.absolute()

    def unit(self, app: App, options: RunOptions) -> str:
        """Return the configuration of supervisor, see :func:`relevo.unit.supervisor`."""
        return supervisor(app, options, processes=self._processes, folder=self._folder)
