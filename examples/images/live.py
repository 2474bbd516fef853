"""The common part of the live demos: upload for a while, with three bad photographs, and show the progress."""

from __future__ import annotations

import argparse
import json
import math
import shutil
import signal
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

import attrs
from rich.console import Console
from rich.live import Live
from rich.table import Table

import relevo
from gallery import diary
from gallery.rough import CRASHING, ENDLESS, HUGE
from gallery.store import store
from gallery.upload import upload

HOME = Path(__file__).resolve().parent
PHOTOS = [path for path in sorted((HOME / "photos").glob("*.jpg")) if path.name != "broken.jpg"]
LISTENERS = {"create_thumbnails", "rate_image", "update_feed", "notify_followers"}
BAD = {
    ENDLESS: relevo.Reason.RETRIES_EXHAUSTED,
    CRASHING: relevo.Reason.CRASH_LOOP,
    HUGE: relevo.Reason.CRASH_LOOP,
}
"""The names of the photographs with which a listener fails, and the reason of each dead letter."""

REFRESH = 0.25
LINE = 5.0
"""Seconds between two lines if there is no terminal."""

console = Console(highlight=False)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return the parser with the arguments of both demos."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seconds", type=float, default=60.0, help="seconds for which photographs are uploaded")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between two uploads")
    return parser


def heed_signals() -> None:
    """Make TERM and HUP clean up as Ctrl-C does."""

    def leave(number: int, _: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, leave)


@attrs.define
class Figures:
    """The measurements so far."""

    uploaded_at: dict[str, float] = attrs.field(factory=dict)
    """For each photograph the time when its upload began, in seconds since the epoch."""

    upload_costs: list[float] = attrs.field(factory=list)
    latencies: list[float] = attrs.field(factory=list)
    """Seconds from that time to the thumbnails."""

    finished: set[str] = attrs.field(factory=set)
    """The photographs that all four listeners have finished."""

    dead: dict[str, relevo.DeadLetterEntry] = attrs.field(factory=dict)

    @property
    def done(self) -> set[str]:
        """Those without a dead letter."""
        return self.finished - set(self.dead)

    @property
    def is_over(self) -> bool:
        """Whether every photograph has the expected outcome."""
        return self.finished == set(self.uploaded_at) and len(self.dead) == len(BAD)

    def unexpected(self) -> list[str]:
        """Return the differences from what these demos expect."""
        missing = sorted(set(self.uploaded_at) - self.finished)
        problems = [f"{name} lacks something that a listener makes" for name in missing]
        found = {name.partition("-")[0]: letter.reason for name, letter in self.dead.items()}
        if found != BAD:
            problems.append(f"the dead letters are {found}")
        return problems


