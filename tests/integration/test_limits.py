"""Limits of a queue hold over worker processes, one of which is killed: on each store."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import attrs
import pytest

import relevo

PATIENCE = 240

SHOP = """
import os
import time
import relevo

app = relevo.App.from_config()


def note(*words):
    with open("notes", "ab", buffering=0) as file:  # one write, which no other process interrupts
        file.write((" ".join(map(str, words)) + "\\n").encode())


@app.listener("mail.due")
def send(event):
    note("begin", event["number"], os.getpid(), time.monotonic())
    time.sleep(event["takes"])
    note("end", event["number"], os.getpid(), time.monotonic())
"""


@attrs.frozen
class Run:
    """What is known of one run of the listener; times are monotonic seconds, which processes share."""

    number: int
    process: int
    begun: float
    ended: float = float("inf")


@attrs.frozen
class Shop:
    """A folder with an application, and the workers in it."""

    folder: Path
    stack: ExitStack
    main: str

    def configure(self, limit: str) -> None:
        """Write the configuration, in which the queue has the *limit*, and set up the store."""
        (self.folder / "shop.py").write_text(SHOP)
        (self.folder / "relevo.toml").write_text(
            f'source = "shop"\napp = "shop:app"\nlock = "."\nlease = 5\n[transports]\nmain = {self.main}\n'
            f"[queues.default]\n{limit}\n"
        )

    def begin(self, *words: str) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            command = [sys.executable, "-m", "relevo", "worker", "-t", "main", *words]
            process = subprocess.Popen(command, cwd=self.folder, env={**os.environ}, stdout=log, stderr=log)
        self.stack.callback(process.wait)
        self.stack.callback(process.kill)
        return process

    def runs(self) -> list[Run]:
        path = self.folder / "notes"
        found: dict[tuple[int, int], Run] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            what, number, process, at = line.split()
            key = int(number), int(process)
            found[key] = Run(*key, float(at)) if what == "begin" else attrs.evolve(found[key], ended=float(at))
        return list(found.values())

    def done(self) -> set[int]:
        return {run.number for run in self.runs() if run.ended < float("inf")}


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


SERVER = pytest.mark.slow("about a server, not Python")


@pytest.fixture(
    name="main",
    params=[
        "sqlite",
        pytest.param("postgresql", marks=[pytest.mark.postgresql, SERVER, pytest.mark.soak]),
        pytest.param("mariadb", marks=[pytest.mark.mariadb, SERVER]),
        pytest.param("amqp", marks=[pytest.mark.amqp, SERVER]),
    ],
)
def _main(request: pytest.FixtureRequest) -> str:
    if request.param == "amqp":
        url, prefix = request.getfixturevalue("rabbitmq_url"), f"limits-{uuid.uuid4().hex[:8]}"
        return f'{{ url = "{url}", prefix = "{prefix}", levels = 8, settle_in = 0, coordinator = "sqlite:///shop.db" }}'
    url = "sqlite:///shop.db"
    return f'"{url if request.param == "sqlite" else request.getfixturevalue(f"{request.param}_database")}"'


@pytest.fixture(name="shop")
def _shop(tmp_path: Path, main: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack:
        yield Shop(tmp_path, stack, main)


def send(number: int, takes: float) -> None:
    with relevo.App.from_config("relevo.toml") as app:
        app.setup()
        app.dispatch_many([relevo.Event("mail.due", {"number": each, "takes": takes}) for each in range(number)])


@pytest.mark.lengthy("starts processes, which handle events for seconds")
def test_no_more_run_at_once_than_may_although_a_worker_is_killed(
    shop: Shop, forget: Callable[[relevo.App], None]
) -> None:
    shop.configure("concurrency = 3")
    send(60, takes=0.05)
    first = shop.begin("-c", "2")
    others = shop.begin("--execution", "process"), shop.begin("-c", "4")
    until(lambda: len(shop.done()) >= 10)

    first.kill()
    first.wait()
    killed_at = time.monotonic()
    until(lambda: len(shop.done()) == 60)
    # What the first one had done and not acknowledged runs a second time.
    until(lambda: {run.process for run in shop.runs() if run.ended == float("inf")} <= {first.pid})
    assert [each.poll() for each in others] == [None, None]

    runs = [attrs.evolve(run, ended=killed_at) if run.ended == float("inf") else run for run in shop.runs()]
    assert max(sum(other.begun <= run.begun < other.ended for other in runs) for run in runs) <= 3
    forget(relevo.App.from_config("relevo.toml"))


@pytest.mark.lengthy("starts processes, which handle events for seconds")
def test_no_more_begin_in_a_window_than_may_although_a_worker_is_killed(
    shop: Shop, forget: Callable[[relevo.App], None]
) -> None:
    shop.configure('rate = "20/4s"')
    send(70, takes=0.01)
    first = shop.begin()
    others = shop.begin("-c", "2"), shop.begin("-c", "3")
    until(lambda: len(shop.done()) >= 25)

    first.kill()
    until(lambda: len(shop.done()) == 70)
    assert [each.poll() for each in others] == [None, None]

    # A process can be interrupted between its permission and its listener: the window is a bit shorter.
    begun = sorted(run.begun for run in shop.runs())
    assert max(sum(one <= other < one + 3.5 for other in begun) for one in begun) <= 20
    assert begun[-1] - begun[0] >= 2 * 4.0
    forget(relevo.App.from_config("relevo.toml"))
