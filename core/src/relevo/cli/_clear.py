"""``relevo cancel`` and ``relevo purge``: remove events that no worker has begun."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

from relevo._app.app import App
from relevo._transport.transport import Transport
from relevo.cli._event_id import whole_id
from relevo.cli._handled import held_by
from relevo.cli._main import EXIT_NOTHING, not_found, refuse_invalid
from relevo.cli._option import ask, json_option, transport_option, with_app, yes_option
from relevo.cli._output import echo, show_json
from relevo.cli._place import only_place, stores, unclaimed


@click.command()
@click.argument("event_ids", metavar="ID...", nargs=-1, required=True, callback=refuse_invalid)
@transport_option
@json_option
@with_app
def cancel(*, app: App, event_ids: tuple[str, ...], transport: str | None, as_json: bool) -> int:
    """
    Remove the event ID, or several events, from all queues in which no worker has begun it.

    ID is a whole id, or the end of one: six characters or more that no other event has.

    If a worker has begun it in a queue, that worker is named. Exits with 1 if nothing was removed of an ID: the event
    may be done, dead, or in progress; the others are removed.

    Example: relevo cancel 0198c3a4-6e1f-7c52-9d1e-0f6a2b3c4d5e
    """
    ids = list(dict.fromkeys(whole_id(app, each, transport) for each in event_ids))
    places = list(dict.fromkeys(store for store, _ in stores(app, transport)))
    able = [store for store in places if store.capabilities.cancel]
    if not able:
        raise unclaimed(places[0], "cancel")
    taken = {each: sum(store.cancel(each) for store in able) for each in ids}
    if as_json:
        show_json({"cancelled": sum(taken.values())})
    else:
        echo(f"{sum(taken.values())} cancelled")
    unable = ", ".join(f'"{store.name}"' for store in places if store not in able)
    for event_id, number in taken.items():
        faults = list(_begun(able, event_id))
        if not number and not faults:
            besides = f"; {unable} cannot cancel events: the event may still wait there" if unable else ""
            faults.append(f"no waiting event has the id {event_id}{besides}")
        not_found(faults)
    return 0 if all(taken.values()) else EXIT_NOTHING


def _begun(stores: Sequence[Transport], event_id: str) -> Iterator[str]:
    """Yield where in *stores* a worker has begun the event, and which worker."""
    for store in stores:
        for found in store.find(event_id) if store.capabilities.find else ():
            if found.status == "leased":
                yield (
                    f"the event {event_id} stays in {store.name}/{found.queue}: {held_by(store, found)}; to remove it, "
                    f"stop that worker, if it hangs by a second TERM, and cancel again"
                )


@click.command()
@click.argument("queue", callback=refuse_invalid)
@transport_option
@yes_option
@json_option
@with_app
def purge(*, app: App, queue: str, transport: str | None, yes: bool, as_json: bool) -> int:
    """
    Delete all events of QUEUE that no worker has begun; dead letters stay.

    Write QUEUE as in routes, transport/queue, or only the queue.

    Example: relevo purge main/feed --yes
    """
    place, name = only_place(app, transport, queue)
    store = place.store
    if not store.capabilities.purge:
        raise unclaimed(store, "purge")
    place.prepare(app)
    agrees = yes or ask(f"Delete {_how_many(store, name)} of {store.name}/{name}? This cannot be undone.")
    taken = store.purge(name) if agrees else 0
    if as_json:
        show_json({"purged": taken})
    else:
        echo(f"{taken} purged" if agrees else "nothing was deleted")
    return 0


def _how_many(store: Transport, queue: str) -> str:
    stats = store.stats(queue) if store.capabilities.stats != "none" else None
    if stats is None or stats.ready is None:
        return "all waiting events"
    count = stats.ready + (stats.scheduled or 0)
    return "1 waiting event" if count == 1 else f"{count} waiting events"
