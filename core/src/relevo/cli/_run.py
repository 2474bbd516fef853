"""``relevo worker``, ``relevo drain`` and ``relevo relay``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs
import click

from relevo._app import App
from relevo._clock import seconds
from relevo._hook import hookimpl
from relevo._loop import LoopRunner
from relevo._runner import Report, RunOptions
from relevo.cli._main import EXIT_DEAD, EXIT_LATER
from relevo.cli._option import json_option, queue_option, transport_option, with_app
from relevo.cli._output import at_terminal, show_json
from relevo.errors import ConfigurationError


def duration(text: str) -> float:
    """Return what was typed as a duration; a number alone is seconds."""
    try:
        return seconds(float(text) if text.replace(".", "", 1).isdecimal() else text, what="it")
    except ConfigurationError as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@transport_option
@queue_option
@click.option("--max-events", type=click.IntRange(min=1), metavar="N", help="Stop after so many.")
@click.option("--max-time", type=duration, metavar="DURATION", help="Stop after so long, as in 55s.")
@click.option("--settle", type=duration, default="0s", metavar="DURATION", help="Wait so long also for retries.")
@json_option
@with_app
def drain(
    *,
    app: App,
    transport: str | None,
    queues: tuple[str, ...],
    max_events: int | None,
    max_time: float | None,
    settle: float,
    as_json: bool,
) -> int:
    """
    Handle what is due now, and what becomes due meanwhile, then exit.

    Silent without a terminal unless something died. Exits with 1 if something was dead-lettered, and with 75
    if a plugin lets no further events be taken, as during a deploy.

    Example: relevo drain --max-time 55s
    """
    options = RunOptions(
        transport=transport,
        queues=queues,
        until_empty=True,
        settle=settle,
        max_events=max_events,
        max_seconds=max_time,
    )
    with _progress(app, show=at_terminal(sys.stderr) and not as_json):
        report = LoopRunner().run(app, options)
    if as_json:
        show_json(attrs.asdict(report))
    elif at_terminal(sys.stdout) or report.dead:
        click.echo(_told(report))
    return EXIT_DEAD if report.dead else _exit_code(report)


@click.command()
@transport_option
@queue_option
@click.option("--max-events", type=click.IntRange(min=1), metavar="N", help="Stop after so many.")
@click.option("--max-time", type=duration, metavar="DURATION", help="Stop after so long, as in 1h.")
@click.option("--fail-fast", is_flag=True, help="Exit with 69 if the server is down, instead of waiting for it.")
@json_option
@with_app
def worker(
    *,
    app: App,
    transport: str | None,
    queues: tuple[str, ...],
    max_events: int | None,
    max_time: float | None,
    fail_fast: bool,
    as_json: bool,
) -> int:
    """
    Handle events until told to stop.

    The first TERM or INT finishes the current work and gives the rest back; a second one stops at once.
    Exits with 75 if a plugin lets no further events be taken, as during a deploy.

    Example: relevo worker -t main -q feed -l info
    """
    options = RunOptions(transport=transport, queues=queues, max_events=max_events, max_seconds=max_time)
    report = LoopRunner(patient=not fail_fast).run(app, options)
    if as_json:
        show_json(attrs.asdict(report))
    elif at_terminal(sys.stdout):
        click.echo(_told(report))
    return _exit_code(report)


@click.command()
@transport_option
@click.option("--until-empty", is_flag=True, help="Exit when the outbox is empty.")
@json_option
@with_app
def relay(*, app: App, transport: str | None, until_empty: bool, as_json: bool) -> int:
    """
    Move events from the outbox of a transport to it; `worker` and `drain` do so too.

    With --until-empty it exits with 1 if something was dead-lettered.

    Example: relevo relay --until-empty
    """
    name = app.transport(transport).name
    app.prepare(name)
    mover = app.relay(name, RunOptions(until_empty=until_empty), patient=not until_empty)
    if mover is None:
        raise ConfigurationError(f'the transport "{name}" has no outbox')
    from relevo._loop import stopped_by_signals  # noqa: PLC0415

    with stopped_by_signals(mover):
        report = mover.run()
    if as_json:
        show_json(attrs.asdict(report))
    elif at_terminal(sys.stdout) or (report.dead and until_empty):
        click.echo(_told(report, done="moved"))
    return EXIT_DEAD if report.dead and until_empty else 0


def _exit_code(report: Report) -> int:
    return EXIT_LATER if report.stopped_by == "objection" else 0


def _told(report: Report, *, done: str = "done") -> str:
    parts = [f"{report.done} {done}"]
    if report.retried:
        parts.append(f"{report.retried} to be retried")
    if report.dead:
        reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(report.reasons.items()))
        parts.append(f"{report.dead} dead ({reasons}); see relevo dead list")
    return f"{', '.join(parts)} in {report.seconds:.1f} s"


@contextmanager
def _progress(app: App, *, show: bool) -> Iterator[None]:
    """Show a bar that grows with every delivery, for somebody at a terminal."""
    if not show:
        yield
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn  # noqa: PLC0415

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, transient=True) as bar:
        row = bar.add_task("draining", total=None)
        app.hooks.add(_Ticker(lambda: bar.advance(row)))
        yield


class _Ticker:
    """A plugin that ticks with every delivery."""

    def __init__(self, tick: Callable[[], None]):
        self._tick = tick

    @hookimpl
    def relevo_around_handle(self) -> None:
        self._tick()
