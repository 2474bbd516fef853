"""The command group, which imports each command at its use, and the exit codes of errors."""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

import click

from relevo._visible import visible, visible_lines
from relevo.cli._parameter import refuse_repeated
from relevo.cli._synonym import command_for, option_for
from relevo.errors import CodecError, ConfigurationError, RelevoError, TransportError, did_you_mean, is_text, shown

EXIT_DEAD = 1
EXIT_NOTHING = 1
EXIT_ATTENTION = 1
EXIT_USAGE = 2
EXIT_DATA = 65
EXIT_UNAVAILABLE = 69
EXIT_INTERNAL = 70
EXIT_OUTPUT = 74
EXIT_LATER = 75
EXIT_CONFIGURATION = 78

COMPLETION = "_RELEVO_COMPLETE"
"""The environment variable by which a shell requests completions."""

_COMMANDS: Mapping[str, tuple[str, str]] = {
    "worker": ("relevo.cli._run", "Handle events as they come; for supervisor, systemd, a container."),
    "drain": ("relevo.cli._run", "Handle what is due now, then exit; for cron."),
    "relay": ("relevo.cli._run", "Move events from an outbox to its transport."),
    "pause": ("relevo.cli._pause", "Stop handling the events of a queue, on all hosts."),
    "resume": ("relevo.cli._pause", "Handle the events of a paused queue again."),
    "stop": ("relevo.cli._pause", "Stop workers on any host, for example to load a new release."),
    "deploy": ("relevo.cli._deploy", "Make events wait while the program is replaced."),
    "dispatch": ("relevo.cli._dispatch", "Dispatch one event."),
    "list": ("relevo.cli._list", "List the events that wait, and those in progress."),
    "show": ("relevo.cli._show", "Show an event by its id."),
    "handle": ("relevo.cli._handle", "Handle one event now, by its id."),
    "cancel": ("relevo.cli._clear", "Remove events that no worker has begun."),
    "dead": ("relevo.cli._dead", "List, show, revive and discard dead letters."),
    "move": ("relevo.cli._move", "Move events from one queue to another."),
    "purge": ("relevo.cli._clear", "Remove the waiting events of a queue."),
    "status": ("relevo.cli._status", "Show how many events every queue holds."),
    "transports": ("relevo.cli._transports", "Show the transports and their capabilities."),
    "listeners": ("relevo.cli._listeners", "Show the listeners of each event."),
    "schedules": ("relevo.cli._schedules", "Show the schedules, with their last and next tick."),
    "schema": ("relevo.cli._schema", "Print the schemas of declared events, and compare them."),
    "check": ("relevo.cli._check", "Check the configuration and the listeners before a worker starts."),
    "config": ("relevo.cli._config", "Show the configuration, and where each value comes from."),
    "unit": ("relevo.cli._unit", "Print the unit for cron, supervisor or systemd."),
    "setup": ("relevo.cli._setup", "Create missing tables and queues."),
    "completion": ("relevo.cli._completion", "Print the completion script for a shell."),
}
_HEADINGS = {"worker": "Handle events", "dispatch": "Look after events", "status": "Look after the application"}
"""The commands that begin a section of the help."""

_FIRST = ("dispatch", "drain", "worker", "status", "dead", "check")
"""The commands for beginners, in the short help."""


