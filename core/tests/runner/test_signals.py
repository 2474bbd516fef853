"""Signals end a run: the first after what is in hand, the second at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

import pytest

from relevo import (
    App,
    Event,
    RunOptions,
)
from relevo._runner.loop import LoopRunner, stop_on_signals

DRAIN = RunOptions(until_empty=True)

PATIENCE = 300.0

MakeApp = Callable[..., App]


def test_handlers_of_signals_are_put_back(app: MakeApp) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    with stop_on_signals(None):
        during = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    assert during != before
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.lengthy("starts processes")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # beside threads that other tests left
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_child_of_a_fork_ends_as_it_did_before_even_the_moment_it_is_there(number: signal.Signals) -> None:
    before = {each: signal.signal(each, signal.SIG_DFL) for each in (signal.SIGTERM, signal.SIGINT)}
    codes = []
    with stop_on_signals(None), stop_on_signals(None):
        for _ in range(20):
            child = os.fork()
            if not child:
                signal.alarm(20)
                signal.pause()
                os._exit(0)
            os.kill(child, number)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    for each, handler in before.items():
        signal.signal(each, handler)

    assert set(codes) == {-number}
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # beside threads that other tests left
def test_a_child_of_a_fork_keeps_a_handler_that_a_listener_set() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signals(None):
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(7))
        child = os.fork()
        if not child:
            signal.alarm(20)
            while True:  # a signal that comes just before a pause would be handled after it
                time.sleep(0.01)
        os.kill(child, signal.SIGTERM)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert code == 7
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_program_may_keep_its_signals(app: MakeApp) -> None:
    before = signal.getsignal(signal.SIGTERM)
    during: list[object] = []
    made = app(lambda event: during.append(signal.getsignal(signal.SIGTERM)), with_outbox=False)
    made.dispatch(Event("image.created"))

    LoopRunner(signals=False).run(made, DRAIN)

    assert during == [before]


def test_outside_the_main_thread_signals_are_left_alone(app: MakeApp) -> None:
    during: list[object] = []

    def run() -> None:
        with stop_on_signals(None):
            during.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()

    assert during == [signal.getsignal(signal.SIGTERM)]


SHOP = """
import atexit, pathlib, time
import relevo
from relevo_memory import MemoryTransport

@relevo.listener("image.created")
def work(event):
    print("begun", flush=True)
    while not pathlib.Path("gate").exists():
        time.sleep(0.01)
    print("finished", flush=True)

main = MemoryTransport(name="main")
app = relevo.App(transports={"main": main}, routes={"*": "main"}, listeners=[work])
for number in range(NUMBER):
    app.dispatch(relevo.Event("image.created", {"number": number}))

@atexit.register
def tell():
    stats = MemoryTransport(main.store).stats("default")
    print("left", stats.ready, stats.leased, stats.scheduled, flush=True)
"""


class _Program:
    """``relevo worker`` in a process of its own, whose listener waits at a gate."""

    def __init__(self, folder: Path, *, number: int, command: str = "worker") -> None:
        (folder / "shop.py").write_text(SHOP.replace("NUMBER", str(number)))
        self._gate = folder / "gate"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "relevo", *command.split(), "-a", "shop:app"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, line: str) -> None:
        stdout: IO[str] | None = self.process.stdout
        assert stdout is not None
        for found in stdout:
            if found.strip() == line:
                return
        pytest.fail(f"it ended without saying {line!r}: {self.process.communicate()[1]}")

    def open_gate(self) -> None:
        """Let its listeners end."""
        self._gate.touch()

    def end(self, *, warned: str = "") -> tuple[int, list[str]]:
        """Wait for its end; return its exit code and what else it said; its log is one line with *warned*, or empty."""
        try:
            stdout, stderr = self.process.communicate(timeout=PATIENCE)
        finally:
            self.process.kill()
        assert len(stderr.splitlines()) == bool(warned), stderr
        assert warned in stderr
        return self.process.returncode, stdout.splitlines()


@pytest.mark.lengthy("waits")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("command", ["worker", "drain"])
def test_the_first_signal_finishes_the_current_listener_and_gives_back_the_rest(
    number: signal.Signals, command: str, tmp_path: Path
) -> None:
    program = _Program(tmp_path, number=5, command=command)
    program.wait_for("begun")

    program.process.send_signal(number)
    program.open_gate()
    code, said = program.end()

    assert said == ["finished", "left 4 0 0"]
    assert code == 0


@pytest.mark.lengthy("starts processes")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("command", ["worker", "drain", "worker --concurrency 2"])
def test_a_second_signal_ends_at_once_and_names_the_listener(
    number: signal.Signals, command: str, tmp_path: Path
) -> None:
    several = "concurrency" in command
    program = _Program(tmp_path, number=1 if several else 5, command=command)
    program.wait_for("begun")

    for patience in (1, 20, 20):  # two that come together are one; a third may come while the second one is obeyed
        program.process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            program.process.wait(patience)
            break
    code, said = program.end(warned="WARNING relevo.worker: a second signal stopped shop:work on image.created ")

    assert said == [f"left {0 if several else 5} {1 if several else 0} 0"]
    assert code == 128 + number


SILENT = """
import time
import relevo
from relevo_memory import MemoryTransport
from relevo import LoopRunner, RunOptions

class Silent(MemoryTransport):
    def settle(self, settlements):
        print("settling", flush=True)
        while True:
            try:
                time.sleep(600)
            except KeyboardInterrupt:  # a driver that goes on
                pass

@relevo.listener("image.created")
def create_thumbnails(event: relevo.Event) -> None: ...

app = relevo.App(transports={"main": Silent()}, routes={"*": "main"}, listeners=[create_thumbnails])
app.dispatch(relevo.Event("image.created"))
LoopRunner().run(app, RunOptions())
"""


@pytest.mark.lengthy("starts processes")
def test_a_second_signal_ends_a_worker_whose_server_does_not_answer() -> None:
    with subprocess.Popen([sys.executable, "-c", SILENT], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "settling\n"

            process.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1)
            for patience in (20, PATIENCE):  # two that come together are one
                process.send_signal(signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(patience)
                    break
        finally:
            process.kill()

        assert process.wait() == 128 + signal.SIGTERM


@pytest.mark.lengthy("waits")
def test_an_idle_worker_ends_after_a_signal(tmp_path: Path) -> None:
    program = _Program(tmp_path, number=1)
    program.open_gate()
    program.wait_for("finished")
    time.sleep(0.5)

    program.process.send_signal(signal.SIGTERM)
    code, said = program.end()

    assert (code, said) == (0, ["left 0 0 0"])