class Show:
    """
    Uploads photographs and shows the progress.

    Args:
        app: The application.

        title: Describes how its events are handled.
    """

    def __init__(self, app: relevo.App, title: str):
        self._app = app
        self._title = title
        self._began = time.monotonic()
        self._lines = 0
        self.figures = Figures()

    def run(self, *, seconds: float, pause: float, patience: float) -> list[str]:
        """Upload for *seconds*, wait at most *patience* until all are handled; return what was not expected."""
        count = max(math.ceil(seconds / pause), 2 * len(BAD))
        bad = {(place + 1) * count // (len(BAD) + 1): name for place, name in enumerate(BAD)}
        console.print(f"[bold]{self._title}[/]\n", soft_wrap=True)
        with Live(console=console, auto_refresh=False, transient=True) as live:
            for number in range(count):
                self._upload(PHOTOS[number % len(PHOTOS)], f"{bad.get(number, 'photo')}-{number:03}.jpg")
                self._watch(live, until=time.monotonic() + pause)
            deadline = time.monotonic() + patience
            while not self.figures.is_over and time.monotonic() < deadline:
                self._watch(live, until=min(time.monotonic() + LINE, deadline))
        self._conclude()
        return self.figures.unexpected()

    def _upload(self, photo: Path, name: str) -> None:
        source = store.absolute("incoming") / name
        source.parent.mkdir(exist_ok=True)
        shutil.copyfile(photo, source)
        self.figures.uploaded_at[name] = time.time()
        start = time.perf_counter()
        upload(self._app, source)
        self.figures.upload_costs.append(time.perf_counter() - start)
        source.unlink()

    def _watch(self, live: Live, *, until: float) -> None:
        while (left := until - time.monotonic()) > 0 and not self.figures.is_over:
            time.sleep(min(left, REFRESH))
            if console.is_terminal:
                self._look()
                live.update(self._table(), refresh=True)
        if not console.is_terminal and self._age > LINE * (self._lines + 1):
            self._lines += 1
            self._look()
            console.print(self._line(), soft_wrap=True)

    @property
    def _age(self) -> float:
        return time.monotonic() - self._began

    def _look(self) -> None:
        """Read the diary and the dead letters."""
        figures, through = self.figures, dict[str, set[str]]()
        figures.latencies = []
        for run in diary.runs():
            if not run.error:
                through.setdefault(run.filename, set()).add(run.listener)
                if run.listener == "create_thumbnails":
                    figures.latencies.append(run.started_at + run.seconds - figures.uploaded_at[run.filename])
        figures.finished = {name for name, listeners in through.items() if listeners == LISTENERS}
        transport = self._app.transport()
        for letter in transport.dead_letters(self._app.queues(transport.name), limit=100):
            if isinstance(letter.envelope, relevo.Envelope):
                figures.dead[json.loads(letter.envelope.body)["data"]["filename"]] = letter

    # --- showing -------------------------------------------------------------------------------------

    def _line(self) -> str:
        figures = self.figures
        return (
            f"{self._age:4.0f} s  {len(figures.uploaded_at)} uploaded, each in "
            f"{shown(figures.upload_costs, 0.5)}; {len(figures.latencies)} with thumbnails, after "
            f"{shown(figures.latencies, 0.5)}; {len(figures.done)} done, {len(figures.dead)} dead"
        )

    def _table(self) -> Table:
        figures = self.figures
        table = Table("", "photographs", "p50", "p95", box=None, pad_edge=False, padding=(0, 2))
        for column in table.columns[1:]:
            column.justify = "right"
        for name, seconds in (("an upload answers", figures.upload_costs), ("upload to thumbnail", figures.latencies)):
            table.add_row(name, str(len(seconds)), shown(seconds, 0.5), shown(seconds, 0.95))
        table.add_row("done", str(len(figures.done)))
        table.add_row("dead", str(len(figures.dead)))
        return table

    def _conclude(self) -> None:
        self._look()
        console.print(self._table())
        console.print()
        for name, letter in sorted(self.figures.dead.items()):
            why = letter.error.strip().splitlines()[0] if letter.error.strip() else ""
            console.print(f"dead letter  {name} ({letter.reason}): {why}", markup=False, soft_wrap=True)
        if not self.figures.unexpected():
            console.print("All other listeners succeeded with these photographs too.\n")


def shown(seconds: Sequence[float], share: float) -> str:
    """Return the value that *share* of *seconds* do not exceed, as text."""
    if not seconds:
        return "-"
    value = 1000 * quantile(seconds, share)
    return f"{value:.1f} ms" if value < 1000 else f"{value / 1000:.1f} s"


def quantile(values: Sequence[float], share: float) -> float:
    """Return the least of *values* that *share* of them do not exceed; 0.5 is the median."""
    if share == 0.5:
        return statistics.median(values)
    return sorted(values)[math.ceil(share * len(values)) - 1]


def tell(problems: Sequence[str]) -> int:
    """Print what was not expected; return the exit code."""
    for problem in problems:
        console.print(f"[red]Unexpected:[/] {problem}")
    return 1 if problems else 0
