"""``relevo dispatch``."""

from __future__ import annotations

import sys
from typing import get_args

import attrs
import click

from relevo._app.app import App, parts_of
from relevo._app.check import unheard, unheard_text
from relevo._clock import readable
from relevo._event.codec import typed_from
from relevo._event.event import Event
from relevo._event.subject import Subject
from relevo._transport.envelope import Urgency
from relevo._transport.route import NOW
from relevo._visible import visible
from relevo.cli._arguments import arguments_of
from relevo.cli._main import refuse_invalid
from relevo.cli._option import json_option, with_app
from relevo.cli._output import echo, show_json
from relevo.cli._run import duration
from relevo.errors import ConfigurationError, DecodeError, EncodeError, EventNameError, is_text, shown

_LARGEST = 16 * 1024 * 1024
"""Bytes of standard input, which may have more white space than the event that it becomes."""


@attrs.frozen
class _OfVersion(Event):
    """A named event with the version of its class, so that a later version upcasts its data."""

    dataversion: int | None = attrs.field(default=None, kw_only=True)


@click.command()
@click.argument("name", callback=refuse_invalid)
@click.argument("arguments", default="{}")
@click.option("--subject", metavar="TYPE/ID", callback=refuse_invalid, help="The object that the event is about.")
@click.option("--delay", type=duration, default="0s", metavar="DURATION", help="Handle it after this time, as in 5m.")
@click.option(
    "--urgency",
    type=click.Choice(get_args(Urgency)),
    default="normal",
    show_default=True,
    help="high overtakes normal.",
)
@click.option(
    "--ordering-key", metavar="KEY", callback=refuse_invalid, help="Handle events with the same key in order."
)
@click.option("--expires", type=duration, metavar="DURATION", help="Do not handle it after this time, as in 1h.")
@json_option
@with_app
def dispatch(
    *,
    app: App,
    name: str,
    arguments: str,
    subject: str | None,
    delay: float,
    urgency: Urgency,
    ordering_key: str | None,
    expires: float | None,
    as_json: bool,
) -> int:
    """
    Dispatch the event NAME with ARGUMENTS, a JSON object; - reads it from standard input.

    If a listener uses a class that declares NAME, the arguments must fit the class. Otherwise nothing is sent, and the
    exit code is 65.

    Example: relevo dispatch image.created '{"image_id": 7}'
    """
    about = None
    if subject is not None:
        about = Subject.parsed(subject)
        if about is None:
            raise click.BadParameter("write type/id, as in image/7", param_hint="--subject")
    if not is_text(arguments):
        raise EncodeError(
            name, "", f"ARGUMENTS: {shown(arguments)} has bytes that are invalid in the terminal's encoding"
        )
    data = arguments_of(name, _standard_input(name) if arguments == "-" else arguments)
    try:
        event = _OfVersion(name, data, subject=about)
    except EventNameError as error:
        raise click.BadParameter(str(error), param_hint="NAME") from error
    event = attrs.evolve(event, dataversion=_checked_version(app, event))
    if expires == 0:
        raise click.BadParameter("expected a time above 0; the event would never be handled", param_hint="--expires")
    until = None if expires is None else app.clock.now() + expires
    done = app.dispatch(event, delay=delay, urgency=urgency, ordering_key=ordering_key, expires=until)
    if as_json:
        show_json({"id": done.id, "targets": [str(target) for target in done.targets]})
    else:
        echo(visible(f"{done.id or 'handled in process'} → {', '.join(map(str, done.targets))}"))
    _warn_if_unknown(app, name)
    return 0


def _warn_if_unknown(app: App, name: str) -> None:
    """Report that no listener here handles the event *name*: it may be misspelt."""
    try:
        listeners = app.listeners
    except ConfigurationError:  # reported already
        return
    if targets := unheard(name, listeners, app.routes):
        patience = readable(parts_of(app).patience)
        waits = any(target.transport != NOW for target in targets)
        then = f"; a worker retries it for {patience}, then it is a dead letter" if waits else ""
        click.echo(f"relevo: {visible(unheard_text(name, targets, listeners, then=then))}", err=True)


def _standard_input(name: str) -> str:
    raw = sys.stdin.buffer.read(_LARGEST + 1) if sys.stdin is not None else b""
    if len(raw) > _LARGEST:
        raise EncodeError(name, "$", f"standard input: expected at most {_LARGEST // 1024**2} MiB; got more")
    if not raw.strip():
        raise EncodeError(name, "", "standard input is empty; expected a JSON object")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise EncodeError(
            name, "", f"the arguments are not JSON: byte {error.start + 1} of standard input is not UTF-8; send UTF-8"
        ) from error


def _checked_version(app: App, event: Event) -> int | None:
    """
    Validate *event* with the class that is declared for its name and return its version; ``None`` without a class.

    Raises:
        DecodeError: The data does not fit the class; names the field.
    """
    try:
        kind = app.listeners.event_types.get(event.name)
    except ConfigurationError:  # a host that only dispatches may lack the modules that listeners import
        click.echo(
            "relevo: the arguments were not checked, since the listeners cannot be imported; see relevo check", err=True
        )
        return None
    if kind is None:
        return None
    try:
        typed_from(event, kind)
    except DecodeError:
        raise
    except Exception as error:  # the class's own checks may raise anything
        raise DecodeError(f"the data of {shown(event.name)} does not fit {kind.cls.__qualname__}: {error!r}") from error
    return kind.version
