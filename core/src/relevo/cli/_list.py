"""``relevo list``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Literal

import click

from relevo._app.app import App
from relevo._transport.query import EventFilter, Status, WaitingEntry
from relevo._transport.transport import Transport
from relevo.cli._event import living_row
from relevo.cli._filter import by_option, event_option, show_groups, state_option, time_options
from relevo.cli._main import refuse_invalid
from relevo.cli._option import json_option, queue_option, transport_option, with_app
from relevo.cli._output import age, echo, first_line, show_json, show_table, when
from relevo.cli._parameter import Whole
from relevo.cli._place import stores
from relevo.errors import ConfigurationError, UnsupportedError, shown

_PAGE = 200
_COLUMNS = ("queue", "event", "id", "status", "attempt", "age", "until", "error")


@click.command("list")
@transport_option
@queue_option
@state_option
@event_option
@time_options("sent")
@by_option("event", "queue", "state")
@click.option("--limit", type=Whole(min=1), default=100, show_default=True, metavar="N")
@click.option("--after", metavar="CURSOR", callback=refuse_invalid, help="Continue a JSON list after this event.")
@json_option
@with_app
def list_(
    *,
    app: App,
    transport: str | None,
    queues: tuple[str, ...],
    states: tuple[Status, ...],
    names: tuple[str, ...],
    since: float | None,
    until: float | None,
    by: Literal["event", "queue", "state"] | None,
    limit: int,
    after: str | None,
    as_json: bool,
) -> int:
    """
    List the events that are neither done nor dead.

    "until" is the time until a scheduled event is due, or until the lease of a leased one ends. Within a queue the
    order is the transport's own. An event whose state changes meanwhile may be listed twice or not at all. To
    continue a --json list, pass the "cursor" of its last event to --after. Transports that cannot list events are
    skipped, unless -t names one.

    Example: relevo list -q media --state scheduled --event image.*
    """
    where = EventFilter(names=names, states=states, since=since, until=until)
    places = _able(app, transport, queues)
    if by is not None:
        groups = [
            (store.name, group) for store, each in places for group in store.waiting_groups(each, by=by, where=where)
        ]
        show_groups(by, groups, "sent", as_json=as_json, empty="no events")
        return 0
    rows: list[dict[str, Any]] = []
    cells: list[dict[str, Any]] = []
    now = time.time()
    more = False
    for store, entry in _entries(places, where, after, limit + 1):
        if len(rows) == limit:
            more = True
            break
        rows.append(_row(store, entry))
        cells.append(_cells(rows[-1], entry, now))
    if as_json:
        show_json(rows)
        return 0
    show_table(_COLUMNS, cells, empty="no events")
    if more:
        echo(f"… and more; raise --limit {limit}")
    return 0


def _able(app: App, transport: str | None, queues: tuple[str, ...]) -> list[tuple[Transport, list[str]]]:
    """Return the stores that can list events, with their queues."""
    found = stores(app, transport, queues)
    able = [(store, names) for store, names in found if store.capabilities.waiting]
    if found and (not able or (transport is not None and len(able) < len(found))):
        unable = next(store for store, _ in found if not store.capabilities.waiting)
        raise UnsupportedError(unable.name, "waiting")
    return able


def _entries(
    places: list[tuple[Transport, list[str]]], where: EventFilter, after: str | None, limit: int
) -> Iterator[tuple[Transport, WaitingEntry]]:
    """Yield the events that match *where*, starting after the cursor *after* of a row."""
    cursor = None
    if after is not None:
        name, _, cursor = after.partition(":")
        while places and places[0][0].name != name:
            places = places[1:]
        if not places or not cursor:
            raise ConfigurationError(f'--after: expected the "cursor" of a row of the list; got {shown(after)}')
    for store, names in places:
        while page := store.waiting(names, where=where, after=cursor, limit=min(limit, _PAGE)):
            cursor = page[-1].cursor
            for entry in page:
                yield store, entry
        cursor = None


def _row(store: Transport, entry: WaitingEntry) -> dict[str, Any]:
    """Return the row of *entry*."""
    row = living_row(store, entry)
    for key in ("body", "size"):
        del row[key]
    errors = [each["error"] for each in row["listeners"] if each["error"]]
    return {
        **row,
        "leased": None if entry.leased_at is None else when(entry.leased_at),
        "begun_by": None if entry.begun is None else entry.begun.by,
        "ordering_key": entry.envelope.ordering_key,
        "error": errors[-1] if errors else None,
        "cursor": f"{store.name}:{entry.cursor}",
    }


def _cells(row: dict[str, Any], entry: WaitingEntry, now: float) -> dict[str, Any]:
    """Return *row*, that of *entry*, for a table."""
    lost = f", {entry.lost_leases} lost" if entry.lost_leases else ""
    return {
        **row,
        "attempt": f"{entry.attempt}{lost}",
        "age": age(max(0.0, now - entry.enqueued_at)),
        "until": None if entry.until is None else age(max(0.0, entry.until - now)),
        "error": first_line(row["error"] or "") or None,
    }
