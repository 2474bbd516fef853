"""Steps whose process is killed or stopped at each moment, on every store: what is finished is not run again."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest

import relevo
import waiting

if TYPE_CHECKING:
    from _pytest.mark import ParameterSet

KILLS = int(os.environ.get("RELEVO_SOAK_KILLS", "300"))

PATIENCE = 600.0

KEY = "ICl1y4JgHHCMPzFuR0eDBVcNmsBqKtd_4-wYpJw2oT8"

STEPS = ("resize", "upload", "publish")
ROWS = 5

REPEATING = (
    *(f"in {name}" for name in STEPS),
    *(f"in row {number}" for number in range(ROWS)),
)
"""Moments within a step or a row that has just had its effect, and is not noted yet."""

NAMES = (*STEPS, *(f"row-{number}" for number in range(ROWS)))

CLEAN = (
    "at the beginning",
    *(f"before {name}" for name in STEPS),
    *(f"after {name}" for name in STEPS),
    *(f"before row {number}" for number in range(ROWS)),
    *(f"after row {number}" for number in range(ROWS)),
    "at the end",
)
"""Moments between steps and rows, and within those that have had no effect yet."""

MOMENTS = (*REPEATING, *CLEAN)

FEW = ("after upload", "in row 2")
"""A moment of each kind; a process takes a second to start."""

EVERY = 7
"""Rows from one note to the next, of those that are stopped."""

ROWS_OF_STOP = 150
"""Rows that are stopped: those of some seconds."""

SHOP = '''
import asyncio
import os
import signal
import time
from pathlib import Path

import relevo

STEPS = ("resize", "upload", "publish")
ROWS = 5
EVERY = 7
LOG = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def note(*words):
    """Write a line that survives a kill."""
    os.write(LOG, (" ".join(map(str, words)) + "\\n").encode())


def reach(event, moment):
    """End this process if it is to die at this *moment*, and has not died of it before."""
    if moment not in event["moments"]:
        return
    try:
        os.close(os.open(f"killed {event['number']} {moment}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def act(event, call, name):
    """Have an effect."""
    reach(event, f"before {name}")
    if name == "upload":
        call.dispatch("image.uploaded", {"number": event["number"]})
    note("did", event["number"], name)
    time.sleep(event["seconds"])
    reach(event, f"in {name}")
    return name.upper()


async def act_on_loop(event, call, name):
    await asyncio.sleep(0)
    return act(event, call, name)


def rows(event, start):
    for number in range(start, ROWS):
        reach(event, f"before row {number}")
        yield number
        reach(event, f"after row {number}")


def handle(event, number):
    note("did", event["number"], f"row-{number}")
    time.sleep(event["seconds"])
    reach(event, f"in row {number}")


def pause(row):
    """Note that *row* is handled; return how long it takes, until there is a file named fast."""
    note("did", row)
    return 0 if os.path.exists("fast") else 0.05


@relevo.listener("image.uploaded")
def see(event, call):
    note("uploaded", event["number"], call.event_id)


PLAIN
'''

PLAIN = """
@relevo.listener("image.created", id="process")
def process(event, call):
    note("lost", event["number"], call.lost_leases)
    reach(event, "at the beginning")
    for name in STEPS:
        assert call.step(name, act, event, call, name) == name.upper()
        reach(event, f"after {name}")
    for number in call.cursor("rows", lambda start: rows(event, start)):
        handle(event, number)
    reach(event, "at the end")
    note("ended", event["number"])


@relevo.listener("rows.added", id="add", retry=1)
def add(event, call):
    note("attempt", call.attempt)
    for row in call.cursor("rows", range(event["rows"]), every=EVERY):
        time.sleep(pause(row))
    note("ended")


@relevo.listener("image.shared", time_limit="2s", retry=relevo.Retry(2, first=0.05, jitter=0))
def share(event, call):
    note("attempt", call.attempt)
    call.step("resize", note, "did", "resize")
    call.step("upload", time.sleep, 600 if call.attempt == 1 else 0)
    call.step("publish", note, "did", "publish")
