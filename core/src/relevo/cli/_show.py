"""``relevo show``."""

from __future__ import annotations

import click

from relevo._app import App
from relevo._envelope import Envelope
from relevo.cli._dead import entries, show_entries
from relevo.cli._main import EXIT_DEAD
from relevo.cli._option import json_option, transport_option, with_app
from relevo.cli._output import visible


@click.command()
@click.argument("event_id", metavar="ID")
@transport_option
@json_option
@with_app
def show(*, app: App, event_id: str, transport: str | None, as_json: bool) -> int:
    """
    Show the event ID, once for each queue that keeps it.

    Only dead letters are looked through so far: what is ready, scheduled or being handled is counted by
    `relevo status`, and what is done is not kept. Exits with 1 if nothing was found.

    Example: relevo show 0198c3a4-6e1f-7c52-9d1e-0f6a2b3c4d5e
    """
    found = [
        (store, entry)
        for store, entry in entries(app, transport, ())
        if isinstance(entry.envelope, Envelope) and entry.envelope.id == event_id
    ]
    show_entries(found, as_json=as_json)
    if not found:
        click.echo(f"relevo: no dead letter has the id {visible(event_id, lines=False)}", err=True)
        return EXIT_DEAD
    return 0
