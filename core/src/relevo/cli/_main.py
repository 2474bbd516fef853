"""The group of commands, each imported only when it is used, and what errors mean for the exit code."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from typing import Any, NoReturn

import click

from relevo.cli._output import visible
from relevo.errors import CodecError, ConfigurationError, RelevoError, TransportError, did_you_mean, shown

EXIT_DEAD = 1
EXIT_NOTHING = 1
EXIT_USAGE = 2
EXIT_DATA = 65
EXIT_UNAVAILABLE = 69
EXIT_INTERNAL = 70
EXIT_LATER = 75
EXIT_CONFIGURATION = 78

COMPLETION = "_RELEVO_COMPLETE"
"""The variable by which a shell asks what could follow."""

_COMMANDS: Mapping[str, tuple[str, str]] = {
    "worker": ("relevo.cli._run", "Handle events until told to stop; for supervisor, systemd, a container."),
    "drain": ("relevo.cli._run", "Handle what is due now, then exit; for cron."),
    "relay": ("relevo.cli._run", "Move events from an outbox to its transport."),
    "dispatch": ("relevo.cli._dispatch", "Dispatch one event."),
    "show": ("relevo.cli._show", "Show an event by its id."),
    "cancel": ("relevo.cli._clear", "Take an event out that nobody has begun."),
    "dead": ("relevo.cli._dead", "List, show, revive and discard dead letters."),
    "move": ("relevo.cli._move", "Move events from one queue to another."),
    "purge": ("relevo.cli._clear", "Take all events out of a queue."),
    "status": ("relevo.cli._status", "Show how many events every queue holds."),
    "transports": ("relevo.cli._transports", "Show the transports, and what each can do."),
    "listeners": ("relevo.cli._listeners", "Show which listeners hear which events."),
    "schema": ("relevo.cli._schema", "Show what declared events look like, and whom a change of them breaks."),
    "check": ("relevo.cli._check", "Find out what is wrong before a worker does."),
    "config": ("relevo.cli._config", "Show the configuration, and where each value comes from."),
    "setup": ("relevo.cli._setup", "Create missing tables and queues."),
    "completion": ("relevo.cli._completion", "Print what completes commands in a shell."),
}
_HEADINGS = {"worker": "Handle events", "dispatch": "Look after events", "status": "Look after the application"}
"""Which commands begin a section of the help."""

_FIRST = ("dispatch", "drain", "worker", "status", "dead", "check")
"""What a beginner needs."""


def filled(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Refuse an option that is empty, as where a script's variable is not set: it would seem not to be there."""
    if value == "" or (isinstance(value, tuple) and "" in value):
        raise click.BadParameter("it is empty; say what is meant, or leave it out", ctx, param)
    return value


def named(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Refuse also bytes that are no text in the terminal's encoding, since nothing can be called so."""
    for each in (value,) if isinstance(value, str) else filled(ctx, param, value) or ():
        if any("\ud800" <= letter <= "\udfff" for letter in filled(ctx, param, each)):
            raise click.BadParameter(f"{shown(each)} is no text", ctx, param)
    return value


class Group(click.Group):
    """A group that guesses what was meant by a command that is not there."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-") and not ctx.resilient_parsing:
            ctx.fail(f'there is no command "{args[0]}"{did_you_mean(args[0], known)}')
        return super().resolve_command(ctx, args)


class _Lazy(Group):
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

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        heading = "Commands"
        for name, (_, text) in _COMMANDS.items():
            heading = _HEADINGS.get(name, heading)
            sections.setdefault(heading, []).append((name, text))
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[click.shell_completion.CompletionItem]:
        from click.shell_completion import CompletionItem  # noqa: PLC0415 - only a shell asks

        found = [
            CompletionItem(name, help=text) for name, (_, text) in _COMMANDS.items() if name.startswith(incomplete)
        ]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]


@click.group(
    cls=_Lazy,
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
    epilog="Example: relevo drain --max-time 55s",
)
@click.option("--config", metavar="PATH", callback=filled, help="Instead of the nearest relevo.toml.")
@click.option("-a", "--app", metavar="MODULE:NAME", callback=filled, help="Instead of the configuration's app.")
@click.version_option(package_name="relevo")
@click.pass_context
def group(ctx: click.Context, config: str | None, app: str | None) -> None:
    """Events that are dispatched now and handled later."""
    ctx.obj = {"config": config, "app": app}
    if ctx.invoked_subcommand is None:
        click.echo(_short_help(), err=True)
        ctx.exit(EXIT_USAGE)


def _short_help() -> str:
    rows = "\n".join(f"  {name:<10}{_COMMANDS[name][1]}" for name in _FIRST)
    return f"Usage: relevo COMMAND …\n\n{rows}\n\nrelevo --help names all commands, relevo COMMAND --help says more."


def main() -> NoReturn:
    """Run the command line and exit."""
    try:
        asked = os.environ.get(COMPLETION)
        code = _completed(asked) if asked else _run()
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = EXIT_USAGE
    except click.UsageError as error:
        _tell(_misused(error))
        code = EXIT_USAGE
    except click.ClickException as error:
        _tell(error.format_message())
        code = error.exit_code
    except click.exceptions.Exit as error:
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort) as error:
        code = 128 + (error.args[0] if error.args and isinstance(error.args[0], int) else signal.SIGINT)
    except RelevoError as error:
        tell(error)
        code = exit_code(error)
    except BrokenPipeError:
        # Whoever read has seen enough. What is still buffered goes nowhere, without a word at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + signal.SIGPIPE
    except Exception:  # noqa: BLE001 - the last resort says what it was and how it ends
        _tell("a defect in relevo or in a module of yours:")
        traceback.print_exc()
        code = EXIT_INTERNAL
    finally:
        logging.shutdown()
    sys.exit(code if isinstance(code, int) else 0)


def _run() -> object:
    with group.make_context("relevo", sys.argv[1:]) as context:
        return group.invoke(context)


def _completed(asked: str) -> int:
    from click.shell_completion import shell_complete  # noqa: PLC0415 - only a shell asks

    return shell_complete(group, {}, "relevo", COMPLETION, asked)


def tell(error: RelevoError) -> None:
    """Print what *error* says, each of its problems in a line."""
    for line in str(error).splitlines():
        _tell(line)


def _tell(line: str) -> None:
    click.echo(f"relevo: {visible(line)}", err=True)


def _misused(error: click.UsageError) -> str:
    """Return the line that says what was typed wrong, and where it says how it is typed right."""
    path = error.ctx.command_path if error.ctx else "relevo"
    where = path.removeprefix("relevo").strip()
    if isinstance(error, click.NoSuchOption):
        near = f'; did you mean "{error.possibilities[0]}"?' if error.possibilities else ""
        what = f"there is no option {error.option_name}{near}"
    else:
        what = " ".join(error.format_message().split()).rstrip(".")
    return f"{where + ': ' if where else ''}{what[:1].lower()}{what[1:]}; see {path} --help"


def exit_code(error: RelevoError) -> int:
    """Return the exit code that says who has to act."""
    if isinstance(error, ConfigurationError):
        return EXIT_CONFIGURATION
    if isinstance(error, CodecError):
        return EXIT_DATA
    if isinstance(error, TransportError):
        return EXIT_UNAVAILABLE
    return EXIT_INTERNAL
