"""A progress bar at a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs
import click


@attrs.frozen
class Bar:
    """A bar that grows; without a terminal it is not shown."""

    advance: Callable[[int], None]
    """Adds a number of things that are done."""

    tell: Callable[[str], None]
    """Prints a line to standard error, above the bar."""


@contextmanager
def progress(what: str, *, total: int | None = None, show: bool) -> Iterator[Bar]:
    """
    Show a bar on standard error while the block runs, with the number of things that are done, and the rate.

    Args:
        what: What is being done, as in ``dispatching``.

        total: The number of things; ``None`` if it is not known.

        show: Show it.
    """
    if not show:
        yield Bar(lambda _: None, lambda line: click.echo(line, err=True))
        return
    from rich.console import Console  # noqa: PLC0415 - slow to import, and only a terminal needs it
    from rich.progress import (  # noqa: PLC0415 - as above
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True, soft_wrap=True)
    began = time.monotonic()
    with Progress(*columns, console=console, transient=True, redirect_stdout=False) as bar:
        row = bar.add_task(what, total=total, rate="")

        def advance(number: int) -> None:
            done, passed = bar.tasks[0].completed + number, time.monotonic() - began
            bar.update(row, completed=done, rate=f"{done / passed:,.0f}/s" if passed else "")

        yield Bar(advance, lambda line: console.print(line, markup=False, highlight=False))
