"""``relevo show``."""

from __future__ import annotations

import click

from relevo._app.app import App
from relevo._transport.envelope import Envelope
from relevo.cli._dead import entries
from relevo.cli._event import done_row, holders_in, living_row, show_whole, whole_dead_row
from relevo.cli._event_id import done_events, how_long_kept, whole_id
from relevo.cli._main import not_found
from relevo.cli._option import id_argument, json_option, transport_option, with_app
from relevo.cli._output import echo, show_json
from relevo.cli._place import stores


@click.command()
@id_argument
@transport_option
@json_option
@with_app
def show(*, app: App, event_id: str, transport: str | None, as_json: bool) -> int:
    """
    Show the event ID and the progress of its listeners, once for each queue that holds it.

    ID is a whole id, or the end of one: six characters or more that no other event has.

    Dead letters are searched on every transport. Waiting events and events in progress are searched if the transport
    can find them: SQL can, RabbitMQ cannot. Events that are done are found, by a whole id, for as long as the transport
    keeps them: SQL does so with the option keep. Exits with 1 if nothing was found.

    Example: relevo show 0198c3a4-6e1f-7c52-9d1e-0f6a2b3c4d5e
    """
    event_id = whole_id(app, event_id, transport)
    places = dict.fromkeys(store for store, _ in stores(app, transport))
    able = [store for store in places if store.capabilities.find]
    rows = [living_row(app, store, found, holders_in(app, store)) for store in able for found in store.find(event_id)]
    unreadable = 0
    for store, entry in entries(app, transport, ()):
        if not isinstance(entry.envelope, Envelope):
            unreadable += 1
        elif entry.envelope.id == event_id:
            rows.append(whole_dead_row(app, store, entry))
    rows += [done_row(store, entry) for store, entry in done_events(places, event_id)]
    if as_json:
        show_json(rows)
    else:
        for number, row in enumerate(rows):
            echo("\n" * min(number, 1), nl=False)
            show_whole(row)
    if not rows:
        unable = ", ".join(f'"{store.name}"' for store in places if store not in able)
        besides = f"; {unable} cannot search waiting events: the event may still wait there" if unable else ""
        if unreadable:
            letters = "dead letter has" if unreadable == 1 else "dead letters have"
            besides += f"; {unreadable} unreadable {letters} no id; see relevo dead list --reason unreadable"
        return not_found([f"no event has the id {event_id}{besides or f'; {how_long_kept(places)}'}"])
    return 0
