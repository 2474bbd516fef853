"""A runner that runs when it is called."""

from __future__ import annotations

import attrs

from relevo import App, ConfigurationError, LoopRunner, Report, Runner, RunOptions


class ManualRunner(Runner):
    """
    Handles what is ready, here and now, and returns: for tests, and for whoever has a loop of his own.

    What an outbox holds is moved on first; what becomes ready meanwhile is handled too. Nothing waits
    in the background, no signal is caught, and listeners are called inline whatever the application says.
    """

    def run(self, app: App, options: RunOptions | None = None) -> Report:
        """
        Handle events until nothing is ready any more, or a limit is reached.

        Args:
            app: Whose.

            options: What to work on and how much at most; everything that is ready by default.

        Raises:
            ConfigurationError: The application cannot run like this.

            TransportUnavailableError: The server could not be reached.
        """
        told = attrs.evolve(options or RunOptions(), until_empty=True, execution="inline", concurrency=1)
        return LoopRunner(signals=False).run(app, told)

    def unit(self, app: App, options: RunOptions) -> str:
        raise ConfigurationError('the runner "manual" runs when your program calls it; no host system can be told to')
