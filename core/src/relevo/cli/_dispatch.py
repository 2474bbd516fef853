"""``relevo dispatch``."""

from __future__ import annotations

import sys

import click
import msgspec

from relevo._app import App
from relevo._codec import typed_from
from relevo._event import Event
from relevo._subject import Subject
from relevo.cli._option import json_option, with_app
from relevo.cli._output import show_json
from relevo.cli._run import duration
from relevo.errors import ConfigurationError, DecodeError, EncodeError, EventNameError, shown


@click.command()
@click.argument("name")
@click.argument("arguments", default="{}")
@click.option("--subject", metavar="TYPE/ID", help="What it happened to.")
@click.option("--delay", type=duration, default="0s", metavar="DURATION", help="Not handled before, as in 5m.")
@json_option
@with_app
def dispatch(*, app: App, name: str, arguments: str, subject: str | None, delay: float, as_json: bool) -> int:
    """
    Dispatch the event NAME with ARGUMENTS, a JSON object; - reads it from standard input.

    Where a listener asks for a class that declares NAME, the arguments must fit it: else nothing is sent, and it exits
    with 65.

    Example: relevo dispatch image.created '{"image_id": 7}'
    """
    about = None
    if subject is not None:
        about = Subject.parsed(subject)
        if about is None:
            raise click.BadParameter("write type/id, as in image/7", param_hint="--subject")
    data = _parsed(name, _standard_input(name) if arguments == "-" else arguments)
    try:
        event = Event(name, data, subject=about)
    except EventNameError as error:
        raise click.BadParameter(str(error), param_hint="NAME") from error
    _check(app, event)
    done = app.dispatch(event, delay=delay)
    if as_json:
        show_json({"id": done.id, "targets": [str(target) for target in done.targets]})
    else:
        click.echo(f"{done.id or 'handled in process'} → {', '.join(map(str, done.targets))}")
    return 0


def _standard_input(name: str) -> bytes:
    text = sys.stdin.buffer.read() if sys.stdin is not None else b""
    if not text.strip():
        raise EncodeError(name, "$", "standard input is empty; it should hold a JSON object")
    return text


def _parsed(name: str, text: str | bytes) -> dict[str, object]:
    try:
        arguments = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise EncodeError(name, "$", f"the arguments are not JSON: {error}") from error
    if not isinstance(arguments, dict):
        raise EncodeError(name, "$", f"the arguments must be a JSON object, not {type(arguments).__name__}")
    return arguments


def _check(app: App, event: Event) -> None:
    """
    Raise unless *event* fits the class that is declared for its name, if one is known.

    Raises:
        DecodeError: It does not fit; names the field.
    """
    try:
        kind = app.listeners.event_types.get(event.name)
    except ConfigurationError:  # whoever only dispatches may lack what listeners import
        click.echo(
            "relevo: the arguments were not checked, since the listeners cannot be imported; see relevo check", err=True
        )
        return
    if kind is None:
        return
    try:
        typed_from(event, kind)
    except DecodeError:
        raise
    except Exception as error:  # the class's own checks may raise whatever they like
        raise DecodeError(f"the data of {shown(event.name)} does not fit {kind.cls.__qualname__}: {error!r}") from error
