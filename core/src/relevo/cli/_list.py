"""``relevo list``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import chain, islice
from typing import Any, Literal, get_args
from urllib.parse import quote, unquote

import attrs
import click

from relevo._app.app import App, parts_of
from relevo._app.unrouted import unrouted_queues
from relevo._transport.query import EventFilter, EventGroup, Status, WaitingEntry
from relevo._transport.transport import Transport
from relevo._worker.announcement import LOOK_EVERY
from relevo._worker.decision import Reason
from relevo._worker.progress import foremost, lacks_listener, setbacks_of
from relevo.cli._event import Holders, OrderingLines, announced_holders, holder_of, holders_in, living_row
from relevo.cli._filter import (
    Tally,
    by_option,
    error_option,
    event_option,
    has_failed,
    limit_option,
    listener_option,
    show_groups,
    show_listed,
    state_option,
    time_options,
)
from relevo.cli._known import refuse_unknown_events, refuse_unknown_listeners
from relevo.cli._main import exit_code, refuse_invalid, tell
from relevo.cli._option import json_option, queue_option, transport_option, with_app
from relevo.cli._output import Column, age, first_line, when
from relevo.cli._place import stores, tell_unseen, unclaimed
from relevo.errors import ConfigurationError, UnsupportedError, shown

_PAGE = 200

By = Literal["event", "queue", "state", "listener", "error"]

KEYS: tuple[By, ...] = get_args(By)
"""By what events are counted."""

Place = tuple[Transport, list[str]]
"""A store, and queues in it."""

_Listed = tuple[Transport, WaitingEntry]

_Known = Mapping[Transport, Holders]
"""The workers that hold events, by store."""

_KnownLines = Mapping[Transport, OrderingLines]
"""The ordering keys with an event that others wait for, by store."""

_State = Status | Literal["running"]
"""What the option takes: the states of the store, and the leased events of which a listener runs."""

_SILENT = (
    f"no running listener is announced; workers announce those of events that they hold for more than {LOOK_EVERY:g} "
    f"seconds"
)
"""Printed instead of an empty list of running events: one that was begun a moment ago is not among them."""


@click.command("list")
@transport_option
@queue_option
@state_option
@event_option
@listener_option(
    "Only those in which this listener failed, or one with a prefix, as in shop.*; all events are read for it."
)
@error_option("Only those with a failure whose error contains this text; all events are read for it.")
@time_options("sent")
@by_option(*KEYS)
@limit_option
@click.option("--after", metavar="CURSOR", callback=refuse_invalid, help="Continue a JSON list after this event.")
@json_option
@with_app
def list_(
    *,
    app: App,
    transport: str | None,
    queues: tuple[str, ...],
    states: tuple[_State, ...],
    names: tuple[str, ...],
    listeners: tuple[str, ...],
    errors: tuple[str, ...],
    since: float | None,
    until: float | None,
    by: By | None,
    limit: int | None,
    after: str | None,
    as_json: bool,
) -> int:
    """
    List the events that are neither done nor dead.

    "until" is the time until a scheduled event is due, or until the lease of a leased one ends. "leased" shows how long
    it has been leased, the worker as host:pid, and the running listener. Workers announce these for events that they
    hold for more than five seconds; an announcement is at most 20 seconds old. "error" is the last error of the failed
    listener that runs next, or what the event waits for, such as its subject or a listener.

    With --state running, it lists only the leased events with a running listener that a worker announced; their status
    is "leased".

    Within a queue the order is the transport's own. An event whose state changes meanwhile may be listed twice or not
    at all; --by event, queue or state counts each event of a queue once. To continue a --json list, pass the "cursor"
    of its last event to --after.

    If a transport cannot list its events, such as RabbitMQ, or cannot tell which of them run, only the events of the
    other transports are listed. The reason is reported, and the exit code is 78.

    Example: relevo list -q media --state scheduled --event image.*

    Example: relevo list --state running
    """
    only_running = "running" in states and "leased" not in states
    where = EventFilter(names=names, states=_stored(states), since=since, until=until)
    choice = EventChoice(where=where, listeners=listeners, errors=errors)
    empty = _SILENT if only_running and len(set(states)) == 1 else "no events"
    begin = None if after is None else _Cursor.parsed(after)
    places, unlisted = able(app, transport, queues, begin)
    unable: list[ConfigurationError] = [*unlisted]
    if only_running:
        places, silent = _announcing(app, places)
        unable += silent
        choice = attrs.evolve(choice, holders=_announced(app, places))
    choice.refuse_unknown(app, places)
    tell_unseen(app, transport, queues)
    if by is not None:
        groups = _groups(places, choice, by)
        if groups or not unable:  # "no events" would also be read for those that cannot list theirs
            show_groups(by, groups, "sent", as_json=as_json, empty=empty)
    else:
        found = _entries(places, choice, begin, limit or _PAGE)
        known = choice.holders or {store: holders_in(app, store) for store, _ in places}
        lines = {store: OrderingLines(store) for store, _ in places}
        row = partial(_row, app=app, known=known, lines=lines)
        cells = partial(_cells, app=app, known=known, lines=lines, now=time.time())
        columns = _COLUMNS if len(known) == 1 else (Column("transport"), *_COLUMNS)
        first = list(islice(found, 1))
        if first or begin is not None or not unable:  # as above
            rows = chain(first, found)
            show_listed(rows, columns, row=row, cells=cells, limit=limit, as_json=as_json, empty=empty)
    for each in unable:
        tell(each)
    return max(map(exit_code, unable), default=0)


def _stored(states: tuple[_State, ...]) -> tuple[Status, ...]:
    """Return the states in the store of events in *states*."""
    return tuple(dict.fromkeys("leased" if state == "running" else state for state in states))


def _announcing(app: App, places: list[Place]) -> tuple[list[Place], list[ConfigurationError]]:
    """Return those of *places* where workers announce which listener runs, and why the others cannot tell."""
    has_any = parts_of(app).coordinator
    able_to: list[Place] = [(store, queues) for store, queues in places if has_any(store) is not None]
    silent = dict.fromkeys(store for store, _ in places if has_any(store) is None)
    errors = [
        ConfigurationError(
            f'the transport "{store.name}" cannot tell which listeners run now, since workers announce nothing there; '
            f"give it a coordinator, or see relevo list --state leased and the logs of the workers"
        )
        for store in silent
    ]
    if errors and not able_to:
        raise errors[0]
    return able_to, errors


def _announced(app: App, places: list[Place]) -> _Known:
    """Return who holds the events of *places*; that it cannot be read now is an error, and no empty list."""
    return {store: announced_holders(app, store) or {} for store, _ in places}


def listed(app: App, transport: str | None) -> Iterator[_Listed]:
    """Yield the events of *transport*, or of all, that are neither done nor dead, where they can be listed."""
    places = [(store, queues) for store, queues in stores(app, transport) if store.capabilities.waiting]
    yield from _entries(_with_unrouted(app, places, None), EventChoice(), None, _PAGE)


@attrs.frozen
class _Cursor:
    """The place of a row in a list."""

    store: str
    queue: str
    cursor: str
    """What its transport calls the place."""

    def __str__(self) -> str:
        # Not with a colon: it would look like an address with a password, and be masked.
        return f"{self.store}/{quote(self.queue, safe='')}/{self.cursor}"

    @classmethod
    def parsed(cls, text: str) -> _Cursor:
        store, _, rest = text.partition("/")
        queue, _, cursor = rest.partition("/")
        if not cursor:
            raise _no_cursor(text)
        return cls(store, unquote(queue), cursor)


def _no_cursor(given: object) -> ConfigurationError:
    return ConfigurationError(f'--after: expected the "cursor" of a row of the list; got {shown(str(given))}')


def able(
    app: App, transport: str | None, queues: tuple[str, ...], begin: _Cursor | None = None, *, own: bool = False
) -> tuple[list[Place], list[UnsupportedError]]:
    """
    Return the stores that can list events, with their queues, and why the others cannot.

    Args:
        app: The application.

        transport: The name of the only transport; by default all are listed.

        queues: The only queues; by default those that routes lead to, and those without a route that hold events.

        begin: Its queue is one of them although it may have become empty since, and have no route.

        own: Leave out queues without a route that hold events of another application, which may share the store.
    """
    found = stores(app, transport, queues)
    places = [(store, names) for store, names in found if store.capabilities.waiting]
    others = dict.fromkeys(store for store, _ in found if not store.capabilities.waiting)
    errors = [unclaimed(store, "waiting") for store in others]
    if errors and not places:
        raise errors[0]
    return (places if queues else _with_unrouted(app, places, begin, own=own)), errors


def _with_unrouted(app: App, places: list[Place], begin: _Cursor | None, *, own: bool = False) -> list[Place]:
    """Return *places*, also with the queues that hold events and have no route, by their names."""
    further: dict[Transport, list[str]] = {}
    for each in unrouted_queues(parts_of(app), [store for store, _ in places], own=own):
        further.setdefault(each.store, []).append(each.queue)
    for store, _ in places:
        if begin is not None and begin.store == store.name:
            further.setdefault(store, []).append(begin.queue)
    return [(store, list(dict.fromkeys([*queues, *sorted(further.pop(store, ()))]))) for store, queues in places]


@attrs.frozen(kw_only=True)
class EventChoice:
    """
    The events that match the options.

    A transport stores what listeners did, and what workers announce, in a form that only relevo reads, so that is
    compared here.
    """

    where: EventFilter = attrs.field(factory=EventFilter)
    listeners: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    holders: _Known | None = None
    """If given, of the leased events only those that it names a running listener of."""

    @property
    def is_stored(self) -> bool:
        """Whether the store alone can choose the events."""
        return not self.listeners and not self.errors and self.holders is None

    def entries(
        self, store: Transport, queues: list[str], *, after: str | None = None, page_size: int = _PAGE
    ) -> Iterator[WaitingEntry]:
        """Yield those of *queues* in *store*, after the cursor *after*; *page_size* is for those that it chooses."""
        size = page_size if self.is_stored else _PAGE
        while page := store.waiting(queues, where=self.where, after=after, limit=size):
            after = page[-1].cursor
            yield from filter(partial(self._has, store), page)

    def refuse_unknown(self, app: App, places: list[Place]) -> None:
        """Refuse names that neither *app* nor an event of *places* has; raise :class:`ConfigurationError`."""

        def holds(choice: EventChoice) -> bool:
            return any(True for store, queues in places for _ in choice.entries(store, queues))

        refuse_unknown_events(app, self.where.names, lambda name: holds(EventChoice(where=EventFilter(names=(name,)))))
        refuse_unknown_listeners(app, self.listeners, lambda name: holds(EventChoice(listeners=(name,))))

    def _has(self, store: Transport, entry: WaitingEntry) -> bool:
        if self.holders is not None and entry.status == "leased":
            holder = holder_of(entry, self.holders[store])
            if holder is None or holder.listener is None:
                return False
        if not self.listeners and not self.errors:
            return True
        return any(has_failed(failure, self.listeners, self.errors) for failure in setbacks_of(entry.state))


def _groups(places: list[Place], choice: EventChoice, by: By) -> list[tuple[str, EventGroup]]:
    """Count the events that *choice* has; one in which several listeners failed is in a group for each."""
    found: list[tuple[str, EventGroup]] = []
    for store, queues in places:
        if by in ("event", "queue", "state") and choice.is_stored:
            found += [(store.name, group) for group in store.waiting_groups(queues, by=by, where=choice.where)]
            continue
        tally = Tally()
        for entry in choice.entries(store, queues):
            tally.add(store.name, keys_of(entry, by), entry.enqueued_at)
        found += tally.groups
    return found


def keys_of(entry: WaitingEntry, by: By) -> list[str]:
    """Return the property *by* of *entry*: several, if several listeners failed; one is empty if none did."""
    match by:
        case "event":
            return [entry.envelope.name]
        case "queue":
            return [entry.queue]
        case "state":
            return [entry.status]
        case "listener":
            return [failure.listener for failure in setbacks_of(entry.state)] or [""]
        case "error":
            kinds = list(dict.fromkeys(failure.kind for failure in setbacks_of(entry.state)))
            if not lacks_listener(entry.state):
                return kinds or [""]
            # Which listener is missing is not stored; if only one failed, it is that one, as a rule.
            return [Reason.LISTENER_MISSING, *(kinds if len(kinds) > 1 else ())]


def _entries(places: list[Place], choice: EventChoice, begin: _Cursor | None, limit: int) -> Iterator[_Listed]:
    """Yield the events that match *choice*, starting after *begin*."""
    cursor = None
    if begin is not None:
        while places and places[0][0].name != begin.store:
            places = places[1:]
        if not places:
            raise _no_cursor(begin)
        cursor = begin.cursor
    for store, queues in places:
        for entry in choice.entries(store, queues, after=cursor, page_size=min(limit, _PAGE)):
            yield store, entry
        cursor = None


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


def _row(found: _Listed, *, app: App, known: _Known, lines: _KnownLines) -> dict[str, Any]:
    """Return what was *found* as a row of a list."""
    store, entry = found
    row = living_row(app, store, entry, known[store], lines=lines[store])
    for key in ("body", "size"):
        del row[key]
    failure = foremost(setbacks_of(entry.state))
    return {
        **row,
        "leased": None if entry.leased_at is None else when(entry.leased_at),
        "error": None if failure is None else failure.error,
        "cursor": str(_Cursor(store.name, entry.queue, entry.cursor)),
    }


def _cells(found: _Listed, *, app: App, known: _Known, lines: _KnownLines, now: float) -> dict[str, Any]:
    """Return what was *found* as a row of a table."""
    row, (_, entry) = _row(found, app=app, known=known, lines=lines), found
    lost = f", {entry.lost_leases} lost" if entry.lost_leases else ""
    return {
        **row,
        "attempt": f"{entry.attempt}{lost}",
        "age": age(max(0.0, now - entry.enqueued_at)),
        "until": None if entry.until is None else age(max(0.0, entry.until - now)),
        "leased": _lease(row, entry, now),
        "error": first_line(row["problem"] or row["error"] or "") or None,  # what it waits for now comes first
    }


def _lease(row: Mapping[str, Any], entry: WaitingEntry, now: float) -> str | None:
    """Return since when *entry* is leased, by which worker, and which listener runs, as far as that is known."""
    since = None if entry.leased_at is None else age(max(0.0, now - entry.leased_at))
    by = None if row["worker"] is None else f"by {row['worker']}"
    what = row["running"] or (None if by is None else "waits there")
    return " ".join(filter(None, (since, by and f"{by}:", what))) or None
