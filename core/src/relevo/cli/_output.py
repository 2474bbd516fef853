"""How commands show things: tables for people, JSON for programs."""

from __future__ import annotations

import datetime as dt
import json
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import click


def show_json(value: object) -> None:
    """Print *value* as JSON; what UTF-8 has no form for is escaped, as JSON can."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    lone = re.compile("[\ud800-\udfff]")
    click.echo(lone.sub(lambda match: f"\\u{ord(match[0]):04x}", text))


def show_table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], *, empty: str) -> None:
    """Print *rows* as a table, or *empty* if there are none; whole lines where nobody sits at a terminal."""
    if not rows:
        click.echo(empty)
        return
    from rich.console import Console  # noqa: PLC0415 - only for people, and slow to import
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        numbers = any(isinstance(row.get(column), (int, float)) for row in rows)
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text("-" if row.get(column) is None else visible(str(row[column]))) for column in columns))
    console = Console(width=None if at_terminal(sys.stdout) else 10_000)
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def at_terminal(stream: TextIO | None) -> bool:
    """Return whether a person sees *stream*, which is ``None`` where the caller has closed it."""
    return stream is not None and stream.isatty()


def visible(text: str, *, lines: bool = True) -> str:
    """
    Return *text* without what a terminal would obey: events and errors may hold anything.

    Args:
        text: Whatever it is.

        lines: Leave its line breaks and tabulators.
    """
    if text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(each if each.isprintable() or each in kept else ascii(each)[1:-1] for each in text)


def when(seconds: float) -> str:
    """Return *seconds* since the epoch for people, in UTC."""
    moment = dt.datetime.fromtimestamp(seconds, dt.UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%SZ")


_OF_A_LISTENER = re.compile(r".*?: [a-z-]+ after \d+ runs?: ")


def first_line(text: str, limit: int = 90) -> str:
    """Return what a table can show of *text*, the error of a dead letter: how it begins, without the listener."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    chosen = _OF_A_LISTENER.sub("", lines[0], count=1) if lines else ""
    return chosen if len(chosen) <= limit else chosen[: limit - 1] + "…"
