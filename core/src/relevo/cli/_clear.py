"""``relevo cancel`` and ``relevo purge``: what nobody has begun is taken out, and does not happen."""

from __future__ import annotations

import click

from relevo._app import App
from relevo._transport import Transport
from relevo.cli._main import EXIT_NOTHING, named
from relevo.cli._option import agreed, id_argument, json_option, stores, transport_option, with_app, yes_option
from relevo.cli._output import show_json, visible
from relevo.errors import UnsupportedError, did_you_mean


@click.command()
@id_argument
@transport_option
@json_option
@with_app
def cancel(*, app: App, event_id: str, transport: str | None, as_json: bool) -> int:
    """
    Take the event ID out of all queues where nobody has begun it.

    Exits with 1 if there was none: it may be done, dead, or being handled.

    Example: relevo cancel 0198c3a4-6e1f-7c52-9d1e-0f6a2b3c4d5e
    """
    places = list(dict.fromkeys(store for store, _ in stores(app, transport, ())))
    able = [store for store in places if store.capabilities.cancel]
    if not able:
        raise UnsupportedError(places[0].name, "cancel")
    taken = sum(store.cancel(event_id) for store in able)
    if as_json:
        show_json({"cancelled": taken})
    else:
        click.echo(f"{taken} cancelled")
    if not taken:
        unable = ", ".join(f'"{store.name}"' for store in places if store not in able)
        besides = f"; {unable} cannot cancel" if unable else ""
        click.echo(f"relevo: nothing that waits has the id {visible(event_id, lines=False)}{besides}", err=True)
        return EXIT_NOTHING
    return 0


@click.command()
@click.argument("queue", callback=named)
@transport_option
@yes_option
@json_option
@with_app
def purge(*, app: App, queue: str, transport: str | None, yes: bool, as_json: bool) -> int:
    """
    Take all events out of QUEUE that nobody has begun, for good; dead letters stay.

    Example: relevo purge feed -t main --yes
    """
    store = app.transport(transport)
    if not store.capabilities.purge:
        raise UnsupportedError(store.name, "purge")
    app.prepare(store.name)
    if not yes and not agreed(f"Delete {_how_many(store, queue)} of {store.name}/{queue}? This cannot be undone."):
        click.echo("nothing was deleted")
        return 0
    taken = store.purge(queue)
    known = app.queues(store.name)
    if as_json:
        show_json({"purged": taken})
    else:
        click.echo(f"{taken} purged")
    if not taken and queue not in known:
        click.echo(
            f'relevo: nothing is routed to the queue "{visible(queue, lines=False)}"{did_you_mean(queue, known)}',
            err=True,
        )
    return 0


def _how_many(store: Transport, queue: str) -> str:
    stats = store.stats(queue) if store.capabilities.stats != "none" else None
    if stats is None or stats.ready is None:
        return "all waiting events"
    return f"{stats.ready + (stats.scheduled or 0)} waiting events"
