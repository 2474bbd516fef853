"""``relevo worker --reload``: what is written takes effect without a command, and a mistake ends nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

import relevo

PATIENCE = 300.0

CONFIGURATION = """
source = "shop"
listeners = ["shop_listeners"]

[transports]
main = "sqlite:///shop.db"
"""

LISTENER = """
import pathlib, time
import relevo

@relevo.listener("image.created")
def feed(event):
    pathlib.Path(f"WORD-begun-{event['n']}").touch()
    while event.get("waits") and not pathlib.Path("go").exists():
        time.sleep(0.01)
    pathlib.Path(f"WORD-{event['n']}").touch()
"""


@attrs.define(eq=False)
class Program:
    """An application in a folder, and what watches it."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None

    def write(self, word: str) -> None:
        """Write the listener so that it leaves files whose names begin with *word*."""
        self.folder.joinpath("shop_listeners.py").write_text(LISTENER.replace("WORD", word))

    def start(self, *words: str, **environ: str) -> subprocess.Popen[bytes]:
        """Start ``relevo worker --reload`` with *words*."""
        kept = {key: each for key, each in os.environ.items() if not key.startswith("RELEVO_")}
        with (self.folder / "printed").open("ab") as printed:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "relevo", "worker", "--reload", *words],
                cwd=self.folder,
                env=kept | environ,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
            )
        return self.process

    def dispatch(self, number: int, **more: bool) -> None:
        with relevo.App.from_config(self.folder / "relevo.toml", environ={}) as app:
            app.dispatch("image.created", {"n": number, **more})

    def printed(self) -> str:
        return (self.folder / "printed").read_text()

    def until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < deadline, self.printed()
            time.sleep(0.02)

    def appears(self, name: str) -> None:
        self.until((self.folder / name).exists)

    def says(self, text: str, times: int = 1) -> None:
        self.until(lambda: self.printed().count(text) >= times)


@pytest.fixture(name="program")
def _program(tmp_path: Path) -> Iterator[Program]:
    program = Program(tmp_path)
    program.folder.joinpath("relevo.toml").write_text(CONFIGURATION)
    program.write("old")
    yield program
    if program.process is not None and program.process.poll() is None:
        program.process.send_signal(signal.SIGTERM)
        program.process.wait(PATIENCE)


@pytest.mark.lengthy("starts processes")
def test_a_change_takes_effect_after_the_current_event(program: Program) -> None:
    process = program.start()
    program.dispatch(1, waits=True)
    program.appears("old-begun-1")

    program.write("changed")
    program.says("changed: shop_listeners.py")
    program.dispatch(2)
    (program.folder / "go").touch()
    program.appears("changed-2")
    program.dispatch(3)
    program.appears("changed-3")
    process.send_signal(signal.SIGTERM)
    code = process.wait(PATIENCE)

    assert code == 0, program.printed()
    assert (program.folder / "old-1").exists()
    assert not (program.folder / "changed-begun-1").exists(), "the current event was handled twice"
    assert "shop_listeners:feed done on image.created" in program.printed()


@pytest.mark.lengthy("starts processes")
def test_mistakes_are_waited_out_until_they_are_corrected(program: Program) -> None:
    program.folder.joinpath("shop_listeners.py").write_text("def feed(:\n")
    process = program.start()
    program.says("it starts again when a file changes")

    program.folder.joinpath("relevo.toml").write_text(CONFIGURATION.replace("[transports]", "[transport]"))
    program.says("it starts again when a file changes", times=2)
    program.folder.joinpath("relevo.toml").write_text(CONFIGURATION + "\n")
    program.write("corrected")
    program.dispatch(1)
    program.appears("corrected-1")
    process.send_signal(signal.SIGINT)  # not from a terminal, so it is passed on

    assert process.wait(PATIENCE) == 0, program.printed()


@pytest.mark.lengthy("starts processes")
def test_a_worker_that_reached_its_limit_is_not_started_again(program: Program) -> None:
    process = program.start("--max-events", "1")

    program.dispatch(1)

    assert process.wait(PATIENCE) == 0, program.printed()


@pytest.mark.lengthy("starts processes")
def test_a_wrong_option_is_not_waited_out(program: Program) -> None:
    assert program.start("--max-events", "none").wait(PATIENCE) == 2, program.printed()


@pytest.mark.lengthy("starts processes")
def test_a_second_signal_stops_at_once(program: Program) -> None:
    process = program.start()
    program.dispatch(1, waits=True)
    program.appears("old-begun-1")

    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        process.send_signal(signal.SIGTERM)  # two at the same moment may be one
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(2.0)

    assert process.returncode == 128 + signal.SIGTERM, program.printed()


@pytest.mark.lengthy("starts processes")
def test_the_package_that_it_needs_is_named(program: Program) -> None:
    program.folder.joinpath("watchfiles.py").write_text("raise ImportError('hidden')\n")

    code = program.start(PYTHONPATH=f"{program.folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}").wait(PATIENCE)

    assert code == 78
    assert 'pip install "relevo[reload]"' in program.printed()