"""

ASYNC = """
@relevo.listener("image.created", id="process")
async def process(event, call):
    note("lost", event["number"], call.lost_leases)
    reach(event, "at the beginning")
    for name in STEPS:
        assert await call.step(name, act_on_loop, event, call, name) == name.upper()
        reach(event, f"after {name}")
    async for number in call.cursor("rows", lambda start: rows(event, start)):
        handle(event, number)
    reach(event, "at the end")
    note("ended", event["number"])


@relevo.listener("rows.added", id="add", retry=1)
async def add(event, call):
    note("attempt", call.attempt)
    async for row in call.cursor("rows", range(event["rows"]), every=EVERY):
        await asyncio.sleep(pause(row))
    note("ended")


async def note_on_loop(*words):
    note(*words)


@relevo.listener("image.shared", time_limit="2s", retry=relevo.Retry(2, first=0.05, jitter=0))
async def share(event, call):
    note("attempt", call.attempt)
    await call.step("resize", note_on_loop, "did", "resize")
    await call.step("upload", asyncio.sleep, 600 if call.attempt == 1 else 0)
    await call.step("publish", note_on_loop, "did", "publish")
"""

AGAIN = """
import contextlib
import importlib
import os
import random
import signal
import sys
import time

import relevo_amqp
import relevo_sql
from relevo.cli._main import main

for driver in ("psycopg", "pymysql"):
    with contextlib.suppress(ImportError):
        importlib.import_module(driver)


def started(*words):
    if (process := os.fork()) == 0:
        sys.argv[:] = ["relevo", *words]
        main()
        os._exit(0)
    return process


def ended(process):
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


for _ in range(int(sys.argv[2])):  # at any moment
    process = started("worker")
    time.sleep(random.uniform(0.05, 0.5))
    os.kill(process, signal.SIGKILL)
    assert ended(process) == -signal.SIGKILL
codes = [-signal.SIGKILL]
while codes[-1] == -signal.SIGKILL and len(codes) <= int(sys.argv[1]) + 1:
    codes.append(ended(started("drain", "--settle", "20s")))
print(*codes[1:])
"""
"""
Start workers, and kill them at any moment, as often as the second argument says; then drain again for as long as a
process was killed, at most once more than the first argument says, and print the exit codes of that.

