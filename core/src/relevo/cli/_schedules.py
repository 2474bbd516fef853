"""``relevo schedules``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from relevo._app.app import App, parts_of
from relevo._app.schedules import home_of, key_of
from relevo._app.stores import missing_file
from relevo._event.event import Event
from relevo._runner.host_schedules import HostScheduleStore, schedule_store
from relevo._schedule.clockwork import impossible, is_possible
from relevo._schedule.schedule import Schedule
from relevo.cli._main import exit_code, tell
from relevo.cli._option import json_option, transport_option, with_app
from relevo.cli._output import show_json, show_table, when
from relevo.errors import ConfigurationError, RelevoError, TransportUnavailableError

_COLUMNS = ("name", "cron", "timezone", "event", "missed", "transport", "last", "next")
_TIMES = ("last", "next")


@click.command()
@transport_option
@json_option
@with_app
def schedules(*, app: App, transport: str | None, as_json: bool) -> int:
    """
    Show the schedules: the event of each, its last tick, and its next one.

    Last is the last tick that was fired, or left out since it was missed; a - means that there was none yet. Next is
    the first tick after that. If it lies in the past, no worker has fired it yet; then missed says what happens.

    Times are in UTC. With --json they are seconds since the epoch, each schedule has the options of its
    configuration, and "error" says why its ticks are not known; it is null otherwise.

    If a server cannot be reached, the others are shown, the error is reported, and the exit code is 69, or 78 if
    something must be changed.

    Example: relevo schedules
    """
    only = None if transport is None else app.transport(transport).name
    errors: dict[str, RelevoError] = {}
    groups: dict[str, list[Schedule]] = {}
    rows: list[dict[str, Any]] = []
    for schedule in app.schedules:
        try:
            groups.setdefault(home_of(schedule, parts_of(app)), []).append(schedule)
        except RelevoError as error:
            errors[str(error)] = error
            rows += [] if only else [_row(schedule, None, None, now=0, fault=str(error))]
    for name, group in groups.items():
        rows += _rows(app, name, group, errors) if only in (None, name) else []
    if as_json:
        show_json(rows)
    else:
        shown = [{**row, **{key: _shown(row[key]) for key in _TIMES}} for row in rows]
        show_table(_COLUMNS, shown, empty="no schedules")
    for each in errors.values():
        tell(each)
    return max(map(exit_code, errors.values()), default=0)


def _shown(moment: int | None) -> str | None:
    return None if moment is None else when(moment)


def _rows(
    app: App, transport: str, schedules: Sequence[Schedule], errors: dict[str, RelevoError]
) -> list[dict[str, Any]]:
    """Return the rows of *schedules*, those of one *transport*; *errors* get why their ticks are not known."""
    fired: Mapping[str, int] = {}
    fault = None
    try:
        fired = _fired(app, transport, schedules)
    except RelevoError as error:
        errors[str(error)], fault = error, str(error)
    now = int(app.clock.now())
    rows = []
    for each in schedules:
        known, why = fired.get(each.name), fault
        if known is not None and not is_possible(known):
            why = f'the schedule "{each.name}": {impossible(known)}'
            errors[why], known = ConfigurationError(why), None
        rows.append(_row(each, transport, known, now=now, fault=why))
    return rows


def _fired(app: App, name: str, schedules: Sequence[Schedule]) -> Mapping[str, int]:
    """Return up to when each of *schedules* has fired, as far as it is stored; no file is created."""
    store: Any = schedule_store(app, name)
    if isinstance(store, HostScheduleStore):
        if not store.path.exists():
            return {}
    elif missing := missing_file(store):
        raise TransportUnavailableError(
            store.name, f"{missing} yet; the first dispatch, a worker or relevo setup creates it"
        )
    keys = {key_of(app.source, each.name): each.name for each in schedules}
    return {keys[key]: moment for key, moment in store.fired([*keys]).items()}


def _row(
    schedule: Schedule, transport: str | None, fired: int | None, *, now: int, fault: str | None
) -> dict[str, Any]:
    """Return the row of *schedule*, which has *fired* up to that time."""
    is_tick = fired is not None and schedule.next(fired - 1) == fired  # else it is the time of the first start
    event = schedule.event
    return {
        "name": schedule.name,
        "cron": schedule.cron,
        "timezone": schedule.timezone,
        "event": schedule.event_name,
        "arguments": dict(event.arguments) if isinstance(event, Event) else None,
        "missed": schedule.missed,
        "grace": schedule.grace,
        "urgency": schedule.urgency,
        "ordering_key": schedule.ordering_key,
        "expires": schedule.expires,
        "transport": transport,
        "last": fired if is_tick else None,
        "next": None if fault is not None else schedule.next(now if fired is None else fired),
        "error": fault,
    }
