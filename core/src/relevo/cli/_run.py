"""``relevo worker``, ``relevo drain`` and ``relevo relay``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from logging import INFO, getLogger
from typing import Any, TypeVar

import attrs
import click

from relevo._app.app import App
from relevo._clock import seconds
from relevo._log_line import log_no_retries, log_repeats_briefly
from relevo._runner.loop import LoopRunner, hurry, warn_at_start
from relevo._runner.process_limit import resident
from relevo._runner.sd_notify import Notifier
from relevo._size import size, size_text
from relevo._visible import visible
from relevo._worker.run import SMALLEST, Flag, Report, RunOptions, flags, retries
from relevo._worker.worker import GRACE
from relevo.cli._main import EXIT_DEAD, EXIT_LATER, EXIT_UNAVAILABLE
from relevo.cli._option import is_given, json_option, queue_option, transport_option, with_app
from relevo.cli._output import at_terminal, echo, show_json
from relevo.cli._parameter import Choice, Whole
from relevo.cli._place import of_one_transport, private_to_process, tell_private
from relevo.cli._reload import reloadable
from relevo.cli._terminal import announce, show_progress
from relevo.errors import ConfigurationError, RelevoError

F = TypeVar("F", bound=Callable[..., Any])


_LATER = ("lock", "objection")
"""The reasons for which a run stopped and should be tried later."""


def memory(text: str) -> int:
    """Parse *text* as a size in bytes."""
    try:
        return size(text, what="size", least=SMALLEST)
    except ConfigurationError as error:
        raise click.BadParameter(str(error)) from error


def duration(text: str | float) -> float:
    """Parse *text* as a duration; a number alone is seconds."""
    if isinstance(text, float):
        return text
    try:
        return seconds(
            float(text) if text.isascii() and text.removeprefix("-").replace(".", "", 1).isdecimal() else text, what=""
        )
    except ConfigurationError as error:
        raise click.BadParameter(str(error)) from error


_METAVARS = {"count": "N", "duration": "DURATION", "size": "SIZE", "choice": None}


def _type_of(flag: Flag) -> Any:
    match flag.kind:
        case "choice":
            return Choice(flag.choices)
        case "duration":
            return duration
        case "size":
            return memory
        case _:
            return Whole(min=1, max=flag.most)


def run_options(*, until_empty: bool) -> Callable[[F], F]:
    """Return what adds the options of a run to a command: an option for each field of ``RunOptions`` with a flag."""
    fields = [field for field, flag in flags().items() if until_empty or not flag.until_empty_only]

    def with_options(command: F) -> F:
        return transport_option(queue_option(_with_flags(command, fields)))

    return with_options


def _with_flags(command: F, fields: Sequence[str]) -> F:
    """Add the options that set *fields* of ``RunOptions`` to *command*."""
    for field in reversed(fields):
        flag = flags()[field]
        names = [name for name in (flag.short, flag.name) if name]
        default = attrs.fields_dict(RunOptions)[field].default
        option = click.option(
            *names, field, type=_type_of(flag), metavar=_METAVARS[flag.kind], default=default, help=flag.help
        )
        command = option(command)
    return command


def chosen_options(app: App, transport: str | None, queues: tuple[str, ...], **others: Any) -> RunOptions:
    """Return the options of a run from the command line."""
    transport, queues = of_one_transport(app, transport, queues)
    return RunOptions(transport=transport, queues=queues, **others)


@click.command()
@run_options(until_empty=True)
@json_option
@partial(with_app, level="warning; retries only at a terminal")
def drain(*, app: App, as_json: bool, **run: Any) -> int:
    """
    Handle the events that are due now or become due meanwhile, then exit.

    Without a terminal it prints only what needs attention, such as an event that was dead-lettered, that could not be
    settled, that no listener here handles, or that is handled again after its process was killed. If you pass
    -l warning it also prints why events will be retried. Exits with 1 if an event was dead-lettered, and with 69 if a
    received event could not be settled. Exits with 75 if a deploy is in progress, a plugin stops events, or another
    drain handles the same queues. The events of a paused queue wait, and the exit code is 0; see relevo pause.

    Example: relevo drain --max-time 55s
    """
    is_watched = at_terminal(sys.stderr)
    is_mailed = not is_watched and not is_given("log_level")
    if is_mailed:
        log_no_retries()
    options = chosen_options(app, until_empty=True, **run)
    if is_watched or getLogger("relevo").isEnabledFor(INFO):
        warn_at_start(app, options)
    progress = show_progress(app, options) if is_watched and not as_json else nullcontext()
    with log_repeats_briefly() if is_mailed else nullcontext(), progress:
        try:
            report = LoopRunner(single_flight=True).run(app, options)
        finally:
            if options.max_seconds is not None:  # closing is limited too
                hurry(app, app.transport(options.transport).name, GRACE)
    if not report.handled:
        _warn_if_private(app, options)
    if as_json:
        show_json(attrs.asdict(report))
    elif at_terminal(sys.stdout) or report.dead or report.unsettled:
        echo(_summary(report))
    _refuse_if_too_little(report, options)
    if report.unsettled:
        return EXIT_UNAVAILABLE
    return EXIT_DEAD if report.dead else _exit_code(report)


@click.command()
@run_options(until_empty=False)
@click.option("--fail-fast", is_flag=True, help="Exit with 69 if the server is down, instead of waiting for it.")
@json_option
@reloadable
@with_app
def worker(*, app: App, fail_fast: bool, as_json: bool, **run: Any) -> int:
    """
    Handle events as they come, until stopped.

    At the first TERM or INT it finishes the current events and releases the others; the second one stops it at
    once. During a deploy it also finishes the current events, then waits. It leaves the events of a paused queue; see
    relevo pause. Exits with 75 if a plugin stops further events.

    Example: relevo worker -t main -q feed -l info
    """
    is_watched = at_terminal(sys.stderr) and not as_json
    tell = _tell_of_wait if is_watched else None
    runner = LoopRunner(patient=not fail_fast, notifier=Notifier.of(os.environ), tell=tell)
    options = chosen_options(app, **run)
    _warn_if_private(app, options)
    if is_watched:
        announce(app, options)
    report = runner.run(app, options)
    if as_json:
        show_json(attrs.asdict(report))
    elif at_terminal(sys.stdout):
        echo(_summary(report))
    _refuse_if_too_little(report, options)
    return _exit_code(report)


@click.command()
@transport_option
@click.option("--until-empty", is_flag=True, help="Exit when the outbox is empty.")
@partial(_with_flags, fields=("max_events", "max_seconds", "settle"))
@json_option
@with_app
def relay(*, app: App, until_empty: bool, as_json: bool, **run: Any) -> int:
    """
    Move events from the outbox of a transport to the transport; `worker` and `drain` also do this.

    Several may run at once, on several hosts. It waits for a server that is down; with --until-empty it exits with 69
    instead, and with 1 if an event was dead-lettered. It calls no listener, so it goes on during a deploy.

    Example: relevo relay --until-empty
    """
    if run["settle"] and not until_empty:
        raise click.UsageError("--settle is for a relay that ends when the outbox is empty; pass --until-empty too")
    options = RunOptions(until_empty=until_empty, relay_only=True, **run)
    report = LoopRunner(patient=not until_empty).run(app, options)
    if as_json:
        show_json(attrs.asdict(report))
    elif at_terminal(sys.stdout) or ((report.dead or report.unsettled) and until_empty):
        echo(_summary(report, done="moved"))
    if report.unsettled and until_empty:
        return EXIT_UNAVAILABLE
    return EXIT_DEAD if report.dead and until_empty else 0


def _tell_of_wait(line: str) -> None:
    click.echo(visible(f"relevo worker: {line}"), err=True)


def _warn_if_private(app: App, options: RunOptions) -> None:
    """Report that there is nothing to handle, since each process has a store of its own."""
    store = app.transport(options.transport)
    if private_to_process(store):
        with suppress(RelevoError):  # a third party's transport may have a server, or no figures
            if not any(store.stats(queue).ready for queue in app.queues(store.name)):
                tell_private(store, "handle them in that process, or use another transport")


def _refuse_if_too_little(report: Report, options: RunOptions) -> None:
    """Refuse a limit of the memory that was reached before the first event: it would stop each run there."""
    if report.stopped_by == "memory" and not report.handled and options.max_memory is not None:
        used = size_text(resident() >> 20 << 20)
        raise ConfigurationError(
            f"--max-memory: the process uses {used} before its first event, and the limit is "
            f"{size_text(options.max_memory)}, so no event is handled; set a higher limit"
        )


def _exit_code(report: Report) -> int:
    return EXIT_LATER if report.stopped_by in _LATER else 0


def _summary(report: Report, *, done: str = "done") -> str:
    parts = [f"{report.done} {done} in {report.seconds:.1f} s"]
    if report.retried:
        why = f" ({_counted(report.retry_reasons)})" if report.retry_reasons else ""
        parts.append(f"{retries(report)}{why}")
    if report.dead:
        parts.append(f"{report.dead} dead ({_counted(report.reasons)})")
    if report.unsettled:
        parts.append(f"{report.unsettled} not settled (delivered again later)")
    if report.paused:
        parts.append(f"paused: {', '.join(report.paused)} (see relevo status)")
    hint = "; see relevo dead list" if report.dead else ""
    later = f"; {why_later(report)}" if report.stopped_by in _LATER else ""
    return visible(f"{', '.join(parts)}{hint}{later}")


def why_later(report: Report) -> str:
    """Return why the run of *report* should be tried later."""
    if report.stopped_by == "lock":
        holder = f": {report.objection}" if report.objection else ""
        return f"another drain handles the same queues{holder}"
    return "a deploy is in progress" if report.objection == "deploy" else f"a plugin stops events: {report.objection}"


def _counted(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {reason}" for reason, number in sorted(reasons.items()))
