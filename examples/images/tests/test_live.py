"""The live demos in a short form, as a user runs them: separate processes, which leave nothing behind."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

import relevo

EXAMPLE = Path(__file__).resolve().parent.parent
SHORT = ("--seconds", "6", "--pause", "0.5")
DEAD = {
    "endless": ("retries-exhausted", "search_for_faces ran for longer than its time limit of 2 s"),
    "crashing": ("crash-loop", "killed by SIGSEGV while gallery.rough:read_colour_profile ran"),
    "huge": ("crash-loop", "memory_limit is 256 MiB while gallery.rough:enlarge ran"),
}

pytestmark = pytest.mark.slow("runs the demos in real time, for some seconds each")


@attrs.frozen
class Example:
    """A copy of the example."""

    root: Path

    def started(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *words],
            cwd=self.root,
            env={name: value for name, value in os.environ.items() if not name.startswith(("RELEVO_", "PYTHONPATH"))},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def played(self, *words: str) -> subprocess.CompletedProcess[str]:
        with self.started(*words) as process:
            out, error = process.communicate(timeout=150)
        return subprocess.CompletedProcess(words, process.returncode, out, error)

    def processes(self) -> list[bytes]:
        """Return the command lines of processes that use a file of this copy."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes()
            except OSError:  # the process has ended meanwhile
                continue
            if os.fsencode(self.root) in line:
                found.append(line)
        return found


@pytest.fixture(name="example")
def _example(tmp_path_factory: pytest.TempPathFactory) -> Example:
    root = tmp_path_factory.mktemp("live")  # a short name, since the path of a socket is limited
    shutil.copytree(EXAMPLE, root / "images", ignore=shutil.ignore_patterns("var", "tests", "__pycache__"))
    return Example(root)


@attrs.frozen
class Server:
    """RabbitMQ, and what a run of the demo declares there."""

    url: str
    prefix: str

    @property
    def options(self) -> list[str]:
        return ["--url", self.url, "--prefix", self.prefix]

    def missing(self) -> list[str]:
        """Return what the demo would have to declare."""
        environ = {"RELEVO_TRANSPORTS__MAIN__URL": self.url, "RELEVO_TRANSPORTS__MAIN__PREFIX": self.prefix}
        with relevo.App.from_config(EXAMPLE / "supervisor.toml", environ=environ) as app:
            return list(app.transport().setup(["media", "feed"], dry_run=True))


@pytest.fixture(name="server")
def _server(rabbitmq_url: str) -> Iterator[Server]:
    """Yield a server; everything that the demo declares there is deleted at the end."""
    server = Server(rabbitmq_url, f"live-{secrets.token_hex(4)}")
    before = server.missing()
    yield server
    assert server.missing() == before


def check(outcome: subprocess.CompletedProcess[str]) -> None:
    """Check the output of both demos."""
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert "\x1b" not in outcome.stdout  # no colours without a terminal
    assert re.search(r"^an upload answers +12 +[\d.]+ m?s +[\d.]+ m?s$", outcome.stdout, re.MULTILINE)
    assert re.search(r"^upload to thumbnail +12 +[\d.]+ m?s +[\d.]+ m?s$", outcome.stdout, re.MULTILINE)
    assert re.search(r"^done +9 *$\n^dead +3 *$", outcome.stdout, re.MULTILINE)
    letters = re.findall(r"^dead letter  (\w+)-\d+\.jpg \(([\w-]+)\): (.*)", outcome.stdout, re.MULTILINE)
    assert {name: (reason, DEAD[name][1] in error) for name, reason, error in letters} == {
        name: (reason, True) for name, (reason, _) in DEAD.items()
    }


def interrupt(process: subprocess.Popen[str], when: str) -> None:
    """Press Ctrl-C as soon as the output of *process* contains *when*."""
    assert process.stdout is not None
    for line in process.stdout:
        if when in line:
            break
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=150)


def await_nothing_of(example: Example) -> None:
    deadline = time.monotonic() + 20
    while (left := example.processes()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


@pytest.mark.soak  # as make demo-cron, which make test-all runs too; in make test it is interrupted
def test_the_demo_of_cron_goes_as_it_says_and_leaves_nothing_running(example: Example) -> None:
    outcome = example.played("images/demo_cron.py", *SHORT, "--tick", "2")

    check(outcome)
    assert "emptied by a loop that runs cron's line every 2 s" in outcome.stdout
    assert len(re.findall(r"WARNING relevo\.worker: .* is dead: ", outcome.stdout)) == 3
    await_nothing_of(example)


def test_an_interrupted_demo_of_cron_leaves_nothing_running(example: Example) -> None:
    with example.started("images/demo_cron.py", "--tick", "1") as process:
        interrupt(process, when="5 s")

    assert process.returncode == 130
    await_nothing_of(example)


def test_the_demo_of_cron_says_so_where_it_has_no_cron(example: Example) -> None:
    with example.started("images/demo_cron.py") as process:
        interrupt(process, when="A loop ticks instead")

    assert process.returncode == 130


@pytest.mark.soak  # as make demo-supervisor, which make test-all runs too; in make test it is interrupted
def test_the_demo_of_supervisor_goes_as_it_says_and_leaves_nothing(example: Example, server: Server) -> None:
    outcome = example.played("images/demo_supervisor.py", *SHORT, *server.options)

    check(outcome)
    log = (example.root / "images" / "var" / "supervisor" / "supervisord.log").read_text()
    assert len(re.findall(r"stopped: gallery-supervisor-main-\d+ \(exit status 0\)", log)) == 2
    await_nothing_of(example)


def test_an_interrupted_demo_of_supervisor_leaves_nothing(example: Example, server: Server) -> None:
    with example.started("images/demo_supervisor.py", *server.options) as process:
        interrupt(process, when="5 s")

    assert process.returncode == 130
    await_nothing_of(example)


def test_the_demo_of_supervisor_says_what_it_needs_if_there_is_no_rabbitmq(example: Example) -> None:
    outcome = example.played("images/demo_supervisor.py", "--url", "amqp://127.0.0.1:9")

    assert outcome.returncode == 69
    assert "This demo needs RabbitMQ" in outcome.stderr
    assert "Traceback" not in outcome.stderr
