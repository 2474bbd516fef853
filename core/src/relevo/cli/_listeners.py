"""``relevo listeners``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from relevo._app.app import App
from relevo._listener.listener import policy_of
from relevo._transport.route import Target
from relevo.cli._main import not_found, refuse_invalid
from relevo.cli._option import json_option, with_app_and_document
from relevo.cli._output import show_document, show_json, show_table
from relevo.errors import RouteNotFoundError


@click.command()
@click.argument("name", required=False, callback=refuse_invalid)
@click.option("--format", "form", type=click.Choice(["table", "json", "mermaid"]), default="table", show_default=True)
@json_option
@with_app_and_document(lambda arguments: arguments["as_json"] or arguments["form"] != "table")
def listeners(*, app: App, name: str | None, form: str, as_json: bool) -> int:
    """
    Show the listeners of each event, or of the event NAME, in the order in which they are called.

    Exits with 1 if the event NAME has no listener.

    Mermaid prints a flowchart of events, queues and listeners, for a README or a page of documentation.

    Example: relevo listeners --format mermaid > listeners.mmd
    """
    rows = []
    for listener in app.listeners if name is None else app.listeners.of(name):
        targets = _targets(app, listener.event_name)
        if listener.queue is not None:
            targets = tuple(each for each in targets if listener.queue in (each.queue, str(each)))
        rows.append(
            {
                "event": listener.event_name,
                "priority": listener.priority,
                "target": str(targets[0]) if targets else "no route",
                "listener": listener.id,
                "runs": policy_of(listener, queue=app.retries.get(targets[0]) if targets else None).runs,
                "declared": listener.event_type.cls.__qualname__ if listener.event_type else None,
            }
        )
    if as_json or form == "json":
        show_json(rows)
    elif form == "mermaid":
        show_document("\n".join(_flowchart(app, rows)) + "\n")
    elif rows or name is None:
        show_table(["event", "priority", "target", "listener", "runs", "declared"], rows, empty="no listeners")
    if name is not None and not rows:
        return not_found([f'no listener here for "{name}"{app.listeners.hint(name)}'])
    return 0


def _targets(app: App, event: str) -> tuple[Target, ...]:
    try:
        return app.routes.targets(event)
    except RouteNotFoundError:
        return ()


def _flowchart(app: App, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return lines of Mermaid, with arrows from events to their queues and from queues to their listeners."""
    names: dict[str, str] = {}
    nodes: list[str] = []
    arrows: list[str] = []

    def node(kind: str, name: str, shape: tuple[str, str]) -> str:
        key = f"{kind} {name}"
        if key not in names:
            names[key] = f"{kind}{sum(each.startswith(kind) for each in names)}"
            nodes.append(f'    {names[key]}{shape[0]}"{_escaped(name)}"{shape[1]}')
        return names[key]

    for event in dict.fromkeys(row["event"] for row in rows):
        queues = {str(target): node("queue", str(target), _STORE) for target in _targets(app, event)}
        arrows += [f"    {node('event', event, _ROUND)} --> {queue}" for queue in queues.values()]
    for row in rows:
        queue, listener = node("queue", row["target"], _STORE), node("listener", row["listener"], _BOX)
        arrows.append(f'    {queue} -- "{_escaped(row["event"])}" --> {listener}')
    return ["flowchart LR", *nodes, *arrows]


_ROUND, _STORE, _BOX = ("([", "])"), ("[(", ")]"), ("[", "]")


def _escaped(name: str) -> str:
    """Return *name* escaped for Mermaid, where quotes, brackets, backticks and others have a meaning."""
    return "".join(each if each.isalnum() or each in "._:/- " else f"#{ord(each)};" for each in name)
