"""``relevo status``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from relevo._app.app import App, parts_of
from relevo._app.stores import each_of
from relevo._app.unrouted import UnroutedQueue, unrouted_queues
from relevo._problem import lines_of
from relevo._transport.query import EventFilter, Status, StuckKey, StuckKeys, WaitingEntry
from relevo._transport.route import RESERVED, outbox_queue
from relevo._transport.transport import Stats, Transport
from relevo._visible import visible
from relevo.cli._controls import paused_in, row_of
from relevo.cli._deploy import deploy_notice
from relevo.cli._event import announced_holders
from relevo.cli._main import EXIT_ATTENTION, EXIT_CONFIGURATION, exit_code, tell
from relevo.cli._option import json_option, queue_option, transport_option, with_app
from relevo.cli._output import age, at_terminal, echo, show_json, show_table, when
from relevo.cli._parameter import Whole
from relevo.cli._place import Place, places, tell_unlisted, tell_unseen
from relevo.cli._run import duration
from relevo.errors import RelevoError

_COLUMNS = ("transport", "queue", "ready", "leased", "scheduled", "dead", "oldest")
_NOT_IN_TABLE = ("stuck", "routed", "relays_to", "lag", "workers", "paused")
_STUCK_COLUMNS = ("transport", "queue", "key", "waiting", "since", "behind")

_LEGEND = """
ready: can be handled now; leased: a worker has it; scheduled: due later, or a retry
dead: see relevo dead list; oldest: the age of the oldest ready event; -: not known"""

_AGES = {"oldest": "the oldest for", "lag": "one has waited for its relay for"}
"""The figures that are seconds, in words."""

_PAGE = 200

_MOST = 10
"""The largest number of stuck ordering keys that are shown; all are counted."""


@click.command()
@transport_option
@queue_option
@click.option(
    "--max-oldest", type=duration, metavar="DURATION", help="Exit with 1 if a ready event is older than this."
)
@click.option(
    "--max-leased",
    type=duration,
    metavar="DURATION",
    help="Exit with 1 if a worker has held an event for longer than this.",
)
@click.option(
    "--max-lag",
    type=duration,
    metavar="DURATION",
    help="Exit with 1 if an event has waited in an outbox for longer than this.",
)
@click.option("--max-ready", type=Whole(min=0), metavar="N", help="Exit with 1 if a queue holds more ready events.")
@click.option("--max-dead", type=Whole(min=0), metavar="N", help="Exit with 1 if a queue holds more dead letters.")
@json_option
@with_app
def status(
    *,
    app: App,
    transport: str | None,
    queues: tuple[str, ...],
    max_oldest: float | None,
    max_leased: float | None,
    max_lag: float | None,
    max_ready: int | None,
    max_dead: int | None,
    as_json: bool,
) -> int:
    """
    Show how many events every queue holds: ready, leased, scheduled, dead.

    Ready events can be handled now. Leased ones are with a worker. Scheduled ones are due later, or are retried. Dead
    ones are kept, see relevo dead list. Oldest is the age of the oldest ready event. A - means that the number is
    not known.

    An outbox has a row of its own, and a name: -t main.outbox. The lag of its relay is shown below the table: how many
    events wait in the outbox, and the age of the oldest, which may be leased or given back. An event that is not yet
    due for the first time has no lag. With --json the row of an outbox has "relays_to", the name of its transport, and
    "lag", in seconds; both are null in other rows. --max-lag limits it, also for the events of an outbox that a
    transport no longer has: their "relays_to" is null.

    If a server cannot be reached, or a database file does
    not exist, the others are shown, the error is reported, and the exit code is 69, or 78 if something must be changed.
    The file is not created. With --json, a transport that did not answer has a row whose "error" says why; in all other
    rows it is null.

    A queue that holds events and has no route is shown as well, with the command that moves them: no worker handles
    them. With --json its "routed" is false. A transport that cannot list its queues, such as RabbitMQ, shows only those
    that a route leads to, and those named with -q.

    Workers announce the events that they hold for more than five seconds, if the transport has a coordinator. On a
    transport that cannot list its events, such as RabbitMQ, the workers are shown below the table. With --json each row
    has them as "workers", with the number of events that each holds and the listeners that it runs; null means that
    workers announce nothing.

    A deploy in progress is reported on standard error. Paused queues are shown below the table, with who paused them,
    when and why. With --json their rows have that as "paused", which is null in other rows.

    Stuck ordering keys, whose first event blocks others, are shown too, at most ten: what they wait for, and since
    when.

    With a limit, such as --max-oldest, it prints one line for a monitor: the queues over a limit, or the number of
    queues if all are within the limits. If a transport does not know a figure, such as the age on RabbitMQ, the exit
    code is 78.

    Events behind a listener that hangs are leased, not ready, so --max-oldest does not see them; --max-leased does. It
    reads the leased events; if a transport cannot list them, such as RabbitMQ, the exit code is 78.

    Example: relevo status -t main
    """
    limits = {"oldest": max_oldest, "ready": max_ready, "dead": max_dead, "lag": max_lag}
    is_limited = any(limit is not None for limit in (*limits.values(), max_leased))
    rows: list[dict[str, Any]] = []
    errors: dict[str, RelevoError] = {}  # by text, since an outbox may have the same error as its transport
    reached: list[Transport] = []
    for place in places(app, transport, queues):
        try:
            if is_limited:
                place.require_file()
            place.prepare(app)
            figures = _figures(app, place)
            _note_workers(app, place, figures)
            _note_pauses(app, place, figures)
            rows += figures
            reached.append(place.store)
        except RelevoError as error:
            errors |= {str(each): each for each in each_of(error) if str(each) not in errors}
            rows.append(
                {**dict.fromkeys((*_COLUMNS, *_NOT_IN_TABLE)), "transport": place.store.name, "error": str(error)}
            )
    unrouted: list[UnroutedQueue] = []
    try:
        unrouted += [] if queues else unrouted_queues(parts_of(app), reached, own=False)
        shown = {(row["transport"], row["queue"]) for row in rows}
        further = (each for each in unrouted if (each.store.name, each.queue) not in shown)
        rows += [_unrouted_row(each, now=app.clock.now()) for each in further]
    except RelevoError as error:  # a server that has just answered
        errors[str(error)] = error
    tell_unseen(app, transport, queues)
    if is_limited:
        return _judge(rows, reached, errors, limits, max_leased=max_leased, now=app.clock.now(), as_json=as_json)
    if as_json:
        show_json(rows)
    else:
        answers = [{**row, "oldest": age(row["oldest"])} for row in rows if row["error"] is None]
        if answers or not errors:
            show_table(_COLUMNS, answers, empty="no queues")
            if answers and at_terminal(sys.stdout):
                echo(_LEGEND)
        _show_lag(answers)
        _show_workers(answers)
        _show_pauses(answers)
        _show_stuck(answers)
        for queue in unrouted:
            echo(visible(str(queue)))
    tell_unlisted(app, transport, queues)
    if notice := deploy_notice(app):
        click.echo(visible(f"relevo: {notice}"), err=True)
    for each in errors.values():
        tell(each)
    return max(map(exit_code, errors.values()), default=0)


def _judge(
    rows: Sequence[Mapping[str, Any]],
    reached: Sequence[Transport],
    errors: dict[str, RelevoError],
    limits: Mapping[str, float | None],
    *,
    max_leased: float | None,
    now: float,
    as_json: bool,
) -> int:
    """Print the line for a monitor, and return the exit code."""
    over, unknown = _over(rows, limits)
    if max_leased is not None:
        try:
            held, unjudged = _held_for_longer(rows, reached, max_leased, now=now)
            over, unknown = over + held, unknown + unjudged
        except RelevoError as error:  # a server that has just answered
            errors[str(error)] = error
    faults = [" ".join(lines_of(each)) for each in errors.values()]
    line = (
        "; ".join([*over, *unknown, *faults])
        or f"{len(rows)} queue{'s are' if len(rows) != 1 else ' is'} within the limits"
    )
    if as_json:
        show_json(rows)
    click.echo(visible(line), err=as_json)
    codes = [*map(exit_code, errors.values()), *([EXIT_CONFIGURATION] if unknown else [])]
    return max(codes, default=EXIT_ATTENTION if over else 0)


def _over(rows: Sequence[Mapping[str, Any]], limits: Mapping[str, float | None]) -> tuple[list[str], list[str]]:
    """Return which queues of *rows* are over *limits*, and which limits cannot be judged, in words."""
    over: list[str] = []
    unknown: list[str] = []
    for row in rows:
        for key, limit in limits.items() if row["error"] is None else ():
            place, figure = f"{row['transport']}/{row['queue']}", row[key]
            if limit is None or (key == "oldest" and row["ready"] == 0) or (key == "lag" and not _is_outbox(row)):
                continue
            if figure is None:
                unknown.append(f"{place}: --max-{key} cannot be judged, since its transport does not know that figure")
            elif figure > limit:
                shown = f"{_AGES[key]} {age(figure)}" if key in _AGES else f"{figure} {key}"
                over.append(f"{place}: {shown}, at most {limit:g}{' s' if key in _AGES else ''}")
    if limits["lag"] is not None and not any(_is_outbox(row) or row["error"] for row in rows):
        unknown.append("--max-lag cannot be judged, since there is no outbox; leave it out, or choose another with -t")
    return over, unknown


def _is_outbox(row: Mapping[str, Any]) -> bool:
    """Return whether *row* is that of an outbox, maybe one that no transport has any more."""
    return row["relays_to"] is not None or row["lag"] is not None


def _held_for_longer(
    rows: Sequence[Mapping[str, Any]], reached: Sequence[Transport], limit: float, *, now: float
) -> tuple[list[str], list[str]]:
    """Return which queues of *rows* have an event leased for longer than *limit*, and for which that is unknown."""
    stores = {store.name: store for store in reached}
    over: list[str] = []
    unknown: list[str] = []
    for row in rows:
        if row["error"] is not None or row["leased"] == 0:
            continue
        place, store = f"{row['transport']}/{row['queue']}", stores[row["transport"]]
        if not store.capabilities.waiting:
            unknown.append(f"{place}: --max-leased cannot be judged, since its transport cannot list leased events")
        elif (since := _first_lease(store, row["queue"])) is not None and now - since > limit:
            over.append(
                f"{place}: one leased for {age(now - since)}, at most {limit:g} s; see relevo list --state running"
            )
    return over, unknown


def _first_lease(store: Transport, queue: str) -> float | None:
    """Return when the event of *queue* was leased that has been leased the longest; ``None`` if that is unknown."""
    leased = _listed(store, queue, "leased")
    return min((each.leased_at for each in leased if each.leased_at is not None), default=None)


def _listed(store: Transport, queue: str, status: Status) -> Iterator[WaitingEntry]:
    """Yield the events of *queue* in the state *status*."""
    where, after = EventFilter(states=(status,)), None
    while page := store.waiting([queue], where=where, after=after, limit=_PAGE):
        after = page[-1].cursor
        yield from page


def _figures(app: App, place: Place) -> list[dict[str, Any]]:
    if not place.is_outbox:
        routed = app.routes.queues(place.store.name)
        return [_row(place.store, queue, is_routed=queue in routed) for queue in place.queues]
    queue = outbox_queue(place.transport)
    lag = _lag(place.store, queue, now=app.clock.now())
    return [{**_row(place.store, queue, is_routed=True), "relays_to": place.transport, "lag": lag}]


def _unrouted_row(left: UnroutedQueue, *, now: float) -> dict[str, Any]:
    """Return the figures of a queue without a route; the events of an outbox wait for a relay that does not exist."""
    row = _row(left.store, left.queue, is_routed=False)
    return {**row, "lag": _lag(left.store, left.queue, now=now)} if left.queue.startswith(RESERVED) else row


def _lag(store: Transport, queue: str, *, now: float) -> float | None:
    """
    Return for how many seconds the oldest event of the outbox *queue* has waited; ``None`` if that is unknown.

    It may be ready, with a relay, or given back by one; a delay of its own does not count.
    """
    if not store.capabilities.waiting:
        return None
    due = store.waiting_groups([queue], by="state", where=EventFilter(states=("ready", "leased")))
    given_back = (each.enqueued_at for each in _listed(store, queue, "scheduled") if each.attempt > 1)
    since = min((*(each.oldest for each in due), *given_back), default=now)
    return max(0.0, now - since)


def _show_lag(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the lag of each relay for which events wait."""
    lines: list[str] = []
    for row in rows:
        waiting = sum(row[state] or 0 for state in ("ready", "leased", "scheduled"))
        if row["relays_to"] is not None and waiting:
            wait = "1 event waits" if waiting == 1 else f"{waiting} events wait"
            oldest = f", the oldest for {age(row['lag'])}" if row["lag"] else ""
            lines.append(f"{wait} in {row['transport']} for the relay to {row['relays_to']}{oldest}")
    for line in ["", *lines] if lines else ():
        echo(visible(line))