def refuse_blank(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Refuse a blank option, as from an unset variable of a script: it would be treated as missing."""
    values = value if isinstance(value, tuple) else (value,)
    if any(isinstance(each, str) and not each.strip() for each in values):
        raise click.BadParameter("it is empty; pass a value, or omit the option", ctx, param)
    return value


def refuse_invalid(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Refuse blank options as :func:`refuse_blank` does, and bytes that are invalid in the terminal's encoding."""
    for each in (value,) if isinstance(value, str) else refuse_blank(ctx, param, value) or ():
        if not is_text(refuse_blank(ctx, param, each)):
            raise click.BadParameter(f"{shown(each)} is not text", ctx, param)
    return value


config_option = click.option(
    "--config",
    metavar="PATH",
    callback=refuse_blank,
    help="Use this file instead of the nearest relevo.toml.",
)
app_option = click.option(
    "-a",
    "--app",
    "app_name",
    metavar="MODULE:NAME",
    callback=refuse_invalid,
    help="Use this application instead of the configured one.",
)


_DELETING = frozenset({"cancel", "discard", "purge"})
"""Commands that are not suggested for another word, since they delete events."""


def _meant(word: str, known: Iterable[str]) -> str:
    """Return the suggestion of the command that *word* may be, if there is one."""
    return did_you_mean(word, (each for each in known if each not in _DELETING))


class Group(click.Group):
    """A group that suggests a command for a misspelt one, and refuses options of a command that are given twice."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-") and not ctx.resilient_parsing:
            word, answer = command_for(args) or (args[0], "")
            ctx.fail(f'there is no command "{word}"{f"; {answer}" if answer else _meant(word, known)}')
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and not ctx.resilient_parsing:
            refuse_repeated(command, rest, name=name, parent=ctx)
        return name, command, rest


class _Lazy(Group):
    """A group whose commands are imported at their use, so that help is fast."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing:
            refuse_repeated(self, args, name=ctx.info_name, parent=ctx.parent)
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(_COMMANDS[cmd_name][0])
        command = vars(module).get(f"{cmd_name}_") or vars(module)[cmd_name]  # "list" is a name of Python
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
        from click.shell_completion import CompletionItem  # noqa: PLC0415 - only completion needs it

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
@config_option
@app_option
@click.option("--debug", is_flag=True, help="Also show where an error was raised.")
@click.version_option(package_name="relevo")
@click.pass_context
def group(ctx: click.Context, *, config: str | None, app_name: str | None, debug: bool) -> None:
    """Events that are dispatched now and handled later."""
    ctx.obj = {"config": config, "app": app_name, "debug": debug}
    if ctx.invoked_subcommand is None:
        click.echo(_short_help(), err=True)
        ctx.exit(EXIT_USAGE)


def _short_help() -> str:
    rows = "\n".join(f"  {name:<10}{_COMMANDS[name][1]}" for name in _FIRST)
    more = "relevo --help lists all commands; relevo COMMAND --help describes one."
    return f"Usage: relevo COMMAND …\n\n{rows}\n\n{more}"


def main() -> NoReturn:
    """Run the command line and exit."""
    code: object = 128 + signal.SIGINT
    try:
        code = _ended()
    except KeyboardInterrupt:  # while an error was reported
        pass
    finally:
        _end_at_once()
        if logging := sys.modules.get("logging"):  # imported if anything was logged
            logging.shutdown()
        _let_standard_error_go()
    sys.exit(code if isinstance(code, int) else 0)


def _ended() -> object:
    """Run the command line, report its error, and return the exit code."""
    try:
        _occupy_descriptors()
        _print_whatever()
        asked = os.environ.get(COMPLETION)
        code = _complete(asked) if asked else _run()
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = EXIT_USAGE
    except click.UsageError as error:
        _tell(misused(error, sys.argv[1:]))
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
    except BrokenPipeError:  # the reader has closed the pipe
        _leave_the_rest()
        code = 128 + signal.SIGPIPE
    except Exception as error:  # noqa: BLE001 - the last resort: report the error and set the exit code
        code = _report_unforeseen(error)
    return code


def _end_at_once() -> None:
    """Let an INT end the process from now on: Python would print a traceback of its own shutdown."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        with suppress(ValueError):  # this is not the main thread
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def _report_unforeseen(error: Exception) -> int:
    """Report an unexpected error, and return its exit code."""
    if isinstance(error, OSError) and _is_of_output(error):
        _leave_the_rest()
        _tell(f"standard output cannot be written: {error.strerror or error}; what the command did is done")
        return EXIT_OUTPUT
    _tell("an unexpected error in relevo or in one of your modules:")
    import traceback  # noqa: PLC0415 - only a defect needs it

    _tell_trace(traceback.format_exc())
    return EXIT_INTERNAL


def _is_of_output(error: OSError) -> bool:
    """Return whether *error* was raised while printing: all output goes through these modules."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = trace.tb_frame.f_globals.get("__name__") if trace is not None else None
    return where in (__name__, "click.utils", "relevo.cli._output", "rich.console")


def _leave_the_rest() -> None:
    """Discard the buffer of standard output, so that the exit raises no further error."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _let_standard_error_go() -> None:
    """Discard the buffer of standard error if it cannot be written: Python would exit with 120."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _occupy_descriptors() -> None:
    """Open the null device where the caller has closed a standard stream: a database would get its number otherwise."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
            os.set_inheritable(opened, True)  # noqa: FBT003 - it takes no name


def _print_whatever() -> None:
    """Make standard output escape characters that its encoding lacks, as standard error does."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _run() -> object:
    with group.make_context("relevo", sys.argv[1:]) as context:
        try:
            return group.invoke(context)
        except RelevoError as error:
            tell(error)
            return exit_code(error)


def _complete(asked: str) -> int:
    from click.shell_completion import shell_complete  # noqa: PLC0415 - only completion needs it

    return shell_complete(group, {}, "relevo", COMPLETION, asked)


def tell(error: RelevoError) -> None:
    """
    Print the text of *error*, a line for each problem.

    A traceback is printed first if a module of the user failed, or with ``--debug``.
    """
    from relevo._listener.importing import NotImportedError  # noqa: PLC0415 - help does not need it

    context = click.get_current_context(silent=True)
    if isinstance(error, NotImportedError) and error.__cause__ is not None:
        import traceback  # noqa: PLC0415 - as above

        _tell_trace("".join(traceback.format_exception(error.__cause__)))
    elif context is not None and (context.find_object(dict) or {}).get("debug"):
        from relevo.cli._trace import tracebacks  # noqa: PLC0415 - rarely needed

        _tell_trace(tracebacks(error))
    from relevo._problem import lines_of  # noqa: PLC0415 - as above

    for line in lines_of(error):
        _tell(line)


def not_found(faults: Sequence[str]) -> int:
    """Report the *faults* of ids or refs that were not found, and return the exit code for them; 0 without faults."""
    for fault in faults:
        _tell(fault)
    return EXIT_NOTHING if faults else 0


def _tell(line: str) -> None:
    click.echo(f"relevo: {visible(line)}", err=True)


def _tell_trace(text: str) -> None:
    """Print the traceback *text* indented, so that no line of it looks like one of relevo's own."""
    click.echo(visible_lines(text.rstrip()), err=True)


def misused(error: click.UsageError, args: Sequence[str]) -> str:
    """Return a line with the usage error of *args*, and the command that prints the help."""
    # click gives no context to the error of an option that lacks its value.
    path = error.ctx.command_path if error.ctx else _command_of(click.Context(group, info_name="relevo"), args)[1]
    where = path.removeprefix("relevo").strip()
    params = error.ctx.command.params if error.ctx else []
    options = [name for param in params for name in param.opts]
    if isinstance(error, click.NoSuchOption):
        answer = option_for(error.option_name, where, options)
        later = "" if answer else _command_with(error, args)
        hint = f"; {answer or later}" if answer or later else _near_option(error.option_name, options)
        what = f"there is no option {error.option_name}{hint}"
    else:
        what = " ".join(error.format_message().split()).rstrip(".")
        if _EXTRA in what and "-t" in options and not any(isinstance(param, click.Argument) for param in params):
            what += '; a transport is chosen with "-t NAME"' + (', a queue with "-q NAME"' if "-q" in options else "")
        if _EXTRA in what and error.ctx and "--lines" in options and error.ctx.params.get("path"):
            what += f"; {one_file(error.ctx.params['name'])}"
    end = "" if what.endswith("?") else ";"
    return f"{where + ': ' if where else ''}{what[:1].lower()}{what[1:]}{end} see {path} --help"


def _command_with(error: click.NoSuchOption, args: Sequence[str]) -> str:
    """Return where to write the option of *error* if it stands before the command that has it, or nothing."""
    if error.ctx is None:
        return ""
    command, path = _command_of(error.ctx, args)
    has_it = any(error.option_name in param.opts for param in command.params)
    return f'write it after the command: "{path} {error.option_name} …"' if has_it else ""


def _command_of(context: click.Context, args: Sequence[str]) -> tuple[click.Command, str]:
    """Return the command that *args* name, from that of *context* on, and its path."""
    command, path = context.command, context.command_path
    for word in args:
        if isinstance(command, click.Group) and (found := command.get_command(context, word)):
            command, path = found, f"{path} {word}"
    return command, path


_EXTRA = "Got unexpected extra argument"
"""How click's error for arguments after the last one begins; it has no class of its own."""


def one_file(event: str) -> str:
    """Return how the lines of several files are dispatched: a shell makes several arguments of a pattern."""
    return f"--lines takes one file; for several, run: cat FILES | relevo dispatch {event} --lines -"


_NEAR = 0.75
"""How like a word an option has to be, from 0 to 1: short words have half of their letters in common by chance."""


def _near_option(word: str, options: Sequence[str]) -> str:
    """Return the hint at the one of *options* that *word* misspells, or nothing; the dashes do not count."""
    found = did_you_mean(word.lstrip("-"), [each.lstrip("-") for each in options if each.startswith("--")], _NEAR)
    return found.replace('"', '"--', 1)


def exit_code(error: RelevoError) -> int:
    """Return the exit code for *error*."""
    if isinstance(error, ConfigurationError):
        return EXIT_CONFIGURATION
    if isinstance(error, CodecError):
        return EXIT_DATA
    if isinstance(error, TransportError):
        return EXIT_UNAVAILABLE
    return EXIT_INTERNAL
