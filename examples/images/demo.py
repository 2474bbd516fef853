"""
Upload photographs, handle what follows, and show what happened: ``python demo.py``.

relevo.toml and RELEVO_TRANSPORTS__MAIN determine where the events go; this file does not depend on it.
"""

from __future__ import annotations

import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from sqlalchemy import select
from sqlalchemy.orm import selectinload

import relevo
from gallery import diary, sheet
from gallery.app import CONFIGURATION, app
from gallery.models import Image
from gallery.store import store
from gallery.upload import upload

PHOTOS = sorted((Path(__file__).resolve().parent / "photos").glob("*.jpg"))
LISTENERS = ("create_thumbnails", "rate_image", "update_feed", "notify_followers")
PATIENCE = 30.0
VARIABLE = "RELEVO_TRANSPORTS__MAIN"
ON_RABBITMQ = '{ url = "amqp://localhost", outbox = "sqlite:///var/gallery.db" }'

console = Console(highlight=False)


def main() -> int:
    if app.transport().capabilities.durability == "process":
        console.print(
            "The demo uses two processes, and events in memory reach only one; see tests/test_gallery.py for memory."
        )
        return 2
    finish_earlier_run()
    began = time.time()
    console.print(f"[bold]A photo gallery, its events through {type(app.transport()).__name__}[/]\n")
    store.empty()
    inline, failures = uploaded_inline()
    store.empty()
    app.setup()  # creates the transport's tables or queues
    deferred = uploaded_deferred()
    if console.is_terminal:
        console.print()
    console.print(
        f"An upload answers in         [bold green]{1000 * deferred:6.1f} ms[/]  median; its event is written"
    )
    console.print(
        f"With its listeners inline    [bold]{1000 * inline:6.1f} ms[/]  "
        f"and {failures} of {len(PHOTOS)} users would get an error\n"
    )

    work()
    images, runs, dead = load_images(), diary.runs(), dead_letters(since=began)
    problems = list(unexpected(images, runs, dead))
    show(images, runs, dead)
    page = sheet.Page(
        title="Contact sheet",
        transport=type(app.transport()).__name__,
        deferred=deferred,
        inline=inline,
        images=images,
        runs=runs,
        dead=dead,
    )
    console.print(f"The contact sheet: [bold]{relative(sheet.write(page))}[/]\n", soft_wrap=True)
    show_next()
    for problem in problems:
        console.print(f"[red]Unexpected:[/] {problem}")
    return 1 if problems else 0


def uploaded_inline() -> tuple[float, int]:
    """Upload all photographs with their listeners before the answer; return the median, and how many failed."""
    dispatcher = relevo.LocalDispatcher(app.listeners, subjects=app.subjects)
    seconds, failures = [], 0
    with bars() as progress:
        row = progress.add_task("uploading inline", total=len(PHOTOS))
        for photo in PHOTOS:
            start = time.perf_counter()
            image = Image(filename=photo.name, path=store.keep(photo))
            with store.session() as session, session.begin():
                session.add(image)
            try:
                dispatcher.dispatch(relevo.Event("image.created", {"filename": photo.name}, subject=image))
            except Exception:  # noqa: BLE001 - the user would get every error
                failures += 1
            else:
                seconds.append(time.perf_counter() - start)
            progress.advance(row)
    return statistics.median(seconds), failures


def uploaded_deferred() -> float:
    """Upload all photographs, to be handled later; return the median of the seconds that a user waits."""
    seconds = []
    with bars() as progress:
        row = progress.add_task("… and deferred", total=len(PHOTOS))
        for photo in PHOTOS:
            start = time.perf_counter()
            upload(app, photo)
            seconds.append(time.perf_counter() - start)
            progress.advance(row)
    return statistics.median(seconds)


def work() -> None:
    """Handle all events with ``relevo drain``, and show the progress from the diary."""
    deadline = time.monotonic() + PATIENCE
    with bars(TimeElapsedColumn()) as progress:
        rows = {name: progress.add_task(name, total=len(PHOTOS)) for name in LISTENERS}
        # The retry comes after a second. A drain waits only for its limit, so run it again if that was too short.
        while not all(progress.tasks[row].finished for row in rows.values()) and time.monotonic() < deadline:
            with drain("--settle", "3s") as process:
                while process.poll() is None:
                    time.sleep(0.05)
                    for name, row in rows.items():
                        progress.update(row, completed=len(finished(name)))
                output = process.communicate()[0]
            for name, row in rows.items():
                progress.update(row, completed=len(finished(name)))
            if process.returncode not in (0, 1):  # 1: an event died, as expected
                raise SystemExit(f"{output}\nrelevo drain ended with {process.returncode}")
    if not console.is_terminal:
        for name in LISTENERS:
            console.print(f"{name:<18} {len(finished(name))}/{len(PHOTOS)}")


def finish_earlier_run() -> None:
    """Remove events that an interrupted run left on a server."""
    is_on_server = store.url.get_backend_name() != "sqlite"
    if is_on_server or (app.outboxes and store.folder.exists()):
        app.setup()  # a server that is down is reported here
        with drain("--settle", "3s", "--max-time", "10s") as process:
            process.communicate()


