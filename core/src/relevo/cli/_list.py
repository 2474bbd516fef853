"""``relevo list``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Literal

import click

from relevo._app.app import App
from relevo._transport.query import EventFilter, Status, WaitingEntry
from relevo._transport.transport import Transport
from relevo.cli._event import Holders, holders_in, living_row
from relevo.cli._filter import (
    by_option,
    event_option,
    limit_option,
    show_groups,
    show_listed,
    state_option,
    time_options,
)
from relevo.cli._main import refuse_invalid
from relevo.cli._option import json_option, queue_option, transport_option, with_app
from relevo.cli._output import Column, age, first_line, when
from relevo.cli._place import stores, unclaimed
from relevo.errors import ConfigurationError, shown

_PAGE = 200


@click.command("list")
@transport_option
@queue_option
@state_option
@event_option
@time_options("sent")
@by_option("event", "queue", "state")
@limit_option
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
    limit: int | None,
    after: str | None,
    as_json: bool,
) -> int:
    """
    List the events that are neither done nor dead.

    "until" is the time until a scheduled event is due, or until the lease of a leased one ends. "leased" says since
    when it is leased, by which worker, as host:pid, and which listener runs. Workers announce that for events that they
    hold for more than five seconds; it is at most 20 seconds old. Within a queue the order is the transport's own. An
    event whose state changes meanwhile may be listed twice or not at all. To continue a --json list, pass the
    "cursor" of its last event to --after. Transports that cannot list events are skipped, unless -t names one.

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
    found = _entries(places, where, after, limit or _PAGE)
    known = {store: holders_in(store) for store, _ in places}
    row, cells = partial(_row, known=known), partial(_cells, known=known, now=time.time())
    show_listed(found, _COLUMNS, row=row, cells=cells, limit=limit, as_json=as_json, empty="no events")
    return 0


def _able(app: App, transport: str | None, queues: tuple[str, ...]) -> list[tuple[Transport, list[str]]]:
    """Return the stores that can list events, with their queues."""
    found = stores(app, transport, queues)
    able = [(store, names) for store, names in found if store.capabilities.waiting]
    if found and (not able or (transport is not None and len(able) < len(found))):
        raise unclaimed(next(store for store, _ in found if not store.capabilities.waiting), "waiting")
    return able


def _entries(
    places: list[tuple[Transport, list[str]]], where: EventFilter, after: str | None, limit: int
) -> Iterator[tuple[Transport, WaitingEntry]]:
    """Yield the events that match *where*, starting after the cursor *after* of a row."""
    cursor = None
    if after is not None:
        name, _, cursor = after.partition("/")
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


_Listed = tuple[Transport, WaitingEntry]
_Known = Mapping[Transport, Holders]

_COLUMNS = (
    Column("queue"),
    Column("event"),
    Column("id", ends=True),
    Column("status"),
    Column("attempt"),
    Column("age"),
    Column("until"),
    Column("leased"),
    Column("error"),
)


def _row(found: _Listed, *, known: _Known) -> dict[str, Any]:
    """Return what was *found* as a row of a list."""
    store, entry = found
    row = living_row(store, entry, known[store])
    for key in ("body", "size"):
        del row[key]
    errors = [each["error"] for each in row["listeners"] if each["error"]]
    return {
        **row,
        "leased": None if entry.leased_at is None else when(entry.leased_at),
        "begun_by": None if entry.begun is None else entry.begun.by,
        "ordering_key": entry.envelope.ordering_key,
        "error": errors[-1] if errors else None,
        # Not with a colon: it would look like an address with a password, and be masked.
        "cursor": f"{store.name}/{entry.cursor}",
    }


def _cells(found: _Listed, *, known: _Known, now: float) -> dict[str, Any]:
    """Return what was *found* as a row of a table."""
    row, (_, entry) = _row(found, known=known), found
    lost = f", {entry.lost_leases} lost" if entry.lost_leases else ""
    return {
        **row,
        "attempt": f"{entry.attempt}{lost}",
        "age": age(max(0.0, now - entry.enqueued_at)),
        "until": None if entry.until is None else age(max(0.0, entry.until - now)),
        "leased": _lease(row, entry, now),
        "error": first_line(row["error"] or "") or None,
    }


def _lease(row: Mapping[str, Any], entry: WaitingEntry, now: float) -> str | None:
    """Return since when *entry* is leased, by which worker, and which listener runs, as far as that is known."""
    since = None if entry.leased_at is None else age(max(0.0, now - entry.leased_at))
    by = None if row["worker"] is None else f"by {row['worker']}"
    what = row["running"] or (None if by is None else "waits there")
    return " ".join(filter(None, (since, by and f"{by}:", what))) or None