It imports relevo and what that needs once.
"""

EXECUTIONS = {
    "inline": ("inline", PLAIN),
    "threads": ("threads", PLAIN),
    "process": ("process", PLAIN),
    "async": ("async", ASYNC),
    "async in process": ("process", ASYNC),
}
"""Where the listeners run, and which they are."""


@attrs.frozen
class Place:
    """A folder with an application, and its events on a store."""

    folder: Path
    app: relevo.App

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start Python with *words* in the folder."""
        return subprocess.Popen(
            [sys.executable, *words],
            cwd=self.folder,
            env={**os.environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str) -> tuple[int, str, str]:
        """Run Python with *words* in the folder; return its exit code and what it printed."""
        with self.start(*words) as process:
            try:
                out, error = process.communicate(timeout=PATIENCE)
            finally:
                process.kill()
        return process.returncode, out, error

    def lines(self, about: str) -> list[str]:
        """Return what the listeners wrote about that, one line each."""
        log = self.folder / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [line.removeprefix(f"{about} ") for line in lines if line.split()[0] == about]

    def drain_again(self, most: int, *, kills: int = 0) -> list[int]:
        """Kill workers at any moment, *kills* times; then drain until a drain is not killed; return its exit codes."""
        code, out, error = self.run("again.py", str(most), str(kills))
        assert code == 0, error[-3000:]
        codes = [int(each) for each in out.splitlines()[-1].split()]
        assert codes[-1] >= 0, error[-3000:]
        return codes

    def end_at_row(self, row: int, how: signal.Signals) -> int:
        """End a worker when it has come to *row*; return how many rows were begun."""
        with self.start("-m", "relevo", "worker") as worker:
            try:
                assert waiting.eventually(lambda: len(self.lines("did")) > row or worker.poll() is not None)
                worker.send_signal(how)
                _, error = worker.communicate(timeout=PATIENCE)
            finally:
                worker.kill()
        assert worker.returncode == (0 if how is signal.SIGTERM else -how), error[-3000:]
        return len(self.lines("did"))

    def drain_fast(self) -> None:
        """Drain, lost leases included, with rows that take no time."""
        (self.folder / "fast").touch()
        code, _, error = self.run("-m", "relevo", "drain", "--settle", "20s")
        assert code in (0, 1), error[-3000:]

    def settled(self) -> tuple[list[str], int, int, int]:
        """Return :meth:`left` when nothing is held; RabbitMQ needs a moment to see that a connection is closed."""
        assert waiting.eventually(lambda: not self.left()[2])
        return self.left()

    def left(self) -> tuple[list[str], int, int, int]:
        """Return the reasons of dead letters, and how many events are ready, held and delayed."""
        transport = self.app.transport()
        stats = transport.stats("default")
        dead = [each.reason for each in transport.dead_letters(["default"])]
        return dead, stats.ready or 0, stats.leased or 0, stats.scheduled or 0


SERVERS = ("postgresql", "mariadb", "amqp")


def on(store: str, *values: object, soak: bool = False) -> ParameterSet:
    """Return a case on *store*, with the marks of its server."""
    marks = [getattr(pytest.mark, store), pytest.mark.slow("about a server, not Python")] if store in SERVERS else []
    marks += [pytest.mark.soak] if soak else []
    return pytest.param(store, *values, marks=marks, id="-".join([store, *(str(each) for each in values)]))


@pytest.fixture(name="main")
def _main(request: pytest.FixtureRequest, store: str) -> str:
    """Return the transport of the events, as in a configuration."""
    if store == "amqp":
        options = f'prefix = "steps-{uuid.uuid4().hex[:8]}", levels = 8, settle_in = 0'
        return f'{{ url = "{request.getfixturevalue("rabbitmq_url")}", {options} }}'
    return f'"{"sqlite:///shop.db" if store == "sqlite" else request.getfixturevalue(f"{store}_database")}"'


Open = Callable[..., Place]


@pytest.fixture(name="opened")
def _opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forget: Callable[[relevo.App], None]) -> Iterator[Open]:
    """Return what writes an application, and opens it."""
    monkeypatch.chdir(tmp_path)
    apps: list[relevo.App] = []

    def opened(main: str, where: str = "inline", *, lease: str = "1s", more: str = "") -> Place:
        execution, listeners = EXECUTIONS[where]
        (tmp_path / "shop.py").write_text(SHOP.replace("PLAIN", listeners))
        (tmp_path / "again.py").write_text(AGAIN)
        file = tmp_path / "relevo.toml"
        file.write_text(
            f'source = "shop"\nlisteners = ["shop"]\nlease = "{lease}"\nexecution = "{execution}"\n'
            f"concurrency = 1\n{more}\n\n[transports]\nmain = {main}\n"
        )
        file.chmod(0o600)
        app = relevo.App.from_config(file, environ={})
        apps.append(app)
        app.setup()
        return Place(tmp_path, app)

    yield opened
    for app in apps:
        forget(app)
        app.close()


KILLED = [
    *(on("sqlite", where) for where in EXECUTIONS),
    *(on(store, "inline") for store in SERVERS),
    on("amqp", "process"),
]
STOPPED = [
    *(on("sqlite", where) for where in ("inline", "threads", "process", "async")),
    *(on("amqp", where, soak=where != "process") for where in ("inline", "threads", "process", "async")),
    *(on(store, "inline") for store in ("postgresql", "mariadb")),
]
EVERYWHERE = [on(store, where, soak=True) for store in ("sqlite", *SERVERS) for where in EXECUTIONS]


