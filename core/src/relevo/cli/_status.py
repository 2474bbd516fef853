"""``relevo status``."""

from __future__ import annotations

from typing import Any

import click

from relevo._app import App
from relevo._transport import Stats
from relevo.cli._option import json_option, queue_option, stores, transport_option, with_app
from relevo.cli._output import show_json, show_table


@click.command()
@transport_option
@queue_option
@json_option
@with_app
def status(*, app: App, transport: str | None, queues: tuple[str, ...], as_json: bool) -> int:
    """
    Show how many events every queue holds: ready, leased, scheduled, dead.

    Example: relevo status -t main
    """
    rows: list[dict[str, Any]] = []
    for store, names in stores(app, transport, queues):
        for queue in names:
            figures = store.stats(queue) if store.capabilities.stats != "none" else Stats()
            rows.append(
                {
                    "transport": store.name,
                    "queue": queue,
                    "ready": figures.ready,
                    "leased": figures.leased,
                    "scheduled": figures.scheduled,
                    "dead": figures.dead,
                    "oldest": figures.oldest_age if as_json else _age(figures.oldest_age),
                }
            )
    if as_json:
        show_json(rows)
    else:
        show_table(["transport", "queue", "ready", "leased", "scheduled", "dead", "oldest"], rows, empty="no queues")
    return 0


def _age(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("m", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
