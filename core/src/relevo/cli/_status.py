"""``relevo status``."""

from __future__ import annotations

from typing import Any

import click

from relevo._app.app import App
from relevo._app.stores import each_of
from relevo._transport.transport import Stats
from relevo.cli._main import exit_code, tell
from relevo.cli._option import json_option, queue_option, transport_option, with_app
from relevo.cli._output import show_json, show_table
from relevo.cli._place import Place, places
from relevo.errors import RelevoError

_COLUMNS = ("transport", "queue", "ready", "leased", "scheduled", "dead", "oldest")


@click.command()
@transport_option
@queue_option
@json_option
@with_app
def status(*, app: App, transport: str | None, queues: tuple[str, ...], as_json: bool) -> int:
    """
    Show how many events every queue holds: ready, leased, scheduled, dead.

    An outbox has a row of its own, and a name: -t main.outbox. If a server cannot be reached, the others are shown, the
    error is reported, and the exit code is 69, or 78 if something must be changed. With --json, a transport that did
    not answer has a row whose "error" says why; in all other rows it is null.

    Example: relevo status -t main
    """
    rows: list[dict[str, Any]] = []
    errors: dict[str, RelevoError] = {}  # by text, since an outbox may have the same error as its transport
    for place in places(app, transport, queues):
        try:
            rows += _figures(app, place)
        except RelevoError as error:
            errors |= {str(each): each for each in each_of(error) if str(each) not in errors}
            rows.append({**dict.fromkeys(_COLUMNS), "transport": place.store.name, "error": str(error)})
    if as_json:
        show_json(rows)
    else:
        answers = [{**row, "oldest": _age(row["oldest"])} for row in rows if row["error"] is None]
        if answers or not errors:
            show_table(_COLUMNS, answers, empty="no queues")
    for each in errors.values():
        tell(each)
    return max(map(exit_code, errors.values()), default=0)


def _figures(app: App, place: Place) -> list[dict[str, Any]]:
    place.prepare(app)
    rows: list[dict[str, Any]] = []
    for queue in place.queues:
        figures = place.store.stats(queue) if place.store.capabilities.stats != "none" else Stats()
        rows.append(
            {
                "transport": place.store.name,
                "queue": queue,
                "ready": figures.ready,
                "leased": figures.leased,
                "scheduled": figures.scheduled,
                "dead": figures.dead,
                "oldest": figures.oldest_age,
                "error": None,
            }
        )
    return rows


def _age(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("m", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
