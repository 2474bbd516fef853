"""Output: tables for people, JSON for programs."""

from __future__ import annotations

import datetime as dt
import io
import json
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any, TextIO

import click

_DOCUMENT = "relevo.cli.document"
"""Where a command keeps the standard output that is for its document alone."""


@contextmanager
def kept_for_the_document() -> Iterator[None]:
    """
    Let nothing but :func:`show_document` and :func:`show_json` print to standard output while the block runs.

    What modules, listeners and plugins print goes to standard error, and so does what their child processes write.
    """
    own = sys.stdout
    if own is None:  # whoever called has closed it
        yield
        return
    with _aside(own) as document, redirect_stdout(sys.stderr):
        meta = click.get_current_context().meta
        meta[_DOCUMENT] = document
        try:
            yield
        finally:
            del meta[_DOCUMENT]


@contextmanager
def _aside(own: TextIO) -> Iterator[TextIO]:
    """Give a stream that goes where *own* goes, whose file descriptor leads to standard error meanwhile."""
    own.flush()
    try:
        number = own.fileno()
    except io.UnsupportedOperation:  # no file, as in a test
        yield own
        return
    copy = os.dup(number)
    try:
        _lead_to_standard_error(number)
        document = open(copy, "w", encoding=own.encoding, errors=own.errors, closefd=False)  # noqa: SIM115 - see below
        try:
            yield document
        finally:
            with suppress(OSError):  # all was flushed when it was shown; what failed then would fail once more
                document.close()
    finally:
        own.flush()
        os.dup2(copy, number)
        os.close(copy)


def _lead_to_standard_error(number: int) -> None:
    try:
        os.dup2(sys.stderr.fileno(), number)
    except (AttributeError, OSError):  # it is closed too, or no file
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)


def show_document(text: str) -> None:
    """Print *text*, which is all that standard output is for, as it is."""
    click.echo(text, nl=False, file=click.get_current_context().meta.get(_DOCUMENT))


def show_json(value: object, *, sort_keys: bool = False) -> None:
    """Print *value* as JSON; what standard output has no form for is escaped, as JSON can."""
    out = click.get_current_context().meta.get(_DOCUMENT) or sys.stdout
    value = _finite(value)
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str, sort_keys=sort_keys)
    try:
        text.encode(getattr(out, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2, default=str, sort_keys=sort_keys)
    show_document(text + "\n")


def _finite(value: object) -> object:
    """Return *value* with each number that JSON cannot express, such as NaN, as text."""
    match value:
        case float() if not math.isfinite(value):
            return str(value)
        case Mapping():
            return {key: _finite(each) for key, each in value.items()}
        case list() | tuple():
            return [_finite(each) for each in value]
    return value


def show_table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], *, empty: str) -> None:
    """Print *rows* as a table, or *empty* if there are none; whole lines where nobody sits at a terminal."""
    if not rows:
        click.echo(empty)
        return
    from rich.cells import cell_len  # noqa: PLC0415 - as below
    from rich.console import Console  # noqa: PLC0415 - only for people, and slow to import
    from rich.table import Table  # noqa: PLC0415 - rich is loaded by whoever prints a table
    from rich.text import Text  # noqa: PLC0415 - the same

    texts = [[_cell(row.get(column)) for column in columns] for row in rows]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        numbers = any(isinstance(row.get(column), (int, float)) for row in rows)
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for each in texts:
        table.add_row(*map(Text, each))
    console = Console(width=None if at_terminal(sys.stdout) else 10_000)
    *firm, last = (max(map(cell_len, each)) for each in zip(columns, *texts, strict=True))
    if sum(firm) + 2 * len(firm) + min(last, _FOLDED) > console.width:
        _show_records(columns, texts)
        return
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


_FOLDED = 20
"""Columns of a terminal into which the last column of a table may be folded; the others are not."""


def _show_records(columns: Sequence[str], texts: Sequence[Sequence[str]]) -> None:
    """Print what a terminal is too narrow for as a table, a value in a line."""
    width = max(map(len, columns)) + 2
    for number, row in enumerate(texts):
        if number:
            click.echo()
        for column, text in zip(columns, row, strict=True):
            click.echo(f"{column + ':':<{width}}{text}")


def _cell(value: object) -> str:
    return "-" if value is None else visible(shortened(str(value)))


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
    """Return *seconds* since the epoch as a date and time in UTC; as a number if they are out of range."""
    try:
        moment = dt.datetime.fromtimestamp(seconds, dt.UTC)
    except (ValueError, OverflowError, OSError):
        return "unknown" if math.isnan(seconds) else f"{seconds:g} s after 1970"
    return moment.strftime("%Y-%m-%d %H:%M:%SZ")


SHOWN = 64 * 1024
"""The most bytes of a body, and the most characters of a text, that are shown."""

_CELL = 1000
"""The most characters of a value that a table shows."""


def shortened(text: str, limit: int = _CELL) -> str:
    """Return *text*, cut after *limit* characters, with its full length."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters in all)"


_OF_A_LISTENER = re.compile(r".*?: [a-z-]+ after \d+ runs?: ")


def first_line(text: str, limit: int = 90) -> str:
    """Return what a table can show of *text*, the error of a dead letter: how it begins, without the listener."""
    lines = [line.strip() for line in text[:SHOWN].splitlines() if line.strip()]
    chosen = lines[0] if lines else ""
    if listener := _OF_A_LISTENER.match(chosen):  # a search would take quadratic time
        chosen = chosen[listener.end() :]
    return chosen if len(chosen) <= limit else chosen[: limit - 1] + "…"
