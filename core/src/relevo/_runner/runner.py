"""The runner interface: between an application and cron, supervisor or a test."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relevo._app.app import App
    from relevo._worker.run import Report, RunOptions


class Runner(ABC):
    """Hosts the worker of an application."""

    @abstractmethod
    def run(self, app: App, options: RunOptions) -> Report:
        """
        Handle events until a limit of *options* is reached or the run is stopped.

        Raises:
            ConfigurationError: The application or *options* are invalid.

            TransportUnavailableError: The server could not be reached and the runner does not wait.
        """

    @abstractmethod
    def unit(self, app: App, options: RunOptions) -> str:
        """Return the text for the host system that runs it: a crontab line, a program section, a unit."""
