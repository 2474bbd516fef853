"""``relevo schema``: print the schemas of declared events, and compare them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from relevo._app.app import App
from relevo._event.event import EventType
from relevo._file import regular_bytes
from relevo._schema.asyncapi import asyncapi
from relevo._schema.compatibility import Change, compare
from relevo._schema.schema import schemas
from relevo._visible import visible
from relevo.cli._main import refuse_invalid
from relevo.cli._option import json_option, with_app_and_document
from relevo.cli._output import echo, show_json
from relevo.errors import ConfigurationError, did_you_mean

EXIT_BREAKING = 1

_LARGEST = 64 * 1024 * 1024
"""Bytes."""

_FILE = click.Path(dir_okay=False, path_type=Path)
_EARLIER = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...", callback=refuse_invalid)
@click.option("--asyncapi", "as_asyncapi", is_flag=True, help="Print an AsyncAPI 3.0 document, with channels.")
@click.option(
    "--api-version",
    default="1.0.0",
    show_default=True,
    metavar="TEXT",
    callback=refuse_invalid,
    help="The version in the AsyncAPI document.",
)
@click.option("--out", type=_FILE, metavar="FILE", help="Write to FILE; with --diff, only if no change is breaking.")
@click.option("--diff", type=_EARLIER, metavar="FILE", help="Compare with an earlier output.")
@json_option
@with_app_and_document(lambda arguments: arguments["as_json"] or arguments["diff"] is None)
def schema(
    *,
    app: App,
    names: tuple[str, ...],
    as_asyncapi: bool,
    api_version: str,
    out: Path | None,
    diff: Path | None,
    as_json: bool,
) -> int:
    """
    Show the JSON Schema of declared events; by default of all that have a listener.

    With --diff it exits with 1 if a change makes waiting events unreadable, and the version and the upcasters do not
    compensate for it.

    Example: relevo schema --diff events.json --out events.json
    """
    kinds = _chosen(app, names)
    if as_asyncapi:
        listeners = tuple(app.listeners)
        made = asyncapi(kinds, source=app.source, version=api_version, routes=app.routes, listeners=listeners)
    else:
        made = schemas(kinds, source=app.source)
    breaking = False
    if diff is not None:
        changes = _changes(diff, made, names)
        breaking = any(change.fix for change in changes)
        _tell(changes, as_json=as_json)
    if out is not None and not breaking:
        _write(out, _text(made))
    elif diff is None:
        show_json(made, sort_keys=True)
    return EXIT_BREAKING if breaking else 0


def _chosen(app: App, names: Sequence[str]) -> list[EventType]:
    known = {each.event_type.name: each.event_type for each in app.listeners if each.event_type}
    for name in names:
        if name not in known:
            by_name = "; its listeners take it by name" if app.listeners.of(name) else did_you_mean(name, known)
            raise click.BadParameter(f'no listener uses a class that declares "{name}"{by_name}', param_hint="NAME")
    return [known[name] for name in names or sorted(known)]


def _changes(path: Path, made: dict[str, Any], names: Sequence[str]) -> list[Change]:
    try:
        changes = compare(json.loads(regular_bytes(path, most=_LARGEST)), made)
    except ConfigurationError as error:
        raise click.BadParameter(str(error), param_hint="--diff") from error
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"{path} cannot be compared with: {error}", param_hint="--diff") from error
    return [change for change in changes if not names or change.event in names]


def _tell(changes: Sequence[Change], *, as_json: bool) -> None:
    if as_json:
        show_json(
            [
                {
                    "event": change.event,
                    "path": change.path,
                    "what": change.what,
                    "breaks": list(change.breaks),
                    "mend": change.fix,
                }
                for change in changes
            ]
        )
        return
    for change in changes:
        fix = f"; {change.fix}" if change.fix else ""
        for_whom = f" ({' and '.join(change.breaks)})" if change.breaks else ""
        echo(visible(f"{_weight(change):<9}{change.event} {change.path} {change.what}{for_whom}{fix}"))
    counted = Counter(map(_weight, changes))
    echo(", ".join(f"{number} {weight}" for weight, number in sorted(counted.items())) or "nothing changed")


def _weight(change: Change) -> str:
    if change.fix:
        return "breaking"
    return "mended" if change.breaks else "harmless"


def _text(made: dict[str, Any]) -> str:
    """Return *made* as text that is equal for equal events, suitable for version control."""
    return json.dumps(made, indent=2, ensure_ascii=False, sort_keys=True) + "\n"


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.BadParameter(f"{path} cannot be written: {error.strerror}", param_hint="--out") from error
