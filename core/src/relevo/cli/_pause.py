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
from relevo.cli._controls import StoreControls, row_of
from relevo.cli._main import refuse_invalid
from relevo.cli._option import json_option, queue_option, transport_option, with_app
from relevo.cli._output import echo, show_json
from relevo.cli._place import Place, places, tell_private
from relevo.errors import TransportUnavailableError

_WITHIN = "within 2 seconds"
"""How soon a pause takes effect: workers look once a second, and a look takes a moment."""

_WORKER = re.compile(r"[^:\s]+:[0-9]{1,10}", re.ASCII)

_PRIVATE = "so no other process sees this"


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

    It takes effect within 2 seconds. Running listeners finish. Events are dispatched as before, schedules fire, and
    all of that waits. It also holds for workers that start later. `relevo status` shows who paused a queue, when and
    why; if it is paused already, that stays.

    The transport needs a coordinator, such as a database. For RabbitMQ, set one in the configuration. A worker that
    cannot reach the coordinator keeps to the pauses that it read last.

    The queue of an outbox can be paused like any other, as with -q outbox/main; --all leaves it out, so events are
    still moved to their transport.

    Example: relevo pause -q main/feed --reason "the API is down"
    """
    _require_choice(queues, every=every, option="--queue")
    if reason and len(reason) > MAX_REASON:
        raise click.UsageError(f"--reason: expected at most {MAX_REASON} characters; got {len(reason)}")
    rows: list[dict[str, Any]] = []
    for controls in _controls_of(app, _chosen(app, transport, queues)):
        name, before = controls.place.store.name, controls.pauses()
        for queue in controls.place.queues:
            found = before.get(queue)
            if found is None:
                since, by = app.clock.now(), _operator()
                found = Pause(transport=controls.transport, queue=queue, since=since, by=by, reason=reason or "")
                controls.store.set_control(found.key, packed(found), ttl=FOR_EVER)
            rows.append({"transport": name, "queue": queue, "new": queue not in before, **(row_of(found) or {})})
    if as_json:
        show_json(rows)
        return 0
    for row in rows:
        state = f"is paused; that takes effect {_WITHIN}" if row["new"] else _as_before(row)
        echo(visible(f"{row['transport']}/{row['queue']} {state}"))
    return 0


@click.command()
@transport_option
@queue_option
@click.option("--all", "every", is_flag=True, help="Resume all queues that are paused.")
@click.option("--reason", metavar="TEXT", callback=refuse_invalid, help="Only those that were paused for this reason.")
@json_option
@with_app
def resume(
    *, app: App, transport: str | None, queues: tuple[str, ...], every: bool, reason: str | None, as_json: bool
) -> int:
    """
    Let workers handle the events of a paused queue again.

    It takes effect within 2 seconds.

    Example: relevo resume -q main/feed
    """
    _require_choice(queues, every=every, option="--queue")
    rows: list[dict[str, Any]] = []
    for controls, found in list(_paused(app, transport, queues)):
        if reason is not None and found.reason != reason:
            continue
        controls.store.set_control(found.key, b"", ttl=0.0)
        rows.append({"transport": controls.place.store.name, "queue": found.queue, **(row_of(found) or {})})
    if as_json:
        show_json(rows)
        return 0
    for row in rows:
        echo(visible(f"{row['transport']}/{row['queue']} is resumed; it had been paused since {row['since']}"))
    resumed = {name for row in rows for name in (row["queue"], f"{row['transport']}/{row['queue']}")}
    if every and not rows:
        echo("no queue was paused" if reason is None else "no queue was paused for this reason")
    if left := [each for each in queues if each not in resumed]:
        echo(f"not paused{'' if reason is None else ' for this reason'}: {visible(', '.join(left))}")
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
    program. To keep events from being handled, pause their queues. A worker stops within 2 seconds, unless its process
    was started later; the clocks of the hosts should agree. Drains and relays are asked too.

    The transport needs a coordinator, such as a database. For RabbitMQ, set one in the configuration.

    Example: relevo stop --all
    """
    _require_choice(workers, every=every, option="--worker")
    for each in workers:
        if not _WORKER.fullmatch(each):
            raise click.UsageError(f'--worker: expected HOST:PID, as in web-1:4711; got "{each}"')
    rows: list[dict[str, Any]] = []
    seen = set[tuple[int, str]]()
    for controls in _controls_of(app, places(app, transport)):
        if (id(controls.store), controls.transport) in seen:
            continue
        seen.add((id(controls.store), controls.transport))
        for worker in workers or ("",):
            request, since = secrets.token_hex(16), app.clock.now()
            asked = Stop(transport=controls.transport, worker=worker, request=request, since=since, by=_operator())
            controls.store.set_control(asked.key, packed(asked), ttl=STOP_FOR)
            rows.append({"transport": controls.place.store.name, "worker": worker or None})
    if as_json:
        show_json(rows)
        return 0
    who = visible(", ".join(workers)) or "all workers"
    where = ", ".join(dict.fromkeys(row["transport"] for row in rows))
    echo(f"asked {who} of {visible(where)} to stop, which takes effect {_WITHIN} where they run")
    return 0


