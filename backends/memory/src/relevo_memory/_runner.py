"""The runner that runs when it is told."""

from __future__ import annotations

from collections import Counter

import attrs

from relevo import App, ConfigurationError, Report, Runner, RunOptions


class ManualRunner(Runner):
    """
    Handles what is ready, here and now, and returns: for tests, and for whoever has a loop of his own.

    What an outbox holds is moved on first; what becomes ready meanwhile is handled too. Nothing waits
    in the background, no signal is caught, and no second process is kept away.
    """

    def run(self, app: App, options: RunOptions | None = None) -> Report:
        """
        Handle events until nothing is ready any more, or a limit is reached.

        Args:
            app: Whose.

            options: What to work on and how much at most; everything that is ready if unsaid.

        Raises:
            ConfigurationError: The application cannot run like this.

            TransportUnavailableError: The server could not be reached.
        """
        options = attrs.evolve(options or RunOptions(), until_empty=True)
        name = app.transport(options.transport).name
        app.prepare(name)
        report = Report()
        while True:
            relay = app.relay(name, RunOptions(until_empty=True))
            moved = relay.run().handled if relay is not None else 0
            part = app.worker(_rest(options, report)).run()
            report = _sum(report, part)
            # Without an outbox the worker has seen to all that its listeners dispatched.
            if part.stopped_by != "empty" or relay is None or not (moved or part.handled):
                return report

    def unit(self, app: App, options: RunOptions) -> str:
        raise ConfigurationError('the runner "manual" runs when your program calls it; no host system can be told to')


def _rest(options: RunOptions, done: Report) -> RunOptions:
    """Return *options* less what *done* has used up of their limits."""
    return attrs.evolve(
        options,
        max_events=None if options.max_events is None else max(0, options.max_events - done.handled),
        max_seconds=None if options.max_seconds is None else max(0.0, options.max_seconds - done.seconds),
    )


def _sum(first: Report, second: Report) -> Report:
    return Report(
        handled=first.handled + second.handled,
        done=first.done + second.done,
        retried=first.retried + second.retried,
        dead=first.dead + second.dead,
        seconds=first.seconds + second.seconds,
        stopped_by=second.stopped_by,
        reasons=dict(Counter(first.reasons) + Counter(second.reasons)),
    )
