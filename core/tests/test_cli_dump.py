"""USR1: a worker says what it does, since when and where, and goes on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import relevo

pytestmark = pytest.mark.lengthy("starts processes")

PATIENCE = 300.0

CONFIGURATION = """
source = "shop"
listeners = ["shop_listeners"]

[transports]
main = "sqlite:///shop.db"
"""

LISTENERS = """
import asyncio, ctypes, pathlib, time
import relevo

def doze():
    while not pathlib.Path("go").exists():
        time.sleep(0.01)

async def doze_on_loop():
    while not pathlib.Path("go").exists():
        await asyncio.sleep(0.01)

def begin():
    pathlib.Path("begun").touch()

@relevo.listener("image.created")
def feed(event):
    begin()
    doze()

@relevo.listener("image.drawn")
async def draw(event):
    begin()
    await doze_on_loop()

@relevo.listener("image.blocked")
def block(event):
    begin()
    ctypes.PyDLL(None).sleep(2)  # Python does not run meanwhile
"""


@pytest.fixture(name="start")
def _start(tmp_path: Path) -> Callable[..., subprocess.Popen[bytes]]:
    (tmp_path / "relevo.toml").write_text(CONFIGURATION)
    (tmp_path / "shop_listeners.py").write_text(LISTENERS)

    def start(event: str, execution: str, *more: str) -> subprocess.Popen[bytes]:
        if event:
            with relevo.App.from_config(tmp_path / "relevo.toml", environ={}) as app:
                app.dispatch(event)
        environ = {key: each for key, each in os.environ.items() if not key.startswith("RELEVO_")}
        with (tmp_path / "printed").open("wb") as printed:
            words = ["worker", "--execution", execution, "--max-events", "1", *more]
            return subprocess.Popen(
                [sys.executable, "-m", "relevo", *words], cwd=tmp_path, env=environ, stdout=printed, stderr=printed
            )

    return start


def until(holds: Callable[[], bool], folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, (folder / "printed").read_text()
        time.sleep(0.02)


@pytest.mark.parametrize(
    "event, execution, listener, function",
    [
        ("image.created", "inline", "feed", "doze"),
        ("image.created", "threads", "feed", "doze"),
        ("image.created", "process", "feed", "doze"),
        ("image.drawn", "async", "draw", "doze_on_loop"),
    ],
)
def test_it_says_what_runs_since_when_and_where_and_goes_on(
    start: Callable[..., subprocess.Popen[bytes]],
    tmp_path: Path,
    event: str,
    execution: str,
    listener: str,
    function: str,
) -> None:
    worker = start(event, execution)
    printed = tmp_path / "printed"
    until((tmp_path / "begun").exists, tmp_path)
    said = re.compile(
        rf"WARNING relevo\.\w+: shop_listeners:{listener} has run for .+ on {event} .+ in the process \d+"
    )
    place = re.compile(rf'File ".*shop_listeners.py", line \d+,? in {function}$', re.MULTILINE)

    for times in (1, 2):
        worker.send_signal(signal.SIGUSR1)
        until(lambda times=times: len(said.findall(printed.read_text())) == times, tmp_path)  # type: ignore[misc]
        until(lambda times=times: len(place.findall(printed.read_text())) == times, tmp_path)  # type: ignore[misc]
    (tmp_path / "go").touch()

    assert worker.wait(PATIENCE) == 0, printed.read_text()


def test_it_says_where_a_listener_is_that_blocks_python(
    start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    worker = start("image.blocked", "inline")
    until((tmp_path / "begun").exists, tmp_path)

    worker.send_signal(signal.SIGUSR1)

    until(lambda: re.search(r"line \d+ in block", (tmp_path / "printed").read_text()) is not None, tmp_path)
    assert worker.wait(PATIENCE) == 0


def test_a_worker_that_has_nothing_to_do_says_so(start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path) -> None:
    worker = start("", "threads", "--log-level", "info")
    until(lambda: "serving main" in (tmp_path / "printed").read_text(), tmp_path)

    worker.send_signal(signal.SIGUSR1)

    until(lambda: "<Worker of main: default>: 0 held, 0 handled" in (tmp_path / "printed").read_text(), tmp_path)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(PATIENCE) == 0
