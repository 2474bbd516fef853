"""Output: tables for people, JSON for programs."""

from __future__ import annotations

import datetime as dt
import errno
import io
import json
import math
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from functools import lru_cache
from typing import Any, TextIO

import attrs
import click

from relevo._secret import masked
from relevo._visible import visible

_DOCUMENT = "relevo.cli.document"
"""The key under which a command stores the stream that is reserved for its document."""


@contextmanager
def reserve_stdout() -> Iterator[None]:
    """
    Reserve standard output for :func:`show_document` and :func:`show_json` while the block runs.

    Output of modules, listeners, plugins and their child processes goes to standard error.
    """
    own = sys.stdout
    if own is None:  # closed by the caller
        yield
        return
    with _set_aside(own) as document, redirect_stdout(sys.stderr):
        meta = click.get_current_context().meta
        meta[_DOCUMENT] = document
        try:
            yield
        finally:
            del meta[_DOCUMENT]


@contextmanager
def _set_aside(own: TextIO) -> Iterator[TextIO]:
    """Yield a copy of *own*, whose file descriptor leads to standard error while the block runs."""
    own.flush()
    try:
        number = own.fileno()
    except io.UnsupportedOperation:  # not a file, as in a test
        yield own
        return
    copy = os.dup(number)
    try:
        _lead_to_standard_error(number)
        document = open(copy, "w", encoding=own.encoding, errors=own.errors, closefd=False)  # noqa: SIM115 - see below
        try:
            yield document
        finally:
            with suppress(OSError):  # everything was flushed at once; an error would be raised twice
                document.close()
    finally:
        own.flush()
        os.dup2(copy, number)
        os.close(copy)


def _lead_to_standard_error(number: int) -> None:
    try:
        os.dup2(sys.stderr.fileno(), number)
    except (AttributeError, OSError):  # it is closed too, or not a file
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)


def echo(text: str = "", *, nl: bool = True, file: TextIO | None = None) -> None:
    """
    Print *text* to standard output, or to *file*.

    Raises:
        OSError: The caller has closed standard output. Python and click would ignore the text.
    """
    if file is None and sys.stdout is None:
        raise OSError(errno.EBADF, "it is closed")
    click.echo(text, nl=nl, file=file)


def show_document(text: str) -> None:
    """Print *text* unchanged to the reserved standard output."""
    echo(text, nl=False, file=click.get_current_context().meta.get(_DOCUMENT))


def show_json(value: object, *, sort_keys: bool = False) -> None:
    """
    Print *value* as JSON, without passwords.

    Control characters are escaped, also those that JSON permits, and characters that standard output cannot encode.
    """
    show_document(_json(value, sort_keys=sort_keys) + "\n")


def show_json_list(values: Iterable[object]) -> None:
    """
    Print *values* as a JSON array, as :func:`show_json` prints them; all of them need not fit into memory.

    Nothing is printed if *values* raises an error.
    """
    with tempfile.SpooledTemporaryFile(_IN_MEMORY, "w+", encoding="utf-8", newline="") as kept:
        is_empty = True
        for value in values:
            kept.write("[\n" if is_empty else ",\n")
            is_empty = False
            kept.write("\n".join(f"  {line}" for line in _json(value).split("\n")))
        kept.write("[]\n" if is_empty else "\n]\n")
        kept.seek(0)
        while text := kept.read(_IN_MEMORY):
            show_document(text)


_IN_MEMORY = 4 << 20
"""Characters of a JSON array that are held in memory; a longer one is kept in a temporary file until it is complete."""


def _json(value: object, *, sort_keys: bool = False) -> str:
    out = click.get_current_context().meta.get(_DOCUMENT) or sys.stdout
    value = _expressible(value)
    text = json.dumps(value, indent=2, ensure_ascii=False, sort_keys=sort_keys)
    try:
        text.encode(getattr(out, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2, sort_keys=sort_keys)
    if not text.replace("\n", "").isprintable():
        text = "".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text)
    return text


