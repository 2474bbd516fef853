"""``relevo dispatch``."""

from __future__ import annotations

import sys

import click
import msgspec

from relevo._app import App
from relevo._event import Event
from relevo._subject import Subject
from relevo.cli._option import json_option, with_app
from relevo.cli._output import show_json
from relevo.cli._run import duration
from relevo.errors import EncodeError, EventNameError


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
