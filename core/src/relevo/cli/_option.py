"""Options that several commands share, and the loading of the application."""

from __future__ import annotations

import functools
import gc
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import attrs
import click
import msgspec
from click.core import ParameterSource

from relevo._app.app import App, app_of, parts_of, using
from relevo._app.check import warn_of_ignored_settings
from relevo._app.load import app_named, modules_of_config, modules_without_config, use_config
from relevo._config.opening import draft_config, refuse, refuse_foreign_modules
from relevo._config.schema import Config
from relevo._log_line import log_to_stderr
from relevo._signal import dump_threads_on_signal
from relevo._visible import visible
from relevo.cli._main import app_option, config_option, refuse_invalid
from relevo.cli._output import reserve_stdout
from relevo.errors import ConfigurationError

F = TypeVar("F", bound=Callable[..., Any])


def with_app(command: F, *, level: str = "") -> F:
    """
    Pass the application to *command* as ``app``, and add the options that find it.

    Args:
        command: The command.

        level: What its help shows as the default level of its log, if that is not all.
    """
    return _with_app(command, lambda arguments: bool(arguments.get("as_json")), level)


def with_app_and_document(is_one: Callable[[Mapping[str, Any]], bool]) -> Callable[[F], F]:
    """Do the same, and reserve standard output for a document if *is_one* returns true for the arguments."""
    return lambda command: _with_app(command, is_one)


def _with_app(command: F, is_document: Callable[[Mapping[str, Any]], bool], level: str = "") -> F:
    @config_option
    @app_option
    @click.option(
        "-l",
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
        default="warning",
        show_default=level or True,
    )
    @functools.wraps(command)
    def wrapped(*args: Any, config: str | None, app_name: str | None, log_level: str, **kwargs: Any) -> Any:
        log_to_stderr(log_level.upper())
        dump_threads_on_signal()
        kept = reserve_stdout() if is_document(kwargs) else nullcontext()
        chosen = log_level if is_given("log_level") else None
        with kept, open_app(locate_config(config), _given_once("app", app_name), log_level=chosen) as app:
            return command(*args, app=app, **kwargs)

    return wrapped  # type: ignore[return-value]  # it has one argument less


def is_given(option: str) -> bool:
    """Return whether the caller passed *option*."""
    return click.get_current_context().get_parameter_source(option) is not ParameterSource.DEFAULT


def with_config(command: F) -> F:
    """Pass the configuration to *command* as ``config``, and add the option that finds it."""

    @config_option
    @functools.wraps(command)
    def wrapped(*args: Any, config: str | None, **kwargs: Any) -> Any:
        found = locate_config(config)
        if found.problems:
            refuse(found)
        return command(*args, config=found, **kwargs)

    return wrapped  # type: ignore[return-value]  # it has one argument less


def _given_once(name: str, value: str | None) -> str | None:
    """Return the *value* of the option *name*, which may be given before or after the command's name."""
    outer = click.get_current_context().find_object(dict) or {}
    before: str | None = outer.get(name)
    if value is not None and before is not None:
        raise click.UsageError(f"--{name} is given twice, before and after the command; pass it once")
    return value if before is None else before


def locate_config(path: str | None) -> Config:
    """Find the configuration, at *path* or at the path given before the command's name; do not raise its problems."""
    try:
        start = Path.cwd()
    except FileNotFoundError as error:
        raise ConfigurationError("the working directory no longer exists") from error
    wanted = _given_once("config", path)
    return draft_config(Path(wanted) if wanted else None, os.environ, start=start)


@contextmanager
def open_app(config: Config, app_name: str | None, *, log_level: str | None = None) -> Iterator[App]:
    """Open the application that *app_name* or *config* names, and close it at the end; it keeps *log_level*."""
    wanted = app_name or config.app
    if app_name:
        refuse_foreign_modules(config, [app_name])
    folder, path = config.directory, config.path
    modules = modules_without_config(folder) if path is None else modules_of_config(folder, config=path)
    with modules, use_config(path, os.environ):
        if wanted:
            refuse(config)  # otherwise its own App.from_config() would raise during an import
        with app_named(wanted) if wanted else app_of(config, App) as app:
            if wanted:
                warn_of_ignored_settings(config, parts_of(app).config, app=wanted)
            place = msgspec.structs.replace(
                parts_of(app).loaded_from,
                name=wanted,
                options=[
                    *(["--config", str(config.path)] if config.path is not None else []),
                    *(["--app", app_name] if app_name else []),
                ],
                log_level=log_level,
                folder=config.directory if wanted else None,
            )
            with using(app, attrs.evolve(parts_of(app), loaded_from=place)):
                _collect_from_now_on()
                yield app


def _collect_from_now_on() -> None:
    """Begin the search for garbage that ``relevo.cli.main`` has put off; it leaves out what was made until now."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def _transport_names(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Return the names of transports for completion; empty if the configuration is invalid."""
    try:
        with ctx.scope(cleanup=False):
            config = locate_config(ctx.params.get("config") or ctx.find_root().params.get("config"))
    except ConfigurationError:
        return []
    return [name for name in config.transports if name.startswith(incomplete)]


transport_option = click.option(
    "-t",
    "--transport",
    metavar="NAME",
    callback=refuse_invalid,
    help="Use this transport, if there are several.",
    shell_complete=_transport_names,
)
queue_option = click.option(
    "-q",
    "--queue",
    "queues",
    multiple=True,
    metavar="QUEUE",
    callback=refuse_invalid,
    help="Use only this queue, as queue or transport/queue; may be repeated.",
)
id_argument = click.argument("event_id", metavar="ID", callback=refuse_invalid)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")


def ask(question: str) -> bool:
    """Ask *question* and return whether the answer is yes; every other answer means no."""
    click.echo(f"{visible(question)} [y/N]: ", nl=False, err=True)
    try:
        answer = sys.stdin.readline() if sys.stdin is not None else ""
    except UnicodeDecodeError:
        answer = ""
    if not answer:
        click.echo(err=True)
        raise click.UsageError("standard input ended without an answer; pass --yes where there is no terminal")
    return answer.strip().lower() in ("y", "yes")
