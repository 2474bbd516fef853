"""``relevo transports``."""

from __future__ import annotations

from typing import Any

import attrs
import click

from relevo._app.app import App, parts_of
from relevo._secret import masked_url
from relevo._transport.capabilities import Capabilities
from relevo.cli._option import json_option, with_app
from relevo.cli._output import show_json, show_table


@click.command()
@json_option
@with_app
def transports(*, app: App, as_json: bool) -> int:
    """
    Show the transports and their capabilities, without connecting.

    Example: relevo transports --json
    """
    config = parts_of(app).config
    rows: list[dict[str, Any]] = []
    for name, transport in app.transports.items():
        entry = config.transports.get(name) if config else None
        outbox, coordinator, keeper = (of.get(name) for of in (app.outboxes, app.coordinators, app.keepers))
        address = entry.url.reveal() if entry else None
        cls = type(transport)
        rows.append(
            {
                "name": name,
                "scheme": address.partition("://")[0] if address else None,
                "type": f"{cls.__module__.partition('.')[0]}.{cls.__qualname__}",
                "address": masked_url(address) if address else None,
                "outbox": outbox.name if outbox else None,
                "coordinator": coordinator.name if coordinator else None,
                "dead_letters": keeper.name if keeper else None,
                "queues": list(app.queues(name)) if as_json else ", ".join(app.queues(name)),
                "capabilities": attrs.asdict(transport.capabilities) if as_json else in_short(transport.capabilities),
            }
        )
    if as_json:
        show_json(rows)
    else:
        show_table(["name", "type", "address", "outbox", "queues", "capabilities"], rows, empty="no transports")
    return 0


def in_short(capabilities: Capabilities) -> str:
    """Return the most important capabilities as text."""
    able = [
        field.name.replace("_", " ")
        for field in attrs.fields(Capabilities)
        if getattr(capabilities, field.name) is True and field.name not in ("extend", "wakeup")
    ]
    if capabilities.delay is not None:
        able.insert(0, f"delay {capabilities.delay:g} s")
    if capabilities.order != "none":
        able.append(f"order {capabilities.order}")
    return f"survives: {capabilities.durability}; {', '.join(able) or 'nothing more'}"