def _note_workers(app: App, place: Place, rows: Sequence[dict[str, Any]]) -> None:
    """Note in *rows* which workers hold events of their queues; that it is unknown is reported."""
    try:
        known = announced_holders(app, place.store)
    except RelevoError as error:
        click.echo(visible(f"relevo: the workers that hold events are unknown: {error}"), err=True)
        return
    for row in rows if known is not None else ():
        held: dict[str, dict[str, Any]] = {}
        for (queue, _, _), holder in (known or {}).items():
            if queue == row["queue"]:
                one = held.setdefault(holder.worker, {"worker": holder.worker, "holds": 0, "running": []})
                one["holds"] += 1
                one["running"] += [holder.listener] if holder.listener else []
        row["workers"] = list(held.values())


def _show_workers(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print which worker holds events of each queue whose transport cannot list them."""
    lines: list[str] = []
    for row in rows:
        for each in row["workers"] or () if row["stuck"] is None else ():
            events = "1 event" if each["holds"] == 1 else f"{each['holds']} events"
            runs = ", ".join(dict.fromkeys(each["running"]))
            what = f"; it runs {runs}" if runs else ""
            lines.append(f"{each['worker']} holds {events} of {row['transport']}/{row['queue']}{what}")
    for line in ["", *lines] if lines else ():
        echo(visible(line))


def _note_pauses(app: App, place: Place, rows: Sequence[dict[str, Any]]) -> None:
    """Note in *rows* which of their queues are paused; that it is unknown is reported."""
    try:
        pauses = paused_in(app, place)
    except RelevoError as error:
        click.echo(visible(f"relevo: whether a queue is paused is unknown: {error}"), err=True)
        return
    for row in rows:
        row["paused"] = row_of(pauses.get(row["queue"]))


def _show_pauses(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print which queues are paused, with the time, the operator and the reason."""
    paused = [row for row in rows if row["paused"]]
    if paused:
        echo()
    for row in paused:
        about = row["paused"]
        why = f": {about['reason']}" if about["reason"] else ""
        by = f" by {about['by']}" if about["by"] else ""
        where = f"{row['transport']}/{row['queue']}"
        echo(
            visible(f"{where} has been paused since {about['since']}{by}{why}; to resume it: relevo resume -q {where}")
        )


def _row(store: Transport, queue: str, *, is_routed: bool) -> dict[str, Any]:
    figures = store.stats(queue) if store.capabilities.stats != "none" else Stats()
    return {
        "transport": store.name,
        "queue": queue,
        "ready": figures.ready,
        "leased": figures.leased,
        "scheduled": figures.scheduled,
        "dead": figures.dead,
        "oldest": figures.oldest_age,
        "stuck": _stuck(store, queue),
        "routed": is_routed,
        "relays_to": None,
        "lag": None,
        "workers": None,
        "paused": None,
        "error": None,
    }


def _stuck(store: Transport, queue: str) -> dict[str, Any] | None:
    """Return the stuck ordering keys of *queue*; ``None`` if that is not known."""
    claims = store.capabilities
    if not claims.waiting:
        return None
    found = store.stuck_keys([queue], limit=_MOST) if claims.order == "per key" else StuckKeys()
    return {"total": found.total, "keys": [_key_row(each) for each in found.keys]}


def _key_row(stuck: StuckKey) -> dict[str, Any]:
    first = stuck.first
    row: dict[str, Any] = {"key": stuck.key, "waiting": stuck.waiting, "since": when(stuck.since)}
    if first is None:
        return {**row, "first": None}
    of_first = {
        "event": first.envelope.name,
        "id": first.envelope.id,
        "status": first.status,
        "attempt": first.attempt,
        "lost_leases": first.lost_leases,
        "leased": None if first.leased_at is None else when(first.leased_at),
        "until": None if first.until is None else when(first.until),
    }
    return {**row, "first": of_first}


def _show_stuck(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the stuck ordering keys of *rows*, those stuck the longest first, and the number of all."""
    known = [row for row in rows if row["stuck"] is not None]
    total = sum(row["stuck"]["total"] for row in known)
    if not total:
        return
    keys = [{**row, **key, "behind": _why(key["first"])} for row in known for key in row["stuck"]["keys"]]
    keys.sort(key=lambda key: str(key["since"]))
    keys = keys[:_MOST]
    echo()
    some = f"; the {len(keys)} that have been the longest" if total > len(keys) else ""
    echo(f"{total} ordering key{'s are' if total > 1 else ' is'} stuck{some}:")
    show_table(_STUCK_COLUMNS, keys, empty="")


def _why(first: Mapping[str, Any] | None) -> str:
    """Return what a key waits for, in words."""
    if first is None:
        return "an event that another program deleted; an idle worker goes on within a minute"
    what = f"{first['event']} {first['id']}, attempt {first['attempt']}"
    if first["status"] == "scheduled":
        return f"{what}, {'retried' if first['attempt'] > 1 else 'due'} at {first['until']}"
    lost = first["lost_leases"]
    suspect = f", {lost} lost lease{'s' if lost > 1 else ''}" if lost else ""
    return f"{what}{suspect}, leased{' since ' + first['leased'] if first['leased'] else ''}"
