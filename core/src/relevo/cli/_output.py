"""How commands show things: tables for people, JSON for programs."""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click


def show_json(value: object) -> None:
    """Print *value* as JSON."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def show_table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], *, empty: str) -> None:
    """Print *rows* as a table, or *empty* if there are none."""
    if not rows:
        click.echo(empty)
        return
    from rich.console import Console  # noqa: PLC0415 - only for people, and slow to import
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(
            column, justify="right" if isinstance(rows[0].get(column), (int, float)) else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text("–" if row.get(column) is None else str(row[column])) for column in columns))
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(table)


def when(seconds: float) -> str:
    """Return *seconds* since the epoch for people, in UTC."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%SZ")


def first_line(text: str, limit: int = 90) -> str:
    """Return what a table can show of *text*: the last line of a traceback says most."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    chosen = lines[-1] if lines else ""
    return chosen if len(chosen) <= limit else chosen[: limit - 1] + "…"
