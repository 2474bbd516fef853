"""A run that is terminated ends everything that it started: the command, its descendants, and the server."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import keeper
import redis_server
from waiting import eventually

KEEPER = [sys.executable, keeper.__file__]
STARTER = [sys.executable, redis_server.__file__, "run", "--"]
PATIENCE = 300.0

COMMAND = """
import pathlib, signal, subprocess, sys, time
folder = pathlib.Path(sys.argv[1])
if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
orphan = "import subprocess as s; print(s.Popen(['sleep', '300'], stdout=s.DEVNULL, start_new_session=True).pid)"
pids = [subprocess.Popen(["sleep", "300"], start_new_session=True).pid]
pids.append(int(subprocess.run([sys.executable, "-c", orphan], stdout=subprocess.PIPE, check=True).stdout))
(folder / "new").write_text(" ".join(map(str, pids)))
(folder / "new").rename(folder / "pids")
if "ends" in sys.argv:
    sys.exit(7)
time.sleep(300)
"""
"""Starts a process in its own session, and leaves another one as an orphan."""


@contextmanager
def begun(command: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Start *command*, which a failing test does not leave running."""
    process = subprocess.Popen(command, **options)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def started(folder: Path) -> list[int]:
    """Return the processes that the command has started, once they are there."""
    assert eventually((folder / "pids").exists)
    return [int(pid) for pid in (folder / "pids").read_text().split()]


def has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives orphans to an ancestor")


def test_what_a_command_left_running_is_ended_and_its_exit_code_passed_on(tmp_path: Path) -> None:
    done = subprocess.run([*KEEPER, sys.executable, "-c", COMMAND, str(tmp_path), "ends"], check=False)

    assert done.returncode == 7
    assert all(map(has_ended, started(tmp_path)))


def test_a_term_ends_the_command_and_what_it_started(tmp_path: Path) -> None:
    with begun([*KEEPER, sys.executable, "-c", COMMAND, str(tmp_path)]) as process:
        pids = started(tmp_path)

        process.terminate()
        code = process.wait(PATIENCE)

    assert code == 128 + signal.SIGTERM
    assert all(map(has_ended, pids))


def test_what_does_not_heed_a_term_is_killed(tmp_path: Path) -> None:
    hasty = "import sys, keeper; keeper.PATIENCE = keeper.GRACE = 0.2; sys.exit(keeper.run(sys.argv[1:]))"
    command = [sys.executable, "-c", hasty, sys.executable, "-c", COMMAND, str(tmp_path), "deaf"]
    environ = {**os.environ, "PYTHONPATH": str(Path(keeper.__file__).parent)}
    with begun(command, env=environ) as process:
        pids = started(tmp_path)

        process.terminate()
        code = process.wait(PATIENCE)

    assert code == 128 + signal.SIGKILL
    assert eventually(lambda: all(map(has_ended, pids)))  # a killed process ends when a processor is free


def test_a_command_that_does_not_exist_is_told_from_one_that_fails() -> None:
    done = subprocess.run([*KEEPER, "/no/such/program"], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (127, "/no/such/program: No such file or directory\n")


def _heed_interrupts() -> None:
    """Restore the effect of INT, which a shell disables for background commands."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize(
    "target, number",
    [("starter", signal.SIGTERM), ("group", signal.SIGTERM), ("group", signal.SIGINT), ("make", signal.SIGTERM)],
)
def test_a_run_that_is_terminated_ends_its_command_and_its_server(
    target: str, number: signal.Signals, tmp_path: Path
) -> None:
    if redis_server.KIND.program(os.environ) is None:
        pytest.skip("no Redis is installed from which a private one could be started")
    told = tmp_path / "url"
    words = [*STARTER, "sh", "-c", 'printenv RELEVO_TEST_REDIS > "$1"; shift; exec "$@"', "sh", str(told)]
    words += [sys.executable, str(tmp_path / "command.py"), str(tmp_path)]
    (tmp_path / "command.py").write_text(COMMAND)
    (tmp_path / "run.py").write_text(f"import os\nos.execv({words[0]!r}, {words!r})\n")
    (tmp_path / "Makefile").write_text(f"all:\n\t@{sys.executable} {tmp_path / 'run.py'}\n")
    command = ["make", "-C", str(tmp_path)] if target == "make" else words
    if shutil.which(command[0]) is None:
        pytest.skip("no make")
    environ = {**os.environ, "RELEVO_TEST_REDIS": "", "RELEVO_TEST_REDIS_STANDARD": "redis://127.0.0.1:1/0"}
    with begun(command, env=environ, start_new_session=True, preexec_fn=_heed_interrupts) as process:
        pids = started(tmp_path)
        assert not redis_server.refusal(told.read_text().strip())

        os.killpg(process.pid, number) if target == "group" else process.send_signal(number)
        process.wait(PATIENCE)

    assert eventually(lambda: all(map(has_ended, pids)))
    assert redis_server.refusal(told.read_text().strip())
