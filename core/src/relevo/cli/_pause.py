"""``relevo pause``, ``relevo resume`` and ``relevo stop``."""

from __future__ import annotations

import getpass
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

import click

from relevo._app.app import App
from relevo._visible import visible
from relevo._worker.control import FOR_EVER, MAX_REASON, STOP_FOR, Pause, Stop, packed
from relevo.cli._controls import Board, row_of
from relevo.cli._main import refuse_invalid
from relevo.cli._option import json_option, queue_option, transport_option, with_app
from relevo.cli._output import echo, show_json
from relevo.cli._place import Place, places, tell_private

_WITHIN = "within 2 seconds"
"""How soon workers heed it: they look once a second, and a look takes a moment."""

_WORKER = re.compile(r"[^:\s]+:[0-9]{1,10}", re.ASCII)

_PRIVATE = "nothing else sees what you ask here"


@click.command()
@transport_option
@queue_option
@click.option("--all", "every", is_flag=True, help="Pause all queues that have a route.")
@click.option("--reason", metavar="TEXT", callback=refuse_invalid, help="Why, for those who see that it is paused.")
@json_option
@with_app
def pause(
    *,
    app: App,
    transport: str | None,
    queues: tuple[str, ...],
    every: bool,
    reason: str | None,
    as_json: bool,
) -> int:
    """
    Let the events of a queue wait: no worker begins one, on any host, until `relevo resume`.

    Workers heed it within 2 seconds. Running listeners finish. Events are dispatched as before, schedules fire, and
    all of that waits. Workers that start later heed it too. `relevo status` shows who paused a queue, when and why.

    The transport needs a coordinator, as a database is. For RabbitMQ, set one in the configuration. A worker that
    cannot reach it goes on as it was known last.

    The queue of an outbox can be paused like any other, as with -q outbox/main; --all leaves it out, so events are
    still moved to their transport.

    Example: relevo pause -q main/feed --reason "the API is down"
    """
    _require_choice(queues, every=every, option="--queue")
    if reason and len(reason) > MAX_REASON:
        raise click.UsageError(f"--reason: expected at most {MAX_REASON} characters; got {len(reason)}")
    rows: list[dict[str, Any]] = []
    for place in _chosen(app, transport, queues):
        board = Board.required(app, place)
        tell_private(place.store, _PRIVATE)
        before = board.pauses()
        for queue in place.queues:
            found, is_new = before.get(queue), queue not in before
            if found is None or reason:
                since = app.clock.now() if found is None else found.since
                found = Pause(transport=board.transport, queue=queue, since=since, by=_operator(), reason=reason or "")
                board.store.set_control(found.key, packed(found), ttl=FOR_EVER)
            rows.append({"transport": place.store.name, "queue": queue, "new": is_new, **(row_of(found) or {})})
    if as_json:
        show_json(rows)
        return 0
    for row in rows:
        state = f"is paused; workers heed it {_WITHIN}" if row["new"] else f"was paused already, since {row['since']}"
        echo(visible(f"{row['transport']}/{row['queue']} {state}"))
    return 0


@click.command()
@transport_option
@queue_option
@click.option("--all", "every", is_flag=True, help="Resume all queues that are paused.")
@json_option
@with_app
def resume(*, app: App, transport: str | None, queues: tuple[str, ...], every: bool, as_json: bool) -> int:
    """
    Let workers handle the events of a paused queue again.

    Workers heed it within 2 seconds.

    Example: relevo resume -q main/feed
    """
    _require_choice(queues, every=every, option="--queue")
    rows: list[dict[str, Any]] = []
    for board, found in _paused(app, transport, queues):
        board.store.set_control(found.key, b"", ttl=0.0)
        rows.append({"transport": board.place.store.name, "queue": found.queue, **(row_of(found) or {})})
    if as_json:
        show_json(rows)
        return 0
    for row in rows:
        echo(visible(f"{row['transport']}/{row['queue']} is handled again; it was paused since {row['since']}"))
    if not rows:
        echo("no queue was paused" if every else f"not paused: {visible(', '.join(queues))}")
    return 0


@click.command()
@transport_option
@click.option(
    "--worker",
    "workers",
    multiple=True,
    metavar="HOST:PID",
    callback=refuse_invalid,
    help="Stop this worker, as relevo status and relevo list show it; may be repeated.",
)
@click.option("--all", "every", is_flag=True, help="Stop all workers that run now.")
@json_option
@with_app
def stop(*, app: App, transport: str | None, workers: tuple[str, ...], every: bool, as_json: bool) -> int:
    """
    Ask workers on any host to end, as TERM does: they finish what runs, and release the rest.

    Supervisor and systemd then start them again, as `relevo unit` lets them: so this is how all workers load a new
    program. To keep events from being handled, pause their queues. A worker heeds it once, within 2 seconds; one that
    starts later is not stopped. Drains and relays are asked too.

    The transport needs a coordinator, as a database is. For RabbitMQ, set one in the configuration.

    Example: relevo stop --all
    """
    _require_choice(workers, every=every, option="--worker")
    for each in workers:
        if not _WORKER.fullmatch(each):
            raise click.UsageError(f'--worker: expected HOST:PID, as in web-1:4711; got "{each}"')
    rows: list[dict[str, Any]] = []
    seen = set[tuple[int, str]]()
    for place in places(app, transport):
        board = Board.required(app, place)
        if (id(board.store), board.transport) in seen:
            continue
        seen.add((id(board.store), board.transport))
        tell_private(place.store, _PRIVATE)
        for worker in workers or ("",):
            request, since = secrets.token_hex(16), app.clock.now()
            asked = Stop(transport=board.transport, worker=worker, request=request, since=since, by=_operator())
            board.store.set_control(asked.key, packed(asked), ttl=STOP_FOR)
            rows.append({"transport": place.store.name, "worker": worker or None})
    if as_json:
        show_json(rows)
        return 0
    who = visible(", ".join(workers)) or "all workers"
    where = ", ".join(dict.fromkeys(row["transport"] for row in rows))
    echo(f"asked {who} of {visible(where)} to stop; they begin no further event {_WITHIN}")
    return 0


def _require_choice(chosen: Sequence[str], *, every: bool, option: str) -> None:
    """Refuse a command without a choice, or with some and all."""
    if bool(chosen) == every:
        problem = "both are given" if every else "none of them is given"
        raise click.UsageError(f"{problem}; pass {option} or --all")


def _chosen(app: App, transport: str | None, queues: Sequence[str]) -> list[Place]:
    """Return the places with the queues to pause; all are those of transports, unless an outbox was named."""
    found = places(app, transport, queues)
    return found if queues else ([each for each in found if not each.is_outbox] or found)


def _paused(app: App, transport: str | None, queues: Sequence[str]) -> Iterator[tuple[Board, Pause]]:
    """Yield the pauses of *queues*, or all; a paused queue may have lost its route, and be empty."""
    boards = [Board.required(app, place) for place in places(app, transport)]
    there = {
        (id(board.place.store), queue): (board, each) for board in boards for queue, each in board.pauses().items()
    }
    names = set(queues)
    for board, found in there.values():
        full = f"{board.place.store.name}/{found.queue}"
        if not queues or names & {found.queue, full}:
            names -= {found.queue, full}
            yield board, found
    if names:  # a name that is misspelt is an error
        places(app, transport, sorted(names))


def _operator() -> str:
    """Return who runs this command, as ``user@host``."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # in a container, a user may have no name
        user = str(os.getuid())
    return f"{user}@{os.uname().nodename}"[:255]
