"""Options that several commands share, and the application that they lead to."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from relevo import _config as configuration
from relevo._app import App
from relevo._module import imported
from relevo._relay import outbox_queue
from relevo._transport import Transport
from relevo.errors import ConfigurationError

F = TypeVar("F", bound=Callable[..., Any])


def with_app(command: F) -> F:
    """Give *command* the application as ``app``, and the options that find it."""

    @click.option("--config", type=click.Path(), metavar="PATH", help="Instead of the nearest relevo.toml.")
    @click.option("-a", "--app", "app_name", metavar="MODULE:NAME", help="Instead of the configuration's app.")
    @click.option(
        "-l",
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
        default="warning",
        show_default=True,
    )
    @functools.wraps(command)
    def wrapped(*args: Any, config: str | None, app_name: str | None, log_level: str, **kwargs: Any) -> Any:
        logging.basicConfig(
            level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
        )
        outer = click.get_current_context().find_object(dict) or {}
        with opened(config or outer.get("config"), app_name or outer.get("app")) as app:
            return command(*args, app=app, **kwargs)

    return wrapped  # type: ignore[return-value]


@contextmanager
def opened(config_path: str | None, app_name: str | None) -> Iterator[App]:
    """Find the application, and close it at the end."""
    try:
        start = Path.cwd()
    except FileNotFoundError as error:
        raise ConfigurationError("the working directory does not exist any more") from error
    config = configuration.read(Path(config_path) if config_path else None, os.environ, start=start)
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


transport_option = click.option("-t", "--transport", metavar="NAME", help="Which transport, if there are several.")
queue_option = click.option(
    "-q", "--queue", "queues", multiple=True, metavar="NAME", help="Only this queue; may be repeated."
)
json_option = click.option("--json", "as_json", is_flag=True, help="For programs.")


def stores(app: App, transport: str | None, queues: tuple[str, ...]) -> list[tuple[Transport, list[str]]]:
    """Return the transports that are meant, outboxes included, each with its queues."""
    found: list[tuple[Transport, list[str]]] = []
    for name in [app.transport(transport).name] if transport else app.transports:
        app.prepare(name)
        found.append((app.transport(name), list(queues or app.queues(name))))
        if name in app.outboxes and not queues:
            found.append((app.outboxes[name], [outbox_queue(name)]))
    return found