@pytest.mark.lengthy("starts processes and kills them")
@pytest.mark.parametrize(("store", "where"), KILLED)
def test_a_finished_step_is_not_run_again_whenever_the_process_is_killed(
    opened: Open, main: str, store: str, where: str
) -> None:
    # The notes are the same everywhere; how they are stored is not.
    moments = MOMENTS if (store, where) == ("sqlite", "inline") else FEW
    _kill_at(moments, opened(main, where), where)


@pytest.mark.parametrize(("store", "where"), EVERYWHERE)
def test_a_finished_step_is_not_run_again_whenever_the_process_is_killed_in_any_execution(
    opened: Open, main: str, where: str
) -> None:
    _kill_at(MOMENTS, opened(main, where), where)


def _kill_at(moments: Sequence[str], place: Place, where: str) -> None:
    # Two for each event, since the third death makes a dead letter.
    plan = [[*pair] for pair in zip(moments[::2], moments[1::2], strict=True)]
    for number, each in enumerate(plan):
        place.app.dispatch("image.created", {"number": number, "moments": each, "seconds": 0})

    codes = place.drain_again(len(moments))

    numbers = [str(number) for number in range(len(plan))]
    done = Counter(place.lines("did"))
    once = Counter(f"{number} {name}" for number in numbers for name in NAMES)
    again = Counter(f"{n} {name}" for n, each in enumerate(plan) for name in map(_repeated, each) if name)
    uploaded = {line.split()[0]: line for line in place.lines("uploaded")}
    assert len([*place.folder.glob("killed *")]) == len(moments)
    assert codes[:-1] == ([] if "process" in where else [-signal.SIGKILL] * len(moments))
    assert place.settled() == ([], 0, 0, 0)
    assert sorted(place.lines("ended")) == sorted(numbers)
    assert sorted(uploaded) == sorted(numbers)
    assert {*uploaded.values()} == {*place.lines("uploaded")}, "the same ids"
    # Where the transport has no checkpoint, the worker keeps the notes of its child; those of its own end with it.
    if "process" in where or place.app.transport().capabilities.checkpoint:
        # On a machine that stands still for a second a lease ends too, and the step that ran is repeated.
        late = {n for n, lost in map(str.split, place.lines("lost")) if int(lost) > len(plan[int(n)])}
        assert {each: done[each] for each in done | once if each.split()[0] not in late} == {
            each: number for each, number in (once + again).items() if each.split()[0] not in late
        }
        assert done >= once
        assert len(late) < len(plan)
    else:
        assert done.keys() == once.keys()


def _repeated(moment: str) -> str:
    """Return the step or row that a kill at *moment* has run again."""
    return moment.removeprefix("in ").replace(" ", "-") if moment in REPEATING else ""


