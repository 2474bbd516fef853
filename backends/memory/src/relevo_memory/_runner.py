"""A runner that runs when it is called."""

from __future__ import annotations

import attrs

from relevo import App, ConfigurationError, LoopRunner, Report, Runner, RunOptions


class ManualRunner(Runner):
    """
    Handles the events that are ready and returns: for tests, and for programs with their own loop.

    Events in an outbox are moved first; events that become ready meanwhile are handled too. Nothing runs in the
    background, no signal is handled, and listeners are called inline whatever the application configures.
    """

    def run(self, app: App, options: RunOptions | None = None) -> Report:
        """
        Handle events until nothing is ready any more, or a limit is reached.

        Args:
            app: The application.

            options: The work and its limits; everything that is ready by default.

        Raises:
            ConfigurationError: The configuration is invalid for this runner.

            TransportUnavailableError: The server could not be reached.
        """
        inline = attrs.evolve(options or RunOptions(), until_empty=True, execution="inline", concurrency=1)
        return LoopRunner(signals=False, others=False).run(app, inline)

    def unit(self, app: App, options: RunOptions) -> str:
        raise ConfigurationError('the runner "manual" runs when your program calls it; no host system can start it')
