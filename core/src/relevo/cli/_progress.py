"""A progress bar at a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import attrs
import click

if TYPE_CHECKING:
    from rich.progress import Progress


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
    began = time.monotonic()
    with rate_bar(redirect_stdout=False) as bar:
        row = bar.add_task(what, total=total, rate="")

        def advance(number: int) -> None:
            done = bar.tasks[0].completed + number
            bar.update(row, completed=done, rate=rate_of(done, time.monotonic() - began))

        yield Bar(advance, lambda line: bar.console.print(line, markup=False, highlight=False))


def rate_bar(*, redirect_stdout: bool) -> Progress:
    """
    Return a bar on standard error with number, total, rate and remaining time; its tasks have the field ``rate``.

    Args:
        redirect_stdout: Standard output is the same terminal, so that what is printed there has to appear above.
    """
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
    # Lines of a log are not folded, so that they can be copied.
    console = Console(stderr=True, soft_wrap=True)
    return Progress(*columns, console=console, transient=True, redirect_stdout=redirect_stdout)


def rate_of(done: float, seconds: float) -> str:
    """Return how many were *done* in each of *seconds*, for people; empty if that is not known yet."""
    return f"{done / seconds:,.0f}/s" if done and seconds > 0 else ""