def drain(*options: str) -> subprocess.Popen[str]:
    """Start ``relevo drain``, as cron would."""
    command = [sys.executable, "-m", "relevo", "--config", str(CONFIGURATION), "drain", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(listener: str) -> set[str]:
    """Return the photographs that *listener* has finished, with or without success."""
    return {
        run.filename
        for run in diary.runs()
        if run.listener == listener and (not run.error or run.error.startswith(relevo.GiveUp.__name__))
    }


def load_images() -> Sequence[Image]:
    related = (Image.thumbnails, Image.rating, Image.feed_entry, Image.notification)
    with store.session() as session:
        return session.scalars(select(Image).order_by(Image.id).options(*map(selectinload, related))).all()


def dead_letters(*, since: float) -> list[sheet.Dead]:
    """Return the dead letters of this run; a server may also hold those of an earlier one."""
    found = app.transport().dead_letters(app.queues(app.transport().name), limit=1000)
    return [
        sheet.Dead(
            filename=json.loads(entry.envelope.body)["data"]["filename"],
            ref=entry.ref,
            where=entry.queue,
            reason=entry.reason,
            error=entry.error.strip().splitlines()[-1].partition(": ")[2],
        )
        for entry in found
        if isinstance(entry.envelope, relevo.Envelope) and entry.died_at >= since
    ]


def unexpected(images: Sequence[Image], runs: Sequence[diary.Run], dead: Sequence[sheet.Dead]) -> list[str]:
    """Return the differences from what this demo expects."""
    problems = []
    for image in images:
        broken = image.filename == "broken.jpg"
        if (len(image.thumbnails), image.rating is None) != ((0, True) if broken else (3, False)):
            problems.append(f"{image.filename} has {len(image.thumbnails)} thumbnails and the rating {image.rating}")
        if image.feed_entry is None or image.notification is None:
            problems.append(f"{image.filename} is missing in the feed or in the notifications")
    if [each.filename for each in dead] != ["broken.jpg"]:
        problems.append(f"the dead letters are {dead}")
    if [(run.listener, run.filename) for run in runs if run.attempt > 1] != [("notify_followers", "rocket.jpg")]:
        problems.append(f"the retries are {[run for run in runs if run.attempt > 1]}")
    if len(runs) != len(LISTENERS) * len(PHOTOS) + 1:
        problems.append(f"the listeners ran {len(runs)} times")
    return problems


# --- showing -----------------------------------------------------------------------------------------


def bars(*columns: TimeElapsedColumn) -> Progress:
    """Return progress bars for a terminal; without one they show nothing."""
    text = TextColumn("{task.description:<18}")
    return Progress(
        text, BarColumn(40), MofNCompleteColumn(), *columns, console=console, disable=not console.is_terminal
    )


def show(images: Sequence[Image], runs: Sequence[diary.Run], dead: Sequence[sheet.Dead]) -> None:
    table = Table("photograph", "", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("sharpness", "exposure", "colour", "runs"):
        table.add_column(name, justify="right")
    for image in images:
        cells = ["[red]broken[/]", "", "", ""]
        if (rating := image.rating) is not None:
            scores = (rating.sharpness, rating.exposure, rating.colourfulness)
            cells = [stars(rating.stars), *(f"{100 * score:.0f}" for score in scores)]
        table.add_row(image.filename, *cells, str(sum(run.filename == image.filename for run in runs)))
    console.print(table)

    grid = Table.grid(padding=(0, 2))
    for again in (run for run in runs if run.attempt > 1):
        first = next(run for run in runs if (run.listener, run.filename) == (again.listener, again.filename))
        grid.add_row(
            "[yellow]retried[/]",
            f"{again.filename}: {again.listener} failed ({first.error}) and ran again "
            f"{again.started_at - first.started_at:.1f} s later, only this listener; the other three ran once.",
        )
    for each in dead:
        grid.add_row(
            "[red]dead letter[/]",
            f"{each.filename}: {each.error}. Kept as {each.ref} in the queue {each.where} ({each.reason}); "
            f"all others were handled.",
        )
    console.print(grid)
    console.print()


def stars(number: float) -> str:
    return f"[yellow]{'★' * int(number)}{'½' * (number % 1 == 0.5)}[/]"


def show_next() -> None:
    """Print three commands that work from the current folder."""
    environment = f"{VARIABLE}={shlex.quote(os.environ[VARIABLE])} " if VARIABLE in os.environ else ""
    python = relative(Path(sys.executable))
    command = f"{environment}{relative(Path(sys.executable).with_name('relevo'))} --config {relative(CONFIGURATION)}"
    elsewhere = f"{VARIABLE}={shlex.quote(ON_RABBITMQ)} " if not environment else ""
    console.print("Try next:")
    for line in (
        f"{command} status",
        f"{command} dead list",
        f"{elsewhere}{python} {relative(Path(__file__).resolve())}",
    ):
        console.print(f"  {line}", markup=False, soft_wrap=True)


def relative(path: Path) -> str:
    """Return *path* relative to the current folder."""
    return os.path.relpath(path)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except relevo.TransportUnavailableError as unavailable:
        sys.exit(f"demo: {unavailable}")
    except KeyboardInterrupt:
        sys.exit(130)
