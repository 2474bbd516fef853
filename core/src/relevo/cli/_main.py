"""The group of commands, each imported only when it is used, and what errors mean for the exit code."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from typing import NoReturn

import click

from relevo.errors import CodecError, ConfigurationError, RelevoError, TransportError, did_you_mean

EXIT_DEAD = 1
EXIT_DATA = 65
EXIT_UNAVAILABLE = 69
EXIT_INTERNAL = 70
EXIT_LATER = 75
EXIT_CONFIGURATION = 78

_COMMANDS: Mapping[str, tuple[str, str]] = {
    "worker": ("relevo.cli._run", "Handle events until told to stop; for supervisor, systemd, a container."),
    "drain": ("relevo.cli._run", "Handle what is due now, then exit; for cron."),
    "dispatch": ("relevo.cli._dispatch", "Dispatch one event."),
    "relay": ("relevo.cli._run", "Move events from an outbox to its transport."),
    "status": ("relevo.cli._status", "Show how many events every queue holds."),
    "dead": ("relevo.cli._dead", "List, show, revive and discard dead letters."),
    "listeners": ("relevo.cli._listeners", "Show which listeners hear which events."),
    "setup": ("relevo.cli._setup", "Create missing tables and queues."),
}


class _Lazy(click.Group):
    """A group whose commands are imported when they are used, so that help is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(_COMMANDS[cmd_name][0])
        command = getattr(module, cmd_name)
        assert isinstance(command, click.Command)  # noqa: S101 - the table above is ours
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            ctx.fail(f'there is no command "{args[0]}"{did_you_mean(args[0], _COMMANDS)}')
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_text) for name, (_, help_text) in _COMMANDS.items()])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", type=click.Path(), metavar="PATH", help="Instead of the nearest relevo.toml.")
@click.option("-a", "--app", metavar="MODULE:NAME", help="Instead of the configuration's app.")
@click.version_option(package_name="relevo")
@click.pass_context
def group(ctx: click.Context, config: str | None, app: str | None) -> None:
    """Events that are dispatched now and handled later."""
    ctx.obj = {"config": config, "app": app}


def main() -> NoReturn:
    """Run the command line and exit."""
    try:
        with group.make_context("relevo", sys.argv[1:]) as context:
            code = group.invoke(context)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except click.exceptions.Exit as error:
        code = error.exit_code
    except KeyboardInterrupt as error:
        code = 128 + (error.args[0] if error.args and isinstance(error.args[0], int) else signal.SIGINT)
    except RelevoError as error:
        for line in str(error).splitlines():
            click.echo(f"relevo: {line}", err=True)
        code = exit_code(error)
    except BrokenPipeError:
        # Whoever read has seen enough. What is still buffered goes nowhere, without a word at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + signal.SIGPIPE
    except Exception:  # noqa: BLE001 - the last resort says what it was and how it ends
        click.echo("relevo: a defect in relevo or in a module of yours:", err=True)
        traceback.print_exc()
        code = EXIT_INTERNAL
    finally:
        logging.shutdown()
    sys.exit(code if isinstance(code, int) else 0)


def exit_code(error: RelevoError) -> int:
    """Return the exit code that says who has to act."""
    if isinstance(error, ConfigurationError):
        return EXIT_CONFIGURATION
    if isinstance(error, CodecError):
        return EXIT_DATA
    if isinstance(error, TransportError):
        return EXIT_UNAVAILABLE
    return EXIT_INTERNAL
