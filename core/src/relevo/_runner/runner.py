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
        Handle events until *options* say stop, or somebody does.

        Raises:
            ConfigurationError: The application cannot run like this.

            TransportUnavailableError: The server could not be reached and the runner does not wait.
        """

    @abstractmethod
    def unit(self, app: App, options: RunOptions) -> str:
        """Return the text that makes the host system run it: a crontab line, a program section, a unit."""
