"""Two worker processes, a queue that is paused while they drain it, and a request to stop: on each store."""

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
EVENTS = 1500

SHOP = """
import os
import time
import relevo

app = relevo.App.from_config()


def note(event, queue):
    with open(queue, "ab", buffering=0) as file:  # one write, which no other process interrupts
        file.write(b"%d\\n" % event["number"])


@app.listener("image.created", queue="feed")
def feed(event):
    note(event, "feed")
    if not os.path.exists("resumed"):
        time.sleep(0.05)


@app.listener("image.rated", queue="media")
def media(event):
    note(event, "media")
"""


@attrs.frozen
class Shop:
    """A folder with an application, and the processes in it."""

    folder: Path
    stack: ExitStack

    def begin(self, name: str) -> subprocess.Popen[bytes]:
        """Start a worker, which logs to the file *name*."""
        with (self.folder / name).open("wb") as log:
            words = [sys.executable, "-m", "relevo", "worker", "-t", "main"]
            process = subprocess.Popen(words, cwd=self.folder, env={**os.environ}, stdout=log, stderr=log)
        self.stack.callback(process.kill)
        return process

    def run(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "relevo", *words], cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def handled(self, queue: str) -> list[int]:
        path = self.folder / queue
        return [int(line) for line in path.read_bytes().split()] if path.exists() else []

    def says(self, name: str, text: str) -> bool:
        return text in (self.folder / name).read_text()


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
        pytest.param("postgresql", marks=[pytest.mark.postgresql, SERVER]),
        pytest.param("mariadb", marks=[pytest.mark.mariadb, SERVER, pytest.mark.soak]),
        pytest.param("amqp", marks=[pytest.mark.amqp, SERVER]),
    ],
)
def _main(request: pytest.FixtureRequest) -> str:
    if request.param == "amqp":
        url, prefix = request.getfixturevalue("rabbitmq_url"), f"pause-{uuid.uuid4().hex[:8]}"
        return f'{{ url = "{url}", prefix = "{prefix}", levels = 8, settle_in = 0, coordinator = "sqlite:///shop.db" }}'
    url = "sqlite:///shop.db"
    return f'"{url if request.param == "sqlite" else request.getfixturevalue(f"{request.param}_database")}"'


@pytest.fixture(name="shop")
def _shop(
    tmp_path: Path, main: str, monkeypatch: pytest.MonkeyPatch, forget: Callable[[relevo.App], None]
) -> Iterator[Shop]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "relevo.toml").write_text(
        f'source = "shop"\napp = "shop:app"\nlock = "."\n[transports]\nmain = {main}\n'
        '[routes]\n"image.rated" = "main/media"\n"*" = "main/feed"\n'
    )
    with relevo.App.from_config("relevo.toml") as app, ExitStack() as last:
        app.setup()
        last.callback(forget, app)
        with ExitStack() as stack:
            yield Shop(tmp_path, stack)


def send(name: str, numbers: range) -> None:
    with relevo.App.from_config("relevo.toml") as app:
        app.dispatch_many([relevo.Event(name, {"number": number}) for number in numbers])


@pytest.mark.lengthy("starts processes, which handle events for seconds")
def test_nothing_of_a_paused_queue_begins_until_it_is_resumed(shop: Shop) -> None:
    send("image.created", range(EVENTS))
    workers = {name: shop.begin(name) for name in ("one", "two")}
    until(lambda: len(shop.handled("feed")) >= 50)

    shop.run("pause", "-q", "main/feed", "--reason", "a test")
    until(lambda: all(shop.says(name, "the queue feed of main has been paused since") for name in workers))
    paused = shop.handled("feed")
    workers["three"] = shop.begin("three")
    until(lambda: shop.says("three", "been paused since"))
    send("image.rated", range(100))
    until(lambda: len(shop.handled("media")) == 100)

    assert shop.handled("feed") == paused, "an event of the paused queue was begun"
    assert len(paused) < EVENTS, "there was nothing left to pause"
    assert "main/feed has been paused since" in shop.run("status")
    assert shop.run("drain") == ""
    assert shop.handled("feed") == paused

    (shop.folder / "resumed").touch()
    shop.run("resume", "-q", "main/feed")
    until(lambda: len(shop.handled("feed")) >= EVENTS)
    shop.run("stop", "--all")
    codes = {name: process.wait(PATIENCE) for name, process in workers.items()}

    assert sorted(shop.handled("feed")) == [*range(EVENTS)]
    assert codes == {"one": 0, "two": 0, "three": 0}
    assert all(shop.says(name, "(relevo stop)") for name in workers)
