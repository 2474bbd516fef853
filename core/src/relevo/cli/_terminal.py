"""The output of a run at a terminal: the listeners that a worker serves, and the progress of a drain."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import attrs
import click

from relevo._app.app import App
from relevo._app.check import listeners_at
from relevo._hook import hookimpl
from relevo._log_line import log_to
from relevo._transport.delivery import Release, Settlement
from relevo._transport.route import Target
from relevo._transport.transport import Transport
from relevo._visible import visible
from relevo._worker.execution import Execution
from relevo._worker.run import RunOptions
from relevo.cli._output import at_terminal
from relevo.cli._progress import rate_bar, rate_of
from relevo.errors import RelevoError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_MOST_LISTENERS = 20
"""The largest number of listeners that a worker shows at its start."""


def announce(app: App, options: RunOptions) -> None:
    """Let the worker of *app* with *options* print what it serves, once it does."""
    app.hooks.add(_Announcement(app, app.execution.overridden(options.execution, options.concurrency)))


@attrs.define(eq=False)
class _Announcement:
    """A plugin that prints what a worker serves, at the start of its first run."""

    _app: App
    _execution: Execution
    _is_made: bool = attrs.field(default=False, init=False)

    @hookimpl
    def relevo_around_run(self, transport: str, queues: Sequence[str]) -> None:
        """Print it, unless the worker goes on after a deploy."""
        if not self._is_made:
            self._is_made = True
            for line in _served(self._app, transport, queues, self._execution.resolved(self._app.listeners).in_words):
                click.echo(visible(line), err=True)


def _served(app: App, transport: str, queues: Sequence[str], where: str) -> list[str]:
    """Return the lines about what a worker serves, and how to stop it."""
    rows = [
        (queue, each.event_name, each.id)
        for queue in queues
        for each in listeners_at(Target(transport, queue), app.listeners, app.routes)
    ]
    shown = rows[:_MOST_LISTENERS]
    first, second = (max((len(row[column]) for row in shown), default=0) for column in (0, 1))
    count = "1 listener" if len(rows) == 1 else f"{len(rows)} listeners"
    outbox = f", and the outbox of {transport}" if transport in app.outboxes else ""
    more = [f"  and {len(rows) - len(shown)} more; see relevo listeners"] if len(rows) > len(shown) else []
    return [
        f"relevo worker: {transport}: {', '.join(queues)}{outbox}; {count}{where and ', '}{where}",
        *(f"  {queue:<{first}}  {event:<{second}}  {listener}" for queue, event, listener in shown),
        *more,
        "Ctrl-C finishes the current events and ends; a second Ctrl-C ends at once. Tracebacks: -l info",
    ]


# --- the progress of a drain ------------------------------------------------------------------------------


@contextmanager
def show_progress(app: App, options: RunOptions) -> Iterator[None]:
    """
    Show a progress bar while the block drains; lines that are printed or logged meanwhile appear above it.

    Its total is what is ready, where that is known; it grows with what becomes ready.
    """
    transport = app.transport(options.transport)
    queues = [(transport, queue) for queue in options.queues or app.queues(transport.name)]
    stderr = sys.stderr
    with (
        rate_bar(redirect_stdout=at_terminal(sys.stdout)) as bar,
        log_to(sys.stderr, instead_of=stderr),
    ):
        row = bar.add_task("draining", total=None, rate="")
        plugin = _Progress(lambda: ready_in(queues), time.monotonic, bar, row)
        app.hooks.add(plugin)
        try:
            yield
        finally:
            app.hooks.remove(plugin)


def ready_in(queues: Sequence[tuple[Transport, str]]) -> int | None:
    """Return how many events are ready in *queues*; ``None`` if that is not known."""
    total = 0
    for transport, queue in queues:
        try:
            ready = transport.stats(queue).ready if transport.capabilities.stats != "none" else None
        except RelevoError:  # the worker meets it too, and reports it
            return None
        if ready is None:
            return None
        total += ready
    return total


@attrs.define(eq=False)
class _Progress:
    """A plugin that advances the bar with settled deliveries."""

    _ready: Callable[[], int | None]
    _monotonic: Callable[[], float]
    _bar: Progress
    _row: TaskID
    _done: int = attrs.field(default=0, init=False)
    _total: int | None = attrs.field(default=0, init=False)
    _began: float | None = attrs.field(default=None, init=False)

    @hookimpl
    def relevo_around_run(self) -> None:
        """Begin, now that what was missing is created."""
        if self._began is None:
            self._began = self._monotonic()
            self._tick(0)

    @hookimpl
    def relevo_around_settle(self, settlements: Sequence[Settlement]) -> None:
        """Count here: the hook around the handling is called where listeners run, maybe in another process."""
        self._tick(sum(not isinstance(outcome, Release) for _, outcome in settlements))

    def _tick(self, number: int) -> None:
        self._done += number
        if self._total is not None and self._done >= self._total:  # more became ready, or it begins
            ready = self._ready()
            self._total = None if ready is None else self._done + ready
        passed = 0.0 if self._began is None else self._monotonic() - self._began
        self._bar.update(self._row, completed=self._done, total=self._total, rate=rate_of(self._done, passed))
