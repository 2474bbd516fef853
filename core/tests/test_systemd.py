"""What systemd is told by a worker, and the unit that makes systemd start it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

import relevo
from relevo import App, RunOptions, SystemdRunner
from relevo._runner.sd_notify import Notifier
from relevo.errors import ConfigurationError

from .shop import Shop, opened

PATIENCE = 300.0
CONFIGURATION = 'source = "shop"\ntime_limit = "5m"\ntransports.main = "memory://"\n'


class Listener:
    """A socket like that of systemd, and what was said to it."""

    def __init__(self, address: str):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self.socket.bind(address)
        except BaseException:
            self.socket.close()
            raise
        self.socket.settimeout(PATIENCE)
        self.said: list[str] = []

    def hear(self, wanted: str) -> None:
        """Wait until *wanted* is said anew."""
        self.socket.settimeout(PATIENCE)
        while True:
            self.said.append(self.socket.recv(4096).decode())
            if wanted in self.said[-1].splitlines():
                return

    def heard(self) -> list[str]:
        """Return all lines that were said, without those of the watchdog, as far as they are there."""
        self.socket.settimeout(0.0)
        try:
            while True:
                self.said.append(self.socket.recv(4096).decode())
        except BlockingIOError:
            return [line for text in self.said for line in text.splitlines() if line != "WATCHDOG=1"]


@pytest.fixture(name="tmp_path")
def _tmp_path(disk_path: Path) -> Path:
    return disk_path


@pytest.fixture(name="listener", params=["path", "abstract"])
def _listener(request: pytest.FixtureRequest) -> Iterator[Listener]:
    with TemporaryDirectory(prefix="relevo-", dir="/tmp") as folder:  # a socket's path cannot be long
        name = f"{folder}/notify" if request.param == "path" else f"\0relevo-{os.getpid()}-{time.monotonic_ns()}"
        listener = Listener(name)
        with listener.socket:
            yield listener


def address(listener: Listener) -> str:
    name = listener.socket.getsockname()
    return name if isinstance(name, str) else f"@{name[1:].decode()}"


# --- what it is told ------------------------------------------------------------------------------------------


@pytest.mark.slow("starts a worker in a process of its own")
def test_a_worker_says_that_it_is_ready_lives_and_stops(listener: Listener, tmp_path: Path) -> None:
    shop = opened(tmp_path)
    with started(shop, listener) as worker:
        listener.hear("READY=1")
        listener.hear("WATCHDOG=1")
        listener.hear("WATCHDOG=1")

        worker.send_signal(signal.SIGTERM)
        code = worker.wait(timeout=PATIENCE)

    assert code == 0
    assert listener.heard() == [
        "READY=1",
        "STATUS=handling events",
        "STOPPING=1",
        "STATUS=finishing the current work",
        "STOPPING=1",
    ]


@pytest.mark.slow("waits for five heartbeats of a worker")
def test_a_worker_says_that_it_waits_for_the_end_of_a_deploy_and_lives_on(listener: Listener, tmp_path: Path) -> None:
    shop = opened(tmp_path)
    shop.run("deploy begin")
    with started(shop, listener) as worker:
        listener.hear("STATUS=waiting for the end of a deploy")
        for _ in range(5):
            listener.hear("WATCHDOG=1")
        shop.run("deploy end")
        listener.hear("STATUS=handling events")

        worker.send_signal(signal.SIGTERM)
        assert worker.wait(timeout=PATIENCE) == 0


@pytest.mark.slow("starts a worker in a process of its own")
def test_a_worker_that_cannot_start_is_never_ready(listener: Listener, tmp_path: Path) -> None:
    shop = opened(tmp_path)
    shop.write("relevo.toml", "sauce = 1\n")

    with started(shop, listener) as worker:
        assert worker.wait(timeout=PATIENCE) == 78

    assert listener.heard() == []


def test_one_whose_listener_is_gone_works_on(tmp_path: Path) -> None:
    shop = opened(tmp_path)
    shop.run("""dispatch image.created '{"image_id": 7}'""")

    done = shop.run("worker --max-events 1", NOTIFY_SOCKET=str(tmp_path / "nobody"), WATCHDOG_USEC="1000")

    assert (done.returncode, done.stderr) == (0, "")


@contextmanager
def started(shop: Shop, listener: Listener) -> Iterator[subprocess.Popen[bytes]]:
    """Start a worker as systemd does, which wants to hear of it three times in 0.9 seconds."""
    environ = {key: each for key, each in os.environ.items() if not key.startswith("RELEVO_")}
    environ |= {"NOTIFY_SOCKET": address(listener), "WATCHDOG_USEC": "900000"}
    command = [sys.executable, "-m", "relevo", "worker"]
    with subprocess.Popen(command, cwd=shop.folder, env=environ, stderr=subprocess.DEVNULL) as worker:
        try:
            yield worker
        finally:
            worker.kill()


# --- the watchdog ------------------------------------------------------------------------------------------------


def test_life_is_a_loop_that_turns_or_something_that_is_not_finished() -> None:
    now = [100.0]
    notifier = Notifier("nobody", watchdog=60.0, monotonic=lambda: now[0])

    alive = [notifier.is_alive(lambda: 0)]
    now[0] += 60.0
    alive += [notifier.is_alive(lambda: 0), notifier.is_alive(lambda: 1)]
    notifier.relevo_may_run()
    alive += [notifier.is_alive(lambda: 0)]

    assert alive == [True, False, True, True]


def test_a_worker_that_hangs_is_no_longer_called_alive(listener: Listener) -> None:
    now = [0.0]
    looked = threading.Semaphore(0)

    def held() -> int:
        looked.release()  # asked only where the loop does not turn
        return 0

    notifier = Notifier(address(listener), watchdog=0.03, monotonic=lambda: now[0])

    with notifier.reporting(held):
        listener.hear("WATCHDOG=1")
        now[0] = 1.0
        looked.acquire()
        listener.heard()
        before = len(listener.said)
        looked.acquire()
        looked.acquire()
        listener.heard()

        assert len(listener.said) == before


@pytest.mark.parametrize(
    ("environ", "watchdog"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_what_the_environment_says_of_this_process(
    environ: dict[str, str], watchdog: float | None
) -> None:
    notifier = Notifier.of({"NOTIFY_SOCKET": "/nowhere", **environ})

    assert notifier is not None
    assert notifier._watchdog == watchdog


def test_without_a_socket_there_is_nobody_to_tell() -> None:
    assert Notifier.of({"WATCHDOG_USEC": "1000"}) is None
    assert Notifier.of({"NOTIFY_SOCKET": ""}) is None


# --- the unit -------------------------------------------------------------------------------------------------------


@pytest.fixture(name="made")
def _made(tmp_path: Path) -> Iterator[Callable[..., App]]:
    apps: list[App] = []

    def made(folder: str = "shop") -> App:
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "relevo.toml"
        path.write_text(CONFIGURATION)
        apps.append(App.from_config(path, environ={}))
        return apps[-1]

    yield made
    for app in apps:
        app.close()


def values(text: str) -> dict[str, str]:
    return dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))


def test_the_unit_is_that_of_a_service_that_notifies(made: Callable[..., App], tmp_path: Path) -> None:
    found = values(SystemdRunner().unit(made(), RunOptions(transport="main")))

    config = tmp_path / "shop" / "relevo.toml"
    wanted = {
        "Type": "notify",
        "ExecStart": f"{sys.executable} -m relevo worker --config {config} --transport main",
        "WorkingDirectory": str(tmp_path / "shop"),
        "Restart": "always",
        "RestartSec": "5",
        "RestartSteps": "6",
        "RestartMaxDelaySec": "300",
        "StartLimitIntervalSec": "0",
        "KillMode": "mixed",
        "TimeoutStopSec": "330",
        "NoNewPrivileges": "yes",
    }
    assert {key: found[key] for key in wanted} == wanted
    assert "PrivateTmp" not in found, "the deploy guard may lie in /tmp"


def test_it_is_started_again_whatever_it_ends_with(made: Callable[..., App]) -> None:
    found = values(SystemdRunner().unit(made(), RunOptions()))

    assert not {"RestartPreventExitStatus", "RestartForceExitStatus", "SuccessExitStatus"} & found.keys()


def test_a_worker_that_soon_reaches_a_limit_is_started_again_without_a_growing_delay(made: Callable[..., App]) -> None:
    found = values(SystemdRunner().unit(made(), RunOptions(max_events=1)))

    assert found["RestartSec"] == "1"
    assert "RestartSteps" not in found


def test_the_longest_listener_says_how_long_a_stop_may_take(made: Callable[..., App]) -> None:
    app = made()
    app.listen(relevo.listener("image.created", id="short", time_limit="1s")(lambda event: None))
    app.listen(relevo.listener("image.created", id="long", time_limit="1h")(lambda event: None))

    assert values(SystemdRunner().unit(app, RunOptions()))["TimeoutStopSec"] == "3630"


@pytest.mark.parametrize("folder", ["two\nlines", "end ", "back\\", "\x9b31m", "gpj.\u202eexe", "\u2066a"])
def test_a_folder_that_systemd_cannot_name_is_refused(folder: str, made: Callable[..., App]) -> None:
    with pytest.raises(ConfigurationError, match="a unit of systemd cannot hold"):
        SystemdRunner().unit(made(folder), RunOptions())


@pytest.mark.parametrize(
    ("folder", "in_a_command", "as_a_value"),
    [
        ("50% off", '"{}/50%% off/relevo.toml"', "{}/50%% off"),
        ("$HOME", "{}/$$HOME/relevo.toml", "{}/$HOME"),
        ('a "b"', '"{}/a \\"b\\"/relevo.toml"', '{}/a "b"'),
        ("back\\slash", '"{}/back\\\\slash/relevo.toml"', "{}/back\\slash"),
    ],
)
def test_signs_that_systemd_takes_for_something_else_are_escaped(
    folder: str, in_a_command: str, as_a_value: str, made: Callable[..., App], tmp_path: Path
) -> None:
    found = values(SystemdRunner().unit(made(folder), RunOptions()))

    assert found["ExecStart"].endswith(f" --config {in_a_command.format(tmp_path)}")
    assert found["WorkingDirectory"] == as_a_value.format(tmp_path)


@pytest.mark.parametrize("folder", ["shop", "50% off", 'a "b"', "$HOME", "naïve", "it's", "back\\slash"])
def test_systemd_itself_finds_nothing_wrong(
    folder: str, made: Callable[..., App], systemd_analyze: Path, tmp_path: Path
) -> None:
    unit = tmp_path / "relevo-shop.service"
    unit.write_text(SystemdRunner().unit(made(folder), RunOptions()))

    done = subprocess.run([systemd_analyze, "verify", unit], capture_output=True, text=True, check=False)

    complaints = [line for line in done.stderr.splitlines() if unit.name in line]
    assert (done.returncode, complaints) == (0, [])


def test_the_command_prints_it(tmp_path: Path) -> None:
    done = opened(tmp_path).run("unit systemd -q feed")

    assert done.returncode == 0
    assert values(done.stdout)["ExecStart"].endswith(" --transport main --queue feed") or "--queue feed" in done.stdout
    assert "Description=relevo worker of shop/main/feed" in done.stdout
