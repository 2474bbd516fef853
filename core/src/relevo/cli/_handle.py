"""``relevo handle``: handle one event now."""

from __future__ import annotations

from collections.abc import Iterable

import attrs
import click

from relevo._app.app import App
from relevo._transport.envelope import Envelope
from relevo._transport.transport import Transport
from relevo.cli._dead import entries
from relevo.cli._event_id import how_long_kept, when_done, whole_id
from relevo.cli._handled import can_handle, code_of, handled, show_handled
from relevo.cli._main import not_found
from relevo.cli._option import id_argument, json_option, queue_option, transport_option, with_app
from relevo.cli._output import show_json, when
from relevo.cli._place import stores, unclaimed
from relevo.cli._ref import Found


@click.command()
@id_argument
@transport_option
@queue_option
@json_option
@with_app
def handle(*, app: App, event_id: str, transport: str | None, queues: tuple[str, ...], as_json: bool) -> int:
    """
    Handle the event ID now, in each queue that holds it, as a worker would.

    ID is a whole id, or the end of one: six characters or more that no other event has.

    It is handled even before it is due, as for its next run; listeners that are done do not run again. It is refused
    if a worker holds it, if it waits for an earlier one with its ordering key, and during a deploy. Exits with 0 if it
    is done, with 1 if it failed or does not exist, and with 75 if it was refused.

    Example: relevo handle 0198c3a4-6e1f-7c52-9d1e-0f6a2b3c4d5e
    """
    event_id = whole_id(app, event_id, transport)
    places = stores(app, transport, queues)
    able = [store for store, _ in places if can_handle(store)]
    unable = [store for store, _ in places if store not in able]
    if unable and (transport is not None or not able):
        if (dead := _dead(app, event_id)) is not None:
            return not_found([_nowhere(event_id, dead, able)])
        raise unclaimed(unable[0], "take")
    wanted = {store: [name for each, names in places if each is store for name in names] for store in able}
    found = [(store, each) for store in wanted for each in store.find(event_id) if each.queue in wanted[store]]
    dead = None if found else _dead(app, event_id)
    if not found and unable and dead is None:
        raise unclaimed(unable[0], "take")  # it may wait there, as behind an outbox
    results = [handled(app, store, each) for store, each in found]
    if as_json:
        show_json([attrs.asdict(each) for each in results])
    else:
        show_handled(results)
    return code_of(results) if found else not_found([_nowhere(event_id, dead, able)])


def _nowhere(event_id: str, dead: Found | None, able: Iterable[Transport]) -> str:
    searched = list(dict.fromkeys(able))
    if dead is None:
        done = when_done(searched, event_id)
        if done is not None:
            return f"the event {event_id} was done at {when(done)}"
        return f"no event has the id {event_id}; {how_long_kept(searched)}"
    store, entry = dead
    how = " --now" if can_handle(store) else ", then a worker handles it"
    return f"the event {event_id} is a dead letter; run relevo dead revive {entry.ref}{how}"


def _dead(app: App, event_id: str) -> Found | None:
    """Return the first dead letter with *event_id*, with its store."""
    for store, entry in entries(app, None, ()):
        if isinstance(entry.envelope, Envelope) and entry.envelope.id == event_id:
            return store, entry
    return None