def _require_choice(chosen: Sequence[str], *, every: bool, option: str) -> None:
    """Refuse a command without a choice, or with some and all."""
    if bool(chosen) == every:
        raise click.UsageError(f"expected {option} or --all; got {'both' if every else 'neither'}")


def _chosen(app: App, transport: str | None, queues: Sequence[str]) -> list[Place]:
    """Return the places with the queues to pause; all are those of transports, unless an outbox was named."""
    found = places(app, transport, queues)
    return found if queues else ([each for each in found if not each.is_outbox] or found)


def _controls_of(app: App, found: Sequence[Place]) -> list[StoreControls]:
    """Return where the controls of each place are kept, all set up before the first is written."""
    found_controls = [StoreControls.required(app, place) for place in found]
    for each in found_controls:
        tell_private(each.place.store, _PRIVATE)
    return found_controls


def _as_before(row: dict[str, Any]) -> str:
    """Return how a queue was paused already."""
    by = f" by {row['by']}" if row["by"] else ""
    why = f": {row['reason']}" if row["reason"] else ""
    return f"has been paused since {row['since']}{by}{why}; that stays"


def _paused(app: App, transport: str | None, queues: Sequence[str]) -> Iterator[tuple[StoreControls, Pause]]:
    """
    Yield the pauses of *queues*, or all; a paused queue may have lost its route, and be empty.

    What has no coordinator has no paused queue. What cannot be reached matters only if a queue was not found elsewhere.
    """
    found = places(app, transport)
    there: dict[tuple[int, str], tuple[StoreControls, Pause]] = {}
    unreachable: TransportUnavailableError | None = None
    for place in [each for each in found if StoreControls.of(app, each) is not None] or found[:1]:
        try:
            controls = StoreControls.required(app, place)
            pauses = controls.pauses()
        except TransportUnavailableError as error:
            if not queues:
                raise
            unreachable = error
            continue
        tell_private(place.store, _PRIVATE)
        there |= {(id(place.store), queue): (controls, each) for queue, each in pauses.items()}
    names = set(queues)
    for controls, pause in there.values():
        full = f"{controls.place.store.name}/{pause.queue}"
        if not queues or not {pause.queue, full}.isdisjoint(queues):
            names -= {pause.queue, full}
            yield controls, pause
    if names and unreachable is not None:
        raise unreachable
    if names:  # a name that is misspelt is an error
        places(app, transport, sorted(names))


def _operator() -> str:
    """Return who runs this command, as ``user@host``."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # in a container, a user may have no name
        user = str(os.getuid())
    return f"{user}@{os.uname().nodename}"[:255].encode("utf-8", "replace").decode()
