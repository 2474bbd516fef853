"""Supervisor, the real one, keeps workers on RabbitMQ alive by what ``relevo unit supervisor`` says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs
import pytest

import relevo

SUPERVISORD = [sys.executable, "-m", "supervisor.supervisord"]
SUPERVISORCTL = [sys.executable, "-m", "supervisor.supervisorctl"]

PATIENCE = 300.0

CONFIGURATION = """
source = "shop"
listeners = ["shop_listeners"]
transports.main = {{ url = "{url}", prefix = "{prefix}", levels = 8, settle_in = 0 }}
"""

LISTENERS = """
import os, time
import relevo

LOG = os.open("{log}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@relevo.listener("image.created")
def make(event):
    os.write(LOG, f"began {{event['number']}} {{os.getpid()}}\\n".encode())
    time.sleep(0.05)
    os.write(LOG, f"ended {{event['number']}} {{os.getpid()}}\\n".encode())
"""


@attrs.frozen
class Shop:
    """An application in a folder, with a supervisor of its own."""

    folder: Path
    var: Path
    """Where supervisor keeps what is its own; a short path, since a socket's cannot be long."""

    app: relevo.App

    def relevo(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "relevo", *words], cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def ctl(self, *words: str) -> str:
        command = [*SUPERVISORCTL, "-c", str(self.var / "supervisord.conf"), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def states(self, program: str = "shop-main") -> dict[str, str]:
        """Return the state of every process of *program*."""
        return dict(re.findall(rf"^({program}:\S+) +([A-Z]+)", self.ctl("status"), re.MULTILINE))

    def running(self) -> list[int]:
        """Return the ids of the processes that run, by supervisor."""
        return [int(number) for number in re.findall(r"RUNNING +pid (\d+)", self.ctl("status"))]

    def dispatch(self, numbers: range) -> None:
        self.app.dispatch_many([relevo.Event("image.created", {"number": number}) for number in numbers])

    @contextmanager
    def fed(self) -> Iterator[list[int]]:
        """Have something left to do as long as the block runs; yield what was dispatched."""
        numbers: list[int] = []
        is_over = threading.Event()

        def feed() -> None:
            while not is_over.wait(0.05):
                if (self.app.transport().stats("default").ready or 0) < 200:
                    more = range(len(numbers), len(numbers) + 100)
                    self.dispatch(more)
                    numbers.extend(more)

        thread = threading.Thread(target=feed)
        thread.start()
        try:
            yield numbers
        finally:
            is_over.set()
            thread.join()

    def began(self) -> set[int]:
        """Return the processes that have begun a call: only then is a TERM theirs to end by, not Python's."""
        return {process for _, process in self.lines("began")}

    def lines(self, word: str) -> list[tuple[str, int]]:
        """Return the number and the process of each call that has begun or ended."""
        path = self.folder / "log"
        words = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [(number, int(process)) for found, number, process in words if found == word]


@pytest.fixture(name="shop")
def _shop(tmp_path: Path, rabbitmq_url: str, forget: Callable[[relevo.App], None]) -> Iterator[Shop]:
    prefix = f"supervisor-{uuid.uuid4().hex[:8]}"
    (tmp_path / "relevo.toml").write_text(CONFIGURATION.format(url=rabbitmq_url, prefix=prefix))
    (tmp_path / "shop_listeners.py").write_text(LISTENERS.format(log=tmp_path / "log"))
    app = relevo.App.from_config(tmp_path / "relevo.toml", environ={})
    app.setup()
    try:
        with TemporaryDirectory(prefix="relevo-", dir="/tmp", ignore_cleanup_errors=True) as var:
            yield Shop(tmp_path, Path(var), app)
    finally:
        forget(app)


@pytest.fixture(name="supervisord")
def _supervisord(shop: Shop) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Start a supervisor with a configuration, and end it with all that it runs."""
    started: list[subprocess.Popen[bytes]] = []

    def supervisord(configuration: str) -> subprocess.Popen[bytes]:
        path = shop.var / "supervisord.conf"
        path.write_text(configuration)
        environ = {key: each for key, each in os.environ.items() if not key.startswith("RELEVO_")}
        command = [*SUPERVISORD, "--nodaemon", "-c", str(path)]
        started.append(subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        return started[-1]

    yield supervisord
    for each in started:
        each.terminate()
        until(partial(_has_ended, each))


def _has_ended(supervisor: subprocess.Popen[bytes]) -> bool:
    """
    Return whether *supervisor*, which was told to end, has ended; tell its workers again if it has not.

    A child that it has forked and that is not a worker yet takes a TERM for one of supervisor's own, and forgets it.
    Then supervisor waits for as long as a listener may take.
    """
    try:
        supervisor.wait(timeout=5)
    except subprocess.TimeoutExpired:
        with suppress(OSError):  # it, or a worker, has ended meanwhile
            for path in Path(f"/proc/{supervisor.pid}/task").glob("*/children"):
                for child in path.read_text().split():
                    os.kill(int(child), signal.SIGTERM)
        return False
    return True


def until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def ports(process: int) -> set[str]:
    """Return the inodes of TCP sockets that *process* has."""
    mine = set()
    for path in Path(f"/proc/{process}/fd").iterdir():
        if match := re.fullmatch(r"socket:\[(\d+)\]", str(path.readlink())):
            mine.add(match[1])
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    return mine & {words[9] for words in lines[1:]}


@pytest.mark.slow("starts a supervisor and its workers, several times")
def test_nothing_is_lost_while_workers_are_killed_restarted_stopped_and_reloaded(
    shop: Shop, supervisord: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    unit = shop.relevo("unit", "supervisor", "--processes", "5", "--folder", str(shop.var))
    shop.relevo("check", "--supervisor", str(_written(shop.folder / "unit.conf", unit)))

    def five_work(*, beside: set[int]) -> bool:
        running = set(shop.running()) - beside
        return len(running) == 5 and running <= shop.began()

    with shop.fed() as numbers:
        process = supervisord(unit.replace("startsecs=5", "startsecs=1"))
        until(lambda: five_work(beside=set()))

        socket = (shop.var / "supervisor.sock").stat()
        assert (socket.st_mode & 0o777, ports(process.pid)) == (0o700, set())

        killed = set(shop.running()[:2])
        for each in killed:
            os.kill(each, signal.SIGKILL)
        until(lambda: five_work(beside=killed))

        old = set(shop.running())
        shop.ctl("restart", "all")
        until(lambda: five_work(beside=old))

        shop.ctl("stop", "all")
        assert set(shop.states().values()) == {"STOPPED"}
    open_calls = Counter(shop.lines("began")) - Counter(shop.lines("ended"))
    assert {process for _, process in open_calls} <= killed, "what ran at a TERM was finished"
    wanted = {str(number) for number in numbers}
    assert {number for number, _ in shop.lines("ended")} < wanted, "there was something left to stop"

    shop.ctl("reload")
    until(lambda: len(shop.running()) == 5)
    until(lambda: {number for number, _ in shop.lines("ended")} == wanted)
    until(lambda: (stats := shop.app.transport().stats("default")).ready == 0 and not stats.leased)

    ended = Counter(number for number, _ in shop.lines("ended"))
    assert sum(ended.values()) - len(ended) <= len(killed) * 16, "what each had in hand, or had not told yet"
    assert list(shop.app.transport().dead_letters(["default"], limit=1)) == []
    log = (shop.var / "supervisord.log").read_text()
    assert log.count("terminated by SIGKILL") == len(killed)
    assert len(re.findall(r"stopped: shop-main-\d+ \(exit status 0\)", log)) >= 10


@pytest.mark.slow("starts a supervisor and its workers")
def test_supervisor_reads_whatever_the_folder_is_called(
    shop: Shop, supervisord: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    var = shop.var / "50% off %(here)s"
    var.mkdir()
    supervisord(shop.relevo("unit", "supervisor", "--folder", str(var)))
    until(lambda: set(shop.states().values()) & {"STARTING", "RUNNING"})

    names = {path.name for path in var.iterdir()}
    assert names == {"shop-main-00.log", "supervisor.sock", "supervisord.log", "supervisord.pid"}


@pytest.mark.slow("starts a supervisor and its workers")
def test_supervisor_in_the_background_reads_its_configuration_again_by_a_relative_path(shop: Shop) -> None:
    var = shop.var / "var"
    var.mkdir()
    unit = shop.relevo("unit", "supervisor", "--folder", str(var))
    conf = _written(shop.var / "supervisord.conf", unit)
    subprocess.run([*SUPERVISORD, "-c", conf.name], cwd=shop.var, check=True, capture_output=True)
    try:
        until(lambda: set(shop.states().values()) & {"STARTING", "RUNNING"})
        _written(conf, unit.replace("[program:shop-main]", "[program:shop-other]"))

        said = shop.ctl("update")
    finally:
        shop.ctl("shutdown")
        until(lambda: not (var / "supervisord.pid").exists())

    assert said.splitlines() == [
        "shop-main: stopped",
        "shop-main: removed process group",
        "shop-other: added process group",
    ]


@pytest.mark.slow("supervisor starts a worker that fails again and again")
def test_supervisor_gives_up_a_worker_that_never_starts_and_leaves_the_others(
    shop: Shop, supervisord: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    unit = shop.relevo("unit", "supervisor", "--folder", str(shop.var)).replace("startsecs=5", "startsecs=1")
    broken = shop.folder / "broken"
    broken.mkdir()
    _written(broken / "shop_listeners.py", (shop.folder / "shop_listeners.py").read_text())
    _written(broken / "relevo.toml", (shop.folder / "relevo.toml").read_text().replace('"shop"', '"broken"'))
    section = shop.relevo("--config", str(broken / "relevo.toml"), "unit", "supervisor", "-q", "default")
    _written(broken / "relevo.toml", "sauce = 1\n")
    shop.dispatch(range(20))

    supervisord(unit + section.replace("startretries=1000000", "startretries=1"))
    until(lambda: "FATAL" in shop.states("broken-main-default").values())
    until(lambda: len(shop.lines("ended")) == 20)

    assert set(shop.states().values()) == {"RUNNING"}
    log = (shop.var / "supervisord.log").read_text()
    assert "exit status 78" in log
    assert re.search(r"gave up: broken-main-default-00 entered FATAL state", log)


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.slow("starts a supervisor and a worker for each event")
def test_a_worker_for_each_event_is_always_started_again(
    shop: Shop, supervisord: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    unit = shop.relevo("unit", "supervisor", "--processes", "2", "--folder", str(shop.var), "--max-events", "1")
    shop.relevo("check", "--supervisor", str(_written(shop.folder / "unit.conf", unit)))
    shop.dispatch(range(8))
    states: set[str] = set()

    def all_are_handled() -> bool:
        states.update(shop.states().values())
        return len(shop.lines("ended")) >= 8

    supervisord(unit)
    until(all_are_handled)

    assert sorted(number for number, _ in shop.lines("ended")) == [*map(str, range(8))]
    assert states <= {"STARTING", "RUNNING", "EXITED"}
