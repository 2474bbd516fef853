"""Options that several commands share, and the application that they lead to."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import attrs
import click

from relevo._app import App
from relevo._config import Config, read
from relevo._module import imported
from relevo._relay import outbox_queue
from relevo._transport import Transport
from relevo.cli._log import log_to_stderr
from relevo.cli._main import filled, named
from relevo.errors import ConfigurationError, did_you_mean

F = TypeVar("F", bound=Callable[..., Any])


_config_option = click.option("--config", metavar="PATH", callback=filled, help="Instead of the nearest relevo.toml.")


def with_app(command: F) -> F:
    """Give *command* the application as ``app``, and the options that find it."""

    @_config_option
    @click.option(
        "-a", "--app", "app_name", metavar="MODULE:NAME", callback=filled, help="Instead of the configuration's app."
    )
    @click.option(
        "-l",
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
        default="warning",
        show_default=True,
    )
    @functools.wraps(command)
    def wrapped(*args: Any, config: str | None, app_name: str | None, log_level: str, **kwargs: Any) -> Any:
        log_to_stderr(log_level)
        with opened(located(config), app_name or _said("app")) as app:
            return command(*args, app=app, **kwargs)

    return wrapped  # type: ignore[return-value]


def with_config(command: F) -> F:
    """Give *command* the configuration as ``config``, and the option that finds it."""

    @_config_option
    @functools.wraps(command)
    def wrapped(*args: Any, config: str | None, **kwargs: Any) -> Any:
        return command(*args, config=located(config), **kwargs)

    return wrapped  # type: ignore[return-value]


def _said(option: str) -> str | None:
    """Return what was said as *option* before the command's name."""
    outer = click.get_current_context().find_object(dict) or {}
    said: str | None = outer.get(option)
    return said


def located(path: str | None) -> Config:
    """Find the configuration, at *path* if it was said behind the command's name."""
    try:
        start = Path.cwd()
    except FileNotFoundError as error:
        raise ConfigurationError("the working directory does not exist any more") from error
    wanted = path or _said("config")
    return read(Path(wanted) if wanted else None, os.environ, start=start)


@contextmanager
def opened(config: Config, app_name: str | None) -> Iterator[App]:
    """Open the application that *config* or *app_name* says, and close it at the end."""
    before = os.environ.get("RELEVO_CONFIG")
    sys.path.insert(0, str(config.directory))
    if config.path is not None:
        os.environ["RELEVO_CONFIG"] = str(config.path)  # for the application's own App.from_config()
    try:
        wanted = app_name or config.app
        with _imported(wanted) if wanted else App.of(config) as app:
            yield app
    finally:
        sys.path.remove(str(config.directory))
        if config.path is not None:
            os.environ.pop("RELEVO_CONFIG")
        if before is not None:
            os.environ["RELEVO_CONFIG"] = before


def _imported(wanted: str) -> App:
    if ":" not in wanted:
        raise ConfigurationError(f'app: write "module:name", as in "shop:app", not "{wanted}"')
    app = imported(wanted, where="app")
    if not isinstance(app, App):
        raise ConfigurationError(f'app: "{wanted}" is {type(app).__name__}, not a relevo.App')
    return app


def _transport_names(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Return what could complete the name of a transport, for a shell; nothing if the configuration is wrong."""
    try:
        with ctx.scope(cleanup=False):
            config = located(ctx.params.get("config") or ctx.find_root().params.get("config"))
    except ConfigurationError:
        return []
    return [name for name in config.transports if name.startswith(incomplete)]


transport_option = click.option(
    "-t",
    "--transport",
    metavar="NAME",
    callback=named,
    help="Which transport, if there are several.",
    shell_complete=_transport_names,
)
queue_option = click.option(
    "-q",
    "--queue",
    "queues",
    multiple=True,
    metavar="NAME",
    callback=named,
    help="Only this queue; may be repeated.",
)
id_argument = click.argument("event_id", metavar="ID", callback=named)
json_option = click.option("--json", "as_json", is_flag=True, help="For programs.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


def agreed(question: str) -> bool:
    """Return whether somebody says yes to *question*; whatever else is said means no."""
    click.echo(f"{question} [y/N]: ", nl=False, err=True)
    try:
        answer = sys.stdin.readline() if sys.stdin is not None else ""
    except UnicodeDecodeError:
        answer = ""
    if not answer:
        click.echo(err=True)
        raise click.UsageError("nobody answered; say --yes where nobody can be asked")
    return answer.strip().lower() in ("y", "yes")


@attrs.frozen
class Place:
    """A store and the queues in it that are meant; of an outbox, whose transport keeps other events there."""

    store: Transport
    queues: Sequence[str]
    transport: str
    is_outbox: bool = False

    def prepare(self, app: App) -> None:
        """Create what is missing, as *app* would; an outbox is asked first, since its transport may be down."""
        if not self.is_outbox or self.store.setup([outbox_queue(self.transport)], dry_run=True):
            app.prepare(self.transport)


def places(app: App, name: str | None, queues: tuple[str, ...]) -> list[Place]:
    """
    Return where there is something to look at, without doing it.

    Args:
        app: The application.

        name: A transport, with its outbox, or an outbox alone; all of them if unsaid.

        queues: Only these; those that routes lead to if unsaid, and the reserved one of an outbox.

    Raises:
        ConfigurationError: There is nothing of that name.
    """
    beside = [owner for owner, outbox in app.outboxes.items() if outbox.name == name]
    if beside and name not in app.transports:
        return [Place(app.outboxes[each], queues or [outbox_queue(each)], each, is_outbox=True) for each in beside]
    known = list(dict.fromkeys([*app.transports, *(outbox.name for outbox in app.outboxes.values())]))
    if name is not None and name not in known:
        raise ConfigurationError(
            f'no transport is called "{name}"{did_you_mean(name, known)}; there are: {", ".join(known)}'
        )
    found: list[Place] = []
    for each in app.transports if name is None else [name]:
        found.append(Place(app.transport(each), queues or app.queues(each), each))
        if each in app.outboxes and not queues:
            found.append(Place(app.outboxes[each], [outbox_queue(each)], each, is_outbox=True))
    return found


def stores(app: App, name: str | None, queues: tuple[str, ...]) -> list[tuple[Transport, list[str]]]:
    """Return the stores of :func:`places`, each ready and with its queues."""
    found: list[tuple[Transport, list[str]]] = []
    for place in places(app, name, queues):
        place.prepare(app)
        found.append((place.store, list(place.queues)))
    return found
