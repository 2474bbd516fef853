"""``relevo unit``: print the configuration with which the host runs the application."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from relevo import unit as unit_text
from relevo._app.app import App, parts_of
from relevo._config.discovery import RUNNERS, available, load
from relevo._runner.loop import relay_of
from relevo._worker.run import OF_A_RELAY, RunOptions, flags, without_effect_on_a_relay
from relevo.cli import _crontab
from relevo.cli._main import Group, refuse_blank
from relevo.cli._option import with_app
from relevo.cli._output import echo
from relevo.cli._parameter import Whole, refuse_repeated
from relevo.cli._run import chosen_options, run_options

_relay_option = click.option(
    "--relay",
    "relay_only",
    is_flag=True,
    help="For a relay, which moves the events of the outbox and calls no listener.",
)


class _Units(Group):
    """The units below, and that of any other runner of an installed package."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, cmd_name) or (_of_runner(cmd_name) if cmd_name in available(RUNNERS) else None)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        command = self.get_command(ctx, args[0]) if args else None
        if command is None:
            return super().resolve_command(ctx, args)
        refuse_repeated(command, args[1:], name=args[0], parent=ctx)
        return args[0], command, args[1:]


def _of_runner(name: str) -> click.Command:
    """Return the command that prints the unit of the installed runner *name*."""

    @click.command(name, help=f"Print the unit of the runner {name}.\n\nExample: relevo unit {name}")
    @run_options(until_empty=False)
    @_relay_option
    @with_app
    def command(*, app: App, **run: Any) -> None:
        options = _options(app, **run)
        text: str = load(RUNNERS, name)().unit(app, options)
        echo(text, nl=not text.endswith("\n"))

    return command


@click.group(cls=_Units)
def unit() -> None:
    """
    Print the unit with which the host system runs the application.

    `relevo unit NAME` prints the unit of any other installed runner; `relevo unit loop` prints the command that a
    container runs.

    Example: relevo unit cron
    """


@unit.command()
@run_options(until_empty=True)
@_relay_option
@click.option("--install", is_flag=True, help="Add the line to your crontab, unless it is there.")
@click.option("--remove", is_flag=True, help="Remove the line from your crontab.")
@with_app
def cron(*, app: App, install: bool, remove: bool, **run: Any) -> None:
    """
    Print the crontab line that drains the queues every minute.

    Example: relevo unit cron --install
    """
    if install and remove:
        raise click.UsageError("--install and --remove exclude each other")
    options = _options(app, **run)
    line = unit_text.cron(app, options)
    if not (install or remove):
        echo(line)
        return
    kind = ["relay"] if options.relay_only else []
    name = "/".join([app.source, app.transport(options.transport).name, *options.queues, *kind])
    is_new = _crontab.install(f"{name} of {_place(app)}", line if install else None)
    if install:
        echo(f"{'installed' if is_new else 'already installed'}: {line}")
    else:
        echo("removed" if is_new else "nothing to remove")


@unit.command()
@run_options(until_empty=False)
@_relay_option
@click.option(
    "--processes", type=Whole(min=1), default=1, show_default=True, metavar="N", help="The number of workers."
)
@click.option(
    "--folder",
    metavar="PATH",
    callback=refuse_blank,
    help="Print a complete configuration, with its files in this folder.",
)
@with_app
def supervisor(*, app: App, processes: int, folder: str | None, **run: Any) -> None:
    """
    Print the section for a supervisor that keeps workers alive.

    Example: relevo unit supervisor --processes 5
    """
    options = _options(app, **run)
    text = unit_text.supervisor(app, options, processes=processes, folder=None if folder is None else Path(folder))
    echo(text, nl=False)


@unit.command()
@run_options(until_empty=False)
@_relay_option
@with_app
def systemd(*, app: App, **run: Any) -> None:
    """
    Print the unit for a worker that systemd keeps alive.

    Example: relevo unit systemd
    """
    options = _options(app, **run)
    echo(unit_text.systemd(app, options), nl=False)


def _place(app: App) -> str:
    """Return a text that distinguishes *app* from another one with the same name in the same crontab."""
    parts = parts_of(app)
    words = [word for word in parts.loaded_from.options if not word.startswith("--")]
    if parts.config is not None and parts.config.path is not None:
        return " ".join(words)
    return " ".join([str(parts.loaded_from.folder or Path.cwd()), *words])


def _options(app: App, **run: Any) -> RunOptions:
    """Return the options of a worker or relay, after checking that it can start."""
    if run.get("relay_only"):
        _refuse_those_of_a_worker(run)
    options = chosen_options(app, **run)
    if options.relay_only:
        relay_of(app, options)
    else:
        app.worker(options)
    return options


def _refuse_those_of_a_worker(run: Mapping[str, Any]) -> None:
    """Raise :class:`click.UsageError` if an option of *run* has no effect on a relay."""
    names = {"queues": "-q"} | {field: flag.name for field, flag in flags().items()}
    of_a_relay = ", ".join(name for field, name in names.items() if field in OF_A_RELAY and field in run)
    for field in without_effect_on_a_relay(run):
        raise click.UsageError(
            f"{names[field]}: a relay calls no listener and serves one outbox, so with --relay there are only -t, "
            f"{of_a_relay}; leave {names[field]} out"
        )
