"""Options that choose events and dead letters."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Literal, TypeVar

import click

from relevo._clock import seconds
from relevo._transport.delivery import Failure
from relevo._transport.query import EventGroup, Names
from relevo.cli._main import refuse_invalid
from relevo.cli._output import Column, echo, show_json, show_json_list, show_lines, show_table, when
from relevo.cli._parameter import Choice, Whole
from relevo.errors import ConfigurationError, shown

event_option = click.option(
    "--event",
    "names",
    multiple=True,
    metavar="NAME",
    callback=refuse_invalid,
    help="Only events with this name, or with a prefix, as in image.*; may be repeated.",
)
state_option = click.option(
    "--state",
    "states",
    multiple=True,
    type=Choice(["ready", "leased", "running", "scheduled"]),
    help="Only events in this state; may be repeated. running: the leased events with a listener that a worker "
    "reports as running; this reads all leased events.",
)


def listener_option(text: str) -> Callable[[Any], Any]:
    """Return the option that chooses by the listener that failed; *text* is its help."""
    return click.option("--listener", "listeners", multiple=True, metavar="ID", callback=refuse_invalid, help=text)


def error_option(text: str) -> Callable[[Any], Any]:
    """Return the option that chooses by the text of an error; *text* is its help."""
    return click.option("--error", "errors", multiple=True, metavar="TEXT", callback=refuse_invalid, help=text)


def has_failed(failure: Failure, listeners: Sequence[str], errors: Sequence[str]) -> bool:
    """
    Return whether *failure* is of one of *listeners*, and its error contains one of the texts *errors*.

    The traceback is not searched: it quotes the source, where errors stand that were not raised.
    """
    is_of = Names.of(listeners).match(failure.listener or None)
    return is_of and (not errors or any(error in failure.error for error in errors))


T = TypeVar("T")

TABLE_LIMIT = 100
"""The rows of a table, unless an option sets another number."""

_LONGEST_TIME = len("2026-03-04T09:15:00.000000+00:00:00.000000")


def _date(text: str) -> dt.datetime | None:
    """Parse a date and time; Python takes any character between the two, and any number of digits at the end."""
    if len(text) > _LONGEST_TIME or (text.isdecimal() and len(text) != len("20260304")):
        return None
    try:
        return dt.datetime.fromisoformat(text)
    except ValueError:
        return None


_TIME_OF_DAY = re.compile(r"[0-9]{2}:[0-9]{2}(:[0-9]{2})?(Z|[+-][0-9]{2}:[0-9]{2})?")


def last_moment(text: str, now: dt.datetime) -> dt.datetime | None:
    """Return the last moment before *now* at which the time of day was *text*; ``None`` if no day has that time."""
    try:
        time = dt.time.fromisoformat(text)
    except ValueError:
        return None
    zone = time.tzinfo or dt.UTC
    today = dt.datetime.combine(now.astimezone(zone).date(), time, zone)
    return today if today <= now else today - dt.timedelta(days=1)


def _time(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Read a moment: a time before now such as 2h, the most recent time of day such as 22:00, or a date and time."""
    if value is None:
        return None
    now = dt.datetime.now(dt.UTC)
    try:
        return now.timestamp() - seconds(value)
    except ConfigurationError:
        pass
    found = last_moment(value, now) if _TIME_OF_DAY.fullmatch(value) else _date(value)
    if found is None:
        raise click.BadParameter(
            f'expected a time before now such as "2h", a time of day such as "22:00", or a date and time such as '
            f'"2026-03-04 09:15"; in UTC, or with an offset such as +02:00; got {shown(value)}',
            ctx,
            param,
        )
    return (found if found.tzinfo is not None else found.replace(tzinfo=dt.UTC)).timestamp()


def time_options(what: str) -> Callable[[Any], Any]:
    """Return the options --since and --until; *what* happened at that time."""

    def add(command: Any) -> Any:
        for name, side in (("--until", "before then"), ("--since", "then or later")):
            command = click.option(
                name,
                metavar="TIME",
                callback=_time,
                help=f"Only those that were {what} {side}. TIME is 2h for two hours ago, 22:00 for the most recent "
                f"22:00, or a date and time; in UTC unless an offset follows, as in 22:00+02:00.",
            )(command)
        return command

    return add


def by_option(*keys: str, text: str = "Count them by this property instead of listing them.") -> Callable[[Any], Any]:
    """Return the option that counts by one of *keys*; *text* is its help."""
    return click.option("--by", type=click.Choice(keys), help=text)


limit_option = click.option(
    "--limit",
    type=Whole(min=1),
    metavar="N",
    help=f"Stop after N; by default a table stops after {TABLE_LIMIT}, and --json lists all.",
)


def show_listed(
    found: Iterable[T],
    columns: Sequence[Column],
    *,
    row: Callable[[T], Mapping[str, Any]],
    cells: Callable[[T], Mapping[str, Any]],
    limit: int | None,
    as_json: bool,
    empty: str,
) -> None:
    """
    Print what was *found*, as JSON or as a table; a table says if there are more.

    Args:
        found: What to print.

        columns: The columns of the table.

        row: Returns a row of the JSON.

        cells: Returns a row of the table.

        limit: How many to print; ``None`` for all as JSON, and for :data:`TABLE_LIMIT` in a table.

        as_json: Print JSON.

        empty: Printed instead of an empty table.
    """
    if as_json:
        show_json_list(map(row, islice(found, limit)))
        return
    most = limit or TABLE_LIMIT
    some = list(islice(found, most + 1))
    show_lines(columns, list(map(cells, some[:most])), empty=empty)
    if len(some) > most:
        echo(f"… and more; raise --limit {most}")


class Tally:
    """Counts by a property what a store cannot count."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str], EventGroup] = {}

    def add(self, store: str, keys: Iterable[str], at: float) -> None:
        """Count one of the transport *store*, sent or dead-lettered *at* that time, in the group of each of *keys*."""
        for key in keys:
            known = self._groups.get((store, key))
            if known is None:
                known = EventGroup(key=key, count=0, oldest=at, newest=at)
            self._groups[store, key] = EventGroup(
                key=key, count=known.count + 1, oldest=min(known.oldest, at), newest=max(known.newest, at)
            )

    @property
    def groups(self) -> list[tuple[str, EventGroup]]:
        """The groups, each with the name of its transport."""
        return [(store, group) for (store, _), group in self._groups.items()]


At = Literal["sent", "died"]


def group_rows(by: str, found: Sequence[tuple[str, EventGroup]], at: At) -> list[dict[str, Any]]:
    """Return a row for each group that was *found* on a transport, the largest first."""
    return [
        {
            "transport": store,
            by: group.key,
            "count": group.count,
            f"first_{at}": when(group.oldest),
            f"last_{at}": when(group.newest),
        }
        for store, group in sorted(found, key=lambda pair: -pair[1].count)
    ]


def show_groups(by: str, found: Sequence[tuple[str, EventGroup]], at: At, *, as_json: bool = False, empty: str) -> None:
    """Print the groups that were *found* on each transport, the largest first."""
    rows = group_rows(by, found, at)
    if as_json:
        show_json(rows)
        return
    blank = "unreadable" if by == "event" else "(none)"
    rows = [{**row, by: row[by] or blank} for row in rows]
    columns = ["transport", by, "count", f"first {at}", f"last {at}"]
    show_table(columns, [dict(zip(columns, row.values(), strict=True)) for row in rows], empty=empty)