@pytest.mark.parametrize("store", [on(store, soak=True) for store in ("sqlite", "postgresql", "mariadb")])
def test_a_finished_step_is_not_run_again_after_any_of_many_kills(
    opened: Open, main: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = opened(main)
    for number in range(KILLS):
        place.app.dispatch("image.created", {"number": number, "moments": [], "seconds": 0.02})

    place.drain_again(0, kills=KILLS)
    while (left := place.left())[0]:  # three of the kills came while it was handled
        assert {*left[0]} == {"crash-loop"}
        assert place.run("-m", "relevo", "dead", "revive", "--all")[0] == 0
        place.drain_again(0)

    did = [line.split() for line in place.lines("did")]
    again = len(did) - len(NAMES) * KILLS
    with capsys.disabled():
        print(f"\n{KILLS} events of {len(NAMES)} steps, {KILLS} kills: {again} steps ran again")
    assert place.settled() == ([], 0, 0, 0)
    for number in range(KILLS):
        ran = [NAMES.index(name) for mine, name in did if mine == str(number)]
        assert (ran[0], ran[-1]) == (0, len(NAMES) - 1)
        # When one begins, the one before is noted: only the last one may run again.
        assert all(after - before in (0, 1) for before, after in pairwise(ran)), (number, ran)
    assert again <= KILLS


@pytest.mark.lengthy("starts processes")
@pytest.mark.parametrize(("store", "where"), STOPPED)
def test_a_stop_ends_between_two_rows_and_another_worker_goes_on(opened: Open, main: str, where: str) -> None:
    place = opened(main, where, lease="60s")
    place.app.dispatch("rows.added", {"rows": ROWS_OF_STOP})

    stopped = place.end_at_row(3, signal.SIGTERM)
    left = place.settled()
    place.drain_fast()

    assert stopped < ROWS_OF_STOP
    assert left == ([], 1, 0, 0)
    assert place.lines("did") == [str(row) for row in range(ROWS_OF_STOP)]
    assert place.lines("attempt") == ["1", "1"]
    assert place.settled() == ([], 0, 0, 0)


@pytest.mark.lengthy("starts processes and kills them")
@pytest.mark.parametrize("store", [on("sqlite"), on("amqp")])
def test_a_kill_repeats_no_row_of_an_earlier_run(opened: Open, main: str) -> None:
    place = opened(main)
    place.app.dispatch("rows.added", {"rows": ROWS_OF_STOP})

    stopped = place.end_at_row(3, signal.SIGTERM)
    killed = place.end_at_row(stopped + EVERY, signal.SIGKILL)
    place.drain_fast()

    goes_on = (killed - 1) // EVERY * EVERY if place.app.transport().capabilities.checkpoint else stopped
    runs = [(0, stopped), (stopped, killed), (goes_on, ROWS_OF_STOP)]
    assert stopped < killed < ROWS_OF_STOP
    assert place.lines("did") == [str(row) for first, end in runs for row in range(first, end)]
    assert place.lines("attempt") == ["1", "1", "1"]
    assert place.settled() == ([], 0, 0, 0)


@pytest.mark.lengthy("starts processes")
@pytest.mark.parametrize(
    ("store", "where"),
    [on("sqlite", "async"), on("sqlite", "process"), on("amqp", "process")],
)
def test_a_listener_that_exceeds_its_time_limit_keeps_its_steps(opened: Open, main: str, where: str) -> None:
    place = opened(main, where, lease="60s")
    place.app.dispatch("image.shared")

    place.drain_again(0)

    assert place.lines("did") == ["resize", "publish"]
    assert place.lines("attempt") == ["1", "2"]
    assert place.settled() == ([], 0, 0, 0)


@pytest.mark.lengthy("starts processes")
@pytest.mark.parametrize("store", ["sqlite"])
@pytest.mark.parametrize("is_forged", [False, True])
def test_the_notes_of_a_signed_event_are_signed(opened: Open, main: str, *, is_forged: bool) -> None:
    place = opened(main, lease="60s", more=f'signing = ["{KEY}"]')
    place.app.dispatch("rows.added", {"rows": ROWS_OF_STOP})

    stopped = place.end_at_row(3, signal.SIGTERM)
    with closing(sqlite3.connect(place.folder / "shop.db")) as database, database:
        (state,) = database.execute("SELECT progress FROM relevo_event").fetchone()
        if is_forged:
            forged = state.replace(b'"rows":%d' % stopped, b'"rows":%d' % ROWS_OF_STOP)
            assert forged != state
            database.execute("UPDATE relevo_event SET progress = ?", [forged])
    place.drain_fast()

    assert state.startswith(b"s1")
    assert place.lines("did") == [str(row) for row in range(stopped if is_forged else ROWS_OF_STOP)]
    assert place.settled() == (["forged"] if is_forged else [], 0, 0, 0)
