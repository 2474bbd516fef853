"""``relevo listeners``."""

from __future__ import annotations

import click

from relevo._app import App
from relevo._listener import policy_of
from relevo.cli._option import json_option, with_app
from relevo.cli._output import show_json, show_table
from relevo.errors import RouteNotFoundError


@click.command()
@json_option
@with_app
def listeners(*, app: App, as_json: bool) -> int:
    """Show which listeners hear which events, in the order in which they are called."""
    rows = []
    for listener in app.listeners:
        try:
            targets = app.routes.targets(listener.event_name)
        except RouteNotFoundError:
            targets = ()
        if listener.queue is not None:
            targets = tuple(each for each in targets if listener.queue in (each.queue, str(each)))
        policy = policy_of(listener)
        rows.append(
            {
                "event": listener.event_name,
                "priority": listener.priority,
                "target": str(targets[0]) if targets else "no route",
                "listener": listener.id,
                "runs": policy.runs,
                "declared": listener.event_type.cls.__qualname__ if listener.event_type else None,
            }
        )
    if as_json:
        show_json(rows)
    else:
        show_table(["event", "priority", "target", "listener", "runs", "declared"], rows, empty="no listeners")
    return 0
