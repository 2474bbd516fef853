"""The progress of a command: a bar at a terminal, otherwise lines in the log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import attrs
import click

from relevo._log_line import log_to

if TYPE_CHECKING:
    from rich.progress import Progress


_log = logging.getLogger("relevo.cli")

_SELDOM = 10.0
"""Seconds between two lines in the log."""


@attrs.frozen
class Bar:
    """A bar that grows, or a line in the log from time to time."""

    advance: Callable[[int], None]
    """Adds a number of things that are done."""

    tell: Callable[[str], None]
    """Prints a line to standard error, above the bar."""


@contextmanager
def progress(
    what: str,
    *,
    total: int | None = None,
    before: int = 0,
    show: bool,
    monotonic: Callable[[], float] = time.monotonic,
) -> Iterator[Bar]:
    """
    Show a bar on standard error while the block runs, with the number of things that are done, and the rate.

    Args:
        what: What is being done, as in ``dispatching``.

        total: The number of things; ``None`` if it is not known.

        before: The number of things that were done before the block; they do not count in the rate.

        show: Show it; otherwise log the same at the level info, every ten seconds.

        monotonic: Returns seconds.
    """
    began = monotonic()
    if not show:
        logged, done = began, before

        def note(number: int) -> None:
            nonlocal logged, done
            done += number
            if (now := monotonic()) - logged >= _SELDOM:
                logged = now
                rate = rate_of(done - before, now - began)
                _log.info("%s: %d%s", what, done, f", {rate}" if rate else "")

        yield Bar(note, lambda line: click.echo(line, err=True))
        return
    stderr = sys.stderr
    with rate_bar(redirect_stdout=False) as bar, log_to(sys.stderr, instead_of=stderr):
        row = bar.add_task(what, total=total, completed=before, rate="")

        def advance(number: int) -> None:
            done = bar.tasks[0].completed + number
            bar.update(row, completed=done, rate=rate_of(done - before, monotonic() - began))

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