def _expressible(value: object) -> object:
    """
    Return *value* with masked passwords, and as text what JSON cannot express.

    Those are numbers such as NaN, lone surrogates, and other objects.
    """
    match value:
        case str():
            text = masked(value)
            return text if text.isprintable() else text.encode("utf-8", "backslashreplace").decode()
        case float() if math.isfinite(value):
            return value
        case int() | None:
            return value
        case Mapping():
            return {_expressible_key(str(key)): _expressible(each) for key, each in value.items()}
        case list() | tuple():
            return [_expressible(each) for each in value]
    return _expressible(str(value))


@lru_cache(256)
def _expressible_key(key: str) -> object:
    """Return *key* as :func:`_expressible` does; the rows of a list have the same keys, most of their texts."""
    return _expressible(key)


def show_table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], *, empty: str) -> None:
    """Print *rows* as a table, or *empty* if there are none; lines are not folded without a terminal."""
    if not rows:
        echo(empty)
        return
    texts = [[_cell(row.get(column)) for column in columns] for row in rows]
    numbers = [any(isinstance(row.get(column), (int, float)) for row in rows) for column in columns]
    widths = [max(map(_width, each)) for each in zip(columns, *texts, strict=True)]
    room = shutil.get_terminal_size().columns if at_terminal(sys.stdout) else 10_000
    *firm, last = widths
    others = sum(firm) + 2 * len(firm)
    if others + last <= room:
        for line in _plain_table(columns, texts, numbers, widths):
            echo(line)
    elif others + _FOLDED <= room:
        _show_folded(columns, texts, numbers, room)
    else:
        _show_records(columns, texts)


def _plain_table(
    columns: Sequence[str], texts: Sequence[Sequence[str]], numbers: Sequence[bool], widths: Sequence[int]
) -> Iterator[str]:
    """Yield the lines of a table that needs no folding; without rich, which takes longer than most commands."""
    is_styled = at_terminal(sys.stdout) and os.environ.get("TERM") not in ("dumb", "unknown")
    for row in (columns, *texts):
        cells = []
        for text, is_number, width in zip(row, numbers, widths, strict=True):
            space = " " * (width - _width(text))
            cells.append(space + text if is_number else text + space)
        line = "  ".join(cells).rstrip()
        yield f"\x1b[1m{line}\x1b[0m" if is_styled and row is columns else line


