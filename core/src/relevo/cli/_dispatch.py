"""``relevo dispatch``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import attrs
import click

from relevo._app.app import App, parts_of
from relevo._app.check import unheard, unheard_text
from relevo._clock import readable
from relevo._dispatch.chosen import chosen_routing
from relevo._dispatch.dispatched import Dispatched
from relevo._event.codec import typed_from
from relevo._event.event import Event, EventType, VersionedEvent, checked_name
from relevo._event.subject import Subject
from relevo._listener.call import DispatchOptions
from relevo._transport.envelope import Urgency
from relevo._transport.route import NOW, Routing
from relevo._visible import visible
from relevo.cli._arguments import ArgumentParser, arguments_of
from relevo.cli._known import misspelt
from relevo.cli._main import one_file, refuse_blank, refuse_invalid
from relevo.cli._option import json_option, with_app
from relevo.cli._output import echo, show_json
from relevo.cli._place import tell_private
from relevo.cli._run import duration
from relevo.errors import ConfigurationError, DecodeError, EncodeError, EventNameError, is_text, shown

if TYPE_CHECKING:
    from relevo.cli._bulk import Template
    from relevo.cli._position import FirstLine

_LARGEST = 16 * 1024 * 1024
"""Bytes of standard input, which may have more white space than the event that it becomes."""

_PATH = click.Path(dir_okay=False, path_type=Path)


def _first_line(text: str) -> FirstLine:
    from relevo.cli._position import FirstLine  # noqa: PLC0415 - as below

    found = FirstLine.parsed(text)
    if found is None:
        raise click.BadParameter(f"expected a line's number, as in 5001; got {shown(text)}")
    return found


@click.command()
@click.argument("name", callback=refuse_invalid)
@click.argument("arguments", required=False)
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
@click.option(
    "--unique", metavar="KEY", callback=refuse_invalid, help="Dispatch nothing while an event with the same key lives."
)
@click.option(
    "--within", type=duration, default="0s", metavar="DURATION", help="With --unique: keep the key at least this long."
)
@click.option(
    "--to",
    metavar="TARGET",
    multiple=True,
    callback=refuse_invalid,
    help="Send it here, not along its route, as in main/fast or now; may be repeated.",
)
@click.option(
    "--lines",
    "path",
    metavar="FILE",
    callback=refuse_blank,
    help="Dispatch an event for each line of this file, a JSON object; - is standard input.",
)
@click.option(
    "--rejects",
    type=_PATH,
    metavar="FILE",
    callback=refuse_blank,
    help="Append invalid lines to this file.",
)
@click.option(
    "--resume",
    type=_PATH,
    metavar="FILE",
    callback=refuse_blank,
    help="Keep the position in this file, and continue there.",
)
@click.option(
    "--from-line",
    "first",
    type=_first_line,
    metavar="N[:KEY]",
    help="Begin with this line.",
)
@json_option
@with_app
def dispatch(
    *,
    app: App,
    name: str,
    arguments: str | None,
    subject: str | None,
    delay: float,
    urgency: Urgency,
    ordering_key: str | None,
    expires: float | None,
    unique: str | None,
    within: float,
    to: Sequence[str],
    path: str | None,
    rejects: Path | None,
    resume: Path | None,
    first: FirstLine | None,
    as_json: bool,
) -> int:
    """
    Dispatch the event NAME with ARGUMENTS, a JSON object; - reads it from standard input.

    If a listener uses a class that declares NAME, the arguments must fit the class. Otherwise nothing is sent, and the
    exit code is 65.

    With --lines it dispatches an event for each line of a file, 1,000 at a time. Invalid lines are reported by their
    number and left out; the exit code is 65 if there are any. A command that is interrupted reports which lines are
    dispatched; with --resume the same command continues after them, with the same ids.

    With --unique, nothing is sent while an event with the same key waits or is being handled. That is reported, and the
    exit code is 0. With --json "id" is null then, and "duplicate_of" is the id of that event.

    Example: relevo dispatch image.created '{"image_id": 7}'

    Example: relevo dispatch row.imported --lines rows.jsonl --rejects rejects.jsonl --resume rows.position
    """
    try:
        checked_name(name)
    except EventNameError as error:
        raise click.BadParameter(str(error), param_hint="NAME") from error
    _refuse_pointless(expires, unique, within, path)

    def options() -> DispatchOptions:
        until = None if expires is None else app.clock.now() + expires
        return DispatchOptions(
            delay=delay,
            urgency=urgency,
            ordering_key=ordering_key,
            expires=until,
            unique=unique,
            within=within,
            to=to or None,
        )

    blank = VersionedEvent(name, subject=_subject_of(subject))
    if path is not None:
        if arguments is not None:
            several = one_file(name) if _is_file(arguments) else ""
            raise click.UsageError(several or "--lines: each line has the arguments of an event; leave ARGUMENTS out")
        from relevo.cli._bulk import Source, dispatch_lines  # noqa: PLC0415 - a single event needs none of it

        hint = misspelt(app, name)
        if not hint:
            _warn_if_unknown(app, name, to)
        source = Source(path=path, rejects=rejects, resume=resume, first=first)
        template = _template(app, blank, to, options, _misspelt_error(name, hint) if hint else None)
        return dispatch_lines(app, source, template, as_json=as_json)
    for option, value in (("--rejects", rejects), ("--resume", resume), ("--from-line", first)):
        if value is not None:
            raise click.UsageError(f"{option} is for the lines of --lines; pass both, or neither")
    event = attrs.evolve(blank, arguments=_given_arguments(name, "{}" if arguments is None else arguments))
    done = app.dispatch(_checked(event, _declared(app, name)), **options())
    _show(done, delay, unique, as_json=as_json)
    _warn_if_unknown(app, name, to)
    for transport in dict.fromkeys(target.transport for target in done.targets if target.transport != NOW):
        tell_private(app.transports[transport], "so the event is lost when this command ends; use another transport")
    return 0


def _refuse_pointless(expires: float | None, unique: str | None, within: float, path: str | None) -> None:
    """Raise :class:`click.UsageError` if an option would have no effect, or lets an event expire at once."""
    if expires == 0:
        raise click.BadParameter("expected a time above 0; the event would never be handled", param_hint="--expires")
    if within and unique is None:
        raise click.UsageError("--within needs a unique key; pass --unique KEY too")
    if unique is not None and path is not None:
        raise click.UsageError("--unique is the key of one event, and --lines dispatches several; leave it out")


def _show(done: Dispatched, delay: float, unique: str | None, *, as_json: bool) -> None:
    """Print whether the event was sent, and where."""
    targets = list(map(str, done.targets))
    if as_json:
        living = done.duplicate_of if unique else None
        sent = {"id": done.id, "targets": targets} if living is None else {"id": None, "targets": list[str]()}
        show_json(sent | ({"duplicate_of": living} if unique else {}))
    elif done.duplicate_of is not None:
        echo(visible(f"nothing was sent: {done.duplicate_of} has the key {unique}"))
    else:
        due = f", due in {readable(delay)}" if delay else ""
        echo(visible(f"{done.id or 'handled in process'} → {', '.join(targets)}{due}"))


def _subject_of(text: str | None) -> Subject | None:
    if text is None:
        return None
    about = Subject.parsed(text)
    if about is None:
        raise click.BadParameter("write type/id, as in image/7", param_hint="--subject")
    return about


def _given_arguments(name: str, text: str) -> dict[str, Any]:
    """Return the arguments in *text*, or from standard input."""
    if not is_text(text):
        raise EncodeError(name, "", f"ARGUMENTS: {shown(text)} has bytes that are invalid in the terminal's encoding")
    try:
        return arguments_of(name, _standard_input(name) if text == "-" else text)
    except EncodeError as error:
        if text == "-" or not _is_file(text):
            raise
        hint = f"{text} is a file; to dispatch an event for each of its lines, pass --lines {text}"
        raise EncodeError(name, error.path, f"{error.why}; {hint}") from error


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a path, or with a NUL
        return False


def _misspelt_error(name: str, hint: str) -> ConfigurationError:
    return ConfigurationError(
        f'nothing here handles "{name}"{hint}; no line is dispatched; to dispatch them nevertheless, pass --from-line 1'
    )


def _template(
    app: App,
    blank: VersionedEvent,
    to: Sequence[str],
    options: Callable[[], DispatchOptions],
    misspelt: ConfigurationError | None,
) -> Template:
    """Return what makes an event of a line: *blank*, with the arguments in the line."""
    from relevo.cli._bulk import Template  # noqa: PLC0415 - as above

    name, about, kind, parser = blank.name, blank.subject, _declared(app, blank.name), ArgumentParser(blank.name)

    def made(line: bytes, event_id: str) -> Event:
        return _checked(VersionedEvent(name, parser.of_line(line), subject=about, id=event_id), kind)

    routing = _chosen(app, to) if to else app.routes.routing(name)
    return Template(name=name, routing=routing, made=made, options=options, misspelt=misspelt)


def _chosen(app: App, to: Sequence[str]) -> Routing:
    return chosen_routing(to, transports=app.transports, routes=app.routes)


def _warn_if_unknown(app: App, name: str, to: Sequence[str]) -> None:
    """Report that no listener here handles the event *name*, sent *to* its route or to targets: it may be misspelt."""
    try:
        listeners = app.listeners
    except ConfigurationError:  # reported already
        return
    if not to:
        targets = unheard(name, listeners, app.routes)
    else:  # a listener that would not get it was refused at the dispatch
        targets = () if listeners.of(name) or not len(listeners) else _chosen(app, to).targets
    if targets:
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


def _declared(app: App, name: str) -> EventType | None:
    """Return the declaration of the class that listeners use for the event *name*; ``None`` without a class."""
    try:
        return app.listeners.event_types.get(name)
    except ConfigurationError:  # a host that only dispatches may lack the modules that listeners import
        click.echo(
            "relevo: the arguments were not checked, since the listeners cannot be imported; see relevo check", err=True
        )
        return None


def _checked(event: VersionedEvent, kind: EventType | None) -> VersionedEvent:
    """
    Return *event* with the version of *kind*, after validating it with the class.

    Raises:
        DecodeError: The data does not fit the class; names the field.
    """
    if kind is None:
        return event
    try:
        typed_from(event, kind)
    except DecodeError:
        raise
    except Exception as error:  # the class's own checks may raise anything
        raise DecodeError(f"the data of {shown(event.name)} does not fit {kind.cls.__qualname__}: {error!r}") from error
    return attrs.evolve(event, dataversion=kind.version)