def _width(text: str) -> int:
    """Return the number of columns that *text* takes at a terminal."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # noqa: PLC0415 - as below

    return cell_len(text)


def _show_folded(columns: Sequence[str], texts: Sequence[Sequence[str]], numbers: Sequence[bool], room: int) -> None:
    """Print a table whose last column is folded."""
    from rich.console import Console  # noqa: PLC0415 - slow to import: benchmarks/command_line.py
    from rich.table import Table  # noqa: PLC0415 - as above
    from rich.text import Text  # noqa: PLC0415 - as above

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, is_number in zip(columns, numbers, strict=True):
        table.add_column(column, justify="right" if is_number else "left", overflow="fold")
    for each in texts:
        table.add_row(*map(Text, each))
    console = Console(width=room)
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        echo(line.rstrip())


_FOLDED = 20
"""The smallest width to which the last column of a table is folded; the others are not folded."""


def _show_records(columns: Sequence[str], texts: Sequence[Sequence[str]]) -> None:
    """Print a value in each line, for a terminal that is too narrow for a table."""
    width = max(map(len, columns)) + 2
    for number, row in enumerate(texts):
        if number:
            echo()
        for column, text in zip(columns, row, strict=True):
            echo(f"{column + ':':<{width}}{text}")


@attrs.frozen
class Column:
    """A column of a table with a line for each row."""

    name: str
    firm: bool = False
    """It is never cut."""

    ends: bool = False
    """If it is cut, its end is shown, since its beginning is the same in most rows."""


def show_lines(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]], *, empty: str) -> None:
    """
    Print *rows* as a table, or *empty* if there are none; each row is one line.

    In a terminal that is too narrow for them, the widest texts are cut. Without a terminal nothing is cut.
    """
    if not rows:
        echo(empty)
        return
    lines = [[each.name for each in columns], *([_cell(row.get(each.name)) for each in columns] for row in rows)]
    widths = [max(map(_width, texts)) for texts in zip(*lines, strict=True)]
    if at_terminal(sys.stdout):
        widths = _fitting(widths, [each.firm for each in columns], shutil.get_terminal_size().columns)
    for line in lines:
        cut = (_cut(text, width, column) for text, width, column in zip(line, widths, columns, strict=True))
        echo("  ".join(text + " " * (width - _width(text)) for text, width in zip(cut, widths, strict=True)).rstrip())


def _fitting(widths: Sequence[int], firm: Sequence[bool], room: int) -> list[int]:
    """Return *widths* of which the widest are reduced to the same number, so that a line has *room* for them."""
    most = max(widths)
    while most > _NARROWEST:
        found = [width if is_firm else min(width, most) for width, is_firm in zip(widths, firm, strict=True)]
        if sum(found) + 2 * (len(found) - 1) <= room:
            # What is left over goes to the last column, in which people read most.
            return [*found[:-1], min(widths[-1], room - sum(found[:-1]) - 2 * (len(found) - 1))]
        most -= 1
    return [width if is_firm else min(width, most) for width, is_firm in zip(widths, firm, strict=True)]


_NARROWEST = 5
"""Characters to which a column is cut at most."""


def _cut(text: str, width: int, column: Column) -> str:
    """Return *text* in at most *width* cells of a terminal."""
    if _width(text) <= width:
        return text
    left = _beginning(text[::-1], width - 1)[::-1] if column.ends else _beginning(text, width - 1)
    return f"…{left}" if column.ends else f"{left}…"


def _beginning(text: str, width: int) -> str:
    if text.isascii():
        return text[:width]
    from rich.cells import set_cell_size  # noqa: PLC0415 - as below

    return set_cell_size(text, width)


def _cell(value: object) -> str:
    return "-" if value is None else visible(shortened(str(value)))


def at_terminal(stream: TextIO | None) -> bool:
    """Return whether *stream* is a terminal; ``None`` if the caller has closed it."""
    return stream is not None and stream.isatty()


def when(seconds: float) -> str:
    """Return *seconds* since the epoch as a date and time in UTC; as a number if they are out of range."""
    try:
        moment = dt.datetime.fromtimestamp(seconds, dt.UTC)
    except (ValueError, OverflowError, OSError):
        return "unknown" if math.isnan(seconds) else f"{seconds:g} s after 1970"
    return moment.strftime("%Y-%m-%d %H:%M:%SZ")


def age(seconds: float | None) -> str | None:
    """Return *seconds* in the largest unit that fits."""
    if seconds is None:
        return None
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("m", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


SHOWN = 64 * 1024
"""The largest number of bytes of a body, and of characters of a text, that is shown."""

_CELL = 1000
"""The largest number of characters of a value in a table."""


def shortened(text: str, limit: int = _CELL) -> str:
    """Return *text*, cut after *limit* characters, with its full length."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters in all)"


_OF_A_LISTENER = re.compile(r".*?: [a-z-]+ after \d+ runs?: ")


def first_line(text: str, limit: int = 90) -> str:
    """Return the first line of *text*, the error of a dead letter, without the listener, for a table."""
    lines = [line.strip() for line in text[:SHOWN].splitlines() if line.strip()]
    chosen = lines[0] if lines else ""
    if listener := _OF_A_LISTENER.match(chosen):  # a search would take quadratic time
        chosen = chosen[listener.end() :]
    return chosen if len(chosen) <= limit else chosen[: limit - 1] + "…"
